//! The dashboards and the alert rules ask only for metrics that the gateway has, and the rules fire
//! when they should.

use super::support::Home;
use std::{collections::BTreeSet, fs, path::Path, process::Command};

fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices("gateway_")
        .filter(|(at, _)| !text[..*at].ends_with(is_name))
        .map(|(at, _)| text[at..].chars().take_while(|c| is_name(*c)).collect())
        .collect()
}

fn expressions(value: &serde_json::Value, into: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                match value.as_str() {
                    Some(text) if key == "expr" || key == "definition" => {
                        into.push(text.to_owned())
                    }
                    _ => expressions(value, into),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|v| expressions(v, into)),
        _ => {}
    }
}

/// Names of the metrics that a gateway shows, with every part switched on.
fn known() -> BTreeSet<String> {
    let home = Home::new();
    // Nobody is at that port.
    let gateway = home.start_with("[mqtt_source]\nenabled = true\nurl = \"mqtt://127.0.0.1:1\"\n");
    let (_, exposed) = gateway.get("/metrics");
    let types = exposed.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let known: BTreeSet<String> =
        types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(known.len() > 20, "{exposed}");
    let build = format!("gateway_build_info{{version=\"{}\"}} 1\n", env!("CARGO_PKG_VERSION"));
    assert!(exposed.contains(&build), "{exposed}");
    known
}

#[test]
fn the_alert_rules_are_right_by_prometheus_own_judgement() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards");
    let known = known();
    let rules = fs::read_to_string(folder.join("alerts.yaml")).unwrap();
    let asked = metrics_in(&rules);
    assert!(asked.len() >= 5, "{asked:?}");
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?} do not exist");
    for (kind, file) in [("check", "alerts.yaml"), ("test", "alerts.test.yaml")] {
        let mut promtool = Command::new("promtool");
        promtool.args([kind, "rules", file]).current_dir(&folder);
        let output = promtool.output().unwrap_or_else(|error| {
            panic!("promtool: {error}; run `make test-tools`, or install prometheus")
        });
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("SUCCESS"), "{said}");
    }
    let tests = fs::read_to_string(folder.join("alerts.test.yaml")).unwrap();
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is not shown to fire");
    }
}

#[test]
fn every_metric_of_the_dashboards_exists() {
    let known = known();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards");
    let mut asked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let dashboard = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        expressions(&dashboard, &mut found);
        for expression in found {
            for metric in metrics_in(&expression) {
                let base = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| metric.strip_suffix(suffix))
                    .filter(|base| known.contains(*base));
                let exists = known.contains(&metric) || base.is_some();
                assert!(exists, "{}: {metric} does not exist", path.display());
                asked += 1;
            }
        }
    }
    assert!(asked > 15, "the dashboards ask for {asked} metrics only");
}
