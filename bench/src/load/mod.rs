//! The load generator: many connections on one thread, driven over standard input.
//!
//! It connects everybody, says `ready`, and then does what the lines of its input say:
//!
//! - `go`: sends; either as answers come (so many batches under way on each connection) or, with a
//!   rate, on a fixed schedule whatever the answers do.
//! - `mark`: says the counts. Latencies are those of batches that were due between two marks.
//! - `stop`: sends no more (with a number of messages: only those that are left), waits for what is
//!   under way, says the counts. The connections stay open.
//! - `quit`, or the end of the input: closes them and ends.
//!
//! Every line of its output is one JSON object. It ends with an error as soon as an answer is not
//! what was to be expected: an ack out of turn, a nack, a close.

mod connection;
mod counts;
mod pacer;
mod tls;

use crate::{
    dialect::Dialect,
    frame::Prepared,
    payload::{self, Message},
};
use anyhow::{Context, Result, bail, ensure};
use connection::{Connection, Stage};
use counts::Counts;
pub use counts::{Latency, Said};
use pacer::Pacer;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, EventData, EventFlags},
    fd::OwnedFd,
};
use rustls::ClientConfig;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Connections in the middle of a handshake at most.
const MAX_HANDSHAKES: usize = 64;
/// Connections from one address of the loopback, which has 28,000 ports by default.
const CONNECTIONS_PER_SOURCE: u32 = 10_000;
/// Without any progress for this long while something is under way, the run has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes that are read at once.
const READ_BYTES: usize = 64 * 1024;
/// Events taken at once.
const EVENTS: usize = 256;

const STDIN: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

/// What the generator is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Port of the server on 127.0.0.1; its certificate is for `localhost`
    #[arg(long)]
    pub port: u16,
    /// Path of the upgrade
    #[arg(long, default_value = proto::PATH)]
    pub path: String,
    /// Certificate of the CA
    #[arg(long)]
    pub ca: PathBuf,
    /// What is spoken
    #[arg(long, value_enum, default_value = "telemetry")]
    pub dialect: Dialect,
    /// Private key that signs device tokens; without it no token is sent
    #[arg(long)]
    pub token_key: Option<PathBuf>,
    /// Number of connections, each a device
    #[arg(long, default_value_t = 100)]
    pub connections: u32,
    /// Number of the first device
    #[arg(long, default_value_t = 0)]
    pub first_device: u32,
    /// Readings in a message
    #[arg(long, default_value_t = 1)]
    pub readings: u32,
    /// Messages that a connection has under way at most
    #[arg(long, default_value_t = 1)]
    pub window: u64,
    /// Messages per second of all connections together, on a fixed schedule
    #[arg(long)]
    pub rate: Option<f64>,
    /// Messages that each connection sends in all
    #[arg(long)]
    pub messages: Option<u64>,
}

/// What all connections share.
struct Shared {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    dialect: Dialect,
    path: String,
    tokens: Option<tls::Tokens>,
    window: u64,
    encrypted: Vec<u8>,
    plain: Vec<u8>,
}

impl Shared {
    fn request(&self, device: &str) -> Result<String> {
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            self.path,
            self.address.port()
        );
        if let Some(subprotocol) = self.dialect.subprotocol() {
            request += &format!("Sec-WebSocket-Protocol: {subprotocol}\r\n");
        }
        if let Some(tokens) = &self.tokens {
            request += &format!("Authorization: Bearer {}\r\n", tokens.mint(device)?);
        }
        Ok(request + "\r\n")
    }
}

/// What the loop is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Waiting,
    Sending,
    Draining,
}

struct Load {
    options: Options,
    epoll: OwnedFd,
    shared: Shared,
    counts: Counts,
    connections: Vec<Connection>,
    messages: Vec<Message>,
    prepared: Arc<[Prepared]>,
    /// Connections that are open.
    open: usize,
    pacer: Option<Pacer>,
    phase: Phase,
    begun: Instant,
    progress: Instant,
}

/// Runs until `quit`, or the end of the input.
///
/// # Errors
/// The server cannot be reached, or answers what it should not.
pub fn run(options: Options) -> Result<()> {
    let result = Load::new(options).and_then(|mut load| load.run());
    if let Err(error) = &result {
        Said::Failed { reason: format!("{error:#}") }.say();
    }
    result
}

