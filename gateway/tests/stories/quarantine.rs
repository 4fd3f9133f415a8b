//! What a store refuses is kept once, whatever happens, and leaves only when somebody says so.

use super::support::{
    Gateway, Home,
    device::Device,
    eventually,
    scripted::{Answer, Scripted},
};
use proto::{BatchEncoder, RawValue};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Instant,
};

const TIME_MS: i64 = 1_760_000_000_000;
/// Readings of a batch, and how many of them are texts.
const BATCH: (u32, usize) = (10, 2);

fn config(store: &Scripted, more: &str) -> String {
    format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nbatch_delay = \"20ms\"\n\
         batch_readings = {}\n[types]\nguard = false\n{more}\n",
        store.url(),
        BATCH.0,
    )
}

/// A batch of which the last readings are texts.
fn batch(seq: u64) -> Vec<u8> {
    let mut encoder = BatchEncoder::new();
    let mut readings = encoder.readings(seq, BATCH.0);
    for n in 0..BATCH.0 {
        let value = match (n as usize) + BATCH.1 < BATCH.0 as usize {
            true => RawValue::Float(0.5),
            false => RawValue::Str("x"),
        };
        let time = TIME_MS + i64::try_from(seq).unwrap() * 1_000 + i64::from(n);
        readings = readings.reading(None, Some(time), &[], &[("value", value)]);
    }
    encoder.finish().to_vec()
}

/// Stores numbers; names the lines with texts, as InfluxDB 3 does.
fn refuse_texts(store: &Scripted) {
    store.rule(|lines| {
        let (bad, good): (Vec<_>, Vec<_>) =
            (1..).zip(lines.lines()).partition(|(_, line)| line.contains('"'));
        if bad.is_empty() {
            return Answer::Store;
        }
        let named = |(number, line): &(u32, &str)| {
            serde_json::json!({
                "original_line": line, "line_number": number,
                "error_message": "invalid column type for column 'value'",
            })
        };
        let body = serde_json::json!({
            "error": "partial write of line protocol occurred",
            "data": bad.iter().map(named).collect::<Vec<_>>(),
        });
        let good = good.into_iter().map(|(_, line)| line.to_owned()).collect();
        Answer::Partial(good, 400, body.to_string())
    });
}

async fn send(home: &Home, gateway: &Gateway, id: &str, batches: u64) {
    let mut device = Device::connect(home, gateway, id).await;
    device.hello_stream(1).await;
    for seq in 1..=batches {
        device.send(&batch(seq)).await;
    }
    device.acked(batches).await;
}

/// Stored and quarantined by the ledger, which balances, once nothing is pending.
fn settled(gateway: &Gateway) -> (u64, u64) {
    let mut found = Value::Null;
    eventually("nothing is pending", || {
        let (status, text) = gateway.get("/api/v1/ledger");
        let ledger: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((status, &ledger["balanced"]), (200, &true.into()), "{ledger:#}");
        let sinks = ledger["sinks"].as_array().unwrap();
        found = sinks.iter().find(|of| of["name"] == "influx").unwrap().clone();
        found["pending"] == 0
    });
    (found["stored"].as_u64().unwrap(), found["quarantined"].as_u64().unwrap())
}

