//! What goes wrong at a start: one sentence that says what to do, and the right exit code.

use super::support::{Home, device::Device, eventually};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn a_mistyped_key_names_the_right_one() {
    let home = Home::new();
    let (code, said) = home.fails_with("[server]\nlissten = \"127.0.0.1:0\"\n");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("server.lissten") && said.contains("server.listen"), "{said}");
    assert_one_sentence(&said);
}

#[test]
fn a_busy_port_is_named() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for key in ["GATEWAY__SERVER__LISTEN", "GATEWAY__ADMIN__LISTEN"] {
        let mut command = home.command("run", "");
        command.env(key, &address);
        let (code, said) = super::support::run_to_end(command);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&address) && said.contains("in use"), "{said}");
        assert_one_sentence(&said);
    }
}

#[test]
fn a_data_directory_in_use_is_refused() {
    let home = Home::new();
    let _running = home.start();
    let (code, said) = home.fails_with("");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("another gateway") && said.contains("data"), "{said}");
    assert_one_sentence(&said);
}

/// Started twice as it is, both want the same ports, too: the cause is the directory.
#[test]
fn a_second_gateway_is_told_of_the_directory_and_not_of_the_ports() {
    let home = Home::new();
    let running = home.start();
    let mut command = home.command("run", "");
    let admin = running.admin.trim_start_matches("http://localhost").trim_end_matches('/');
    command.env("GATEWAY__ADMIN__LISTEN", format!("127.0.0.1{admin}"));
    command.env("GATEWAY__SERVER__LISTEN", format!("127.0.0.1:{}", running.port()));
    let (code, said) = super::support::run_to_end(command);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("in use by another gateway"), "{said}");
    assert_one_sentence(&said);
}

#[test]
fn a_key_that_is_no_key_is_named() {
    let home = Home::new();
    home.start().stop();
    fs::write(home.token_key(), "not a key").unwrap();
    let (code, said) = home.fails_with("");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("token.pem"), "{said}");
    assert_one_sentence(&said);
}

#[test]
fn a_key_is_readable_by_its_owner_only() {
    let home = Home::new();
    home.start().stop();
    for file in [home.token_key(), home.store()] {
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", file.display());
    }
}

#[tokio::test]
async fn a_store_of_another_log_is_refused() {
    let (home, other) = (Home::new(), Home::new());
    for (home, batches) in [(&home, 1), (&other, 20)] {
        let gateway = home.start();
        let mut device = Device::connect(home, &gateway, "d").await;
        device.hello_stream(1).await;
        for seq in 1..=batches {
            device.send_value(seq).await;
            device.acked(seq).await;
        }
        eventually("it is stored", || home.count("d") == batches);
        assert_eq!(gateway.stop().0.code(), Some(0));
    }
    let own = fs::read(home.store()).unwrap();
    fs::copy(other.store(), home.store()).unwrap();
    let (code, said) = home.fails_with("");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("telemetry.db") && said.contains("belongs to the log"), "{said}");
    assert_one_sentence(&said);
    // The log has learned nothing from a store that is not its own.
    assert!(!said.contains("ALERT"), "{said}");
    fs::write(home.store(), own).unwrap();
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    device.send_value(2).await;
    device.acked(2).await;
    eventually("it is stored", || home.count("d") == 2);
    let (status, said) = gateway.stop();
    assert_eq!(status.code(), Some(0));
    assert!(!said.iter().any(|line| line.contains("damaged")), "{said:?}");
}

#[tokio::test]
async fn a_disk_that_is_full_already_is_said_at_once_and_devices_are_told_to_wait() {
    let home = Home::new();
    let gateway = home.start_with("[log]\nreserve_bytes = \"1000000GiB\"\n");
    eventually("not ready", || {
        let (status, body) = gateway.get("/readyz");
        status == 503 && body.contains("disk_full")
    });
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    for _ in 0..3 {
        device.send_value(1).await;
        let nack = device.nack().await;
        assert_eq!(nack.code, proto::ErrorCode::LogFull);
        assert!(nack.retry_after_ms.is_some_and(|wait| wait > 0), "{nack:?}");
    }
    drop(device);
    let (status, said) = gateway.stop();
    assert!(status.success());
    let warnings = said.iter().filter(|line| line.contains("the log is full")).count();
    assert!(warnings <= 1, "said once, at the start, not with every batch: {said:?}");
}

#[tokio::test]
async fn segments_that_somebody_deleted_do_not_unbalance_the_ledger() {
    let home = Home::new();
    for round in 1..=2 {
        let gateway = home.start();
        let device = format!("d{round}");
        let mut connected = Device::connect(&home, &gateway, &device).await;
        connected.hello_stream(1).await;
        for seq in 1..=3 {
            connected.send_value(seq).await;
        }
        connected.acked(3).await;
        eventually("they are stored", || home.count(&device) == 3);
        eventually("the ledger balances", || {
            let (_, ledger) = gateway.get("/api/v1/ledger");
            ledger.contains(&format!("{{\"accepted\":{},\"balanced\":true", 3 * round))
        });
        drop(connected);
        assert!(gateway.stop().0.success());
        for file in fs::read_dir(home.data().join("log")).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "seg") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

#[test]
fn a_cause_is_named_once() {
    let home = Home::new();
    fs::write(home.data(), "a file").unwrap();
    let (code, said) = home.fails_with("");
    assert_eq!(code, 1, "{said}");
    assert_eq!(said.matches("os error").count(), 1, "{said}");
    assert_one_sentence(&said);
}

/// One line for the person, no back-trace, nothing of the machinery.
fn assert_one_sentence(said: &str) {
    let lines: Vec<&str> = said.lines().filter(|line| line.starts_with("gateway: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(!said.contains("panicked") && !said.contains("stack backtrace"), "{said}");
    assert!(lines[0].len() < 400, "{said}");
}
