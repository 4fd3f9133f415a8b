//! The command line as a person meets it: output, messages, exit codes.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Runs the binary in `directory` with a clean environment.
fn gateway(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn check_prints_the_effective_configuration() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("gateway.toml"), golden("check.toml")).unwrap();
    let environment = [("GATEWAY__SERVER__MAX_CONNECTIONS", "21000")];
    let arguments = ["check", "--config", "gateway.toml"];
    let said = said(gateway(scratch.path(), &arguments, &environment));
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.out, golden("check.effective.toml"), "the effective form has changed");
    assert_eq!(said.err, "");
    let made: Vec<_> = fs::read_dir(scratch.path()).unwrap().collect();
    assert_eq!(made.len(), 1, "check made files: {made:?}");
}

#[test]
fn a_wrong_configuration_is_one_line_and_code_2() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("bad.toml"), "# a comment\n[server]\nlissten = \"x\"\n").unwrap();
    let mistyped = "gateway: bad.toml:3: unknown key \"server.lissten\", did you mean \
                    \"server.listen\"?\n";
    for command in ["check", "run"] {
        let said = said(gateway(scratch.path(), &[command, "--config", "bad.toml"], &[]));
        assert_eq!((said.code, said.err.as_str()), (2, mistyped), "{command}");
        assert_eq!(said.out, "");
    }
    let missing = said(gateway(scratch.path(), &["check", "--config", "none.toml"], &[]));
    assert_eq!(missing.code, 2);
    let expected = "gateway: cannot read the configuration file none.toml: No such file";
    assert!(missing.err.starts_with(expected), "{}", missing.err);
    let variable = [("GATEWAY__SERVER__LISSTEN", "x")];
    let said = said(gateway(scratch.path(), &["run"], &variable));
    assert_eq!(said.code, 2);
    assert!(said.err.contains("environment variable GATEWAY__SERVER__LISSTEN"), "{}", said.err);
    assert!(!scratch.path().join("data").exists(), "a refused start touched the disk");
}

