//! The search for the highest load that meets a service level, against a real gateway.

use super::support::{Gateway, Home, run_to_end, sibling};
use serde_json::Value;
use std::process::Command;

/// A device brings 10 readings a second.
fn certify(home: &Home, gateway: &Gateway, slo: &str) -> Command {
    let mut certify = Command::new(sibling("device-sim"));
    certify.args(["certify", "--url", &gateway.url, "--slo", slo, "--step", "1s"]);
    certify.arg("--ca").arg(home.ca()).arg("--token-key").arg(home.token_key());
    certify.args(["--interval", "200ms", "--batch", "2", "--precision", "0.2"]);
    certify.arg("--report").arg(home.path().join("certify.json"));
    certify.arg("--page").arg(home.path().join("certify.txt"));
    certify
}

fn result(home: &Home) -> (Value, String) {
    let read = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
    (serde_json::from_str(&read("certify.json")).unwrap(), read("certify.txt"))
}

/// The level here is one whose limit is known: so many connections.
#[test]
fn the_highest_load_is_found() {
    let home = Home::new();
    let gateway = home.start();
    let slo = "connections<=25,acked_ratio==1,lost==0,kib_per_connection>0";
    let mut search = certify(&home, &gateway, slo);
    search.arg("--store").arg(home.store()).args(["--gateway-pid", &gateway.id().to_string()]);
    search.args(["--from", "100", "--up-to", "1000", "--expect", "readings_per_s>=200"]);
    let (code, said) = run_to_end(search);
    assert_eq!(code, 0, "{said}");
    let (found, page) = result(&home);
    let steps = found["steps"].as_array().unwrap();
    let devices: Vec<u64> = steps.iter().map(|step| step["devices"].as_u64().unwrap()).collect();
    assert_eq!(devices, [10, 20, 40, 30, 25], "{said}");
    assert_eq!((&found["devices"], &found["readings_per_s"]), (&25.into(), &250.0.into()));
    assert_eq!(found["failed_at"]["readings_per_s"], 300.0);
    assert_eq!(found["failed_at"]["why"], "expected connections<=25, found 30");
    for step in steps {
        assert_eq!(step["lost"], 0, "{step:#}");
        assert!(step["acked"].as_u64().unwrap() >= step["devices"].as_u64().unwrap() * 10);
        for figure in ["cpu_cores", "simulator_cores", "kib_per_connection"] {
            assert!(step[figure].is_f64(), "{figure}: {step:#}");
        }
        assert!(step["ack_latency_ms"]["p999"].is_f64(), "{step:#}");
    }
    for shown in
        ["readings a second      250", "devices                25", "found 30", "every step"]
    {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(said.contains(&page) && said.contains("as expected: readings_per_s>=200"), "{said}");
    assert!(!home.path().join("certify.journal").exists(), "nothing is left behind");
}

#[test]
fn a_level_that_nothing_meets_is_said_so() {
    let home = Home::new();
    let gateway = home.start();
    let mut search = certify(&home, &gateway, "connections<1");
    search.args(["--vary", "interval", "--devices", "3", "--from", "2", "--up-to", "50"]);
    let (code, said) = run_to_end(search);
    assert_eq!(code, 1, "{said}");
    let (found, page) = result(&home);
    assert_eq!((&found["held"], &found["readings_per_s"]), (&false.into(), &Value::Null));
    let rates = found["steps"].as_array().unwrap().iter().map(|step| &step["readings_per_s"]);
    assert_eq!(rates.collect::<Vec<_>>(), [2.0, 1.0], "{said}");
    assert!(page.contains("not met at all"), "{page}");

    let (code, said) = run_to_end(certify(&home, &gateway, "ack_p99_ms<100,lost==0"));
    assert!(code == 2 && said.contains("lost==0 needs --store"), "{code} {said}");
}
