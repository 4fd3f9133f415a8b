//! A disk that is full to the last byte, and has room again: nothing acknowledged is lost, and
//! nothing has to be restarted.

use super::{
    disk::SmallDisk,
    support::{
        Gateway, Home,
        device::{Device, now_ms, one_reading},
        eventually,
        servers::free_port,
    },
    table::Outcome,
};
use proto::{GatewayMessage, RawValue};

/// What other files of the data directory may have taken since the log last asked, in bytes.
const OTHER_BYTES: u64 = 64 * 1024;

/// About 12 KiB.
fn large_batch(seq: u64) -> Vec<u8> {
    let text = "x".repeat(4000);
    let fields = ["a", "b", "c"].map(|name| (name, RawValue::Str(&text)));
    one_reading(seq, now_ms() + i64::try_from(seq).unwrap(), &fields)
}

/// Sends batches until one is refused, or so many are acknowledged; the last that was.
async fn fill(home: &Home, gateway: &Gateway, most: u64) -> (u64, bool) {
    let mut device = Device::connect(home, gateway, "d").await;
    let mut acked = device.hello_stream(1).await.acked_seq.unwrap_or(0);
    let until = acked + most;
    while acked < until {
        device.send(&large_batch(acked + 1)).await;
        match device.next().await.unwrap() {
            GatewayMessage::Ack(ack) => acked = ack.seq,
            GatewayMessage::Nack(nack) => {
                assert!(nack.retry_after_ms.is_some(), "{nack:?}");
                return (acked, true);
            }
            other => panic!("{other:?}"),
        }
    }
    (acked, false)
}

/// Without the embedded store: the log has the disk for itself. A dead InfluxDB holds or skips.
fn config(when_full: &str, reserve: &str) -> String {
    let port = free_port();
    format!(
        "[limits]\nmessage_bytes = \"16KiB\"\n[log]\nsegment_bytes = \"64KiB\"\nkeep_for = \"0s\"\n\
         keep_bytes = \"64KiB\"\nmax_bytes = \"1GiB\"\nreserve_bytes = \"{reserve}\"\n\
         [sinks.store]\nenabled = false\n[sinks.influx]\ntype = \"influxdb\"\n\
         url = \"http://127.0.0.1:{port}\"\nwhen_full = \"{when_full}\"\n"
    )
}

async fn one(when_full: &str, reserve_bytes: u64) -> Outcome {
    let home = Home::new();
    std::fs::create_dir(home.data()).unwrap();
    let disk = SmallDisk::mount_at(&home.data(), 24);
    let config = config(when_full, &format!("{reserve_bytes}B"));
    let gateway = home.start_with(&config);
    let ballast = home.data().join("ballast");
    let acked = if when_full == "hold" {
        let (acked, refused) = fill(&home, &gateway, 100_000).await;
        let left = disk.free() + OTHER_BYTES;
        assert!(refused && left >= reserve_bytes, "{left} bytes are free");
        eventually("it is not ready", || gateway.get("/readyz").0 == 503);
        // To the last byte, the reserve too; then there is room again.
        disk.fill();
        assert_eq!(disk.free(), 0);
        assert_eq!(fill(&home, &gateway, 3).await, (acked, true), "nothing is taken");
        std::fs::remove_file(&ballast).unwrap();
        let data = home.data();
        let larger = ["-o", "remount,size=96m", data.to_str().unwrap()];
        super::disk::system("mount", &larger);
        acked
    } else {
        // More than the disk holds: the sink that may skip gives its oldest records up.
        let mut acked = 0;
        eventually("40 MiB are taken", || {
            let more = tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(fill(&home, &gateway, 200))
            });
            acked = more.0;
            acked * 12_000 > 40 << 20
        });
        acked
    };
    eventually("it is ready again", || gateway.get("/readyz").0 == 200);
    let mut last = acked;
    eventually("batches are taken again", || {
        let more = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(fill(&home, &gateway, 20))
        });
        last = more.0;
        last >= acked + 20
    });
    // What was acknowledged is in the log, or was given up and counted.
    let mut skipped = 0;
    eventually("the ledger accounts for every acknowledged batch", || {
        let (_, ledger) = gateway.get("/api/v1/ledger");
        let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap();
        let sink = &ledger["sinks"][0];
        skipped = sink["dropped"]["skipped"].as_u64().unwrap();
        sink["pending"].as_u64().unwrap() + skipped == last
    });
    gateway.kill();
    let report = gateway::log::verify(&home.data().join("log")).unwrap();
    if when_full == "hold" {
        assert_eq!(skipped, 0);
        assert!(report.records() >= last);
    } else {
        assert!(skipped > 0);
    }
    Outcome { tried: 1, acked: last, lost: report.lost(), ..Outcome::default() }
}

/// With the reserve, without one (the write itself finds the disk full), and with a sink that skips.
pub fn each_way() -> Outcome {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut total = Outcome::default();
    for (when_full, reserve) in [("hold", 4 << 20), ("hold", 0), ("skip", 4 << 20)] {
        let outcome = runtime.block_on(one(when_full, reserve));
        println!("{when_full}, reserve of {reserve} bytes: {outcome:?}");
        total.add(&outcome);
    }
    total
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_loses_nothing_and_needs_no_restart() {
    each_way().assert_nothing_lost();
}
