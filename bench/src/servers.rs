//! The servers that are measured, each started fresh on free ports in a directory of its own.

use crate::{dialect::Dialect, load, process::Process, sink};
use anyhow::{Context, Result, ensure};
use rcgen::{CertifiedKey, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::Deserialize;
use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Longest wait until a server takes connections.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all servers of a run share: programs, a certificate, a key for tokens.
#[derive(Debug)]
pub struct Place {
    /// This program.
    pub bench: PathBuf,
    /// The gateway's.
    pub gateway: PathBuf,
    /// Where `gateway.mjs` and its modules are.
    pub node: PathBuf,
    /// Everything that is written goes below it.
    pub dir: PathBuf,
    /// On another file system, without a disk under it.
    pub memory_dir: PathBuf,
}

/// A kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The gateway, with the null sink as its only sink.
    Gateway,
    /// The gateway with its data directory in memory: `fdatasync` costs nothing there.
    GatewayInMemory,
    /// The bare loop.
    Bare {
        /// Of a connection, in bytes.
        read_buffer: usize,
        /// Answers are written out when nothing more is to be read, not each at once.
        gather: bool,
    },
    /// `bench/node/gateway.mjs`, with the null sink.
    Node,
    /// Mosquitto, with a subscriber as its sink.
    Mosquitto,
}

/// A server that takes connections, and its sink.
#[derive(Debug)]
pub struct Server {
    /// The server.
    pub process: Process,
    /// What takes the readings; the bare loop has none.
    pub sink: Option<Process>,
    port: u16,
    path: &'static str,
    dialect: Dialect,
    token_key: Option<PathBuf>,
    ca: PathBuf,
    dir: PathBuf,
    /// It ends with its input, and not in order by a signal.
    ends_with_input: bool,
}

