//! A real gateway process on free ports in a temporary directory, and what the stories need
//! around it.

pub mod device;
pub mod liar;
pub mod mosquitto;
pub mod scripted;
pub mod scripted_broker;
pub mod servers;
pub mod store;

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Nothing in these stories takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The directory that a gateway lives in; it outlives the process.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// An empty home.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn ca(&self) -> PathBuf {
        self.data().join("ca.pem")
    }

    pub fn token_key(&self) -> PathBuf {
        self.data().join("keys").join("token.pem")
    }

    pub fn store(&self) -> PathBuf {
        self.data().join("telemetry.db")
    }

    /// What a sink refused, as it is kept.
    pub fn refused(&self, sink: &str) -> Vec<serde_json::Value> {
        let (code, text) = self.quarantine(&["export", "--sink", sink]);
        assert_eq!(code, 0, "{text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `gateway quarantine …`: exit code and what it says.
    pub fn quarantine(&self, arguments: &[&str]) -> (i32, String) {
        self.gateway("quarantine", arguments)
    }

    /// `gateway SUBCOMMAND …` that ends by itself: exit code and what it says.
    pub fn gateway(&self, subcommand: &str, arguments: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command.arg(subcommand).args(arguments);
        let file = self.dir.path().join("gateway.toml");
        if file.exists() {
            command.arg("--config").arg(file);
        }
        command.env("GATEWAY__DATA_DIR", self.data()).env_remove("RUST_LOG");
        run_to_end(command)
    }

    /// `gateway` with this home's data directory and free ports; `config` is TOML.
    pub fn command(&self, subcommand: &str, config: &str) -> Command {
        let file = self.dir.path().join("gateway.toml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
        command.arg(subcommand).arg("--config").arg(&file);
        command
            .env("GATEWAY__DATA_DIR", self.data())
            .env("GATEWAY__SERVER__LISTEN", "127.0.0.1:0")
            .env("GATEWAY__ADMIN__LISTEN", "127.0.0.1:0")
            .env_remove("RUST_LOG")
            .current_dir(self.dir.path());
        command
    }

    /// Starts a gateway with the defaults.
    pub fn start(&self) -> Gateway {
        self.start_with("")
    }

    /// Starts a gateway with some configuration (TOML).
    pub fn start_with(&self, config: &str) -> Gateway {
        Gateway::spawn(self.command("run", config), self.ca())
    }

    /// Starts a gateway with the defaults on a known port.
    pub fn start_on(&self, port: u16) -> Gateway {
        let mut command = self.command("run", "");
        command.env("GATEWAY__SERVER__LISTEN", format!("127.0.0.1:{port}"));
        Gateway::spawn(command, self.ca())
    }

    /// Runs a gateway that is expected to give up at once: exit code and what it said.
    pub fn fails_with(&self, config: &str) -> (i32, String) {
        run_to_end(self.command("run", config))
    }

    /// A device token, minted by the command line.
    pub fn token(&self, device: &str) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .args(["token", "--device", device, "--data-dir"])
            .arg(self.data())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Runs a command that must end by itself: exit code, and both outputs together.
pub fn run_to_end(mut command: Command) -> (i32, String) {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may say more than a pipe holds.
    let outputs: [Box<dyn std::io::Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    let said = outputs.map(|mut output| {
        std::thread::spawn(move || {
            let mut said = Vec::new();
            output.read_to_end(&mut said).unwrap();
            String::from_utf8_lossy(&said).into_owned()
        })
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > PATIENCE * 4 {
            child.kill().unwrap();
            panic!("{command:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    (status.code().unwrap_or(-1), said.map(|said| said.join().unwrap()).concat())
}

/// A running gateway; killed when dropped.
pub struct Gateway {
    child: Child,
    pub url: String,
    pub admin: String,
    ca: PathBuf,
    said: mpsc::Receiver<String>,
}

impl Gateway {
    /// Starts a gateway by a command of [`Home::command`].
    pub fn spawn(mut command: Command, ca: PathBuf) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (line, said) = mpsc::channel();
        let outputs: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let line = line.clone();
            std::thread::spawn(move || {
                for text in BufReader::new(output).lines().map_while(Result::ok) {
                    if line.send(text).is_err() {
                        break;
                    }
                }
            });
        }
        let mut heard = Vec::new();
        let (mut url, mut admin) = (None, None);
        while url.is_none() || admin.is_none() {
            match said.recv_timeout(PATIENCE) {
                Ok(text) => {
                    let mut words = text.split_whitespace();
                    match (words.next(), words.next()) {
                        (Some("devices"), Some(value)) => url = Some(value.to_owned()),
                        (Some("console"), Some(value)) => admin = Some(value.to_owned()),
                        _ => {}
                    }
                    heard.push(text);
                }
                Err(_) => panic!("the gateway did not come up:\n{}", heard.join("\n")),
            }
        }
        Self { child, url: url.unwrap(), admin: admin.unwrap(), ca, said }
    }

    /// Where devices connect.
    pub fn port(&self) -> u16 {
        port_of(&self.url)
    }

    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// Number of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`: nothing is flushed, nobody is told.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// SIGTERM, and waits for the end: exit status and what was said after the start.
    pub fn stop(mut self) -> (ExitStatus, Vec<String>) {
        self.terminate();
        self.wait()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> (ExitStatus, Vec<String>) {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // Until its ends of the pipes are read to their end.
                return (status, self.said.iter().collect());
            }
            assert!(begun.elapsed() < PATIENCE, "the gateway did not stop: {:?}", self.lines());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it has said all of these, and gives what it said since the last call.
    pub fn says(&self, words: &[&str]) -> String {
        let mut said = String::new();
        eventually(&format!("it says {words:?}"), || {
            self.lines().iter().for_each(|line| said += &format!("{line}\n"));
            words.iter().all(|words| said.contains(words))
        });
        said
    }

    /// What it said since the last call; what it says last may come a little later.
    pub fn lines(&self) -> Vec<String> {
        self.said.try_iter().collect()
    }

    /// Resident memory, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// A page of the admin listener: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        http_get(port_of(&self.admin), path)
    }

    /// The sum of a metric over its labels that contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter(|line| line.split([' ', '{']).next() == Some(name) && line.contains(labels))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port_of(url: &str) -> u16 {
    let rest = url.split("://").nth(1).unwrap();
    rest.split('/').next().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

fn http_get(port: u16, path: &str) -> (u16, String) {
    http(port, "GET", path, "").unwrap()
}

/// A request of its own connection: status and body. HTTP 1.0, so that bodies come whole.
pub fn http(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let host = format!("localhost:{port}");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Ok((status, body.to_owned()))
}

/// Waits until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The path of another binary of this workspace, built beside the gateway.
pub fn sibling(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_gateway")).with_file_name(name);
    assert!(path.exists(), "{name} is not built: run `cargo build --workspace`");
    path
}
