//! The power of an ext4 on a loop device is cut: what was not synced is gone, the page cache too.

use super::{
    disk::LoopDisk,
    fleet::{End, Fleet},
    support::Home,
    table::Outcome,
    writer::{self, Said, Writer},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// The file system is made anew after so many cuts.
const CUTS_PER_DISK: u64 = 10;

fn log_cuts(seed: u64, cuts: u64, without_sync: bool) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut total = Outcome::default();
    let home = tempfile::tempdir().unwrap();
    while total.tried < cuts {
        let at = home.path().join(format!("disk-{}", total.tried));
        std::fs::create_dir(&at).unwrap();
        let mut disk = LoopDisk::mount_at(&at, 48);
        let said = Arc::new(Said::default());
        for _ in 0..CUTS_PER_DISK.min(cuts - total.tried) {
            let before = said.acked.load(Ordering::SeqCst);
            let switch = disk.switch();
            let mut command = writer::command(&at.join("log"), 0, rng.u64(..));
            if without_sync {
                command.arg("--without-sync");
            }
            let mut writer = Writer::start(command, Arc::clone(&said));
            let enough = before + rng.u64(1..400);
            let begun = Instant::now();
            while said.acked.load(Ordering::SeqCst) < enough {
                assert!(begun.elapsed() < super::support::PATIENCE, "the writer does not write");
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(Duration::from_micros(rng.u64(..3000)));
            // What is heard from now on would be heard from nobody: with the power the process is
            // gone, while here a sync that waits for the aborted journal may still return success.
            let heard = said.acked.load(Ordering::SeqCst);
            switch.cut();
            writer.kill();
            writer.wait();
            said.acked.store(heard, Ordering::SeqCst);
            disk.unmount();
            disk.mount();
            let acked = said.acked.load(Ordering::SeqCst) - before;
            let lost = writer::lost(&at.join("log"), &said);
            total.add(&Outcome { tried: 1, acked, lost, ..Outcome::default() });
            if lost > 0 {
                // The next cut begins with what is left, on a disk of its own.
                break;
            }
        }
        disk.unmount();
    }
    println!("seed {seed}: {total:?}");
    total
}

/// Cuts under a writer process.
pub fn of_the_log(seed: u64, cuts: u64) -> Outcome {
    log_cuts(seed, cuts, false)
}

/// The negative control: the same with a writer that syncs nothing.
pub fn without_sync(seed: u64, cuts: u64) -> Outcome {
    log_cuts(seed, cuts, true)
}

/// Cuts under the whole gateway, its data directory on the disk, and a fleet.
pub fn of_the_gateway(seed: u64, cuts: u64, devices: usize) -> Outcome {
    let home = Home::new();
    std::fs::create_dir(home.data()).unwrap();
    let mut disk = LoopDisk::mount_at(&home.data(), 512);
    let mut fleet = Fleet::new(home, devices, seed);
    for _ in 0..cuts {
        fleet.cycle(End::PowerCut(&mut disk), 500);
    }
    let outcome = fleet.verify();
    drop(fleet);
    disk.unmount();
    outcome
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let outcome = of_the_log(fastrand::u64(..1 << 32), 8);
    outcome.assert_nothing_lost();
    assert!(outcome.acked > 0);
}

#[test]
fn a_power_cut_of_the_whole_gateway_loses_nothing_that_was_acknowledged() {
    of_the_gateway(fastrand::u64(..1 << 32), 2, 20).assert_nothing_lost();
}

/// Else the trial would show nothing.
#[test]
fn the_negative_control_loses_what_it_acknowledged() {
    let outcome = without_sync(fastrand::u64(..1 << 32), 2);
    assert!(outcome.lost > 0, "without a sync nothing was lost: {outcome:?}");
}