impl Place {
    /// Makes the directories, certificate and key.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn prepare(self) -> Result<Self> {
        for dir in [&self.dir, &self.memory_dir] {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let token_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        for (file, text) in [
            (self.cert(), cert.pem()),
            (self.key(), signing_key.serialize_pem()),
            (self.token_key(), token_key.serialize_pem()),
            (self.token_public(), token_key.public_key_pem()),
        ] {
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(self)
    }

    /// Starts a server whose messages have so many readings.
    ///
    /// # Errors
    /// It is not there, or does not come up.
    pub fn start(&self, kind: Kind, readings: u32) -> Result<Server> {
        let parent = if kind == Kind::GatewayInMemory { &self.memory_dir } else { &self.dir };
        let dir = parent.join(kind.name());
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        match kind {
            Kind::Gateway | Kind::GatewayInMemory => self.start_gateway(dir),
            Kind::Bare { read_buffer, gather } => self.start_bare(dir, read_buffer, gather),
            Kind::Node => self.start_node(dir),
            Kind::Mosquitto => self.start_mosquitto(dir, readings),
        }
    }

    fn cert(&self) -> PathBuf {
        self.dir.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.join("key.pem")
    }

    fn token_key(&self) -> PathBuf {
        self.dir.join("token.pem")
    }

    fn token_public(&self) -> PathBuf {
        self.dir.join("token.pub.pem")
    }

    /// A sink, and the port it serves.
    fn start_sink(&self, dir: &Path, arguments: &[String]) -> Result<(Process, u16)> {
        let mut command = Command::new(&self.bench);
        let mut sink = Process::start("sink", command.arg("sink").args(arguments), dir)?;
        match sink.json()? {
            sink::Said::Ready { port } => Ok((sink, port)),
            other => anyhow::bail!("the sink begins with {other:?}"),
        }
    }

    fn start_gateway(&self, dir: PathBuf) -> Result<Server> {
        let (sink, store) = self.start_sink(&dir, &[])?;
        let config = format!(
            "data_dir = {:?}\n[server]\nlisten = \"127.0.0.1:0\"\n[admin]\n\
             listen = \"127.0.0.1:0\"\n[tls]\ncert_file = {:?}\nkey_file = {:?}\n[auth]\n\
             own_key = false\n[[auth.jwt]]\nkey_file = {:?}\n[sinks.store]\nenabled = false\n\
             [sinks.null]\ntype = \"influxdb\"\nurl = \"http://127.0.0.1:{store}\"\n\
             org = \"bench\"\nbucket = \"bench\"\n",
            dir.join("data"),
            self.cert(),
            self.key(),
            self.token_public(),
        );
        let file = dir.join("gateway.toml");
        fs::write(&file, config)?;
        let mut command = Command::new(&self.gateway);
        command.arg("run").arg("--config").arg(file).env_remove("RUST_LOG");
        let mut process = Process::start("gateway", &mut command, &dir)?;
        let port = loop {
            let line = process.line()?;
            let mut words = line.split_whitespace();
            if let (Some("devices"), Some(url)) = (words.next(), words.next()) {
                let port = url.rsplit(':').next().and_then(|tail| tail.split('/').next());
                break port.context("a port")?.parse()?;
            }
        };
        let token_key = Some(self.token_key());
        let dialect = Dialect::Telemetry;
        let (path, ca) = (proto::PATH, self.cert());
        let (sink, ends_with_input) = (Some(sink), false);
        Ok(Server { process, sink, port, path, dialect, token_key, ca, dir, ends_with_input })
    }

    fn start_bare(&self, dir: PathBuf, read_buffer: usize, gather: bool) -> Result<Server> {
        let mut command = Command::new(&self.bench);
        command.arg("bare").arg("--cert").arg(self.cert()).arg("--key").arg(self.key());
        command.arg("--read-buffer").arg(read_buffer.to_string());
        command.args(gather.then_some("--gather"));
        let mut process = Process::start("bare", &mut command, &dir)?;
        let Ready { port } = process.json()?;
        let dialect = Dialect::Plain;
        let (path, ca) = (proto::PATH, self.cert());
        let (sink, token_key, ends_with_input) = (None, None, true);
        Ok(Server { process, sink, port, path, dialect, token_key, ca, dir, ends_with_input })
    }

    fn start_node(&self, dir: PathBuf) -> Result<Server> {
        let (sink, store) = self.start_sink(&dir, &[])?;
        let mut command = Command::new("node");
        command.arg(self.node.join("gateway.mjs")).arg("--cert").arg(self.cert());
        command.arg("--key").arg(self.key()).arg("--token-key").arg(self.token_public());
        command.arg("--store").arg(format!("http://127.0.0.1:{store}"));
        let mut process = Process::start("node", &mut command, &dir)?;
        let Ready { port } = process.json()?;
        let token_key = Some(self.token_key());
        let dialect = Dialect::Telemetry;
        let (path, ca) = (proto::PATH, self.cert());
        let (sink, ends_with_input) = (Some(sink), true);
        Ok(Server { process, sink, port, path, dialect, token_key, ca, dir, ends_with_input })
    }

    fn start_mosquitto(&self, dir: PathBuf, readings: u32) -> Result<Server> {
        use crate::dialect::{MQTT_PASSWORD, MQTT_USER};
        let passwords = dir.join("passwords");
        let mut command = Command::new("mosquitto_passwd");
        command.args(["-b", "-c"]).arg(&passwords).args([MQTT_USER, MQTT_PASSWORD]);
        let made = command.output().context("cannot start mosquitto_passwd; install mosquitto")?;
        ensure!(made.status.success(), "mosquitto_passwd: {}", made.stderr.escape_ascii());
        let (port, plain) = (free_port()?, free_port()?);
        let config = format!(
            "user root\npersistence false\nallow_anonymous false\npassword_file {}\n\
             set_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\n\
             log_dest stderr\nlog_type error\nlog_type warning\n\
             listener {plain} 127.0.0.1\n\
             listener {port} 127.0.0.1\nprotocol websockets\ntls_version tlsv1.3\n\
             certfile {}\nkeyfile {}\n",
            passwords.display(),
            self.cert().display(),
            self.key().display(),
        );
        let file = dir.join("mosquitto.conf");
        fs::write(&file, config)?;
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let mut command = Command::new("mosquitto");
        // Debian has it outside the path of ordinary users.
        command.arg("-c").arg(file).env("PATH", path);
        let process = Process::start("mosquitto", &mut command, &dir)?;
        for port in [plain, port] {
            let begun = Instant::now();
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                ensure!(begun.elapsed() < PATIENCE, "mosquitto does not come up");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let subscriber = ["--mqtt", &plain.to_string(), "--readings", &readings.to_string()];
        let (sink, _) = self.start_sink(&dir, &subscriber.map(str::to_owned))?;
        let dialect = Dialect::Mqtt;
        let (path, ca) = ("/mqtt", self.cert());
        let (sink, token_key, ends_with_input) = (Some(sink), None, false);
        Ok(Server { process, sink, port, path, dialect, token_key, ca, dir, ends_with_input })
    }
}

impl Kind {
    /// In reports and on the terminal.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Gateway => "gateway",
            Kind::GatewayInMemory => "gateway_in_memory",
            Kind::Bare { gather: false, .. } => "bare_loop",
            Kind::Bare { gather: true, .. } => "bare_loop_gathering",
            Kind::Node => "node",
            Kind::Mosquitto => "mosquitto",
        }
    }
}

impl Server {
    /// Starts a generator against it; it has yet to connect.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn load(&self, place: &Place, arguments: &[String]) -> Result<Process> {
        let mut command = Command::new(&place.bench);
        command.arg("load").arg("--port").arg(self.port.to_string()).arg("--path").arg(self.path);
        command.arg("--ca").arg(&self.ca).arg("--dialect").arg(match self.dialect {
            Dialect::Telemetry => "telemetry",
            Dialect::Plain => "plain",
            Dialect::Mqtt => "mqtt",
        });
        if let Some(key) = &self.token_key {
            command.arg("--token-key").arg(key);
        }
        let mut load = Process::start("load", command.args(arguments), &self.dir)?;
        match load.json()? {
            load::Said::Ready { .. } => Ok(load),
            load::Said::Failed { reason } => anyhow::bail!("the generator: {reason}"),
            other => anyhow::bail!("the generator begins with {other:?}"),
        }
    }

    /// Stops it and its sink in order, and throws away what it wrote.
    ///
    /// # Errors
    /// One of them did not end in order.
    pub fn stop(self) -> Result<()> {
        let Self { process, sink, dir, ends_with_input, .. } = self;
        if ends_with_input {
            process.close()?
        } else {
            process.terminate()?
        }
        if let Some(sink) = sink {
            // The subscriber ends with its broker.
            drop(sink);
        }
        fs::remove_dir_all(&dir).with_context(|| format!("cannot delete {}", dir.display()))
    }
}

/// What the bare loop and Node.js say first.
#[derive(Deserialize)]
struct Ready {
    port: u16,
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
