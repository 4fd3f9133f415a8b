//! The configured sinks, each with its forwarder and its cursor.

mod of_device;
mod replay;
mod running;
mod standing;

pub use replay::{Replayed, give_up, quarantined, replay};
pub use standing::{Rewound, Standing, list, remove, rewind};
pub(crate) use standing::{control_socket, open_log};

use crate::{
    admin::{LedgerSnapshot, LedgerSource, NotReady, Readiness, SinkLedger},
    config::{
        Config,
        valid::{self, SinkKind, WhenFull},
    },
    data_dir::DataDir,
    forward::{CursorFile, Ended, Forwarder, Handle, Options, Setup, Start, Status},
    log,
    metrics::{MqttSinkMetrics, QuarantineMetrics, Registry, SinkMetrics, StoreMetrics},
    quarantine::{self, OfSink, Quarantine},
    record::{FieldKind, Ledger, Moves, Position},
    shutdown::Tasks,
    sink::{KindWitness, LogRange, Sink, influxdb, mqtt, store},
    state::Types,
    wire,
};
use anyhow::Context;
use proto::message::AckMode;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A forwarder of whatever sink, ready to run until it is told to stop.
type Run = Box<dyn FnOnce(CancellationToken) -> Running + Send>;
type Running = Pin<Box<dyn Future<Output = Ended> + Send>>;

struct Opened {
    run: Run,
    handle: Handle,
    again: replay::Again,
    /// The file of an embedded store.
    store: Option<PathBuf>,
    required: bool,
    when_full: WhenFull,
}

/// The sinks before they run.
pub(crate) struct Sinks {
    opened: Vec<Opened>,
    quarantine: Arc<Quarantine>,
}

/// Where every sink stands, and which of them give way when the log is full.
pub(crate) struct Cursors(Vec<(Handle, WhenFull)>);

impl Cursors {
    /// The cursors now.
    pub(crate) fn now(&self) -> Vec<Position> {
        self.0.iter().map(|(handle, _)| handle.done()).collect()
    }

    /// Lets the sinks that may skip give up the oldest segments of the log until `bytes` can be
    /// freed; true if one does. Nothing is given up if a sink that holds needs the same segments:
    /// that would free nothing.
    pub(crate) fn give_way(&self, segments: &[log::SegmentInfo], bytes: u64) -> bool {
        let mut freed = 0;
        let mut to = None;
        // The last one is being written.
        for segment in segments.split_last().map_or(&[][..], |(_, closed)| closed) {
            if freed >= bytes || self.holds(segment.last) {
                break;
            }
            freed += segment.bytes;
            to = Some(segment.last);
        }
        let Some(to) = to else { return false };
        let mut given = false;
        for (handle, _) in self.0.iter().filter(|(_, of)| *of == WhenFull::Skip) {
            let at = *handle.committed.borrow();
            if at < to {
                tracing::warn!(
                    sink = %handle.name, from = %at.next(), %to,
                    "the log is full: the sink skips what it has not stored of its oldest records"
                );
                handle.skip_to(to);
                given = true;
            }
        }
        given
    }

    fn holds(&self, position: Position) -> bool {
        let mut holding = self.0.iter().filter(|(_, of)| *of == WhenFull::Hold);
        holding.any(|(handle, _)| *handle.committed.borrow() < position)
    }
}

