//! The dashboards ask only for metrics that the gateway has.

use super::support::Home;
use std::{collections::BTreeSet, fs, path::Path};

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

#[test]
fn every_metric_of_the_dashboards_exists() {
    let home = Home::new();
    let gateway = home.start();
    let (_, exposed) = gateway.get("/metrics");
    let types = exposed.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let known: BTreeSet<String> =
        types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(known.len() > 20, "{exposed}");
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