fn done(home: &Home, arguments: &[&str]) -> String {
    let (code, said) = home.quarantine(arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

#[tokio::test]
async fn what_is_in_the_quarantine_is_shown_exported_and_dropped_with_and_without_a_gateway() {
    let store = Scripted::start();
    refuse_texts(&store);
    let home = Home::new();
    let gateway = home.start_with(&config(&store, ""));
    send(&home, &gateway, "a/b", 1).await;
    send(&home, &gateway, "c", 2).await;
    assert_eq!(settled(&gateway), (24, 6));
    let listed = done(&home, &["list", "--device", "a/b"]);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert!(lines[1].contains(" a/b ") && lines[1].contains("invalid column type"), "{listed}");
    assert_eq!(done(&home, &["list", "--limit", "4"]).lines().count(), 5);
    let exported = home.refused("influx");
    assert_eq!(exported.len(), 6);
    let first = &exported[0];
    assert_eq!((&first["device"], &first["fields"]["value"]), (&"a/b".into(), &"x".into()));
    assert_eq!(first["time_ns"], (TIME_MS + 1_000 + 8) * 1_000_000);
    let id = first["id"].to_string();
    let shown = done(&home, &["show", &id]);
    assert!(shown.contains("\"invalid column type for column 'value'\""), "{shown}");
    assert!(shown.contains("2025-10-09T08:53:21.008"), "{shown}");

    let (code, said) = home.quarantine(&["drop"]);
    assert!(code == 1 && said.contains("--all for everything"), "{said}");
    assert_eq!(done(&home, &["drop", "--id", &id]), "dropped 1 readings\n");
    let (code, said) = home.quarantine(&["show", &id]);
    assert!(code == 1 && said.contains("there is no reading"), "{said}");
    assert_eq!(settled(&gateway), (24, 5));
    gateway.kill();

    // Nothing of it needs a running gateway but a replay.
    assert_eq!(home.refused("influx").len(), 5);
    let (code, said) = home.quarantine(&["replay"]);
    assert!(code == 1 && said.contains("no gateway answers"), "{said}");
    assert_eq!(done(&home, &["drop", "--device", "c"]), "dropped 4 readings\n");
    let gateway = home.start_with(&config(&store, ""));
    assert_eq!(settled(&gateway), (24, 1));
    eventually("the metrics say so", || {
        gateway.metric("gateway_sink_dropped_readings_total", "operator") == 5.0
            && gateway.metric("gateway_quarantine_readings", "influx") == 1.0
    });
    store.rule(|_| Answer::Store);
    assert_eq!(done(&home, &["replay"]), "1 readings stored, 0 refused again\n");
    assert_eq!(settled(&gateway), (25, 0));
}

/// The store is away, full quarantine or not: what waits for a person loses nothing.
#[tokio::test]
async fn a_full_quarantine_holds_its_sink_up_until_there_is_room_and_nobody_else() {
    let store = Scripted::start();
    refuse_texts(&store);
    let home = Home::new();
    let gateway = home.start_with(&config(&store, "[quarantine]\nmax_bytes = \"64KiB\""));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let mut encoder = BatchEncoder::new();
    let mut readings = encoder.readings(1, 400);
    for n in 0..400 {
        readings = readings.reading(None, Some(TIME_MS + n), &[], &[("value", RawValue::Str("x"))]);
    }
    device.send(encoder.finish()).await;
    device.send(&batch(2)).await;
    device.acked(2).await;
    eventually("the other sink has all of it", || home.count("d") == 410);
    eventually("the sink waits", || gateway.metric("gateway_sink_up", "influx") == 0.0);
    assert_eq!(home.refused("influx").len(), 0, "nothing of a batch is kept by halves");
    gateway.says(&["the quarantine is full", "max_bytes"]);
    gateway.kill();

    let gateway = home.start_with(&config(&store, "[quarantine]\nmax_bytes = \"1MiB\""));
    assert_eq!(settled(&gateway), (8, 402));
    assert_eq!(home.refused("influx").len(), 402);
    gateway.kill();

    // The older ones give way, and are counted.
    let drop_oldest = "[quarantine]\nmax_bytes = \"64KiB\"\nwhen_full = \"drop_oldest\"";
    let gateway = home.start_with(&config(&store, drop_oldest));
    send(&home, &gateway, "e", 1).await;
    let (stored, left) = settled(&gateway);
    assert_eq!(stored, 16);
    assert!((100..300).contains(&left), "{left}");
    let kept = home.refused("influx");
    assert_eq!(kept.len() as u64, left);
    assert_eq!(kept.last().unwrap()["device"], "e", "the newest are there");
    let (bytes, limit) = ("gateway_quarantine_bytes", "gateway_quarantine_limit_bytes");
    assert_eq!(gateway.metric(limit, ""), 65_536.0);
    assert!((32_000.0..=65_536.0).contains(&gateway.metric(bytes, "")), "how full it is");
    eventually("the metrics say so", || {
        let dropped = gateway.metric("gateway_sink_dropped_readings_total", "quarantine_full");
        dropped == 404.0 - f64::from(u32::try_from(left).unwrap())
    });
}

/// Files that earlier builds wrote instead.
#[tokio::test]
async fn what_an_earlier_build_had_set_aside_is_taken_over() {
    let store = Scripted::start();
    let home = Home::new();
    home.start_with(&config(&store, "")).stop();
    let file = home.data().join("sinks").join("influx.refused.jsonl");
    let line = r#"{"position":3,"index":1,"reason":"conflict","realm":"default","device":"d","measurement":"m","time_ns":1760000000000000000,"tags":{"t":"v"},"fields":{"b":true,"i":7.0,"s":"x","x":0.30000000000000004,"w":5.0}}"#;
    fs::write(&file, format!("{line}\n{{\"position\":4,\n")).unwrap();
    let gateway = home.start_with(&config(&store, ""));
    let exported = home.refused("influx");
    assert_eq!(exported.len(), 1);
    let mut as_before: Value = serde_json::from_str(line).unwrap();
    as_before.as_object_mut().unwrap().retain(|name, of| exported[0][name] != *of);
    assert_eq!(as_before, serde_json::json!({}), "differs from {}", exported[0]);
    assert!(!file.exists());
    let taken = fs::read_to_string(file.with_extension("jsonl.taken")).unwrap();
    assert!(taken.contains("{\"position\":4,"), "what cannot be read is not lost: {taken}");
    assert_eq!(done(&home, &["replay"]), "1 readings stored, 0 refused again\n");
    let line =
        "m,device=d,t=v b=true,i=7.0,s=\"x\",w=5.0,x=0.30000000000000004 1760000000000000000";
    assert!(store.stored().contains(line), "{:?}", store.stored());
    assert_eq!(settled(&gateway), (0, 0), "no ledger had counted it");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        let to = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The gateway under strace, killed at call number `at` of some thread to a file. True if it was,
/// false if everything was forwarded before.
fn is_killed(home: &Home, config: &str, calls: &str, file: &str, at: u32) -> bool {
    let gateway = home.command("run", config);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(home.data().join(file));
    command.args(["-e", &format!("trace={calls}"), "-e"]);
    command.arg(format!("inject={calls}:signal=SIGKILL:when={at}"));
    command.arg(gateway.get_program()).args(gateway.get_args());
    for (name, value) in gateway.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut strace: Child = command.spawn().unwrap_or_else(|error| {
        panic!("strace: {error}; run `make test-tools`, or install strace")
    });
    let begun = Instant::now();
    let cursor = home.data().join("sinks").join("influx.cursor");
    loop {
        if let Some(status) = strace.try_wait().unwrap() {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(status.signal().or(status.code().map(|code| code - 128)), Some(9));
            return true;
        }
        // The first line is JSON.
        let is_through = fs::read_to_string(&cursor).is_ok_and(|text| {
            let content = text.lines().next().and_then(|line| serde_json::from_str(line).ok());
            content.is_some_and(|of: Value| of["ledger"]["accepted_total"] == 30)
        });
        if is_through {
            let id = strace.id();
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
            for child in children.split_whitespace() {
                let child = rustix::process::Pid::from_raw(child.parse().unwrap()).unwrap();
                rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
            }
            strace.wait().unwrap();
            return false;
        }
        assert!(begun.elapsed() < super::support::PATIENCE, "neither killed nor through");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Each write, sync and rename by which a refused reading and the cursor become durable may be the
/// last one.
#[tokio::test]
async fn kill_9_in_the_middle_of_quarantining_doubles_nothing_and_loses_nothing() {
    let away = Scripted::start();
    away.rule(|_| Answer::Refuse(503, "", "away".to_owned()));
    let base = Home::new();
    let gateway = base.start_with(&config(&away, ""));
    send(&base, &gateway, "d", 3).await;
    gateway.kill();
    let sites = [
        ("pwrite64,write", "quarantine.db-wal"),
        ("fsync,fdatasync", "quarantine.db-wal"),
        ("write", "sinks/influx.tmp"),
        ("fsync", "sinks/influx.tmp"),
        ("rename", "sinks/influx.tmp"),
    ];
    let mut killed = 0;
    for (calls, file) in sites {
        for at in [1, 2, 3, 5, 8] {
            let home = Home::new();
            copy(&base.data(), &home.data());
            let store = Scripted::start();
            refuse_texts(&store);
            let config = config(&store, "");
            if !is_killed(&home, &config, calls, file, at) {
                assert!(at > 1, "{calls} was never called on {file}");
                break;
            }
            killed += 1;
            let gateway = home.start_with(&config);
            let site = format!("killed at {calls} {at} of {file}");
            assert_eq!(settled(&gateway), (24, 6), "{site}");
            let kept = home.refused("influx");
            let keys: BTreeSet<_> =
                kept.iter().map(|of| (of["position"].as_u64(), of["index"].as_u64())).collect();
            assert_eq!((kept.len(), keys.len()), (6, 6), "{site}");
            assert_eq!(store.stored().len(), 24, "{site}");
            store.rule(|_| Answer::Store);
            assert_eq!(done(&home, &["replay"]), "6 readings stored, 0 refused again\n", "{site}");
            assert_eq!(settled(&gateway), (30, 0), "{site}");
            assert_eq!(store.stored().len(), 30, "{site}");
        }
    }
    println!("killed {killed} times");
}
