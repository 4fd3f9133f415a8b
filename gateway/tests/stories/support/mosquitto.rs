//! A real mosquitto on a free port in a temporary directory, and its own clients.

use super::{PATIENCE, eventually, servers::free_port};
use gateway::{
    client_tls::client_config,
    mqtt::{
        Broker, Connection, Login, Password, QoS, Session,
        packet::{Packet, Publish},
    },
};
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::Instant,
};

/// The password of every user.
pub const PASSWORD: &str = "correct horse";

/// A broker with the configuration of `deploy/mosquitto`.
pub struct Mosquitto {
    dir: tempfile::TempDir,
    port: u16,
    server: Option<Child>,
}

impl Mosquitto {
    /// Starts one that knows these users besides `gateway` and `reader`, who may read everything.
    pub fn start(users: &[&str]) -> Self {
        Self::with(users, |config| config)
    }

    /// …with a changed configuration.
    pub fn with(users: &[&str], change: impl FnOnce(String) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("server.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("ca.pem"), made.cert.pem()).unwrap();
        std::fs::write(dir.path().join("server-key.pem"), made.signing_key.serialize_pem())
            .unwrap();
        let this = Self { dir, port: free_port(), server: None };
        std::fs::write(this.file("passwords"), "").unwrap();
        for user in users.iter().chain(&["gateway", "reader"]) {
            let mut command = Command::new("mosquitto_passwd");
            command.arg("-b").arg(this.file("passwords")).args([*user, PASSWORD]);
            let status = command.stderr(Stdio::null()).status();
            assert!(status.unwrap_or_else(|error| missing(&command, &error)).success());
        }
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/mosquitto");
        let read = |name: &str| std::fs::read_to_string(deploy.join(name)).unwrap();
        let acl = read("gateway.acl");
        std::fs::write(
            this.file("gateway.acl"),
            format!("{acl}\nuser reader\ntopic readwrite #\n"),
        )
        .unwrap();
        let inside = format!("{}/", this.dir.path().display());
        let config = read("mosquitto.conf")
            .replace("/etc/mosquitto/", &inside)
            .replace("/var/lib/mosquitto/", &inside)
            .replace("listener 8883", &format!("listener {} 127.0.0.1", this.port));
        // Started by root it would become another user, who may not read the directory.
        let config = change(format!("{config}\nuser root\n"));
        std::fs::write(this.file("mosquitto.conf"), config).unwrap();
        let mut this = this;
        this.up();
        this
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The keys of a configuration that say where it is, for the user `gateway`.
    pub fn keys(&self) -> String {
        let password = self.file("gateway-password");
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        format!(
            "url = \"mqtts://localhost:{}\"\nca_file = {:?}\nuser = \"gateway\"\n\
             password_file = {:?}\n",
            self.port,
            self.file("ca.pem"),
            password,
        )
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("mqtts://localhost:{}", self.port)
    }

    /// Starts it (again).
    pub fn up(&mut self) {
        let mut command = Command::new("mosquitto");
        // Debian has it outside the path of ordinary users.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        command.env("PATH", path).arg("-c").arg(self.file("mosquitto.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.server = Some(command.spawn().unwrap_or_else(|error| missing(&command, &error)));
        let port = self.port;
        eventually("mosquitto is up", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// `kill -9`: what it has not written is gone.
    pub fn kill(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Stops it in order: it writes what it holds.
    pub fn stop(&mut self) {
        let mut server = self.server.take().unwrap();
        let pid = rustix::process::Pid::from_child(&server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        server.wait().unwrap();
    }

    fn client(&self, program: &str, user: &str) -> Command {
        // Line by line: into a pipe it would write when it has a page full.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program]);
        command.args(["-V", "mqttv5", "-h", "localhost", "-p", &self.port.to_string(), "-q", "1"]);
        command.arg("--cafile").arg(self.file("ca.pem")).args(["-u", user, "-P", PASSWORD]);
        command
    }

    /// Subscribes as `user`; the broker keeps the session while either is away.
    pub fn subscribe(&self, user: &str, topic: &str) -> Subscriber {
        let mut command = self.client("mosquitto_sub", user);
        command.args(["-i", &format!("{user}-subscriber"), "-c", "-x", "3600", "-t", topic]);
        // A client that is let in says nothing; the debugging output does.
        command.args(["-d", "-F", "MESSAGE %t %x"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let first = command.spawn().unwrap_or_else(|error| missing(&command, &error));
        let running = Arc::new(Mutex::new(Some(first)));
        let (line, lines) = mpsc::channel();
        let child = Arc::clone(&running);
        std::thread::spawn(move || {
            loop {
                let Some(output) = child.lock().unwrap().as_mut().map(|of| of.stdout.take()) else {
                    return;
                };
                for text in BufReader::new(output.unwrap()).lines().map_while(Result::ok) {
                    if line.send(text).is_err() {
                        return;
                    }
                }
                // It gives up when the broker goes in the middle of a handshake.
                let mut running = child.lock().unwrap();
                let Some(ended) = running.as_mut() else { return };
                ended.wait().unwrap();
                *ended = command.spawn().unwrap();
            }
        });
        let subscriber = Subscriber { running, lines };
        let begun = Instant::now();
        loop {
            let text = subscriber.lines.recv_timeout(PATIENCE).expect("subscribed in time");
            if text.contains("Subscribed") {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "mosquitto_sub did not subscribe: {text}");
        }
        subscriber
    }

    /// Publishes one message as `user`; false if the broker refuses it.
    pub fn publish(&self, user: &str, topic: &str, payload: &[u8]) -> bool {
        self.publish_with(user, topic, payload, &[])
    }

    /// …with more arguments for `mosquitto_pub`.
    pub fn publish_with(&self, user: &str, topic: &str, payload: &[u8], more: &[&str]) -> bool {
        let mut command = self.client("mosquitto_pub", user);
        // It takes an empty input for no message at all.
        let from = if payload.is_empty() { "-n" } else { "-s" };
        command.args(["-t", topic, from]).args(more);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| missing(&command, &error));
        child.stdin.take().unwrap().write_all(payload).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success() && !said.contains("Not authorized")
    }

    /// The broker as `user` sees it, for a client of this process.
    pub fn as_seen_by(&self, user: &str) -> Broker {
        let tls = client_config(Some(&self.file("ca.pem")), None).unwrap();
        Broker {
            host: "localhost".to_owned(),
            port: self.port,
            tls: Some(tls),
            client_id: format!("{user}-publisher"),
            login: Some(Login {
                user: user.to_owned(),
                password: Password::Text(PASSWORD.to_owned()),
            }),
            keep_alive: PATIENCE,
            timeout: PATIENCE,
        }
    }
}

/// Publishes messages at QoS 1 as a careful device does: what the broker has not acknowledged goes
/// out again on the next connection.
pub async fn publish_all(broker: Broker, topic: String, messages: Vec<Vec<u8>>) {
    const UNDER_WAY: usize = 10;
    let mut acked = vec![false; messages.len()];
    while acked.contains(&false) {
        let session = Session { keep: None, receive_maximum: 1, max_packet_bytes: 1 << 16 };
        let Ok(mut connection) = Connection::open(&broker, &session).await else {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        };
        let mut left = (0..messages.len()).filter(|&at| !acked[at]).collect::<Vec<_>>();
        left.reverse();
        let mut under_way = Vec::new();
        loop {
            while under_way.len() < UNDER_WAY
                && let Some(at) = left.pop()
            {
                let publish = Publish {
                    qos: QoS::AtLeastOnce,
                    topic: topic.clone().into(),
                    pkid: u16::try_from(at + 1).unwrap(),
                    payload: messages[at].clone().into(),
                    ..Publish::default()
                };
                connection.queue(&Packet::Publish(publish)).unwrap();
                under_way.push(at);
            }
            if under_way.is_empty() {
                break;
            }
            match connection.next().await {
                Ok(Packet::PubAck(ack)) => {
                    let at = usize::from(ack.pkid) - 1;
                    acked[at] = true;
                    under_way.retain(|of| *of != at);
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn missing(command: &Command, error: &std::io::Error) -> ! {
    let packages = "mosquitto and mosquitto-clients";
    panic!("{command:?}: {error}; run `make test-tools`, or install {packages}")
}

/// A running `mosquitto_sub`.
pub struct Subscriber {
    running: Arc<Mutex<Option<Child>>>,
    lines: mpsc::Receiver<String>,
}

impl Subscriber {
    /// The next message: topic and payload.
    pub fn next(&self) -> (String, Vec<u8>) {
        let begun = Instant::now();
        loop {
            if let Some(message) = self.within(PATIENCE) {
                return message;
            }
            assert!(begun.elapsed() < PATIENCE, "no message came");
        }
    }

    /// The next message, if one comes in this time.
    pub fn within(&self, time: std::time::Duration) -> Option<(String, Vec<u8>)> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let text = self.lines.recv_timeout(left).ok()?;
            if let Some(message) = text.strip_prefix("MESSAGE ") {
                let (topic, hex) = message.rsplit_once(' ').unwrap();
                let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
                return Some((topic.to_owned(), (0..hex.len()).step_by(2).map(byte).collect()));
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
