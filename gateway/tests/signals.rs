//! The first signal asks, the second does not.
#![allow(clippy::unwrap_used)]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// Set in the process that gets the signals, which is this test binary once more.
const CHILD: &str = "SIGNALS_TEST_CHILD";

/// Waits for the first signal, says so, and then refuses to stop.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stop = gateway::shutdown::on_signal().unwrap();
        println!("waiting");
        stop.cancelled().await;
        println!("asked to stop");
        std::future::pending::<()>().await;
    });
}

#[test]
fn the_first_signal_asks_and_the_second_ends_the_process_with_code_1() {
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::INT)] {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let id = Pid::from_child(&process);
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut wait_for = |text: &str| {
            let found = lines.any(|line| line.unwrap().contains(text));
            assert!(found, "ended without saying {text:?}");
        };
        wait_for("waiting");
        kill_process(id, first).unwrap();
        wait_for("asked to stop");
        kill_process(id, second).unwrap();
        assert_eq!(process.wait().unwrap().code(), Some(1));
    }
}
