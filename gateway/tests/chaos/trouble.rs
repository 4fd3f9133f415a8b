//! What happens to a process on a machine in trouble: its clock jumps, it is stopped for a minute,
//! it has no descriptors or no memory left. The fleet goes on, and nothing acknowledged is lost.

use super::{
    fleet::{End, Fleet},
    support::{Gateway, Home},
    table::Outcome,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use std::{path::Path, time::Duration};

const DEVICES: usize = 10;
const READINGS: u64 = 2_000;
/// Small segments: the log begins new files all the time.
const SMALL_SEGMENTS: &str =
    "[limits]\nmessage_bytes = \"16KiB\"\n[log]\nsegment_bytes = \"64KiB\"\n";

fn pid(gateway: &Gateway) -> Pid {
    Pid::from_raw(i32::try_from(gateway.id()).unwrap()).unwrap()
}

fn fleet(seed: u64) -> Fleet {
    let mut fleet = Fleet::new(Home::new(), DEVICES, seed);
    fleet.config = SMALL_SEGMENTS;
    fleet
}

/// SIGSTOP for so long, on `times` gateways at once.
pub fn stopped(seed: u64, times: u64, seconds: u64) -> Outcome {
    let one = |n: u64| {
        let mut fleet = fleet(seed + n);
        let mut stop = |gateway: &Gateway, fleet: &Fleet| {
            kill_process(pid(gateway), Signal::STOP).unwrap();
            std::thread::sleep(Duration::from_secs(seconds));
            kill_process(pid(gateway), Signal::CONT).unwrap();
            fleet.goes_on(50);
        };
        fleet.cycle(End::Trouble(&mut stop), READINGS);
        fleet.verify()
    };
    let mut total = Outcome::default();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..times).map(|n| scope.spawn(move || one(n))).collect();
        all.into_iter().for_each(|one| total.add(&one.join().unwrap()));
    });
    total
}

/// Not one descriptor more than are open.
pub fn descriptors(seed: u64, times: u64) -> Outcome {
    let mut fleet = fleet(seed);
    for _ in 0..times {
        let mut exhaust = |gateway: &Gateway, fleet: &Fleet| {
            let open = format!("/proc/{}/fd", gateway.id());
            let open = std::fs::read_dir(open).unwrap().count() as u64;
            let none = Rlimit { current: Some(open), maximum: getrlimit(Resource::Nofile).maximum };
            let before = prlimit(Some(pid(gateway)), Resource::Nofile, none).unwrap();
            fleet.goes_on(50);
            for _ in 0..10 {
                let _ = std::net::TcpStream::connect(("127.0.0.1", gateway.port()));
            }
            fleet.goes_on(50);
            prlimit(Some(pid(gateway)), Resource::Nofile, before).unwrap();
            fleet.goes_on(50);
        };
        fleet.cycle(End::Trouble(&mut exhaust), READINGS);
    }
    fleet.verify()
}

/// Hardly more memory than is in use: the process goes on or aborts.
pub fn memory(seed: u64, times: u64) -> Outcome {
    let mut fleet = fleet(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..times {
        let mut starve = |gateway: &Gateway, _: &Fleet| {
            let status = std::fs::read_to_string(format!("/proc/{}/statm", gateway.id())).unwrap();
            let pages: u64 = status.split(' ').next().unwrap().parse().unwrap();
            let bytes = pages * 4096 + rng.u64(..1 << 20);
            let limit = Rlimit { current: Some(bytes), maximum: getrlimit(Resource::As).maximum };
            prlimit(Some(pid(gateway)), Resource::As, limit).unwrap();
            // New connections need memory of their own.
            for _ in 0..50 {
                let _ = std::net::TcpStream::connect(("127.0.0.1", gateway.port()));
            }
            std::thread::sleep(Duration::from_millis(300));
        };
        fleet.cycle(End::Trouble(&mut starve), READINGS);
    }
    fleet.verify()
}

/// The gateway's clock jumps by days, forth and back.
pub fn clock_jumps(seed: u64, times: u64) -> Outcome {
    let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|of| format!("/usr/lib/{of}/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("libfaketime; run ./scripts/test-tools.sh");
    let clock = tempfile::NamedTempFile::new().unwrap();
    let set = |offset: &str| std::fs::write(clock.path(), offset).unwrap();
    set("+0");
    let mut fleet = fleet(seed);
    fleet.environment = vec![
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", clock.path().display().to_string()),
        ("FAKETIME_NO_CACHE", "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
    ];
    for _ in 0..times {
        let mut jump = |_: &Gateway, fleet: &Fleet| {
            for offset in ["+2d", "-2d", "+3600", "+0"] {
                set(offset);
                fleet.goes_on(30);
            }
        };
        fleet.cycle(End::Trouble(&mut jump), READINGS);
    }
    set("+0");
    fleet.verify()
}

#[test]
fn a_gateway_that_was_stopped_goes_on() {
    stopped(fastrand::u64(..1 << 32), 1, 3).assert_nothing_lost();
}

#[test]
fn a_gateway_without_descriptors_goes_on() {
    descriptors(fastrand::u64(..1 << 32), 1).assert_nothing_lost();
}

#[test]
fn a_gateway_without_memory_loses_nothing_that_was_acknowledged() {
    memory(fastrand::u64(..1 << 32), 1).assert_nothing_lost();
}

#[test]
fn a_clock_that_jumps_costs_nothing() {
    clock_jumps(fastrand::u64(..1 << 32), 1).assert_nothing_lost();
}
