//! Plays a plan: every device a real connection, to its end or to a signal.
//!
//! `play` reads top to bottom: prepare, start the devices, wait for the end, drain, report. The
//! journal is written all the while.

mod backoff;
mod closed_loop;
mod credentials;
mod descriptors;
mod device;
mod fleet;
mod frame;
mod html;
mod latency;
mod link;
mod merge;
mod outbox;
mod pipe;
mod progress;
mod report;
mod series;
mod session;
mod tally;
mod tickets;
mod tls;
mod trouble;
mod upgrade;

pub use credentials::Credentials;
pub use html::page;
pub use latency::{Distribution, Latency};
pub use merge::merge;
pub use progress::Show;
pub use report::{LoadMode, Outcome, Report, Settings, Steady};
pub use series::Sample;
pub use tally::Errors;

use crate::journal::{self, Ledger};
use crate::plan::Plan;
use anyhow::Result;
use fleet::Fleet;
use link::Connector;
use series::Series;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tally::{Tally, lock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// From one writing of the journal to the next.
const JOURNAL_EVERY: Duration = Duration::from_secs(2);
/// A run in which no device could connect for so long ends.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);
/// So many failures that only a person can mend end it at once.
const GIVE_UP_FAILURES: u64 = 3;
/// From one look for such a failure to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What a run is asked for.
#[derive(Debug)]
pub struct Options {
    /// `wss://host:port/v1/telemetry`.
    pub url: String,
    /// The gateway's CA, PEM.
    pub ca: PathBuf,
    /// How devices prove who they are.
    pub credentials: Credentials,
    /// What is sent. A `base_ns` of 0 is set when the run starts; another is waited for.
    pub plan: Plan,
    /// Longest wait for acks after the schedule.
    pub drain_timeout: Duration,
    /// Number of source addresses towards the loopback; absent: as many as are needed.
    pub source_addresses: Option<u32>,
    /// Where the journal goes, if anywhere.
    pub journal: Option<PathBuf>,
    /// What is shown while the run goes on.
    pub show: Show,
}

/// Plays the plan.
///
/// # Errors
/// It cannot begin (files, names, limits), or the journal cannot be written.
pub async fn play(options: Options) -> Result<Report> {
    descriptors::allow(options.plan.own_count(), options.plan.forgets_links())?;
    let (fleet, settings, files) = prepare(options).await?;
    let mut devices = JoinSet::new();
    for index in fleet.plan.own_devices() {
        devices.spawn(device::run(Arc::clone(&fleet), index));
    }
    let series = Series::new();
    let outcome = tokio::select! {
        outcome = conduct(&fleet, &mut devices, files.drain_timeout) => outcome?,
        error = keep_journal(&fleet, files.journal.as_ref()) => return Err(error),
        () = series::watch(Arc::clone(&fleet), &series) => unreachable!("it watches on"),
        () = progress::show(&fleet, files.show, series.newest()) => unreachable!("it shows on"),
    };
    let took = fleet.start.elapsed();
    series.take(&fleet);
    if let Some(journal) = &files.journal {
        journal.save(&fleet, true)?;
    }
    Ok(Report::new(&fleet.tally, series.taken(), settings, outcome, took))
}

/// The journal's file. A lock, since the last writing may meet one that is under way.
struct JournalFile {
    path: PathBuf,
    complete: Mutex<bool>,
}

impl JournalFile {
    fn save(&self, fleet: &Fleet, complete: bool) -> Result<()> {
        let mut done = lock(&self.complete);
        if !*done {
            let ledgers = fleet.ledgers.iter().map(|ledger| lock(ledger).clone());
            journal::write(&self.path, &fleet.plan, ledgers, complete)?;
            *done = complete;
        }
        Ok(())
    }
}

struct Files {
    journal: Option<Arc<JournalFile>>,
    show: Show,
    drain_timeout: Duration,
}

async fn prepare(options: Options) -> Result<(Arc<Fleet>, Settings, Files)> {
    let Options { url, ca, credentials, mut plan, drain_timeout, .. } = options;
    let connector = Connector::new(&url, &ca, &plan, options.source_addresses).await?;
    plan.check().map_err(anyhow::Error::msg)?;
    let start = begin(&mut plan).await;
    let settings =
        Settings { url, plan: plan.clone(), drain_timeout_s: drain_timeout.as_secs_f64() };
    let ledgers = plan.own_devices().map(|device| Mutex::new(Ledger::new(&plan, device))).collect();
    let fleet = Fleet {
        plan,
        connector,
        credentials,
        tally: Tally::default(),
        ledgers,
        start,
        stop: CancellationToken::new(),
        abort: CancellationToken::new(),
    };
    let journal =
        options.journal.map(|path| Arc::new(JournalFile { path, complete: Mutex::new(false) }));
    let files = Files { journal, show: options.show, drain_timeout };
    Ok((Arc::new(fleet), settings, files))
}

/// The start of the schedule, by both clocks: now, or the moment that the plan names.
async fn begin(plan: &mut Plan) -> Instant {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    };
    if plan.base_ns == 0 {
        plan.base_ns = now();
        return Instant::now();
    }
    loop {
        match u64::try_from(plan.base_ns - now()) {
            // In pieces: the clock may be set meanwhile.
            Ok(left) if left > 0 => sleep(Duration::from_nanos(left).min(LOOK_EVERY)).await,
            _ => {
                let late = u64::try_from(now() - plan.base_ns).unwrap_or(0);
                let started = Instant::now();
                return started.checked_sub(Duration::from_nanos(late)).unwrap_or(started);
            }
        }
    }
}

