//! Every call of a scripted run to the system is the last one, or fails, by strace.

use super::{
    table::Outcome,
    writer::{self, Said, Writer},
};
use std::{
    path::Path,
    process::Command,
    sync::{Arc, atomic::Ordering},
};

/// Kinds of calls; a question mark where not every processor has the name.
const CHANGING: [&str; 7] = [
    "pwrite64",
    "write",
    "fdatasync",
    "fsync",
    "?rename,?renameat,?renameat2",
    "?unlink,?unlinkat",
    "ftruncate",
];
const FAILING: [&str; 6] =
    ["pwrite64", "fdatasync", "fsync", "openat", "?rename,?renameat,?renameat2", "pread64"];

/// A log that ends in half a group, as a crash leaves it, and what was acknowledged of it and asked
/// to be deleted.
fn prepared(dir: &Path, seed: u64) -> (u64, u64) {
    let said = Arc::new(Said::default());
    assert!(Writer::start(writer::command(dir, 25, seed), Arc::clone(&said)).wait().success());
    let mut segments: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    let mut bytes = std::fs::read(segments.last().unwrap()).unwrap();
    bytes.extend_from_slice(&[0xF8, b'R', b'E', b'C', 9, 9, 9]);
    std::fs::write(segments.last().unwrap(), bytes).unwrap();
    (said.acked.load(Ordering::SeqCst), said.low.load(Ordering::SeqCst))
}

struct Run {
    said: Arc<Said>,
    /// It came to its end, with exit code 0.
    ended: bool,
    /// What strace saw.
    trace: String,
    home: tempfile::TempDir,
}

/// The writer's part of a trial: from which log it goes on, and how far.
struct Script {
    base: tempfile::TempDir,
    before: (u64, u64),
    groups: u64,
    seed: u64,
}

impl Script {
    /// At least so many groups, and as many as it takes until every kind of call is made: what the
    /// seed draws decides when a segment is deleted or a mark replaced.
    fn of(seed: u64, groups: u64) -> Self {
        let base = tempfile::tempdir().unwrap();
        let before = prepared(base.path(), seed);
        let mut script = Self { base, before, groups, seed };
        let kinds = [&CHANGING[..], &FAILING[..]].concat();
        let called = |trace: &str, kind: &str| {
            kind.split(',')
                .any(|name| trace.contains(&format!("{}(", name.trim_start_matches('?'))))
        };
        loop {
            let run = script.run(&kinds.join(","), None);
            assert!(run.ended, "an undisturbed run failed, seed {seed}:\n{}", run.trace);
            if kinds.iter().all(|kind| called(&run.trace, kind)) {
                return script;
            }
            script.groups += 1;
            assert!(
                script.groups < groups + 100,
                "some of {kinds:?} are never called, seed {seed}"
            );
        }
    }

    /// Runs the writer on a copy of the log, with something injected.
    fn run(&self, calls: &str, inject: Option<&str>) -> Run {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("log");
        std::fs::create_dir(&dir).unwrap();
        for entry in std::fs::read_dir(self.base.path()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
            }
        }
        let trace = home.path().join("trace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-y", "-s", "16", "-e"]);
        command.arg(format!("trace={calls},write"));
        if let Some(inject) = inject {
            command.arg("-e").arg(format!("inject={calls}:{inject}"));
        }
        command.arg("-o").arg(&trace).arg(writer::program()).arg(&dir);
        command.arg(self.groups.to_string()).arg(self.seed.to_string());
        let said = Arc::new(Said::default());
        said.acked.store(self.before.0, Ordering::SeqCst);
        said.low.store(self.before.1, Ordering::SeqCst);
        let ended = Writer::start(command, Arc::clone(&said)).wait().success();
        let trace = std::fs::read_to_string(trace).unwrap();
        Run { said, ended, trace, home }
    }
}

impl Run {
    fn outcome(&self, script: &Script) -> Outcome {
        let lost = writer::lost(&self.home.path().join("log"), &self.said);
        let acked = self.said.acked.load(Ordering::SeqCst) - script.before.0;
        Outcome { tried: 1, acked, lost, ..Outcome::default() }
    }
}

/// SIGKILL at every call of each kind, until the run comes to its end.
pub fn killed_at_each(seed: u64, groups: u64) -> Outcome {
    let script = Script::of(seed, groups);
    let mut total = Outcome::default();
    for calls in CHANGING {
        let mut sites = 0;
        for at in 1.. {
            let inject = format!("signal=SIGKILL:when={at}");
            let run = script.run(calls, Some(&inject));
            let outcome = run.outcome(&script);
            assert_eq!(outcome.lost, 0, "{calls} {at}, seed {seed}");
            if run.ended {
                break;
            }
            total.add(&outcome);
            sites += 1;
        }
        assert!(sites > 0, "{calls} was never called");
        println!("{calls}: killed at each of {sites}");
    }
    total
}

/// EIO and ENOSPC at every call of each kind, until one is not reached any more.
pub fn failing_at_each(seed: u64, groups: u64) -> Outcome {
    let script = Script::of(seed, groups);
    let mut total = Outcome::default();
    for calls in FAILING {
        for error in ["EIO", "ENOSPC"] {
            let mut sites = 0;
            for at in 1.. {
                let inject = format!("error={error}:when={at}");
                let run = script.run(calls, Some(&inject));
                if !run.trace.contains("(INJECTED)") {
                    break;
                }
                let mut outcome = run.outcome(&script);
                outcome.false_acks = u64::from(is_false_ack(&run.trace));
                assert_eq!(
                    (outcome.lost, outcome.false_acks),
                    (0, 0),
                    "{calls} {error} {at}, seed {seed}:\n{}",
                    run.trace
                );
                total.add(&outcome);
                sites += 1;
            }
            assert!(sites > 0, "{calls} was never called");
            println!("{calls}: {error} at each of {sites}");
        }
    }
    total
}

/// An acknowledgement after the sync of a segment has failed, by the record of the system.
fn is_false_ack(trace: &str) -> bool {
    let failed = |line: &&str| {
        line.contains("sync(") && line.contains(".seg>") && line.contains("(INJECTED)")
    };
    let mut rest = trace.lines().skip_while(|line| !failed(line));
    rest.any(|line| line.contains("write(1<") && line.contains("\"acked"))
}

#[test]
fn killed_at_each_call() {
    killed_at_each(fastrand::u64(..1 << 32), 6).assert_nothing_lost();
}

#[test]
fn failing_at_each_call() {
    failing_at_each(fastrand::u64(..1 << 32), 6).assert_nothing_lost();
}

#[test]
fn a_false_ack_would_be_seen() {
    let failed =
        "1 fdatasync(3</t/00000000000000000001.seg>) = -1 EIO (Input/output error) (INJECTED)\n";
    let acked = "1 write(1<pipe:[1]>, \"acked 7\\n\", 8) = 8\n";
    assert!(is_false_ack(&format!("{acked}{failed}{acked}")));
    assert!(!is_false_ack(&format!("{acked}{failed}")));
}
