//! Real time-series stores on free ports in temporary directories, stopped when dropped.

use super::{eventually, http};
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn spawn(command: &mut Command, package: &str) -> Self {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| {
            panic!("{command:?}: {error}; run `make test-tools`, or install {package}")
        }))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// InfluxDB 1 behind an nginx that speaks the write call of version 2, over TLS.
pub struct Influx {
    dir: tempfile::TempDir,
    port: u16,
    front: u16,
    server: Option<Process>,
    _nginx: Process,
}

impl Influx {
    /// Starts both and makes the databases.
    pub fn start(databases: &[&str]) -> Self {
        Self::with_limit("64m", databases)
    }

    /// …with a limit of the size of requests, as nginx writes it.
    pub fn with_limit(limit: &str, databases: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, front) = (free_port(), free_port());
        let locations = format!(
            "location = /api/v2/write {{\n\
             rewrite ^ /write?db=$arg_bucket&precision=n? break; \
             proxy_pass http://127.0.0.1:{port};\n}}\n"
        );
        let nginx = nginx(dir.path(), front, limit, &locations);
        let mut influx = Self { dir, port, front, server: None, _nginx: nginx };
        influx.up();
        for database in databases {
            influx.query("", &format!("CREATE DATABASE \"{database}\""));
        }
        influx
    }

    /// Where the gateway writes to.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.front)
    }

    /// Vouches for it.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("front.pem")
    }

    /// Starts the engine (again).
    pub fn up(&mut self) {
        let dir = self.dir.path().display();
        let (port, rpc) = (self.port, free_port());
        let config = format!(
            "reporting-disabled = true\nbind-address = \"127.0.0.1:{rpc}\"\n\
             [meta]\ndir = \"{dir}/meta\"\n[data]\ndir = \"{dir}/data\"\nwal-dir = \"{dir}/wal\"\n\
             [monitor]\nstore-enabled = false\n\
             [http]\nbind-address = \"127.0.0.1:{port}\"\nlog-enabled = false\n"
        );
        let file = self.dir.path().join("influxdb.conf");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("influxd");
        self.server = Some(Process::spawn(command.arg("-config").arg(file), "influxdb"));
        eventually("influxd is up", || matches!(http(port, "GET", "/ping", ""), Ok((204, _))));
    }

    /// `kill -9` of the engine.
    pub fn down(&mut self) {
        self.server = None;
    }

    /// The store itself, past the proxy.
    pub fn direct_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The values of an InfluxQL query's first series, row by row.
    pub fn query(&self, database: &str, query: &str) -> Vec<Vec<serde_json::Value>> {
        let encode =
            |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
        let path = format!("/query?epoch=ns&db={}&q={}", encode(database), encode(query));
        let (status, body) = http(self.port, "POST", &path, "").unwrap();
        assert_eq!(status, 200, "{query}: {body}");
        let mut json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(json["results"][0]["error"].is_null(), "{query}: {body}");
        let values = json.pointer_mut("/results/0/series/0/values").map(serde_json::Value::take);
        values.map(|values| serde_json::from_value(values).unwrap()).unwrap_or_default()
    }

    /// Points of a field.
    pub fn count(&self, database: &str, field: &str, measurement: &str) -> u64 {
        let rows = self.query(database, &format!("SELECT count({field}) FROM {measurement}"));
        rows.first().map_or(0, |row| row[1].as_u64().unwrap())
    }
}

/// A TLS proxy in front of whatever listens on a port.
pub struct TlsFront {
    dir: tempfile::TempDir,
    front: u16,
    _nginx: Process,
}

impl TlsFront {
    pub fn start(port: u16) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let front = free_port();
        let locations = format!("location / {{ proxy_pass http://127.0.0.1:{port}; }}\n");
        let nginx = nginx(dir.path(), front, "64m", &locations);
        Self { dir, front, _nginx: nginx }
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.front)
    }

    /// Vouches for it.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("front.pem")
    }
}

fn nginx(dir: &Path, front: u16, limit: &str, locations: &str) -> Process {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(dir.join("front.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("front-key.pem"), made.signing_key.serialize_pem()).unwrap();
    // One process, so that it is the one that is stopped.
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log error.log;\n\
         events {{}}\n\
         http {{\n\
         access_log off; client_max_body_size {limit};\n\
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         server {{\n\
         listen 127.0.0.1:{front} ssl; ssl_certificate front.pem;\n\
         ssl_certificate_key front-key.pem;\n\
         {locations}}}\n}}\n"
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut command = Command::new("nginx");
    // Debian has it outside the path of ordinary users.
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    command.env("PATH", path).arg("-p").arg(dir).arg("-e").arg(dir.join("error.log"));
    let nginx = Process::spawn(command.args(["-c", "nginx.conf"]), "nginx-light");
    eventually("nginx is up", || std::net::TcpStream::connect(("127.0.0.1", front)).is_ok());
    nginx
}

/// VictoriaMetrics.
pub struct VictoriaMetrics {
    port: u16,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl VictoriaMetrics {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = Command::new("victoria-metrics");
        command
            .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
            .arg(format!("-storageDataPath={}", dir.path().join("data").display()))
            .args(["-retentionPeriod=100y", "-memory.allowedBytes=64MB"]);
        let process = Process::spawn(&mut command, "victoria-metrics");
        eventually("VictoriaMetrics is up", || {
            matches!(http(port, "GET", "/health", ""), Ok((200, _)))
        });
        Self { port, _process: process, _dir: dir }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its export of one metric: each series with labels, values and times in milliseconds.
    pub fn export(&self, metric: &str) -> Vec<serde_json::Value> {
        http(self.port, "GET", "/internal/force_flush", "").unwrap();
        let path = format!("/api/v1/export?match[]={metric}");
        let (status, body) = http(self.port, "GET", &path, "").unwrap();
        assert_eq!(status, 200, "{body}");
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
