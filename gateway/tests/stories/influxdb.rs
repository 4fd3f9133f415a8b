//! Real stores: InfluxDB 1 behind a TLS proxy that speaks the write call of version 2, and
//! VictoriaMetrics.

use super::support::{
    Gateway, Home,
    device::{Device, one_reading},
    eventually,
    servers::{Influx, VictoriaMetrics},
};
use proto::{BatchEncoder, RawValue};

const TIME_MS: i64 = 1_760_000_000_000;

fn config(influx: &Influx, more: &str) -> String {
    format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\nbatch_delay = \"50ms\"\n\
         {more}",
        influx.url(),
        influx.ca().display(),
    )
}

#[tokio::test]
async fn three_poisoned_points_of_5000_are_quarantined_and_stored_when_the_store_is_mended() {
    let influx = Influx::start(&["telemetry"]);
    let home = Home::new();
    // With the guard they would not come as far as the store.
    let gateway = home.start_with(&config(&influx, "[types]\nguard = false\n"));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    device.send(&one_reading(1, TIME_MS, &[("value", RawValue::Float(0.5))])).await;
    eventually("the type of the field is settled", || {
        influx.count("telemetry", "value", "test") == 1
    });

    let poisoned = [17, 2_500, 4_999];
    let mut encoder = BatchEncoder::new();
    let mut readings = encoder.readings(2, 5_000);
    for n in 0..5_000 {
        let value = if poisoned.contains(&n) { RawValue::Str("x") } else { RawValue::Float(1.5) };
        readings = readings.reading(None, Some(TIME_MS + 1 + n), &[], &[("value", value)]);
    }
    device.send(encoder.finish()).await;
    device.send(&one_reading(3, TIME_MS + 9_000, &[("value", RawValue::Float(2.5))])).await;
    device.acked(3).await;
    eventually("everything that can be is stored", || {
        influx.count("telemetry", "value", "test") == 1 + 4_997 + 1
    });
    eventually("the ledger says so", || {
        gateway.metric("gateway_sink_stored_readings_total", "influx") == 4_999.0
            && gateway.metric("gateway_sink_quarantined_readings_total", "influx") == 3.0
    });
    let refused = home.refused("influx");
    let indices: Vec<i64> = refused.iter().map(|of| of["index"].as_i64().unwrap()).collect();
    assert_eq!(indices, poisoned);
    for of in &refused {
        let reason = of["reason"].as_str().unwrap();
        assert!(reason.contains("field type conflict: input field \"value\""), "{reason}");
        assert_eq!((of["device"].as_str(), of["fields"]["value"].as_str()), (Some("d"), Some("x")));
    }
    eventually("the embedded store holds all of them", || home.count("d") == 5_002);

    // The store is as it was: it says the same again.
    let replayed = home.quarantine(&["replay", "--sink", "influx"]);
    assert_eq!(replayed, (0, "0 readings stored, 3 refused again\n".to_owned()));
    assert_eq!(home.refused("influx").len(), 3);
    let ledger = ledger(&gateway, "influx");
    assert_eq!((&ledger["stored"], &ledger["quarantined"]), (&4_999.into(), &3.into()));
    let (status, page) = gateway.get("/api/v1/quarantine?sink=influx&device=d&limit=2");
    let page: serde_json::Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, page["entries"].as_array().map(Vec::len)), (200, Some(2)));
    assert_eq!(page["entries"][1]["index"], 2_500);
    let (_, of_device) = gateway.get("/api/v1/ledger/device?id=d");
    let of_device: serde_json::Value = serde_json::from_str(&of_device).unwrap();
    let of_influx = of_device["sinks"].as_array().unwrap().iter().find(|of| of["name"] == "influx");
    let of_influx = of_influx.unwrap();
    assert_eq!((&of_influx["quarantined"], &of_influx["stored"]), (&3.into(), &4_999.into()));

    influx.query("telemetry", "DROP MEASUREMENT test");
    let replayed = home.quarantine(&["replay"]);
    assert_eq!(replayed, (0, "3 readings stored, 0 refused again\n".to_owned()));
    let rows = influx.query("telemetry", "SELECT value, device FROM test");
    let texts = poisoned.map(|n| serde_json::json!([(TIME_MS + 1 + n) * 1_000_000, "x", "d"]));
    assert_eq!(rows.into_iter().map(Into::into).collect::<Vec<serde_json::Value>>(), texts);
    assert_eq!(home.refused("influx"), Vec::<serde_json::Value>::new());
    let is_settled = |gateway: &Gateway| {
        let ledger = self::ledger(gateway, "influx");
        assert_eq!((&ledger["stored"], &ledger["quarantined"]), (&5_002.into(), &0.into()));
        eventually("the metrics say so", || {
            gateway.metric("gateway_sink_stored_readings_total", "influx") == 5_002.0
                && gateway.metric("gateway_quarantine_readings", "influx") == 0.0
        });
        assert_eq!(gateway.metric("gateway_ledger_imbalance_readings", ""), 0.0);
    };
    is_settled(&gateway);
    gateway.kill();
    is_settled(&home.start_with(&config(&influx, "[types]\nguard = false\n")));
}

/// The sink's part of the ledger, which balances.
fn ledger(gateway: &Gateway, sink: &str) -> serde_json::Value {
    let (status, text) = gateway.get("/api/v1/ledger");
    let ledger: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &ledger["balanced"]), (200, &true.into()), "{ledger:#}");
    ledger["sinks"].as_array().unwrap().iter().find(|of| of["name"] == sink).unwrap().clone()
}

