//! The oracle at the far end of a real broker: what the simulator's subscriber recorded is the
//! fleet's run to the reading, whatever breaks on the way.

use super::certify::{certify, result};
use super::fleet::{start, verify};
use super::support::{
    Gateway, Home, PATIENCE, eventually,
    mosquitto::{Mosquitto, PASSWORD},
    run_to_end, sibling,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::Instant,
};

/// At least so many readings go through the broker.
const READINGS: u64 = 100_000;

pub(super) fn recording(home: &Home) -> PathBuf {
    home.path().join("subscription.db")
}

/// A running `device-sim subscribe`; killed when dropped.
pub(super) struct Recorder {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Recorder {
    fn command(home: &Home, broker: &Mosquitto, user: &str, arguments: &[&str]) -> Command {
        let password = home.path().join("password");
        std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
        let mut command = Command::new(sibling("device-sim"));
        command.args(["subscribe", "--url", &broker.url(), "--user", user]);
        command.arg("--ca").arg(broker.file("ca.pem")).arg("--password-file").arg(password);
        command.arg("--record").arg(recording(home)).args(arguments);
        command
    }

    /// One that is subscribed.
    pub(super) fn start(home: &Home, broker: &Mosquitto, arguments: &[&str]) -> Self {
        let mut command = Self::command(home, broker, "reader", arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (line, said) = mpsc::channel();
        let output = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                if line.send(text).is_err() {
                    return;
                }
            }
        });
        let recorder = Self { child, said };
        recorder.says("subscribed");
        recorder
    }

    fn says(&self, word: &str) -> String {
        loop {
            let text = self.said.recv_timeout(PATIENCE);
            let text = text.unwrap_or_else(|_| panic!("the recorder did not say {word:?}"));
            println!("recorder: {text}");
            if text.contains(word) {
                return text;
            }
        }
    }

    /// SIGTERM: how it ended, and the last thing that it said.
    fn stop(mut self) -> (ExitStatus, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let totals = self.says("recorded:");
        (self.child.wait().unwrap(), totals)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn recorded(home: &Home, what: &str) -> u64 {
    let connection = rusqlite::Connection::open(recording(home)).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    let sql = format!("SELECT {what} FROM subscription");
    let count: i64 = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
    u64::try_from(count).unwrap()
}

fn gateway(home: &Home, broker: &Mosquitto, payload: &str) -> Gateway {
    home.start_with(&format!(
        "[sinks.broker]\ntype = \"mqtt\"\npayload = \"{payload}\"\nbatch_delay = \"20ms\"\n{}",
        broker.keys()
    ))
}

/// The verdict on what was recorded, once everything has come or the time is over.
fn verdict(home: &Home, arguments: &[&str]) -> (i32, Value) {
    let path = recording(home);
    let mut all: Vec<&OsStr> = vec![OsStr::new("--subscription"), path.as_os_str()];
    all.extend(arguments.iter().map(OsStr::new));
    verify(home, &all)
}

fn wait_for(mut fleet: Child) {
    let begun = Instant::now();
    while fleet.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE * 4, "the fleet does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(fleet.wait().unwrap().success());
}

const FLEET: [&str; 10] = [
    "--devices",
    "50",
    "--interval",
    "200ms",
    "--batch",
    "50",
    "--ramp",
    "200ms",
    "--duration",
    "8400ms",
];

/// What a search for the highest load played has come through the broker, step by step.
#[test]
fn the_steps_of_a_search_are_verified_in_what_was_recorded() {
    let broker = Mosquitto::start(&[]);
    let home = Home::new();
    let _recorder = Recorder::start(&home, &broker, &[]);
    let gateway = gateway(&home, &broker, "json");
    let mut search = certify(&home, &gateway.url, "lost==0");
    search.arg("--subscription").arg(recording(&home)).args(["--allow-duplicates", "--settle"]);
    search.args(["60s", "--interval", "200ms", "--batch", "2", "--from", "20", "--up-to", "40"]);
    let (code, said) = run_to_end(search);
    assert_eq!(code, 0, "{said}");
    let (found, page) = result(&home);
    let steps = found["steps"].as_array().unwrap();
    let acked = steps.iter().map(|step| step["acked"].as_u64().unwrap()).sum::<u64>();
    assert!(steps.len() == 2 && steps.iter().all(|step| step["lost"] == 0), "{said}");
    assert!(acked > 0 && acked <= recorded(&home, "readings"), "{said}");
    assert!(page.contains("the recording"), "{page}");
}

#[test]
fn restarts_of_the_broker_and_kills_of_the_subscriber_lose_none_of_100_000_readings() {
    let mut broker = Mosquitto::start(&[]);
    let home = Home::new();
    let mut recorder = Recorder::start(&home, &broker, &[]);
    let gateway = gateway(&home, &broker, "json");
    let fleet = start(&home, &gateway, &FLEET);
    for part in 1..=3 {
        eventually("the recorder is recording", || {
            recorded(&home, "readings") > part * READINGS / 5
        });
        if part == 2 {
            // Killed: what it had not acknowledged comes again, the rest stays at the broker.
            drop(recorder);
            recorder = Recorder::start(&home, &broker, &[]);
        } else {
            broker.stop();
            broker.up();
            recorder.says("the broker is back");
        }
    }
    wait_for(fleet);
    let (code, first) = verdict(&home, &["--allow-duplicates"]);
    assert!(first["acked"].as_u64().unwrap() >= READINGS, "{first:#}");
    for class in ["lost", "altered", "unexpected"] {
        assert_eq!(first[class], 0, "{first:#}");
    }
    assert_eq!((code, &first["stored"]), (0, &first["acked"]), "{first:#}");
    let (status, said) = recorder.stop();
    assert!(status.success(), "{said}");
    // What is sent again may come after everything else.
    let (_, last) = verdict(&home, &["--allow-duplicates"]);
    let twice = last["duplicated"].as_u64().unwrap();
    println!("{} readings, {twice} of them twice: {said}", last["acked"]);
    let readings = last["acked"].as_u64().unwrap() + twice;
    assert_eq!(recorded(&home, "readings"), readings, "each of them is counted");
    assert_eq!(recorded(&home, "sessions_lost"), 0);
    let (code, strict) = verdict(&home, &[]);
    assert_eq!((code, &strict["duplicated"]), (i32::from(twice > 0), &twice.into()));
}

#[test]
fn every_payload_is_recorded_and_each_lie_about_it_is_named() {
    for payload in ["json", "messagepack", "lineprotocol"] {
        let broker = Mosquitto::start(&[]);
        let home = Home::new();
        let recorder = Recorder::start(&home, &broker, &["--payload", payload]);
        let gateway = gateway(&home, &broker, payload);
        wait_for(start(&home, &gateway, &["--devices", "10", "--duration", "3s", "--ramp", "1s"]));
        let (code, truth) = verdict(&home, &[]);
        assert_eq!((code, &truth["stored"], &truth["duplicated"]), (0, &truth["acked"], &0.into()));
        assert_eq!((&truth["store"], &truth["lost"]), (&"mqtt".into(), &0.into()), "{truth:#}");
        assert_eq!(truth["values_reduced"], 0, "{payload} says everything");
        recorder.stop();
        lie(&home, "DELETE FROM reading WHERE arrival = 100");
        lie(
            &home,
            "INSERT INTO reading SELECT device, time_ns, 0, measurement, tags, fields, realm
                    FROM reading WHERE arrival = 101",
        );
        lie(
            &home,
            "UPDATE reading SET fields = replace(fields, '\"pressure\":', '\"pressure\":1')
                    WHERE arrival = 102",
        );
        lie(&home, "UPDATE reading SET time_ns = time_ns + 1 WHERE arrival = 103");
        let (code, report) = verdict(&home, &["--settle", "0s"]);
        assert_eq!(code, 1, "{report:#}");
        for (class, count) in [("lost", 2), ("duplicated", 1), ("altered", 1), ("unexpected", 1)] {
            assert_eq!(report[class], count, "{payload} {class}: {report:#}");
            assert_eq!(report["examples"][class].as_array().unwrap().len(), count, "{report:#}");
        }
    }
}

fn lie(home: &Home, sql: &str) {
    let connection = rusqlite::Connection::open(recording(home)).unwrap();
    assert_eq!(connection.execute(sql, []).unwrap(), 1, "{sql}");
}

#[test]
fn what_cannot_be_recorded_is_said() {
    let broker = Mosquitto::start(&[]);
    let home = Home::new();
    let fails = |user: &str, arguments: &[&str]| {
        let command = Recorder::command(&home, &broker, user, arguments);
        let (code, said) = super::support::run_to_end(command);
        assert_eq!(code, 1, "{said}");
        assert!(!said.contains(PASSWORD), "{said}");
        said
    };
    assert!(fails("nobody", &[]).contains("does not let us in"));

    // Messages of somebody else are counted, shown, and nobody's readings.
    let recorder = Recorder::start(&home, &broker, &[]);
    assert!(broker.publish("reader", "readings/x", b"hello"));
    eventually("it has come", || recorded(&home, "messages") == 1);
    let (status, said) = recorder.stop();
    assert!(said.contains("1 that cannot be read") && status.code() == Some(1), "{said}");
    assert!(fails("reader", &["--topic", "other/#"]).contains("a recording of \"readings/#\""));
    let gateway = gateway(&home, &broker, "json");
    wait_for(start(&home, &gateway, &["--devices", "1", "--duration", "2s"]));
    let (code, report) = verdict(&home, &["--settle", "0s"]);
    assert_eq!((code, &report["unexpected"]), (1, &1.into()), "{report:#}");
    let example = report["examples"]["unexpected"][0]["detail"].as_str().unwrap();
    assert!(example.contains("a message to \"readings/x\" cannot be read"), "{example}");
}
