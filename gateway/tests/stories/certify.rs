//! The search for the highest load that meets a service level, against a real gateway.

use super::support::{
    Home, PATIENCE, run_to_end,
    servers::{Influx, TlsFront, VictoriaMetrics},
    sibling,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A device brings 10 readings a second.
const PACE: [&str; 4] = ["--interval", "200ms", "--batch", "2"];

pub(super) fn certify(home: &Home, url: &str, slo: &str) -> Command {
    let mut certify = Command::new(sibling("device-sim"));
    certify.args(["certify", "--url", url, "--slo", slo, "--step", "1s"]);
    // A disk that many tests share may take long for a sync.
    certify.args(["--drain-timeout", "60s"]);
    certify.arg("--ca").arg(home.ca()).arg("--token-key").arg(home.token_key());
    certify.arg("--report").arg(home.path().join("certify.json"));
    certify.arg("--page").arg(home.path().join("certify.txt"));
    certify
}

pub(super) fn result(home: &Home) -> (Value, String) {
    let read = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
    (serde_json::from_str(&read("certify.json")).unwrap(), read("certify.txt"))
}

/// The level here is one whose limit is known: so many connections.
#[test]
fn the_highest_load_is_found() {
    let home = Home::new();
    let gateway = home.start();
    let slo = "connections<=25,acked_ratio==1,lost==0,kib_per_connection>0";
    let mut search = certify(&home, &gateway.url, slo);
    search.arg("--store").arg(home.store()).args(["--settle", "60s"]);
    search.args(["--gateway-pid", &gateway.id().to_string()]);
    search.args(PACE).args(["--precision", "0.2", "--from", "100", "--up-to", "1000"]);
    search.args(["--expect", "readings_per_s>=200"]);
    let (code, said) = run_to_end(search);
    assert_eq!(code, 0, "{said}");
    let (found, page) = result(&home);
    let steps = found["steps"].as_array().unwrap();
    let devices: Vec<u64> = steps.iter().map(|step| step["devices"].as_u64().unwrap()).collect();
    assert_eq!(devices, [10, 20, 40, 40, 30, 30, 25], "{said}");
    assert_eq!((&found["devices"], &found["readings_per_s"]), (&25.into(), &250.0.into()));
    assert_eq!(found["failed_at"]["readings_per_s"], 300.0);
    let failed_at = &found["failed_at"];
    assert_eq!(failed_at["why"], "expected connections<=25, found 30");
    assert_eq!((&failed_at["tries"], &failed_at["data_lost"]), (&2.into(), &false.into()));
    let tries: Vec<u64> = steps.iter().map(|step| step["nth_try"].as_u64().unwrap()).collect();
    assert_eq!(tries, [1, 1, 1, 2, 1, 2, 1], "{said}");
    for step in steps {
        assert_eq!(step["lost"], 0, "{step:#}");
        assert!(step["acked"].as_u64().unwrap() >= step["devices"].as_u64().unwrap() * 10);
        for figure in ["cpu_cores", "simulator_cores", "other_cores", "kib_per_connection"] {
            assert!(step[figure].is_f64(), "{figure}: {step:#}");
        }
        assert!(step["ack_latency_ms"]["p999"].is_f64(), "{step:#}");
    }
    for shown in [
        "readings a second      250",
        "devices                25",
        "at 300 readings/s, twice: expected connections<=25, found 30",
        "a load fails when it fails twice",
        "every step verified in the embedded store",
        "p99.9 ",
        "100 to 1000 readings/s, by more devices, to 0.2 of it",
        "environment × 1, 2 readings each 200ms",
        "begin with \"certify-\"",
        " 2 failed",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(said.contains(&page) && said.contains("as expected: readings_per_s>=200"), "{said}");
    assert!(!home.path().join("certify.journal").exists(), "nothing is left behind");
}

#[test]
fn a_level_that_nothing_meets_is_said_so() {
    let home = Home::new();
    let gateway = home.start();
    let mut search = certify(&home, &gateway.url, "connections<1");
    search.args(PACE).args([
        "--vary",
        "interval",
        "--devices",
        "3",
        "--from",
        "2",
        "--up-to",
        "50",
    ]);
    let (code, said) = run_to_end(search);
    assert_eq!(code, 1, "{said}");
    let (found, page) = result(&home);
    assert_eq!((&found["held"], &found["readings_per_s"]), (&false.into(), &Value::Null));
    let rates = found["steps"].as_array().unwrap().iter().map(|step| &step["readings_per_s"]);
    assert_eq!(rates.collect::<Vec<_>>(), [2.0, 2.0, 1.0, 1.0], "{said}");
    assert!(page.contains("not met at all"), "{page}");

    let (code, said) = run_to_end(certify(&home, &gateway.url, "ack_p99_ms<100,lost==0"));
    assert!(code == 2 && said.contains("lost==0 needs --store or --influx"), "{code} {said}");
}

/// The first connection breaks in the middle of its run, and nothing else ever goes wrong.
#[test]
fn a_load_that_failed_by_accident_holds_at_its_second_try() {
    let home = Home::new();
    let gateway = home.start();
    let proxy = breaks_once(gateway.port());
    let url = format!("wss://localhost:{proxy}/v1/telemetry");
    let mut search = certify(&home, &url, "reconnects==0");
    search.args(["--from", "250", "--up-to", "250"]);
    search.args(["--interval", "200ms", "--batch", "50"]);
    let (code, said) = run_to_end(search);
    assert_eq!(code, 0, "{said}");
    let (found, page) = result(&home);
    let steps = found["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2, "{said}");
    assert_eq!((&steps[0]["held"], &steps[1]["held"]), (&false.into(), &true.into()));
    assert_eq!(steps[0]["why"], "expected reconnects==0, found 1");
    assert_eq!((&found["held"], &found["failed_at"]), (&true.into(), &Value::Null));
    assert!(page.contains("met at the highest load") && page.contains("2 held"), "{page}");
}

/// Carries connections to a port of this machine; the first one ends after so many bytes.
fn breaks_once(port: u16) -> u16 {
    const BYTES: u64 = 8 << 10;
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (nth, near) in listener.incoming().map_while(Result::ok).enumerate() {
            let far = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let limit = if nth == 0 { BYTES } else { u64::MAX };
            for (from, to, limit) in [(&near, &far, limit), (&far, &near, u64::MAX)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut Read::by_ref(&mut from).take(limit), &mut to);
                    // Both ways: whoever waits on the other one is waked.
                    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                });
            }
        }
    });
    own
}