#[test]
fn wrong_usage_is_code_2_and_names_the_flag() {
    let table: [(&[&str], &str); 8] = [
        (&[], "Usage: gateway"),
        (&["rum"], "'run'"),
        (&["check"], "--config <FILE>"),
        (&["run", "--hots", "a"], "'--host'"),
        (&["run", "--host", "a:1"], "a host name or an address without a port is needed"),
        (&["token"], "--device <ID>"),
        (&["token", "--device", "a b"], "a device id has 1 to 128 of"),
        (&["token", "--device", "a", "--ttl", "soon"], "must be a duration such as"),
    ];
    let scratch = tempfile::tempdir().unwrap();
    for (arguments, expected) in table {
        let said = said(gateway(scratch.path(), arguments, &[]));
        assert_eq!(said.code, 2, "{arguments:?}");
        assert!(said.err.contains(expected), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn version_and_help_are_on_standard_output() {
    let scratch = tempfile::tempdir().unwrap();
    let version = said(gateway(scratch.path(), &["--version"], &[]));
    assert_eq!((version.code, version.out.as_str()), (0, "gateway 0.1.0\n"));
    let help = said(gateway(scratch.path(), &["--help"], &[]));
    assert_eq!(help.code, 0);
    for command in ["run", "check", "token"] {
        assert!(help.out.contains(command), "{}", help.out);
    }
}

#[test]
fn token_prints_the_token_alone() {
    let scratch = tempfile::tempdir().unwrap();
    gateway::data_dir::prepare(&scratch.path().join("data"), None).unwrap();
    fs::write(scratch.path().join("gateway.toml"), "data_dir = \"data\"\n").unwrap();
    let ways: [&[&str]; 3] =
        [&[], &["--data-dir", "data", "--ttl", "1h"], &["--config", "gateway.toml"]];
    for way in ways {
        let arguments = [&["token", "--device", "line-1:press/7"], way].concat();
        let said = said(gateway(scratch.path(), &arguments, &[]));
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{way:?}");
        let token = said.out.strip_suffix('\n').unwrap();
        assert_eq!(token.split('.').count(), 3, "{token}");
        assert!(!token.contains(char::is_whitespace), "{token}");
    }
}

#[test]
fn token_says_where_it_looked_and_makes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let none = said(gateway(scratch.path(), &["token", "--device", "a"], &[]));
    assert_eq!(none.code, 1);
    let expected = "gateway: data/keys/token.pem does not exist; start the gateway once, which \
                    makes it, or name the gateway's data directory with --data-dir\n";
    assert_eq!(none.err, expected);
    assert!(!scratch.path().join("data").exists());

    gateway::data_dir::prepare(&scratch.path().join("data"), None).unwrap();
    let key = scratch.path().join("data/keys/token.pem");
    fs::write(&key, "scribble").unwrap();
    let wrong = said(gateway(scratch.path(), &["token", "--device", "a"], &[]));
    assert_eq!((wrong.code, wrong.out.as_str()), (1, ""));
    assert!(wrong.err.contains("data/keys/token.pem does not hold the token key"), "{}", wrong.err);
    assert!(!wrong.err.contains("scribble") && wrong.err.lines().count() == 1, "{}", wrong.err);
}

#[test]
fn a_key_that_may_not_be_read_is_named_with_what_to_do() {
    let scratch = tempfile::tempdir().unwrap();
    gateway::data_dir::prepare(&scratch.path().join("data"), None).unwrap();
    let key = scratch.path().join("data/keys/token.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&key).is_ok() {
        // Root reads everything: a directory in its place is as unreadable.
        fs::remove_file(&key).unwrap();
        fs::create_dir(&key).unwrap();
    }
    let said = said(gateway(scratch.path(), &["token", "--device", "a"], &[]));
    assert_eq!(said.code, 1);
    assert!(said.err.starts_with("gateway: cannot read data/keys/token.pem: "), "{}", said.err);
    assert!(said.err.contains("; "), "no remedy in {}", said.err);
}

#[test]
fn token_is_refused_where_the_gateway_would_not_take_it() {
    let scratch = tempfile::tempdir().unwrap();
    gateway::data_dir::prepare(&scratch.path().join("data"), None).unwrap();
    fs::write(scratch.path().join("key.pem"), "-----BEGIN PUBLIC KEY-----\n").unwrap();
    let text = "[auth]\nown_key = false\n[[auth.jwt]]\nkey_file = \"key.pem\"\n";
    fs::write(scratch.path().join("gateway.toml"), text).unwrap();
    let arguments = ["token", "--device", "a", "--config", "gateway.toml"];
    let said = said(gateway(scratch.path(), &arguments, &[]));
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("takes no tokens of its own key"), "{}", said.err);
}

/// A gateway that runs in a directory of its own, on ports of its own.
struct Running {
    child: Child,
    scratch: tempfile::TempDir,
    /// What it printed up to the last line of the start.
    banner: String,
}

impl Running {
    fn start(admin: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
            .args(["run", "--host", "gateway.example.com"])
            .current_dir(scratch.path())
            .env_clear()
            .env("GATEWAY__SERVER__LISTEN", "127.0.0.1:0")
            .env("GATEWAY__ADMIN__LISTEN", admin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut banner = String::new();
        while !banner.contains("sqlite3") {
            match lines.next() {
                Some(line) => banner += &(line.unwrap() + "\n"),
                None => break,
            }
        }
        Self { child, scratch, banner }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// The exit code, and what was said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                panic!("the gateway did not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

#[test]
fn run_makes_what_it_needs_says_what_is_next_and_stops_in_order() {
    let gateway = Running::start("127.0.0.1:0");
    for file in ["ca.pem", "server.pem", "keys/token.pem", "keys/server-key.pem"] {
        assert!(gateway.scratch.path().join("data").join(file).exists(), "{file} was not made");
    }
    let console = gateway.banner.split("http://").nth(1).unwrap().split('/').next().unwrap();
    let mut stream = TcpStream::connect(console).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let minted = gateway_token(gateway.scratch.path());
    assert_eq!((minted.code, minted.err.as_str()), (0, ""));
    gateway.signal(rustix::process::Signal::TERM);
    let (code, said) = gateway.end();
    assert_eq!(code, Some(0), "{said}");
}

fn gateway_token(directory: &Path) -> Said {
    said(gateway(directory, &["token", "--device", "my-device"], &[]))
}

#[test]
fn a_busy_admin_port_is_code_1_and_one_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = Running::start(&address).end();
    assert_eq!(code, Some(1));
    let last = said.lines().last().unwrap();
    let expected = format!("gateway: cannot listen on {address} for operators: Address already");
    assert!(last.starts_with(&expected), "{said}");
    assert!(last.contains("set \"admin.listen\""), "{said}");
}
