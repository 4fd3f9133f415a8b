//! The telemetry ingestion gateway.
//!
//! ```text
//! accept → TLS → upgrade → session → decode + validate → log (group commit, fsync) → ack
//!                                                         │
//!                           one log, many readers:        ├─ forwarder → sink: embedded store
//!                           each with its own cursor      ├─ forwarder → sink: InfluxDB
//!                                                         └─ forwarder → sink: MQTT
//! ```
//!
//! [`run`] wires the rooms in this order and stops them in the order of [`shutdown`].

pub mod admin;
pub mod auth;
pub mod banner;
pub mod capture;
pub mod client_tls;
pub mod config;
pub mod data_dir;
pub mod forward;
pub mod ingest;
pub mod inspect;
pub mod known;
pub mod log;
pub mod logging;
pub mod metrics;
pub mod mqtt;
pub mod mqtt_source;
pub mod quarantine;
pub mod record;
pub mod server;
pub mod session;
pub mod shutdown;
pub mod sink;
pub mod sinks;
pub mod state;
mod wire;

use admin::{Admin, NotReady, Readiness, Sources};
use anyhow::Context;
use config::{Config, valid};
use ingest::{
    Committer, CommitterHandle, Request,
    clock::{Clock, WallClock},
};
use metrics::{IngestMetrics, MqttSourceMetrics, Registry, ServerMetrics, StateMetrics};
use mqtt_source::MqttSource;
use shutdown::{Sequence, Tasks};
use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How often it is looked for segments that nobody needs any more.
const RETENTION_INTERVAL: Duration = Duration::from_millis(500);
/// After so long without a new record the log vouches for the newest ones.
const VOUCH_AFTER: Duration = Duration::from_secs(2);