/// Waits for the devices, for a signal, for the end of the draining, or until it is clear that no
/// device will ever connect.
async fn conduct(
    fleet: &Arc<Fleet>,
    devices: &mut JoinSet<()>,
    drain_timeout: Duration,
) -> Result<Outcome> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let end = fleet.start + Duration::from_nanos(fleet.plan.duration_ns);
    let mut deadline = std::pin::pin!(sleep_until(end + drain_timeout));
    let mut outcome = Outcome::Completed;
    loop {
        tokio::select! {
            joined = devices.join_next() => match joined {
                // Whatever the reason, nothing was reached.
                None if outcome == Outcome::Completed && fleet.tally.welcomes.get() == 0 => {
                    return Ok(Outcome::Failed);
                }
                None => return Ok(outcome),
                Some(joined) => joined?,
            },
            _ = interrupt.recv() => interrupted(fleet, &mut outcome),
            _ = terminate.recv() => interrupted(fleet, &mut outcome),
            () = deadline.as_mut(), if !fleet.abort.is_cancelled() => fleet.abort.cancel(),
            () = hopeless(fleet), if outcome != Outcome::Failed && !fleet.abort.is_cancelled() => {
                outcome = Outcome::Failed;
                fleet.stop.cancel();
                fleet.abort.cancel();
            }
        }
        if fleet.stop.is_cancelled() && outcome == Outcome::Interrupted {
            let early = Instant::now() + drain_timeout;
            if early < deadline.deadline() {
                deadline.as_mut().reset(early);
            }
        }
    }
}

/// The first signal ends the schedule, the second one the waiting for acks.
fn interrupted(fleet: &Fleet, outcome: &mut Outcome) {
    if fleet.stop.is_cancelled() {
        fleet.abort.cancel();
    } else {
        eprintln!("ending early: waiting for what was sent (once more to stop at once)");
        *outcome = Outcome::Interrupted;
        fleet.stop.cancel();
    }
}

/// Returns when it is clear that no device will ever connect. Cancel safe.
async fn hopeless(fleet: &Fleet) {
    loop {
        sleep(LOOK_EVERY).await;
        if fleet.tally.welcomes.get() > 0 {
            return std::future::pending().await;
        }
        let errors = fleet.tally.errors();
        let failures = |permanent: bool| -> u64 {
            let counts = errors.iter().filter(|(kind, _)| !permanent || link::is_permanent(kind));
            counts.map(|(_, errors)| errors.count).sum()
        };
        let needed = GIVE_UP_FAILURES.min(u64::from(fleet.plan.own_count()));
        if failures(true) >= needed
            || (failures(false) > 0 && fleet.start.elapsed() >= GIVE_UP_AFTER)
        {
            return;
        }
    }
}

/// Writes the journal again and again; returns only with an error. Cancel safe: a journal that is
/// half written has not taken the name yet.
async fn keep_journal(fleet: &Arc<Fleet>, journal: Option<&Arc<JournalFile>>) -> anyhow::Error {
    let Some(journal) = journal else { return std::future::pending().await };
    loop {
        let (fleet, journal) = (Arc::clone(fleet), Arc::clone(journal));
        match tokio::task::spawn_blocking(move || journal.save(&fleet, false)).await {
            Ok(Ok(())) => sleep(JOURNAL_EVERY).await,
            Ok(Err(error)) => return error,
            Err(error) => return error.into(),
        }
    }
}