impl Load {
    fn new(options: Options) -> Result<Self> {
        ensure!(options.connections > 0 && options.window > 0, "at least one of everything");
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let messages = payload::messages(options.readings, i64::try_from(now_ms)?);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, std::io::stdin(), EventData::new_u64(STDIN), EventFlags::IN)
            .context("standard input must be a pipe")?;
        let shared = Shared {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, options.port)),
            tls: tls::config(&options.ca)?,
            dialect: options.dialect,
            path: options.path.clone(),
            tokens: options.token_key.as_deref().map(tls::Tokens::read).transpose()?,
            window: options.window,
            encrypted: vec![0; READ_BYTES],
            plain: Vec::new(),
        };
        let prepared = match options.dialect.shares() {
            true => options.dialect.prepare("", &messages).into(),
            false => Arc::default(),
        };
        let now = Instant::now();
        Ok(Self {
            epoll,
            shared,
            counts: Counts::new()?,
            connections: Vec::with_capacity(options.connections as usize),
            messages,
            prepared,
            open: 0,
            pacer: None,
            phase: Phase::Connecting,
            begun: now,
            progress: now,
            options,
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        self.connect_more()?;
        loop {
            let patience = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&patience)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let data = event.data.u64();
                match data {
                    STDIN => {
                        if !self.command()? {
                            self.connections.iter_mut().for_each(|c| drop(c.close()));
                            return Ok(());
                        }
                    }
                    TIMER => {}
                    index => self.ready(usize::try_from(index)?, event.flags)?,
                }
            }
            self.send_due()?;
            if self.phase == Phase::Draining && self.is_drained() {
                self.phase = Phase::Waiting;
                self.say_counts();
            }
            let is_busy = self.phase == Phase::Connecting || self.counts.sent > self.counts.acked;
            if is_busy && self.progress.elapsed() > PATIENCE {
                let (sent, acked) = (self.counts.sent, self.counts.acked);
                bail!(
                    "{} of {} connections are open, {acked} of {sent} messages acknowledged, and \
                     nothing more has come within {PATIENCE:?}",
                    self.open,
                    self.options.connections
                );
            }
        }
    }

    fn is_drained(&self) -> bool {
        let left = |c: &Connection| self.options.messages.is_some_and(|most| c.acked() < most);
        self.counts.sent == self.counts.acked
            && !self.connections.iter().any(|c| c.waiting() > 0 || left(c))
    }

    /// One line of the input; false at its end.
    fn command(&mut self) -> Result<bool> {
        let mut line = [0; 64];
        let n = rustix::io::read(std::io::stdin(), &mut line)?;
        for command in String::from_utf8_lossy(&line[..n]).split_whitespace() {
            match command {
                "go" => self.go()?,
                "mark" => {
                    self.counts.mark(Instant::now());
                    self.say_counts();
                }
                "stop" => {
                    self.pacer = None;
                    self.phase = Phase::Draining;
                }
                "quit" => return Ok(false),
                other => bail!("the command {other:?} is not known"),
            }
        }
        Ok(n > 0)
    }

    fn say_counts(&self) {
        self.counts.told(self.connections.iter().map(Connection::waiting).sum()).say();
    }

    fn go(&mut self) -> Result<()> {
        ensure!(self.phase == Phase::Waiting, "not everybody is connected");
        self.phase = Phase::Sending;
        self.progress = Instant::now();
        if let Some(rate) = self.options.rate {
            let pacer = Pacer::new(rate)?;
            epoll::add(&self.epoll, pacer.timer(), EventData::new_u64(TIMER), EventFlags::IN)?;
            self.pacer = Some(pacer);
            return Ok(());
        }
        for index in 0..self.connections.len() {
            self.send(index)?;
        }
        Ok(())
    }

    /// Sends what a connection may send now.
    fn send(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let more = match (self.phase, self.options.rate, self.options.messages) {
            (_, Some(_), _) => connection.waiting(),
            (Phase::Sending | Phase::Draining, None, Some(most)) => {
                most - connection.acked() - connection.under_way()
            }
            (Phase::Sending, None, None) => u64::MAX,
            _ => 0,
        };
        if more > 0 && !connection.blocked {
            self.counts.sent += connection.send(more, &mut self.shared, self.options.window)?;
            self.watch(index)?;
        }
        Ok(())
    }

    /// Sends what is due on the schedule, and sets the clock for what follows.
    fn send_due(&mut self) -> Result<()> {
        let Some(mut pacer) = self.pacer.take() else { return Ok(()) };
        let now = Instant::now();
        while let Some((n, at)) = pacer.due(now) {
            let index = usize::try_from(n % self.connections.len() as u64)?;
            self.connections[index].due(at);
            self.send(index)?;
        }
        pacer.set()?;
        self.pacer = Some(pacer);
        Ok(())
    }

    /// A socket can be read or written.
    fn ready(&mut self, index: usize, flags: EventFlags) -> Result<()> {
        let connection = &mut self.connections[index];
        let before = connection.stage;
        if flags.contains(EventFlags::OUT) {
            connection.flush()?;
            self.watch(index)?;
        }
        let connection = &mut self.connections[index];
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            connection.read(&mut self.shared, &mut self.counts).with_context(|| {
                format!("connection {index} ({} sent)", self.connections[index].sent())
            })?;
        }
        self.progress = Instant::now();
        let after = self.connections[index].stage;
        if before != Stage::Open && after == Stage::Open {
            self.open += 1;
            self.connect_more()?;
        }
        if after == Stage::Open {
            self.send(index)?;
        }
        Ok(())
    }

    fn connect_more(&mut self) -> Result<()> {
        let all = self.options.connections;
        while self.connections.len() < all as usize
            && self.connections.len() - self.open < MAX_HANDSHAKES
        {
            let n = self.options.first_device + self.connections.len() as u32;
            let last = u8::try_from(1 + n / CONNECTIONS_PER_SOURCE)?;
            let source = Ipv4Addr::new(127, 0, 0, last);
            let device = format!("bench-{n:05}");
            let prepared = match self.options.dialect.shares() {
                true => Arc::clone(&self.prepared),
                false => self.options.dialect.prepare(&device, &self.messages).into(),
            };
            let connection = Connection::connect(&self.shared, device, Some(source), prepared)?;
            let data = EventData::new_u64(self.connections.len() as u64);
            epoll::add(&self.epoll, &connection.socket, data, EventFlags::IN)?;
            self.connections.push(connection);
        }
        if self.open == all as usize && self.phase == Phase::Connecting {
            self.phase = Phase::Waiting;
            let cipher = self.connections[0].cipher().context("TLS has agreed on nothing")?;
            Said::Ready { connect_s: self.begun.elapsed().as_secs_f64(), cipher }.say();
        }
        Ok(())
    }

    /// Has the system say when a blocked socket takes more.
    fn watch(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        if connection.blocked == connection.watched {
            return Ok(());
        }
        connection.watched = connection.blocked;
        let flags = match connection.blocked {
            true => EventFlags::IN | EventFlags::OUT,
            false => EventFlags::IN,
        };
        let data = EventData::new_u64(index as u64);
        Ok(epoll::modify(&self.epoll, &connection.socket, data, flags)?)
    }
}
