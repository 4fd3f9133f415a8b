//! The highest load that meets a service level.
//!
//! Plays short open-loop runs against a gateway, each with another load, and closes in on the
//! limit. A load holds if everything due was sent and answered, the figures of the run are as asked
//! for, and, where a store of the gateway is at hand, every acknowledged reading is in it. One that
//! failed is tried again, unless the store did not hold what was acknowledged.

mod page;
mod process;
mod report;
mod search;

pub use report::{Certificate, Failure, Machine, Settings, Step};

use crate::expect::Expectation;
use crate::journal::Journal;
use crate::plan::{Kind, Mode, Plan};
use crate::run::{self, Credentials, Options, Outcome, Report, Show};
use crate::verify::{self, StoreAt};
use anyhow::{Context, Result, bail};
use process::{Look, Looks};
use search::Search;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Shortest ramp.
const MIN_RAMP: Duration = Duration::from_secs(1);
const S: f64 = 1e9;

/// What makes the load of a step higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Vary {
    /// More devices.
    Devices,
    /// A shorter time from one batch of a device to its next.
    Interval,
}

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// `wss://host:port/v1/telemetry`.
    pub url: String,
    /// The gateway's CA, PEM.
    pub ca: PathBuf,
    /// The gateway's token key, PEM.
    pub token_key: PathBuf,
    /// The service level.
    pub slo: Vec<Expectation>,
    /// The fleet; its number of devices counts for [`Vary::Interval`] only.
    pub plan: Plan,
    /// What makes the load higher.
    pub vary: Vary,
    /// The first load, in readings a second.
    pub from: f64,
    /// The highest load, in readings a second.
    pub up_to: f64,
    /// The search ends when the gap is at most this share of what holds.
    pub precision: f64,
    /// A load fails when it has failed so often.
    pub tries: u32,
    /// Length of a step after its ramp.
    pub step: Duration,
    /// Devices that connect in a second, at most; the ramp of a step is as long as it takes.
    pub connects_per_s: u32,
    /// Longest wait for acks after a step.
    pub drain_timeout: Duration,
    /// The gateway's process, if it runs on this machine.
    pub gateway_pid: Option<String>,
    /// A store that the gateway writes to, if one is at hand.
    pub store: Option<StoreAt>,
    /// What came there more than once is no fault.
    pub allow_duplicates: bool,
    /// Longest wait for the store to catch up.
    pub settle: Duration,
    /// Where the journal of a step goes.
    pub journal: PathBuf,
}

/// Searches; `say` gets a line after each step.
///
/// # Errors
/// A step could not be played at all, or was interrupted.
pub fn certify(request: &Request, say: &dyn Fn(&str)) -> Result<Certificate> {
    let began = SystemTime::now();
    let steps = search(request, say);
    let _ = std::fs::remove_file(&request.journal);
    Ok(request.certificate(began, steps?))
}

fn search(request: &Request, say: &dyn Fn(&str)) -> Result<Vec<Step>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let stop = CancellationToken::new();
    // Ends with the runtime, at the end of this function.
    runtime.spawn(stop_on_signal(stop.clone()));
    let (first, most) = (request.load_of(request.from), request.load_of(request.up_to));
    let mut search = Search::new(first, most, request.precision, request.tries);
    // A store that cannot be reached is said before anything is played.
    request.store.as_ref().map(|store| store.open(&request.plan)).transpose()?;
    let before = request.gateway_pid.as_deref().map(process::look).transpose()?;
    let mut trial = Trial { request, runtime: &runtime, stop, before, most_devices: 0, free: None };
    let mut steps: Vec<Step> = Vec::new();
    while let Some(load) = search.next() {
        let step = trial.play(load, search.nth_try())?;
        say(&step.line());
        search.tried(load, step.went());
        steps.push(step);
    }
    Ok(steps)
}

/// A run listens for signals by itself, and from then on nothing else ends the process.
async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
}

impl Request {
    /// Readings that a device brings in a second, on average over the profiles.
    fn per_device(&self) -> f64 {
        let rate = |kind: &Kind| f64::from(kind.batch) * S / as_f64(kind.interval_ns);
        let all: f64 = self.plan.kinds.iter().map(|kind| f64::from(kind.weight)).sum();
        let rates = self.plan.kinds.iter().map(|kind| rate(kind) * f64::from(kind.weight));
        rates.sum::<f64>() / all
    }

