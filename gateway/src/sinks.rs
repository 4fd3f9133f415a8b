//! The configured sinks, each with its forwarder and its cursor.

use crate::{
    admin::{LedgerSnapshot, LedgerSource, NotReady, Readiness, SinkLedger},
    config::{
        Config,
        valid::{self, SinkKind},
    },
    data_dir::DataDir,
    forward::{Ended, Forwarder, Handle, Options, RejectedFile, Setup, Start, Status},
    log,
    metrics::{Registry, SinkMetrics, StoreMetrics},
    record::{Ledger, Position},
    shutdown::Tasks,
    sink::{LogRange, Sink, store},
    wire,
};
use anyhow::Context;
use proto::message::AckMode;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The sinks before they run.
pub(crate) struct Sinks {
    forwarders: Vec<(Forwarder<store::Store, log::Reader>, Handle)>,
    required: Vec<bool>,
}

/// Where every sink stands.
pub(crate) struct Cursors(Vec<watch::Receiver<Position>>);

impl Cursors {
    /// The cursors now.
    pub(crate) fn now(&self) -> Vec<Position> {
        self.0.iter().map(|cursor| *cursor.borrow()).collect()
    }
}

/// The highest position that any sink of this log has stored: the log was durable up to there,
/// whatever its segments say. Read before the log is opened. A store of another log says nothing
/// about this one; it is refused when it is opened.
///
/// # Errors
/// A store cannot be read.
pub(crate) fn stored_position(config: &Config, log: Option<Uuid>) -> anyhow::Result<Position> {
    let mut highest = Position::ZERO;
    for sink in &config.sinks {
        let SinkKind::Store { path, .. } = &sink.kind;
        if let Some(cursor) = store::stored_cursor(path)?
            && Some(cursor.log) == log
        {
            highest = highest.max(cursor.position);
        }
    }
    Ok(highest)
}

/// Opens the sinks and finds where each goes on.
///
/// # Errors
/// A sink cannot be opened, or does not belong to this log.
pub(crate) fn open(
    config: &Config,
    dir: &DataDir,
    log: &log::Shared,
    accepted_total: &Arc<AtomicU64>,
    registry: &Registry,
) -> anyhow::Result<Sinks> {
    let state = dir.path.join("sinks");
    fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
    let range = LogRange { uuid: log.uuid(), oldest: log.oldest(), end: log.durable() };
    let mut sinks = Sinks { forwarders: Vec::new(), required: Vec::new() };
    for configured in &config.sinks {
        let SinkKind::Store { path, keep_for } = &configured.kind;
        let metrics = StoreMetrics::new(registry);
        let sink = Arc::new(store::Store::open(wire::store(path, *keep_for), range, metrics)?);
        let start = Start::of(&*sink, &state.join(format!("{}.cursor", configured.name)), range)?;
        accepted_total.fetch_max(start.accepted_total(), Ordering::AcqRel);
        let rejected = rejected_file(&state, configured, sink.committed())?;
        sinks.forwarders.push(Forwarder::new(Setup {
            options: options(config, configured),
            sink,
            source: log.reader_at(start.next()),
            start,
            durable: log.watch_durable(),
            accepted_total: Arc::clone(accepted_total),
            rejected: Arc::new(rejected),
            metrics: SinkMetrics::new(registry, &configured.name),
        }));
        sinks.required.push(configured.required);
    }
    Ok(sinks)
}

fn options(config: &Config, sink: &valid::Sink) -> Options {
    Options {
        batch_readings: sink.batch.readings,
        batch_bytes: sink.batch.bytes,
        linger: sink.batch.delay,
        drain_deadline: config.shutdown.deadline / 4,
        ..Options::new(&sink.name)
    }
}

fn rejected_file(
    state: &Path,
    sink: &valid::Sink,
    committed: Option<Position>,
) -> anyhow::Result<RejectedFile> {
    let path = state.join(format!("{}.refused.jsonl", sink.name));
    RejectedFile::open(&path, committed.unwrap_or(Position::ZERO))
        .with_context(|| format!("cannot open {}", path.display()))
}