/// Runs the gateway until a signal stops it in order.
///
/// # Errors
/// One sentence for the person who started it: what happened, to which file or address, and what
/// to do. When a part of the gateway fails while it runs, everything else is stopped in order
/// first.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let signal = shutdown::on_signal().context("cannot take signals")?;
    let registry = Registry::new();
    metrics::tell_build(&registry, env!("CARGO_PKG_VERSION"));
    let readiness = Readiness::new();
    readiness.set(NotReady::Starting);
    let hosts = match &config.tls {
        valid::Tls::Own { hosts } => Some(hosts.as_slice()),
        valid::Tls::Files { .. } => None,
    };
    let dir = data_dir::prepare(&config.data_dir, hosts)?;

    let options = wire::log(&config, &dir, &registry);
    let files = Arc::new(log::RealFiles);
    let stored = sinks::stored_position(&config, &dir, log::identity(&options.dir, &*files)?)?;
    let (writer, log, recovery) = log::open(options, files, stored)?;
    // After the log: its lock tells a second gateway on this data directory more than the port.
    let admin = Admin::bind(&config.admin).await?;
    report(&recovery);
    let state_file = dir.path.join("state.db");
    let max_fields = config.types.fields_per_realm;
    let (state, keeper) = state::open(&state_file, max_fields, StateMetrics::new(&registry))?;
    let state_kept = keeper.spawn().context("cannot start a thread for state.db")?;
    let accepted_total = Arc::new(AtomicU64::new(0));
    let sinks = sinks::open(&config, &dir, &log, &accepted_total, &state.types, &registry)?;
    let mut ack_task = Tasks::new();
    let ack_position = sinks.ack_position(config.ack, &log, &mut ack_task);
    let committer = Committer::new(
        writer,
        &log,
        ack_position.clone(),
        Arc::clone(&accepted_total),
        IngestMetrics::new(&registry),
    )?;
    let (committer, committed) = committer.spawn()?;

    let rules = Arc::new(wire::rules(&config));
    let guards = wire::guards(&config, &state, &registry);
    let mqtt_devices = match &config.mqtt_source {
        None => None,
        Some(of) => {
            let context = mqtt_source::Context {
                committer: committer.clone(),
                ack_position: ack_position.clone(),
                rules: Arc::clone(&rules),
                guards: Arc::clone(&guards),
                state: state.clone(),
                clock: WallClock::new(Clock::new()),
                metrics: MqttSourceMetrics::new(&registry),
            };
            Some(MqttSource::new(wire::mqtt_source(of, log.uuid())?, context))
        }
    };

    let stop_server = CancellationToken::new();
    let connected = Arc::new(server::Registry::default());
    let server = server::Server::bind(server::Context {
        requests: committer.requests.clone(),
        budget: committer.budget.clone(),
        rules,
        guards,
        state: state.clone(),
        ack_mode: config.ack,
        ack_position,
        auth: Arc::new(auth::Authenticator::new(&wire::trust_roots(&config, &dir)?)?),
        tls: Arc::new(server::Tls::load(&wire::tls(&config, &dir))?),
        registry: Arc::clone(&connected),
        config: wire::server(&config),
        metrics: ServerMetrics::new(&registry),
        shutdown: stop_server.clone(),
        tasks: TaskTracker::new(),
    })?;
    let (server_address, admin_address) = (server.local_addr()?, admin.address());
    let banner = banner::startup_banner(&config, &dir, server_address, admin_address);

    let (stop_sinks, stop_admin) = (CancellationToken::new(), CancellationToken::new());
    let ledger = sinks.ledger_source(&accepted_total);
    let retained = sinks.cursors();
    let mut commands = sinks.commands(&config, &log);
    commands.others.extend(known::commands(&state, &connected));
    let mut admin_task = Tasks::new();
    let of_device = sinks.device_ledger(&log, committer.requests.downgrade());
    let quarantine = sinks.quarantine_source();
    let sources = Sources { registry, readiness: readiness.clone(), ledger, of_device, quarantine };
    admin_task.spawn("admin listener", ok(admin.serve(sources, stop_admin.clone())));
    match admin::Control::bind(&sinks::control_socket(&dir)) {
        Ok(control) => {
            let serving = control.serve(commands, stop_admin.clone());
            admin_task.spawn("local socket", ok(serving));
        }
        Err(error) => tracing::warn!(
            %error, "no local socket: commands that change something need a stopped gateway"
        ),
    }
    let mut sink_tasks = sinks.spawn(&stop_sinks, &readiness);
    let mut log_task = Tasks::new();
    log_task.spawn("committer", async move {
        committed.await.map_err(|_| "its thread has failed".to_owned())?.map_err(|e| e.to_string())
    });
    let mut state_task = Tasks::new();
    state_task
        .spawn("state", async { state_kept.await.map_err(|_| "its thread has failed".to_owned()) });
    let mut server_task = Tasks::new();
    server_task.spawn("devices' listener", ok(server.run()));
    let mut mqtt_task = Tasks::new();
    if let Some(devices) = mqtt_devices {
        mqtt_task.spawn("devices over MQTT", ok(devices.run(stop_server.clone())));
    }
    let mut scrub_task = Tasks::new();
    if let Some(every) = config.log.scrub_every {
        scrub_task.spawn("scrub", ok(log::scrub(log.clone(), every, stop_server.clone())));
    }
    let mut retention_task = Tasks::new();
    let retention = retain(log, wire::room(&config), retained, committer, readiness.clone());
    retention_task.spawn("retention", ok(stop_server.clone().run_until_cancelled_owned(retention)));

    readiness.clear(NotReady::Starting);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        devices = %server_address,
        operators = %admin_address,
        "ready"
    );
    // Whoever started us may not read it.
    let _ = std::io::stdout().write_all(banner.as_bytes()).and_then(|()| std::io::stdout().flush());
    let failed = tokio::select! {
        () = signal.cancelled() => None,
        ended = server_task.next() => ended,
        ended = mqtt_task.next(), if !mqtt_task.is_empty() => ended,
        ended = log_task.next() => ended,
        ended = sink_tasks.next(), if !sink_tasks.is_empty() => ended,
        ended = retention_task.next() => ended,
        ended = scrub_task.next(), if !scrub_task.is_empty() => ended,
        ended = admin_task.next() => ended,
        ended = state_task.next() => ended,
    };
    if let Some(ended) = &failed {
        tracing::error!(task = ended.name, "{ended}; stopping");
        if ended.name == "committer" {
            readiness.set(NotReady::LogPoisoned);
        }
    }

    readiness.set(NotReady::ShuttingDown);
    let mut sequence = Sequence::begin(config.shutdown.deadline);
    stop_server.cancel();
    sequence.tasks(&mut server_task).await;
    sequence.tasks(&mut mqtt_task).await;
    sequence.tasks(&mut retention_task).await;
    sequence.tasks(&mut scrub_task).await;
    // The last sender is gone with the server and retention: the committer drains and closes.
    sequence.tasks(&mut log_task).await;
    stop_sinks.cancel();
    sequence.tasks(&mut sink_tasks).await;
    stop_admin.cancel();
    sequence.tasks(&mut admin_task).await;
    state.changes.stop();
    sequence.tasks(&mut state_task).await;
    let stopped = sequence.finish();
    if let Some(ended) = failed {
        return Err(anyhow::anyhow!("{ended}"));
    }
    stopped?;
    tracing::info!("stopped");
    Ok(())
}