    /// Readings a second in the unit of the search: devices, or readings a second.
    fn load_of(&self, rate: f64) -> u64 {
        let load = match self.vary {
            Vary::Devices => rate / self.per_device(),
            Vary::Interval => rate,
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let load = load.round() as u64;
        load.max(1)
    }

    /// The fleet of a step, and its rate.
    fn plan_of(&self, load: u64) -> Result<(Plan, f64)> {
        let mut plan = self.plan.clone();
        let rate = match self.vary {
            Vary::Devices => {
                plan.devices = u32::try_from(load).unwrap_or(u32::MAX);
                f64::from(plan.devices) * self.per_device()
            }
            Vary::Interval => {
                let faster = as_f64(load) / (f64::from(plan.devices) * self.per_device());
                for kind in &mut plan.kinds {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let interval_ns = (as_f64(kind.interval_ns) / faster).round() as u64;
                    kind.interval_ns = interval_ns.max(1);
                }
                as_f64(load)
            }
        };
        let ramp = f64::from(plan.devices) / f64::from(self.connects_per_s);
        let ramp = MIN_RAMP.max(Duration::from_secs_f64(ramp));
        plan.run = fastrand::u64(..);
        plan.ramp_ns = nanos(ramp);
        plan.duration_ns = nanos(ramp + self.step);
        plan.check().map_err(anyhow::Error::msg)?;
        Ok((plan, rate))
    }

    fn certificate(&self, began: SystemTime, steps: Vec<Step>) -> Certificate {
        let by_rate = |a: &&Step, b: &&Step| a.readings_per_s.total_cmp(&b.readings_per_s);
        let best = steps.iter().filter(|step| step.held).max_by(by_rate).cloned();
        Certificate {
            schema: report::SCHEMA,
            version: crate::VERSION,
            began: humantime::format_rfc3339_seconds(began).to_string(),
            held: best.is_some(),
            readings_per_s: best.as_ref().map(|step| step.readings_per_s),
            devices: best.as_ref().map(|step| step.devices),
            cpu_cores: best.as_ref().and_then(|step| step.cpu_cores),
            kib_per_connection: best.as_ref().and_then(|step| step.kib_per_connection),
            ack_latency_ms: best.as_ref().map(|step| step.ack_latency_ms.clone()),
            schedule_lag_ms: best.as_ref().map(|step| step.schedule_lag_ms.clone()),
            steady_ack_latency_ms: best.as_ref().map(|step| step.steady_ack_latency_ms.clone()),
            steady_schedule_lag_ms: best.map(|step| step.steady_schedule_lag_ms),
            failed_at: Failure::lowest(&steps),
            settings: self.settings(),
            machine: Machine::here(),
            steps,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            url: self.url.clone(),
            slo: self.slo.iter().map(ToString::to_string).collect(),
            vary: match self.vary {
                Vary::Devices => "devices",
                Vary::Interval => "interval",
            },
            devices: self.plan.devices,
            profiles: profiles(&self.plan.kinds),
            from: self.from,
            up_to: self.up_to,
            step_s: self.step.as_secs_f64(),
            connects_per_s: self.connects_per_s,
            drain_timeout_s: self.drain_timeout.as_secs_f64(),
            precision: self.precision,
            tries: self.tries,
            verified: self.store.is_some(),
            store: self.store.as_ref().map(ToString::to_string),
            settle_s: self.store.as_ref().map(|_| self.settle.as_secs_f64()),
            allow_duplicates: self.allow_duplicates,
            prefix: self.plan.prefix.clone(),
        }
    }
}

/// One search as it goes on.
struct Trial<'a> {
    request: &'a Request,
    runtime: &'a Runtime,
    /// A signal has come.
    stop: CancellationToken,
    /// The gateway before the first step.
    before: Option<Look>,
    /// Most devices that have been connected so far.
    most_devices: u32,
    /// End of the schedule before.
    free: Option<Instant>,
}

/// A run and what was seen of both processes meanwhile.
struct Played {
    report: Report,
    looks: Looks,
    /// From the end of the ramp to that of the schedule.
    steady: (Instant, Instant),
}

