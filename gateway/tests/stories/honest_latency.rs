//! Latency without self-deception: a gateway that stands still shows in every batch that was due
//! meanwhile, not only in those that were under way.

use super::fleet::{assert_nothing_wrong, report, start};
use super::support::{Gateway, Home, PATIENCE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::{Duration, Instant};

const DEVICES: u64 = 20;
/// Batches a second of each device in the open loop.
const RATE: u64 = 20;
const SECONDS: u64 = 5;
/// Batches that a device may send without an ack: a device that counted from the sending would see
/// only these come late.
const WINDOW: u64 = 2;
const STALL: Duration = Duration::from_secs(1);
/// A batch that took longer has met the stall.
const LATE_US: u64 = 250_000;

fn signal(gateway: &Gateway, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(gateway.id()).unwrap()).unwrap(), signal).unwrap();
}

/// Stops the gateway for a while in the middle of a run; the run's report.
fn stalled_run(arguments: &[&str]) -> Value {
    let home = Home::new();
    let gateway = home.start_with(&format!("[limits]\nwindow_batches = {WINDOW}\n"));
    let (devices, duration) = (DEVICES.to_string(), format!("{SECONDS}s"));
    let common = ["--devices", &devices, "--duration", &duration, "--ramp", "100ms"];
    let mut fleet = start(&home, &gateway, &[&common[..], arguments].concat());
    eventually("the fleet is sending", || {
        gateway.metric("gateway_accepted_readings_total", "") > 1_000.0
    });
    signal(&gateway, Signal::STOP);
    std::thread::sleep(STALL);
    signal(&gateway, Signal::CONT);
    let begun = Instant::now();
    while fleet.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE * 2, "the fleet does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(fleet.wait().unwrap().success());
    assert_nothing_wrong(&home);
    report(&home)
}

/// Acks in all, and those that came late.
fn acks(run: &Value) -> (u64, u64) {
    let all = run["ack_latency_us"].as_object().unwrap().iter();
    let counts = all.map(|(us, count)| (us.parse::<u64>().unwrap(), count.as_u64().unwrap()));
    counts.fold((0, 0), |(all, late), (us, count)| {
        (all + count, late + if us >= LATE_US { count } else { 0 })
    })
}

#[test]
fn a_stall_shows_in_every_batch_that_was_due() {
    let interval = format!("{}ms", 1_000 / RATE);
    let run = stalled_run(&["--interval", &interval]);
    assert_eq!(run["mode"], "open_loop");
    let due_in_the_stall = DEVICES * RATE * STALL.as_secs();
    let (all, late) = acks(&run);
    assert!(late >= due_in_the_stall / 2, "{late} of {due_in_the_stall} due in the stall");
    // The percentiles of the report show it, too: a fifth of all was due in the stall.
    let p90_us = run["ack_latency_ms"]["p90"].as_f64().unwrap() * 1e3;
    assert!(all / SECONDS >= due_in_the_stall * 9 / 10, "{all}");
    #[allow(clippy::cast_precision_loss)]
    let is_late = p90_us >= LATE_US as f64;
    assert!(is_late, "{:#}", run["ack_latency_ms"]);
}

/// The same stall in a closed loop: each device has one batch under way, and asks for no more. This
/// is why its latencies are not to be trusted, and the report says so.
#[test]
fn a_closed_loop_hides_a_stall() {
    let run = stalled_run(&["--closed-loop", "--batch", "10"]);
    assert_eq!(run["mode"], "closed_loop");
    let (all, late) = acks(&run);
    // One of each device; a busy machine may add some.
    assert!(late >= DEVICES / 2, "{late} of {all}");
    assert!(late <= all / 10, "{late} of {all}");
    assert!(run["schedule_lag_ms"]["p50"].is_null(), "there is no schedule");
}