impl Sinks {
    /// The position up to which acks may go, by the mode.
    pub(crate) fn ack_position(
        &self,
        mode: AckMode,
        log: &log::Shared,
        tasks: &mut Tasks,
    ) -> watch::Receiver<Position> {
        let required =
            self.forwarders.iter().zip(&self.required).filter(|(_, required)| **required);
        let mut cursors: Vec<_> =
            required.map(|((_, handle), _)| handle.committed.clone()).collect();
        match (mode, cursors.len()) {
            (AckMode::Durable, _) | (AckMode::Stored, 0) => log.watch_durable(),
            (AckMode::Stored, 1) => cursors.remove(0),
            (AckMode::Stored, _) => {
                let (sender, position) = watch::channel(Position::ZERO);
                tasks.spawn("ack position", least(cursors, sender));
                position
            }
        }
    }

    /// Every cursor, for retention.
    pub(crate) fn cursors(&self) -> Cursors {
        Cursors(self.forwarders.iter().map(|(_, handle)| handle.committed.clone()).collect())
    }

    /// The ledger as operators see it.
    pub(crate) fn ledger_source(&self, accepted_total: &Arc<AtomicU64>) -> LedgerSource {
        let handles: Vec<Handle> =
            self.forwarders.iter().map(|(_, handle)| handle.clone()).collect();
        let accepted_total = Arc::clone(accepted_total);
        Arc::new(move || {
            let ledgers: Vec<Ledger> =
                handles.iter().map(|handle| *handle.ledger.borrow()).collect();
            // A sink may have a batch before the committer has counted it.
            let accepted = ledgers
                .iter()
                .map(|ledger| ledger.accepted_total)
                .fold(accepted_total.load(Ordering::Acquire), u64::max);
            let of_sink = |(handle, ledger): (&Handle, &Ledger)| of_sink(handle, ledger, accepted);
            LedgerSnapshot { sinks: handles.iter().zip(&ledgers).map(of_sink).collect(), accepted }
        })
    }

    /// Starts the forwarders. A sink that needs a person is told to operators; if it is required,
    /// the gateway is not ready while it is.
    pub(crate) fn spawn(self, stop: &CancellationToken, readiness: &Readiness) -> Tasks {
        let mut tasks = Tasks::new();
        for ((forwarder, handle), required) in self.forwarders.into_iter().zip(self.required) {
            let name = handle.name.to_string();
            let (stop, readiness) = (stop.clone(), readiness.clone());
            tasks.spawn("forwarder", async move {
                let ended = tokio::select! {
                    ended = forwarder.run(stop) => ended,
                    () = watch_status(handle.status, &readiness, required) => Ended::Pending,
                };
                if ended == Ended::Pending {
                    tracing::info!(
                        sink = name,
                        "the rest follows from the log after the next start"
                    );
                }
                Ok(())
            });
        }
        tasks
    }
}

/// Never ends.
async fn watch_status(mut status: watch::Receiver<Status>, readiness: &Readiness, required: bool) {
    loop {
        let parked = matches!(*status.borrow_and_update(), Status::Parked { .. });
        if parked && required {
            readiness.set(NotReady::SinkStopped);
        }
        if status.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn of_sink(handle: &Handle, ledger: &Ledger, total: u64) -> SinkLedger {
    let base = ledger.base.unwrap_or(ledger.accepted_total);
    let dropped = ledger.dropped;
    SinkLedger {
        name: handle.name.to_string(),
        accepted: total - base,
        stored: ledger.stored,
        quarantined: ledger.quarantined,
        dropped: BTreeMap::from([
            ("damaged", dropped.damaged),
            ("skipped", dropped.skipped),
            ("unsupported", dropped.unsupported),
            ("expired", dropped.expired),
        ]),
        pending: total - ledger.accepted_total,
    }
}

/// Publishes the least of several positions.
async fn least(
    mut cursors: Vec<watch::Receiver<Position>>,
    least: watch::Sender<Position>,
) -> Result<(), String> {
    loop {
        let now = cursors.iter_mut().map(|cursor| *cursor.borrow_and_update()).min();
        least.send_replace(now.unwrap_or_default());
        let changes = cursors.iter_mut().map(|cursor| Box::pin(cursor.changed()));
        let (changed, _, _) = futures_util::future::select_all(changes).await;
        if changed.is_err() {
            return Ok(());
        }
    }
}
