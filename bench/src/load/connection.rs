//! One device's connection: TCP, TLS, upgrade, batches and their answers. It never blocks.

use super::{Counts, Shared};
use crate::{
    dialect::{Answer, Answers},
    frame::{self, Opcode, Prepared},
};
use anyhow::{Context, Result, bail, ensure};
use rustls::{ClientConnection, pki_types::ServerName};
use socket2::{Domain, Socket, Type};
use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

/// Waits no longer for the listener's queue; it is never full while few connect at once.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Batches that are put into one TLS write at most; what they weigh is bounded by the window.
const MAX_WRITE_BYTES: usize = 256 * 1024;
/// Longest answer to the upgrade.
const MAX_HEAD_BYTES: usize = 8 * 1024;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// TLS and the upgrade.
    Upgrading,
    /// The opening was sent.
    Opening,
    /// Batches may be sent.
    Open,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: TcpStream,
    tls: ClientConnection,
    pub(super) stage: Stage,
    device: String,
    prepared: Arc<[Prepared]>,
    incoming: Vec<u8>,
    answers: Answers,
    sent: u64,
    acked: u64,
    /// When the batches that are due or under way were meant to be sent; open loop only.
    intended: VecDeque<Instant>,
    /// The socket took less than there is.
    pub(super) blocked: bool,
    /// The system is asked to tell when it takes more.
    pub(super) watched: bool,
}

impl Connection {
    /// Connects and says the first word of TLS and of HTTP.
    pub(super) fn connect(
        shared: &Shared,
        device: String,
        source: Option<Ipv4Addr>,
        prepared: Arc<[Prepared]>,
    ) -> Result<Self> {
        let socket = connect(shared.address, source)
            .with_context(|| format!("cannot connect to {}", shared.address))?;
        let name = ServerName::try_from("localhost").context("a name")?;
        let mut tls = ClientConnection::new(Arc::clone(&shared.tls), name)?;
        tls.set_buffer_limit(None);
        let request = shared.request(&device)?;
        tls.writer().write_all(request.as_bytes())?;
        let mut connection = Self {
            socket,
            tls,
            stage: Stage::Upgrading,
            device,
            prepared,
            incoming: Vec::new(),
            answers: Answers::default(),
            sent: 0,
            acked: 0,
            intended: VecDeque::new(),
            blocked: false,
            watched: false,
        };
        connection.flush()?;
        Ok(connection)
    }