#[tokio::test]
async fn what_a_device_says_reaches_influxdb_as_it_is() {
    let influx = Influx::start(&["telemetry-default"]);
    let home = Home::new();
    let more = "bucket = \"telemetry-{realm}\"\ngzip = true\n";
    let gateway = home.start_with(&config(&influx, more));
    let mut device = Device::connect(&home, &gateway, "site/7=a").await;
    device.hello_stream(1).await;
    let mut encoder = BatchEncoder::new();
    let fields = [
        ("f, 1=", RawValue::Float(0.1 + 0.2)),
        ("b", RawValue::Bool(true)),
        ("s", RawValue::Str("a \"b\" \\ \n, c=d é")),
        ("n", RawValue::Int(-7)),
        ("huge", RawValue::Float(-1.7e308)),
    ];
    let tags = [("t, =", "v, =\"x\""), ("a", "\\b")];
    encoder.readings(1, 1).reading(Some("m, =\""), Some(TIME_MS), &tags, &fields);
    device.send(encoder.finish()).await;
    device.acked(1).await;
    let query = "SELECT \"f, 1=\",b,s,n,huge,device,\"t, =\",a FROM \"m, =\\\"\"";
    let mut rows = Vec::new();
    // While it stores a point, InfluxDB shows some of its fields.
    eventually("it is stored", || {
        rows = influx.query("telemetry-default", query);
        rows.first().is_some_and(|row| row.iter().all(|value| !value.is_null()))
    });
    let expected = serde_json::json!([
        TIME_MS * 1_000_000,
        0.1 + 0.2,
        true,
        "a \"b\" \\ \n, c=d é",
        -7,
        -1.7e308,
        "site/7=a",
        "v, =\"x\"",
        "\\b"
    ]);
    assert_eq!(serde_json::Value::from(rows.remove(0)), expected);
}

#[tokio::test]
async fn a_store_that_dies_in_the_middle_gets_the_rest_later() {
    let mut influx = Influx::start(&["telemetry"]);
    let home = Home::new();
    let gateway = home.start_with(&config(&influx, ""));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    for seq in 1..=600 {
        match seq {
            200 => influx.down(),
            400 => influx.up(),
            _ => {}
        }
        device.send_value(seq).await;
        device.acked(seq).await;
    }
    eventually("the other sink has everything", || home.count("d") == 600);
    eventually("nothing is lost", || influx.count("telemetry", "value", "test") == 600);
    assert!(home.refused("influx").is_empty());
}

#[tokio::test]
async fn a_proxy_with_a_small_limit_is_no_obstacle() {
    let influx = Influx::with_limit("16k", &["telemetry"]);
    let home = Home::new();
    let gateway = home.start_with(&config(&influx, ""));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let mut encoder = BatchEncoder::new();
    let mut readings = encoder.readings(1, 5_000);
    for n in 0..5_000 {
        readings =
            readings.reading(None, Some(TIME_MS + n), &[], &[("value", RawValue::Float(0.5))]);
    }
    device.send(encoder.finish()).await;
    device.acked(1).await;
    eventually("all of it is stored", || influx.count("telemetry", "value", "test") == 5_000);
}

#[tokio::test]
async fn victoriametrics_gets_what_it_can_hold() {
    let store = VictoriaMetrics::start();
    let home = Home::new();
    let config = format!(
        "[sinks.vm]\ntype = \"influxdb\"\nurl = \"{}\"\ndialect = \"victoriametrics\"\n\
         batch_delay = \"50ms\"\n",
        store.url()
    );
    let gateway = home.start_with(&config);
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let mut encoder = BatchEncoder::new();
    let tags = [("t, =", "a\\\\b\\")];
    let number = [("value", RawValue::Float(1.25)), ("on", RawValue::Bool(true))];
    let text = [("text", RawValue::Str("x"))];
    let both = [("value", RawValue::Float(2.5)), ("text", RawValue::Str("x"))];
    let readings = encoder.readings(1, 3);
    let readings = readings.reading(None, Some(TIME_MS), &tags, &number);
    let readings = readings.reading(None, Some(TIME_MS + 1), &tags, &text);
    readings.reading(None, Some(TIME_MS + 2), &tags, &both);
    device.send(encoder.finish()).await;
    device.acked(1).await;
    let mut series = Vec::new();
    eventually("it is stored", || {
        series = store.export("test_value");
        !series.is_empty()
    });
    assert_eq!(series.len(), 1);
    assert_eq!(series[0]["metric"]["device"], "d");
    assert_eq!(series[0]["metric"]["t, ="], "a\\\\b\\", "{series:?}");
    assert_eq!(series[0]["values"], serde_json::json!([1.25, 2.5]));
    assert_eq!(series[0]["timestamps"], serde_json::json!([TIME_MS, TIME_MS + 2]));
    assert_eq!(store.export("test_on")[0]["values"], serde_json::json!([1]));
    assert!(store.export("test_text").is_empty(), "a text stored as 0");
    eventually("the ledger says what is missing", || {
        gateway.metric("gateway_sink_stored_readings_total", "sink=\"vm\"") == 2.0
            && gateway.metric("gateway_sink_dropped_readings_total", "unsupported") == 1.0
    });
}
