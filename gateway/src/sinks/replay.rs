//! Refused readings once more to their sink, and out of the quarantine.

use super::{Sinks, cursor_file, open_quarantine, quarantine_file, standing, state};
use crate::{
    admin::{self, Command, Commands, QuarantineQuery, QuarantineSource},
    config::Config,
    data_dir::DataDir,
    forward::CursorFile,
    log,
    metrics::Registry,
    quarantine::{Entry, Filter, Quarantine, Sent},
    record::{Dropped, Ledger, Position},
    sink::{Batch, Record, Sink, SinkError},
};
use anyhow::{Context, anyhow, bail};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{sync::Mutex, task};

/// Sends a batch to a sink, between two batches of its forwarder.
pub(super) type Again = Arc<dyn Fn(Batch) -> Sending + Send + Sync>;
type Sending = Pin<Box<dyn Future<Output = Result<(), SinkError>> + Send>>;

/// Positions of batches that come from no log, far above those of any log.
const FIRST_POSITION: u64 = 1 << 62;
/// Readings on a page of the API that asks for no number.
const PAGE: u32 = 100;

/// A sink that takes one batch at a time, whoever brings it.
#[derive(Debug)]
pub(super) struct Turns<K> {
    sink: K,
    turn: Mutex<()>,
}

impl<K> Turns<K> {
    pub(super) fn new(sink: K) -> Self {
        Self { sink, turn: Mutex::new(()) }
    }
}

impl<K: Sink> Sink for Turns<K> {
    async fn write(&self, batch: Batch) -> Result<(), SinkError> {
        let _turn = self.turn.lock().await;
        self.sink.write(batch).await
    }

    fn committed(&self) -> Option<Position> {
        self.sink.committed()
    }

    fn ledger(&self) -> Option<Ledger> {
        self.sink.ledger()
    }

    async fn rewind(&self, position: Position, ledger: Ledger) -> Result<(), SinkError> {
        let _turn = self.turn.lock().await;
        self.sink.rewind(position, ledger).await
    }
}

/// Keeps no sink open: its forwarder closes it.
pub(super) fn again<K: Sink>(sink: &Arc<Turns<K>>) -> Again {
    let sink: Weak<Turns<K>> = Arc::downgrade(sink);
    Arc::new(move |batch| {
        let sink = sink.upgrade();
        Box::pin(async move {
            let fatal = |why: &str| Err(SinkError::Fatal(why.to_owned()));
            match sink {
                None => fatal("it has been closed"),
                // Its own cursor would go where the log never was.
                Some(sink) if sink.committed().is_some() => {
                    fatal("it is of another type than the sink that refused them")
                }
                Some(sink) => sink.write(batch).await,
            }
        })
    })
}

impl Sinks {
    /// The quarantine as operators see it.
    pub(crate) fn quarantine_source(&self) -> QuarantineSource {
        let quarantine = Arc::clone(&self.quarantine);
        Arc::new(move |query| {
            let QuarantineQuery { sink, device, after, limit } = query;
            let filter = Filter { sink, device, after, ..Filter::default() };
            let entries = quarantine.list(&filter, limit.unwrap_or(PAGE))?;
            let last = entries.last().map(|of| of.id);
            let entries: Vec<Value> = entries.iter().map(Entry::to_json).collect();
            Ok(json!({ "entries": entries, "last": last }))
        })
    }

    /// What can be done while the gateway runs.
    pub(crate) fn commands(&self, config: &Config, log: &log::Shared) -> Commands {
        let sinks: BTreeMap<String, Again> = self
            .opened
            .iter()
            .map(|of| (of.handle.name.to_string(), Arc::clone(&of.again)))
            .collect();
        let sinks = Arc::new(sinks);
        let next = Arc::new(AtomicU64::new(FIRST_POSITION));
        let quarantine = Arc::clone(&self.quarantine);
        let replay: Command = Arc::new(move |request| {
            let (quarantine, sinks) = (Arc::clone(&quarantine), Arc::clone(&sinks));
            let next = Arc::clone(&next);
            Box::pin(async move { send_page(&quarantine, &sinks, &next, request).await })
        });
        let quarantine = Arc::clone(&self.quarantine);
        let give_up: Command = Arc::new(move |request| {
            let quarantine = Arc::clone(&quarantine);
            Box::pin(async move {
                let filter: Filter = serde_json::from_value(request)?;
                let page = task::spawn_blocking(move || quarantine.give_up_page(&filter));
                let (gone, last) = page.await??;
                Ok(json!({ "dropped": gone, "last": last }))
            })
        });
        let others =
            BTreeMap::from([("/v1/quarantine/replay", replay), ("/v1/quarantine/drop", give_up)]);
        Commands { rewind: self.rewinder(config, log), others }
    }
}