    /// The name of the cipher suite.
    pub(super) fn cipher(&self) -> Option<String> {
        self.tls.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()))
    }

    /// Batches that were sent and not acknowledged.
    pub(super) fn under_way(&self) -> u64 {
        self.sent - self.acked
    }

    /// Batches that were sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Batches that are acknowledged.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    /// Batches that are due and were not sent.
    pub(super) fn waiting(&self) -> u64 {
        (self.intended.len() as u64).saturating_sub(self.under_way())
    }

    /// A batch is due.
    pub(super) fn due(&mut self, at: Instant) {
        self.intended.push_back(at);
    }

    /// Takes what has come; tells `counts` what was acknowledged.
    pub(super) fn read(&mut self, shared: &mut Shared, counts: &mut Counts) -> Result<()> {
        let n = match self.socket.read(&mut shared.encrypted) {
            Ok(0) => bail!("the server has closed the connection"),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut encrypted = &shared.encrypted[..n];
        while !encrypted.is_empty() {
            self.tls.read_tls(&mut encrypted)?;
            let state = self.tls.process_new_packets()?;
            let start = self.incoming.len();
            self.incoming.resize(start + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut self.incoming[start..])?;
        }
        let mut incoming = std::mem::take(&mut self.incoming);
        let read = self.messages(&incoming, shared, counts)?;
        incoming.drain(..read);
        self.incoming = incoming;
        Ok(())
    }

    /// Sends up to `more` batches that follow, as far as the window goes.
    pub(super) fn send(&mut self, more: u64, shared: &mut Shared, window: u64) -> Result<u64> {
        let count = more.min(window.saturating_sub(self.under_way()));
        let out = &mut shared.plain;
        out.clear();
        for n in self.sent + 1..=self.sent + count {
            let index = n as usize % self.prepared.len();
            self.prepared[index].put(shared.dialect.number(n), out);
            if out.len() > MAX_WRITE_BYTES {
                self.tls.writer().write_all(out)?;
                out.clear();
            }
        }
        if count > 0 {
            self.sent += count;
            self.tls.writer().write_all(out)?;
            self.flush()?;
        }
        Ok(count)
    }

    /// Says goodbye, if the socket takes it.
    pub(super) fn close(&mut self) -> Result<()> {
        let mut out = Vec::new();
        frame::put(&mut out, Opcode::Close, &1000_u16.to_be_bytes());
        self.tls.writer().write_all(&out)?;
        self.flush()
    }

    /// Writes what TLS has ready.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.blocked = false;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes the complete messages; says how many bytes they were.
    fn messages(
        &mut self,
        bytes: &[u8],
        shared: &mut Shared,
        counts: &mut Counts,
    ) -> Result<usize> {
        let mut read = 0;
        if self.stage == Stage::Upgrading {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                ensure!(bytes.len() < MAX_HEAD_BYTES, "an endless answer to the upgrade");
                return self.flush().map(|()| 0);
            };
            read = end + 4;
            self.upgraded(&bytes[..read], shared)?;
        }
        while let Some((opcode, payload, len)) = frame::next(&bytes[read..])? {
            read += len;
            match opcode {
                Opcode::Binary => {
                    let answer = shared.dialect.read(payload, &mut self.answers, self.sent)?;
                    self.answered(answer, shared, counts)?;
                }
                Opcode::Ping => {
                    let mut pong = Vec::new();
                    frame::put(&mut pong, Opcode::Pong, payload);
                    self.tls.writer().write_all(&pong)?;
                    self.flush()?;
                }
                Opcode::Pong => {}
                other => bail!("an unexpected {other:?}: {}", payload.escape_ascii()),
            }
        }
        // Answers of TLS itself.
        if self.tls.wants_write() {
            self.flush()?;
        }
        Ok(read)
    }

    fn upgraded(&mut self, head: &[u8], shared: &Shared) -> Result<()> {
        let head = String::from_utf8_lossy(head);
        ensure!(head.starts_with("HTTP/1.1 101"), "the upgrade was refused: {head}");
        if let Some(subprotocol) = shared.dialect.subprotocol() {
            let wanted = format!("sec-websocket-protocol: {subprotocol}");
            let found = head.lines().any(|line| line.trim().eq_ignore_ascii_case(&wanted));
            ensure!(found, "an upgrade to something else: {head}");
        }
        self.stage = match shared.dialect.opening(&self.device) {
            None => Stage::Open,
            Some(opening) => {
                let mut out = Vec::new();
                frame::put(&mut out, Opcode::Binary, &opening);
                self.tls.writer().write_all(&out)?;
                self.flush()?;
                Stage::Opening
            }
        };
        Ok(())
    }

    fn answered(&mut self, answer: Answer, shared: &Shared, counts: &mut Counts) -> Result<()> {
        match answer {
            Answer::Nothing => {}
            Answer::Open { window } => {
                ensure!(self.stage == Stage::Opening, "a second welcome");
                let wanted = shared.window;
                ensure!(u64::from(window) >= wanted, "a window of {window} and not {wanted}");
                self.stage = Stage::Open;
            }
            Answer::Acked(acked) => {
                let newly = acked - self.acked;
                self.acked = acked;
                counts.acked += newly;
                counts.answers += 1;
                if !self.intended.is_empty() {
                    let now = Instant::now();
                    for _ in 0..newly {
                        if let Some(intended) = self.intended.pop_front() {
                            counts.latency(intended, now);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn connect(address: SocketAddr, source: Option<Ipv4Addr>) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
    }
    socket.connect_timeout(&address.into(), CONNECT_TIME)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
