//! The devices' side: accept → TLS → upgrade → connection.
//!
//! Owns the listener, certificates, the HTTP side of the upgrade, the task of each connection and
//! the registry of who is connected. It promises that a device costs little while it is idle, that
//! one device harms no other, and that an ordered stop answers what is under way and tells every
//! device when to come back. What a message means is the business of `session` and `ingest`.

mod answer;
mod closing;
mod connection;
mod frames;
mod head;
mod listener;
mod registry;
mod tls;
mod upgrade;
mod watched;

pub use registry::{MAX_TAKEOVERS, Registry, TAKEOVER_WINDOW};
pub use tls::{ClientCa, Tls, TlsError, TlsOptions};

use crate::ingest::clock::{Clock, WallClock};
use crate::{
    auth::Authenticator,
    ingest::{Guards, Request, Rules},
    metrics::ServerMetrics,
    record::Position,
    session,
    state::State,
};
use listener::Listener;
use proto::message::{AckMode, Window};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the server is told by configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where devices connect.
    pub listen: SocketAddr,
    /// Most connections at once, those in the middle of a handshake included.
    pub max_connections: usize,
    /// Most TLS handshakes and upgrades at once; further ones wait.
    pub max_handshakes: usize,
    /// A TLS handshake must be done within this.
    pub handshake_time: Duration,
    /// The request of the upgrade must be complete within this.
    pub head_time: Duration,
    /// A device that leaves unread what it is sent for this long is closed.
    pub write_time: Duration,
    /// How long to wait for a device's bytes.
    pub patience: session::Patience,
    /// How much a device may have under way.
    pub window: Window,
    /// Origins of web pages that may connect, as browsers name them (`https://example.org`).
    pub allowed_origins: Vec<String>,
    /// Devices that are sent away come back spread over this time.
    pub reconnect_spread: Duration,
    /// How long an ordered stop waits for what is under way.
    pub drain: Duration,
    /// Whether an ordered stop is announced as a restart.
    pub restart: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8443)),
            max_connections: 25_000,
            max_handshakes: 512,
            handshake_time: Duration::from_secs(10),
            head_time: Duration::from_secs(10),
            write_time: Duration::from_secs(30),
            patience: session::Patience::default(),
            window: Window { batches: 32, bytes: 1024 * 1024 },
            allowed_origins: Vec::new(),
            reconnect_spread: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            restart: false,
        }
    }
}

/// What the rest of the gateway hands to the server.
#[derive(Debug)]
pub struct Context {
    /// Where batches go.
    pub requests: mpsc::Sender<Request>,
    /// One permit per byte of a batch on its way to the log, for all connections together.
    pub budget: Arc<Semaphore>,
    /// What batches are checked by.
    pub rules: Arc<Rules>,
    /// What readings are held against.
    pub guards: Arc<Guards>,
    /// Who was seen, and what was learned.
    pub state: State,
    /// What an ack means.
    pub ack_mode: AckMode,
    /// Everything up to here may be acknowledged.
    pub ack_position: watch::Receiver<Position>,
    /// Whom to let in.
    pub auth: Arc<Authenticator>,
    /// Certificates.
    pub tls: Arc<Tls>,
    /// Who is connected.
    pub registry: Arc<Registry>,
    /// Configuration.
    pub config: Config,
    /// Metrics.
    pub metrics: ServerMetrics,
    /// Cancelled when the server has to stop.
    pub shutdown: CancellationToken,
    /// Every task of the server runs on it.
    pub tasks: TaskTracker,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is another gateway running there? Set \
         server.listen to a free address"
    )]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    context: Context,
    settings: Arc<session::Settings>,
    clock: Clock,
    wall: WallClock,
    connections: AtomicUsize,
    handshakes: Semaphore,
}

/// The devices' listener.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    shared: Arc<Shared>,
}

impl Server {
    /// Binds the address; devices can connect from here on, and wait.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub fn bind(context: Context) -> Result<Self, ServerError> {
        let address = context.config.listen;
        let listener =
            Listener::bind(address).map_err(|source| ServerError::Bind { address, source })?;
        let settings = session::Settings {
            window: context.config.window,
            limits: context.rules.limits.clone(),
            ack: context.ack_mode,
            patience: context.config.patience,
        };
        let clock = Clock::new();
        let shared = Shared {
            settings: Arc::new(settings),
            clock,
            wall: WallClock::new(clock),
            connections: AtomicUsize::new(0),
            handshakes: Semaphore::new(context.config.max_handshakes),
            context,
        };
        Ok(Self { listener, shared: Arc::new(shared) })
    }

    /// The address, with the port that the system has chosen if none was configured.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is cancelled, then stops in order: no more connections, what is
    /// under way is answered, goodbye, close. Returns when every connection has ended or its time
    /// is up.
    pub async fn run(self) {
        let Self { listener, shared } = self;
        let Context { shutdown, tasks, registry, config, .. } = &shared.context;
        shutdown.run_until_cancelled(listener.accept_all(&shared)).await;
        drop(listener);
        registry.close_all();
        tasks.close();
        let limit = config.drain + closing::CLOSE_TIME + Duration::from_secs(1);
        if tokio::time::timeout(limit, tasks.wait()).await.is_err() {
            tracing::warn!(left = tasks.len(), "connections did not end in time");
        }
    }
}
