//! A fleet is large: what one connected device adds to the simulator's memory is bounded.

mod common;

use common::{Answer, FakeGateway};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The smaller fleet, so that what every run takes does not count.
const FEW: usize = 50;
/// The larger fleet.
const MANY: usize = 850;
/// Most bytes that a device may add, in a build without optimisation. It adds some 8,500; with a
/// receive buffer of TLS, or with one that holds a batch after it was sent, it is over 12,000.
const MAX_BYTES: u64 = 10_700;
/// Longest wait for all of a fleet.
const PATIENCE: Duration = Duration::from_secs(120);

/// A simulator that runs until it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Anonymous memory of the simulator while so many devices are connected and have each had a batch
/// acknowledged, in bytes.
async fn memory(devices: usize) -> u64 {
    let gateway = FakeGateway::start(|_, _, _| Answer::Ack).await;
    let simulator = Command::new(env!("CARGO_BIN_EXE_device-sim"))
        .args(["run", "--url", &gateway.url, "--devices", &devices.to_string()])
        .args(["--duration", "1h", "--ramp", "4s", "--interval", "1s", "--batch", "20", "--quiet"])
        .args(["--ca".as_ref(), gateway.ca.as_os_str()])
        .args(["--token-key".as_ref(), gateway.token_key.as_os_str()])
        .stdout(Stdio::null())
        .spawn()
        .expect("the simulator can be started");
    let simulator = Running(simulator);
    let start = Instant::now();
    loop {
        // The second batch is sent once the first was acknowledged, or is about to be.
        let settled = gateway.kept().values().filter(|kept| kept.admitted >= 2).count();
        if settled == devices {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "only {settled} of {devices} devices came");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(gateway.connections().len(), devices, "no device has left");
    let path = format!("/proc/{}/status", simulator.0.id());
    let status = std::fs::read_to_string(path).expect("the simulator runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.expect("Linux says it").trim().trim_end_matches(" kB");
    kib.parse::<u64>().expect("a number") * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_device_takes_little_memory() {
    let few = memory(FEW).await;
    let many = memory(MANY).await;
    let each = many.saturating_sub(few) / (MANY - FEW) as u64;
    println!("{each} bytes a device: {few} bytes with {FEW}, {many} with {MANY}");
    assert!(each <= MAX_BYTES, "{each} bytes a device");
}
