//! What was acknowledged is in the store, exactly once, whatever happens to the process.

use super::support::{Home, device::Device, eventually};

/// Kills the gateway under load, again and again, and counts afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_readings_survive_kill_9_exactly_once() {
    const DEVICES: usize = 8;
    const ROUNDS: u64 = 4;
    let home = Home::new();
    let mut acked = [0u64; DEVICES];
    let mut sent = [0u64; DEVICES];
    let mut unacknowledged_at_kill = 0;
    for _ in 0..ROUNDS {
        let gateway = home.start();
        let mut devices = Vec::new();
        for (i, (acked, sent)) in acked.iter_mut().zip(&mut sent).enumerate() {
            let mut device = Device::connect(&home, &gateway, &format!("d{i}")).await;
            let welcome = device.hello_stream(77).await;
            // What was acknowledged before the kill is still known; what was logged and not yet
            // acknowledged may be known too.
            assert!(welcome.acked_seq.unwrap_or(0) >= *acked, "an ack was forgotten");
            *acked = welcome.acked_seq.unwrap_or(0);
            for seq in *acked + 1..=*acked + 20 {
                device.send_value(seq).await;
                *sent = (*sent).max(seq);
            }
            devices.push(device);
        }
        for (i, device) in devices.iter_mut().enumerate() {
            // Half of the devices have seen all acks at the time of the kill.
            let until = if i % 2 == 0 { acked[i] + 20 } else { acked[i] + 1 };
            while acked[i] < until {
                acked[i] = device.ack().await.seq;
            }
            device.send_value(sent[i] + 1).await;
            sent[i] += 1;
            unacknowledged_at_kill += sent[i] - acked[i];
        }
        gateway.kill();
    }
    assert!(unacknowledged_at_kill > 0, "the kill never came in the middle of anything");

    let _gateway = home.start();
    for (i, acked) in acked.iter().enumerate() {
        let name = format!("d{i}");
        eventually("the store catches up", || home.count(&name) >= *acked);
        let values: Vec<f64> = home
            .rows(&name)
            .into_iter()
            .map(|row| match row.value {
                rusqlite::types::Value::Real(value) => value,
                other => panic!("{other:?}"),
            })
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let expected: Vec<f64> = (1..=values.len() as u64).map(|seq| seq as f64).collect();
        assert_eq!(values, expected, "{name}: each once, none missing");
        assert!(values.len() as u64 <= sent[i]);
    }
}

/// The ledger balances, and goes on across a restart.
#[tokio::test]
async fn the_ledger_balances_across_restarts() {
    let home = Home::new();
    for round in 1..=2u64 {
        let gateway = home.start();
        let mut device = Device::connect(&home, &gateway, "d").await;
        let first = device.hello_stream(5).await.acked_seq.unwrap_or(0) + 1;
        for seq in first..first + 10 {
            device.send_value(seq).await;
        }
        device.acked(first + 9).await;
        eventually("everything is stored", || {
            gateway.metric("gateway_sink_stored_readings_total", "store") == 10.0 * round as f64
                && gateway.metric("gateway_sink_pending_readings", "store") == 0.0
        });
        assert_eq!(gateway.metric("gateway_accepted_readings_total", ""), 10.0 * round as f64);
        let (status, ledger) = gateway.get("/api/v1/ledger");
        assert_eq!(status, 200);
        let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap();
        assert_eq!(ledger["accepted"], 10 * round, "{ledger}");
        assert_eq!(ledger["balanced"], true, "{ledger}");
        let (status, _) = gateway.stop();
        assert_eq!(status.code(), Some(0));
    }
}