/// The highest position that any sink of this log has stored: the log was durable up to there,
/// whatever its segments say. Read before the log is opened. A store of another log says nothing
/// about this one; it is refused when it is opened.
///
/// # Errors
/// A store cannot be read.
pub(crate) fn stored_position(
    config: &Config,
    dir: &DataDir,
    log: Option<Uuid>,
) -> anyhow::Result<Position> {
    let mut highest = Position::ZERO;
    for sink in &config.sinks {
        let stored = match &sink.kind {
            SinkKind::Store { path, .. } => {
                store::stored_cursor(path)?.map(|cursor| (cursor.log, cursor.position))
            }
            SinkKind::InfluxDb(_) | SinkKind::Mqtt(_) => {
                CursorFile::peek(&cursor_file(&state(dir), &sink.name))?
                    .map(|(log, cursor)| (log, cursor.position))
            }
        };
        if let Some((_, position)) = stored.filter(|(of, _)| Some(*of) == log) {
            highest = highest.max(position);
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
    types: &Arc<Types>,
    registry: &Registry,
) -> anyhow::Result<Sinks> {
    let state = state(dir);
    fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
    let range = LogRange { uuid: log.uuid(), oldest: log.oldest(), end: log.durable() };
    let quarantine = Arc::new(open_quarantine(config, dir, registry)?);
    let mut opened = Vec::new();
    for configured in &config.sinks {
        standing::begin(configured, &state, log)?;
        let quarantine = &quarantine;
        let place =
            Place { config, configured, state: &state, range, log, accepted_total, quarantine };
        let (run, handle, again) = match &configured.kind {
            SinkKind::Store { path, keep_for } => {
                let metrics = StoreMetrics::new(registry);
                let store = store::Store::open(wire::store(path, *keep_for), range, metrics)?;
                place.forwarder(store, registry)?
            }
            SinkKind::InfluxDb(of) => {
                let options = wire::influxdb(&configured.name, of);
                let mut influx = influxdb::InfluxDb::open(options)?;
                if config.types.guard {
                    influx = influx.with_witness(&configured.name, Arc::new(Taught(types.clone())));
                }
                place.forwarder(influx, registry)?
            }
            SinkKind::Mqtt(of) => {
                let options = wire::mqtt_sink(&configured.name, of, range.uuid)?;
                let metrics = MqttSinkMetrics::new(registry, &configured.name);
                place.forwarder(mqtt::Mqtt::new(options, metrics), registry)?
            }
        };
        let (required, when_full) = (configured.required, configured.when_full);
        let store = match &configured.kind {
            SinkKind::Store { path, .. } => Some(path.clone()),
            SinkKind::InfluxDb(_) | SinkKind::Mqtt(_) => None,
        };
        opened.push(Opened { run, handle, again, store, required, when_full });
    }
    Ok(Sinks { opened, quarantine })
}

fn quarantine_file(dir: &DataDir) -> PathBuf {
    dir.path.join("quarantine.db")
}

fn open_quarantine(
    config: &Config,
    dir: &DataDir,
    registry: &Registry,
) -> anyhow::Result<Quarantine> {
    let when_full = match config.quarantine.drop_oldest {
        true => quarantine::WhenFull::DropOldest,
        false => quarantine::WhenFull::Hold,
    };
    let options = quarantine::Options { max_bytes: config.quarantine.max_bytes, when_full };
    Ok(Quarantine::open(&quarantine_file(dir), options, QuarantineMetrics::new(registry))?)
}

/// What stores say of kinds reaches the table of kinds.
#[derive(Debug)]
struct Taught(Arc<Types>);

impl KindWitness for Taught {
    fn holds(&self, sink: &str, field: (&str, &str, &str), kind: FieldKind) {
        self.0.teach(field, kind, sink, wire::now_ms());
    }
}

fn state(dir: &DataDir) -> PathBuf {
    dir.path.join("sinks")
}

fn cursor_file(state: &Path, sink: &str) -> PathBuf {
    state.join(format!("{sink}.cursor"))
}

/// What every forwarder is made of but its sink.
struct Place<'a> {
    config: &'a Config,
    configured: &'a valid::Sink,
    state: &'a Path,
    range: LogRange,
    log: &'a log::Shared,
    accepted_total: &'a Arc<AtomicU64>,
    quarantine: &'a Arc<Quarantine>,
}

impl Place<'_> {
    fn forwarder<K: Sink>(
        &self,
        sink: K,
        registry: &Registry,
    ) -> anyhow::Result<(Run, Handle, replay::Again)> {
        let sink = Arc::new(replay::Turns::new(sink));
        let name = &self.configured.name;
        let start = Start::of(&*sink, &cursor_file(self.state, name), self.range)?;
        self.accepted_total.fetch_max(start.accepted_total(), Ordering::AcqRel);
        let quarantine = Arc::clone(self.quarantine);
        let ledger = start.ledger();
        let uuid = self.range.uuid;
        let of_older = self.state.join(format!("{name}.refused.jsonl"));
        let (of, at) = ((name.as_str(), uuid), (start.position(), &ledger));
        quarantine::take_over(&quarantine, &of_older, of, at)
            .with_context(|| format!("cannot take over {}", of_older.display()))?;
        let rejected = OfSink::open(quarantine, name, uuid, start.position(), &ledger)?;
        let again = replay::again(&sink);
        let (forwarder, handle) = Forwarder::new(Setup {
            options: options(self.config, self.configured),
            sink,
            source: self.log.reader_at(start.next()),
            start,
            durable: self.log.watch_durable(),
            accepted_total: Arc::clone(self.accepted_total),
            rejected: Arc::new(rejected),
            metrics: SinkMetrics::new(registry, name),
        });
        let run: Run = Box::new(|stop| Box::pin(forwarder.run(stop)));
        Ok((run, handle, again))
    }
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

impl Sinks {
    /// The position up to which acks may go, by the mode.
    pub(crate) fn ack_position(
        &self,
        mode: AckMode,
        log: &log::Shared,
        tasks: &mut Tasks,
    ) -> watch::Receiver<Position> {
        let required = self.opened.iter().filter(|sink| sink.required);
        let mut cursors: Vec<_> = required.map(|sink| sink.handle.committed.clone()).collect();
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
        Cursors(self.opened.iter().map(|sink| (sink.handle.clone(), sink.when_full)).collect())
    }

    /// The ledger as operators see it.
    pub(crate) fn ledger_source(&self, accepted_total: &Arc<AtomicU64>) -> LedgerSource {
        let handles: Vec<Handle> = self.opened.iter().map(|sink| sink.handle.clone()).collect();
        let accepted_total = Arc::clone(accepted_total);
        let quarantine = Arc::clone(&self.quarantine);
        Arc::new(move || {
            let ledgers: Vec<Ledger> =
                handles.iter().map(|handle| *handle.ledger.borrow()).collect();
            // A sink may have a batch before the committer has counted it.
            let accepted = ledgers
                .iter()
                .map(|ledger| ledger.accepted_total)
                .fold(accepted_total.load(Ordering::Acquire), u64::max);
            let of_sink = |(handle, ledger): (&Handle, &Ledger)| {
                let moves: Moves = quarantine.known(&handle.name).moves;
                of_sink(handle, &moves.applied(*ledger), accepted)
            };
            LedgerSnapshot { sinks: handles.iter().zip(&ledgers).map(of_sink).collect(), accepted }
        })
    }

    /// Starts the forwarders. A sink that needs a person is told to operators; if it is required,
    /// the gateway is not ready while it is.
    pub(crate) fn spawn(self, stop: &CancellationToken, readiness: &Readiness) -> Tasks {
        let mut tasks = Tasks::new();
        for Opened { run, handle, required, .. } in self.opened {
            let name = handle.name.to_string();
            let (stop, readiness) = (stop.clone(), readiness.clone());
            tasks.spawn("forwarder", async move {
                let ended = tokio::select! {
                    ended = run(stop) => ended,
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
        epoch: ledger.epoch,
        accepted: total - base,
        stored: ledger.stored,
        quarantined: ledger.quarantined,
        dropped: BTreeMap::from([
            ("damaged", dropped.damaged),
            ("skipped", dropped.skipped),
            ("unsupported", dropped.unsupported),
            ("expired", dropped.expired),
            ("quarantine_full", dropped.quarantine_full),
            ("operator", dropped.operator),
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