#[test]
fn lost_data_fails_a_load_at_once() {
    let (home, other) = (Home::new(), Home::new());
    let gateway = home.start();
    // The store of another gateway, which has nothing of it.
    drop(other.start());
    let mut search = certify(&home, &gateway.url, "reconnects<1000");
    search.arg("--store").arg(other.store()).args(["--settle", "0s", "--tries", "10"]);
    search.args(PACE).args(["--from", "20", "--up-to", "40"]);
    let (code, said) = run_to_end(search);
    assert_eq!(code, 1, "{said}");
    let (found, page) = result(&home);
    let steps = found["steps"].as_array().unwrap();
    let devices: Vec<u64> = steps.iter().map(|step| step["devices"].as_u64().unwrap()).collect();
    assert_eq!(devices, [2, 1], "{said}");
    assert_eq!(found["failed_at"]["data_lost"], true);
    let lost = &steps[1]["lost"];
    let why = format!("the store does not hold what was acknowledged: {lost} lost");
    assert_eq!((&steps[1]["acked"], &found["failed_at"]["why"]), (lost, &why.clone().into()));
    assert!(page.contains(&why), "{page}");
}

/// …which need not be the embedded one.
#[test]
fn every_step_is_verified_in_the_store_that_is_named() {
    let (influx, victoria) = (Influx::start(&["telemetry"]), VictoriaMetrics::start());
    let (front, other_front) = (TlsFront::start(influx.port()), TlsFront::start(influx.port()));
    let home = Home::new();
    let gateway = home.start_with(&format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\n\
         [sinks.victoria]\ntype = \"influxdb\"\ndialect = \"victoriametrics\"\nurl = \"{}\"\n",
        influx.url(),
        influx.ca().display(),
        victoria.url(),
    ));
    let in_influx = |front: &TlsFront, bucket: &str| {
        let ca = front.ca().display().to_string();
        ["--influx", &front.url(), "--bucket", bucket, "--store-ca", &ca].map(str::to_owned)
    };
    for (place, shown) in [
        (in_influx(&front, "telemetry").to_vec(), format!("InfluxDB {}", front.url())),
        (vec!["--victoriametrics".to_owned(), victoria.url()], victoria.url()),
    ] {
        let mut search = certify(&home, &gateway.url, "lost==0,altered==0,unexpected==0");
        search.args(&place).args(["--settle", "60s", "--from", "20", "--up-to", "40"]).args(PACE);
        let (code, said) = run_to_end(search);
        assert_eq!(code, 0, "{said}");
        let (found, page) = result(&home);
        let steps = found["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 2, "{said}");
        assert!(steps.iter().all(|step| step["lost"] == 0), "{said}");
        assert!(page.contains(&shown), "{page}");
        assert!(found["settings"]["store"].as_str().unwrap().contains(&shown), "{found:#}");
    }
    // What was stored elsewhere is lost here.
    influx.query("", "CREATE DATABASE other");
    let mut search = certify(&home, &gateway.url, "lost==0");
    search.args(in_influx(&front, "other")).args(["--settle", "0s", "--from", "10"]).args(PACE);
    let (code, said) = run_to_end(search);
    assert!(code == 1 && said.contains("does not hold what was acknowledged"), "{said}");
    // One that cannot be reached is said before anything is played.
    let [influx, url, bucket, name, ca, _] = in_influx(&front, "telemetry");
    let mut search = certify(&home, &gateway.url, "lost==0");
    search.args([influx, url, bucket, name, ca]).arg(other_front.ca());
    let (code, said) = run_to_end(search);
    assert!(code == 1 && said.contains("certificate") && !said.contains("readings/s"), "{said}");
}

/// Between two steps no run is there to listen for a signal.
#[test]
fn an_interrupt_ends_the_search_between_two_steps() {
    let home = Home::new();
    let gateway = home.start();
    let mut search = certify(&home, &gateway.url, "acked_ratio==1");
    // A few batches are due so soon, and the next step has to wait for another interval.
    search.args(["--interval", "40s", "--batch", "2", "--from", "3"]);
    let mut search = search.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    let mut said = BufReader::new(search.stdout.take().unwrap());
    said.read_line(&mut first).unwrap();
    assert!(first.contains("60 devices  held"), "{first}");
    kill_process(Pid::from_child(&search), Signal::INT).unwrap();
    let begun = Instant::now();
    while search.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            search.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let out = search.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&out.stderr), "device-sim: interrupted\n");
    assert!(!home.path().join("certify.journal").exists(), "nothing is left behind");
}