impl Trial<'_> {
    fn play(&mut self, load: u64, nth_try: u32) -> Result<Step> {
        let (plan, readings_per_s) = self.request.plan_of(load)?;
        let devices = plan.devices;
        let profiles = profiles(&plan.kinds);
        let Played { report, looks, steady: (from, to) } = self.run(plan)?;
        if report.outcome == Outcome::Failed && self.most_devices == 0 {
            bail!("{}", report.problem.unwrap_or_else(|| "no device ever connected".to_owned()));
        }
        self.most_devices = self.most_devices.max(devices);
        let store = self.request.store.as_ref().filter(|_| !self.stop.is_cancelled());
        let verdict = store.map(|store| self.verify(store)).transpose()?;
        if report.outcome == Outcome::Interrupted || self.stop.is_cancelled() {
            bail!("interrupted");
        }
        let mut step = Step {
            readings_per_s,
            devices,
            profiles,
            nth_try,
            held: false,
            why: None,
            data_lost: verdict.as_ref().is_some_and(|verdict| verdict.fault().is_some()),
            acked: report.acked,
            lost: verdict.as_ref().map(|verdict| verdict.lost),
            cpu_cores: process::cores(&looks.gateway, from, to),
            simulator_cores: process::cores(&looks.simulator, from, to),
            other_cores: looks.others(from, to),
            kib_per_connection: self.kib_per_connection(&looks.gateway),
            ack_latency_ms: report.ack_latency_ms.clone(),
            schedule_lag_ms: report.schedule_lag_ms.clone(),
            steady_ack_latency_ms: report.steady.ack_latency_ms.clone(),
            steady_schedule_lag_ms: report.steady.schedule_lag_ms.clone(),
        };
        step.why = self.failure(&report, verdict.as_ref(), &step)?;
        step.held = step.why.is_none();
        Ok(step)
    }

    fn run(&mut self, plan: Plan) -> Result<Played> {
        let request = self.request;
        let (ramp, length) =
            (Duration::from_nanos(plan.ramp_ns), Duration::from_nanos(plan.duration_ns));
        // The first readings of a device are as old as its interval: they must not meet the last
        // ones of the step before.
        let oldest = plan.kinds.iter().map(|kind| kind.interval_ns).max().unwrap_or(0);
        let begin = self.free.map(|free| free + Duration::from_nanos(oldest));
        let run_s = (length + request.drain_timeout).as_secs();
        let options = Options {
            url: request.url.clone(),
            ca: request.ca.clone(),
            credentials: Credentials::from_key(&request.token_key, run_s)?,
            plan,
            drain_timeout: request.drain_timeout,
            source_addresses: None,
            journal: Some(request.journal.clone()),
            show: Show::Nothing,
        };
        let mut looks = Looks::default();
        let pid = request.gateway_pid.as_deref();
        let (report, start) = self.runtime.block_on(async {
            if let Some(begin) = begin {
                tokio::select! {
                    () = sleep_until(begin) => {}
                    () = self.stop.cancelled() => bail!("interrupted"),
                }
            }
            let start = Instant::now();
            let report = tokio::select! {
                report = run::play(options) => report,
                () = looks.watch(pid) => unreachable!("it watches on"),
            };
            report.map(|report| (report, start))
        })?;
        self.free = Some(start + length);
        Ok(Played { report, looks, steady: (start + ramp, start + length) })
    }

    fn verify(&self, store: &StoreAt) -> Result<verify::Report> {
        let journal = Journal::open(&self.request.journal)?;
        let mut store = store.open(&journal.plan)?;
        let mut verdict = verify::verify(&mut *store, &journal, self.request.settle)?;
        if self.request.allow_duplicates {
            verdict.allow_duplicates();
        }
        Ok(verdict)
    }

    fn kib_per_connection(&self, gateway: &[Look]) -> Option<f64> {
        let most = gateway.iter().map(|look| look.resident_kib).max()?;
        let grown = most.saturating_sub(self.before?.resident_kib);
        Some(as_f64(grown) / f64::from(self.most_devices))
    }

    /// What of the service level a step does not meet.
    fn failure(
        &self,
        report: &Report,
        verdict: Option<&verify::Report>,
        step: &Step,
    ) -> Result<Option<String>> {
        if let Some(fault) = verdict.and_then(verify::Report::fault) {
            return Ok(Some(format!("the store does not hold what was acknowledged: {fault}")));
        }
        if let Some(problem) = &report.problem {
            return Ok(Some(problem.clone()));
        }
        let mut figures = serde_json::to_value(report).context("the report")?;
        figures["cpu_cores"] = step.cpu_cores.into();
        figures["kib_per_connection"] = step.kib_per_connection.into();
        let verdict_figures = serde_json::to_value(verdict).context("the verdict")?;
        for expected in &self.request.slo {
            let of = if expected.is_of_the_store() { &verdict_figures } else { &figures };
            if let Err(sentence) = expected.check(of) {
                return Ok(Some(sentence));
            }
        }
        let passed = verdict.is_none_or(|verdict| verdict.passed);
        Ok((!passed).then(|| "nothing was acknowledged".to_owned()))
    }
}

/// What a fleet sends, a line for each profile.
fn profiles(kinds: &[Kind]) -> Vec<String> {
    let line = |kind: &Kind| {
        // The search cuts intervals as it needs; a microsecond is told.
        let interval = Duration::from_micros((kind.interval_ns + 500) / 1_000);
        let interval = humantime::format_duration(interval);
        let name = kind.profile.measurement();
        let as_columns = if kind.mode == Mode::Columns { " as columns" } else { "" };
        format!("{name} × {}, {} readings{as_columns} each {interval}", kind.weight, kind.batch)
    };
    kinds.iter().map(line).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a rate, a time or a size")]
fn as_f64(n: u64) -> f64 {
    n as f64
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
