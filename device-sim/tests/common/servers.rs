//! Real stores for a test: started in a folder of their own, ended with it.

use super::readings::Reading;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest start of a server.
const START: Duration = Duration::from_secs(60);
/// Lines in one request.
const LINES: usize = 5_000;

pub struct Server {
    child: Child,
    pub address: String,
    pub url: String,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// InfluxDB 1 with an empty database `fleet`.
    pub fn influxdb() -> Self {
        let server = Self::start("influxd", "influxdb", |folder, address| {
            let folder = folder.display();
            let (own, config) = (free_address(), format!("{folder}/influxdb.conf"));
            let text = format!(
                "reporting-disabled = true\nbind-address = \"{own}\"\n\
                 [meta]\ndir = \"{folder}/meta\"\n\
                 [data]\ndir = \"{folder}/data\"\nwal-dir = \"{folder}/wal\"\n\
                 [http]\nbind-address = \"{address}\"\nlog-enabled = false\n\
                 [monitor]\nstore-enabled = false\n"
            );
            std::fs::write(&config, text).unwrap();
            vec!["-config".to_owned(), config]
        });
        server.influxql("CREATE DATABASE fleet");
        server
    }

    /// VictoriaMetrics with nothing in it.
    pub fn victoria_metrics(options: &[&str]) -> Self {
        Self::start("victoria-metrics", "victoria-metrics", |folder, address| {
            let own = [
                format!("-storageDataPath={}", folder.display()),
                format!("-httpListenAddr={address}"),
                "-retentionPeriod=100y".to_owned(),
            ];
            own.into_iter().chain(options.iter().map(|&option| option.to_owned())).collect()
        })
    }

    fn start(
        program: &str,
        package: &str,
        arguments: impl FnOnce(&Path, &str) -> Vec<String>,
    ) -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
        let arguments = arguments(folder.path(), &address);
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "cannot start {program} ({error}): install it with ./scripts/test-tools.sh \
                     or apt-get install --no-install-recommends {package}"
                )
            });
        let url = format!("http://{address}");
        let mut server = Self { child, address, url, _folder: folder };
        let begin = Instant::now();
        while !server.answers() {
            assert!(begin.elapsed() < START, "{program} does not start");
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} has ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn answers(&self) -> bool {
        let ask = |path| self.exchange("GET", path, "").is_ok_and(|(status, _)| status < 300);
        ask("/ping") || ask("/health")
    }

    /// Writes readings as line protocol, in requests of some thousand lines.
    pub fn write(&self, readings: &[Reading], strings: bool) {
        for readings in readings.chunks(LINES) {
            let lines: String = readings.iter().map(|reading| reading.line(strings)).collect();
            self.send("POST", "/write?db=fleet&precision=ns", &lines);
        }
    }

    /// Says something in InfluxQL.
    pub fn influxql(&self, statement: &str) {
        let statement: String = form_urlencoded::byte_serialize(statement.as_bytes()).collect();
        let answer = self.send("POST", &format!("/query?db=fleet&q={statement}"), "");
        assert!(!answer.contains("error"), "{answer}");
    }

    /// Sends a request that must be taken.
    pub fn send(&self, method: &str, path: &str, body: &str) -> String {
        let (status, answer) = self.exchange(method, path, body).unwrap();
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut socket = TcpStream::connect(&self.address)?;
        socket.set_read_timeout(Some(START))?;
        let mut request = format!("{method} {path} HTTP/1.0\r\nHost: {}\r\n", self.address);
        let _ = write!(request, "Content-Length: {}\r\n\r\n{body}", body.len());
        socket.write_all(request.as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.unwrap_or(0), answer))
    }
}

/// An address that nobody listened on a moment ago.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