/// One page of readings to their sinks. Ends with the id of the last one that was looked at, or
/// null when there are no more.
async fn send_page(
    quarantine: &Arc<Quarantine>,
    sinks: &BTreeMap<String, Again>,
    next: &AtomicU64,
    request: Value,
) -> anyhow::Result<Value> {
    let filter: Filter = serde_json::from_value(request)?;
    let of = Arc::clone(quarantine);
    let (entries, last) = task::spawn_blocking(move || of.due(&filter)).await??;
    let (entries, damaged): (Vec<_>, Vec<_>) = entries.into_iter().partition(Entry::is_readable);
    let mut by_sink = BTreeMap::<String, Vec<Entry>>::new();
    for entry in entries {
        by_sink.entry(entry.sink.clone()).or_default().push(entry);
    }
    let (mut stored, mut refused, mut unsupported) = (0, 0, 0);
    for (name, entries) in by_sink {
        let Some(again) = sinks.get(&name) else {
            bail!(
                "the sink {name:?} is not configured, its readings stay: configure it again, or \
                 name another one with --sink"
            );
        };
        let first = next.fetch_add(entries.len() as u64, Ordering::Relaxed);
        let answer = again(batch(&entries, first)).await;
        let sent = outcome(&entries, first, answer)
            .with_context(|| format!("the sink {name:?} does not take readings now"))?;
        stored += sent.stored.len();
        refused += sent.refused.len();
        unsupported += sent.unsupported.len();
        let of = Arc::clone(quarantine);
        task::spawn_blocking(move || of.sent(&sent)).await??;
    }
    Ok(json!({
        "stored": stored, "refused": refused, "unsupported": unsupported,
        "damaged": damaged.len(), "last": last,
    }))
}

/// Each entry is a record of its own.
fn batch(entries: &[Entry], first: u64) -> Batch {
    let record = |(at, entry): (u64, &Entry)| Record {
        position: Position(first + at),
        envelope: entry.envelope(),
        payload: entry.body.clone().into(),
    };
    let readings = entries.len() as u64;
    Batch {
        first: Position(first),
        last: Position(first + readings - 1),
        records: (0..).zip(entries).map(record).collect(),
        readings,
        accepted_total: 0,
        dropped: Dropped::default(),
        given_up: Arc::default(),
    }
}

fn outcome(entries: &[Entry], first: u64, answer: Result<(), SinkError>) -> anyhow::Result<Sent> {
    let (points, unsupported) = match answer {
        Ok(()) => (Vec::new(), Vec::new()),
        Err(SinkError::Reject { points, unsupported }) => (points, unsupported),
        Err(error) => return Err(anyhow!("{error}")),
    };
    let mut reasons: BTreeMap<u64, String> =
        points.into_iter().map(|point| (point.id.position.0, point.reason)).collect();
    let unsupported: BTreeMap<u64, u64> =
        unsupported.into_iter().map(|(position, of)| (position.0, of)).collect();
    let mut sent = Sent::default();
    for (position, entry) in (first..).zip(entries) {
        match reasons.remove(&position) {
            Some(reason) => sent.refused.push((entry.id, reason)),
            None if unsupported.contains_key(&position) => sent.unsupported.push(entry.id),
            None => sent.stored.push(entry.id),
        }
    }
    Ok(sent)
}

/// What became of readings that were sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Replayed {
    /// The destination has them.
    pub stored: u64,
    /// It refused them again.
    pub refused: u64,
    /// It cannot hold them at all; they are counted as dropped.
    pub unsupported: u64,
    /// They cannot be read, and stay.
    pub damaged: u64,
    /// The last one that was looked at; none when there are no more.
    pub last: Option<i64>,
}

/// Lets the running gateway send a page of readings to their sinks again.
///
/// # Errors
/// None runs, or a sink does not take them.
pub fn replay(config: &Config, filter: &Filter) -> anyhow::Result<Replayed> {
    match ask(config, "replay", filter)? {
        Some(done) => Ok(serde_json::from_str(&done)?),
        None => bail!(
            "no gateway answers in {}: a running one sends readings again, start it (or wait \
             until it is ready)",
            config.data_dir.display()
        ),
    }
}

/// `None` if no gateway listens.
fn ask(config: &Config, what: &str, filter: &Filter) -> anyhow::Result<Option<String>> {
    let socket = standing::control_socket(&DataDir::new(&config.data_dir));
    let body = serde_json::to_string(filter)?;
    let answer = admin::call(&socket, &format!("/v1/quarantine/{what}"), &body);
    match answer.context("cannot ask the running gateway")? {
        Some(Ok(done)) => Ok(Some(done)),
        Some(Err(why)) => bail!(why),
        None => Ok(None),
    }
}

/// Gives up readings; a gateway that runs does it itself.
///
/// # Errors
/// A gateway runs and does not answer, or a file cannot be read or written.
pub fn give_up(config: &Config, filter: &Filter) -> anyhow::Result<u64> {
    let dir = DataDir::new(&config.data_dir);
    let (mut page, mut gone) = (filter.clone(), 0);
    while let Some(done) = ask(config, "drop", &page)? {
        let done: Value = serde_json::from_str(&done)?;
        gone += done["dropped"].as_u64().context("the gateway's answer makes no sense")?;
        page.after = done["last"].as_i64();
        if page.after.is_none() {
            return Ok(gone);
        }
    }
    if !quarantine_file(&dir).exists() {
        return Ok(0);
    }
    let _opened = standing::open_log(config, &dir)?;
    let quarantine = open_quarantine(config, &dir, &Registry::new())?;
    for sink in &config.sinks {
        if let Some((_, cursor)) = CursorFile::peek(&cursor_file(&state(&dir), &sink.name))? {
            quarantine.stands_at(&sink.name, cursor.position);
        }
    }
    Ok(gone + quarantine.give_up(&page)?)
}

/// What is in the quarantine, whether a gateway runs or not; see [`Quarantine::list`].
///
/// # Errors
/// The file cannot be read.
pub fn quarantined(config: &Config, filter: &Filter, limit: u32) -> anyhow::Result<Vec<Entry>> {
    let dir = DataDir::new(&config.data_dir);
    Ok(crate::quarantine::look(&quarantine_file(&dir), filter, limit)?)
}
