//! Clients that this project did not write connect with a dozen lines.

use super::support::{
    Home, eventually,
    mosquitto::{Mosquitto, PASSWORD},
    run_to_end,
};
use rusqlite::types::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn run_example(mut command: Command, home: &Home, url: &str, device: &str) {
    command.arg(url).arg("--ca").arg(home.ca()).args([
        "--token",
        &home.token(device),
        "--values",
        "21,21.5,-3",
    ]);
    let (code, said) = run_to_end(command);
    assert_eq!(code, 0, "{said}");
    three_floats_are_stored(home, device);
}

fn three_floats_are_stored(home: &Home, device: &str) {
    eventually("three values are stored", || home.count(device) == 3);
    let rows = home.rows(device);
    let values: Vec<Value> = rows.iter().map(|row| row.value.clone()).collect();
    assert_eq!(values, [21.0, 21.5, -3.0].map(Value::Real), "one float field");
    assert!(rows.iter().all(|row| row.field == "temperature"));
    let series: i64 = home
        .open_store()
        .query_row("SELECT count(*) FROM series WHERE device = ?1", [device], |row| row.get(0))
        .unwrap();
    assert_eq!(series, 1, "21, 21.5 and -3 are one series");
}

#[test]
fn python_with_websockets_and_msgpack() {
    let python = root().join("target/test-tools/python/bin/python");
    assert!(python.exists(), "no Python with websockets and msgpack: run `make test-tools`");
    let home = Home::new();
    let gateway = home.start();
    let mut command = Command::new(python);
    command.arg(root().join("proto/examples/device.py"));
    run_example(command, &home, &gateway.url, "python-device");
}

#[test]
fn python_with_paho_by_way_of_a_broker() {
    let python = root().join("target/test-tools/python/bin/python");
    assert!(python.exists(), "no Python with paho-mqtt and msgpack: run `make test-tools`");
    let broker = Mosquitto::start(&["python-device"]);
    let home = Home::new();
    let gateway =
        home.start_with(&format!("[mqtt_source]\nenabled = true\nacks = true\n{}", broker.keys()));
    eventually("the gateway is subscribed", || {
        gateway.metric("gateway_mqtt_source_connected", "") == 1.0
    });
    let mut command = Command::new(python);
    command.arg(root().join("proto/examples/mqtt_device.py")).arg("localhost");
    command.args(["--port", &broker.port().to_string()]).arg("--ca").arg(broker.file("ca.pem"));
    command.args(["--user", "python-device", "--password", PASSWORD, "--values", "21,21.5,-3"]);
    let (code, said) = run_to_end(command);
    assert_eq!(code, 0, "{said}");
    three_floats_are_stored(&home, "python-device");
}

#[test]
fn node_with_ws_and_msgpack() {
    let modules = root().join("proto/examples/node_modules/ws");
    assert!(modules.exists(), "no ws and @msgpack/msgpack: run `make test-tools`");
    let home = Home::new();
    let gateway = home.start();
    let mut command = Command::new("node");
    command.arg(root().join("proto/examples/device.mjs"));
    run_example(command, &home, &gateway.url, "node-device");
}

#[test]
fn the_sqlite3_command_reads_while_the_gateway_writes() {
    let home = Home::new();
    let gateway = home.start();
    let mut fleet = super::fleet::start(&home, &gateway, &["--devices", "5", "--duration", "3s"]);
    eventually("something is stored", || {
        let output = Command::new("sqlite3")
            .arg("-readonly")
            .arg(home.store())
            .arg("SELECT time, device, measurement, field, tags, value FROM readings LIMIT 3")
            .output()
            .expect("sqlite3 is missing: run `make test-tools`");
        output.status.success() && String::from_utf8_lossy(&output.stdout).lines().count() == 3
    });
    assert!(fleet.wait().unwrap().success());
}

#[test]
fn the_readme_shows_the_examples_as_they_are() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for name in ["device.py", "device.mjs"] {
        let example = std::fs::read_to_string(root().join("proto/examples").join(name)).unwrap();
        assert!(readme.contains(example.trim_end()), "README.md shows another {name}");
    }
}