async fn ok(task: impl Future) -> Result<(), String> {
    task.await;
    Ok(())
}

/// Says what opening the log found.
fn report(recovery: &log::Recovery) {
    for torn in &recovery.torn {
        tracing::warn!(
            segment = %torn.segment.display(),
            offset = torn.offset,
            bytes = torn.bytes,
            "the log ended in the middle of a write: cut, with a copy in torn/"
        );
    }
    for damaged in &recovery.damaged {
        tracing::error!(
            segment = %damaged.segment.display(),
            from = %damaged.from,
            to = %damaged.to,
            "ALERT: acknowledged records cannot be read; the rest of the log is used"
        );
    }
    tracing::info!(
        oldest = %recovery.oldest,
        last = %recovery.last,
        created = recovery.created,
        "the log is open"
    );
}

/// Tells the committer what may be deleted, as the cursors advance; keeps an eye on a full disk.
async fn retain(
    log: log::Shared,
    room: wire::Room,
    cursors: sinks::Cursors,
    committer: CommitterHandle,
    readiness: Readiness,
) {
    let mut interval = tokio::time::interval(RETENTION_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut newest = Newest::of(&log);
    loop {
        interval.tick().await;
        if newest.wants_a_word(&log) && committer.requests.send(Request::Vouch).await.is_err() {
            return;
        }
        if log.poisoned().is_some() {
            readiness.set(NotReady::LogPoisoned);
        }
        let is_full = committer.full.load(Ordering::Relaxed);
        if is_full {
            readiness.set(NotReady::DiskFull);
        } else {
            readiness.clear(NotReady::DiskFull);
        }
        let segments = log.segments();
        let lacking = room.lacking(log.size_bytes(), log.free_bytes());
        if (is_full || lacking > 0) && cursors.give_way(&segments, lacking.max(1)) {
            // The space is free as soon as the cursors have moved.
            interval.reset_after(RETENTION_INTERVAL / 10);
        }
        let now_ns = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        // The committer itself keeps the newest checkpoint.
        let any_checkpoint = Some(record::Position(u64::MAX));
        // What is only kept gives way before a batch is refused for it.
        let keep = if is_full { log::retention::Keep::default() } else { room.keep };
        let from =
            log::retention::low_water(cursors.now(), any_checkpoint, &segments, &keep, now_ns);
        let from = match segments.first() {
            Some(oldest) if segments.len() > 1 && from > oldest.last => from,
            // Nothing can go, but there may be room again.
            _ if is_full => record::Position::ZERO,
            _ => continue,
        };
        if committer.requests.send(Request::Retain { from }).await.is_err() {
            return;
        }
    }
}

/// Notices when nothing has been appended for a while. Each new record vouches for those before it;
/// without one the newest would be taken for a torn tail if they rotted before the next start.
struct Newest {
    position: record::Position,
    since: Instant,
    vouched: bool,
}

impl Newest {
    fn of(log: &log::Shared) -> Self {
        Self { position: log.durable(), since: Instant::now(), vouched: true }
    }

    /// True once for every time that the log has come to rest.
    fn wants_a_word(&mut self, log: &log::Shared) -> bool {
        if self.position != log.durable() {
            *self = Self { vouched: false, ..Self::of(log) };
        }
        let wants = !self.vouched && self.since.elapsed() >= VOUCH_AFTER;
        self.vouched |= wants;
        wants
    }
}
