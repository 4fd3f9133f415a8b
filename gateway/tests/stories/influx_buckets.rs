//! Buckets that the gateway makes, at a store that speaks InfluxDB 2's documented calls.

use super::{
    influx_sink::{batch, options},
    support::{
        Home,
        device::Device,
        eventually,
        scripted::{Answer, Scripted, Seen},
        servers::TlsFront,
    },
};
use gateway::sink::{
    Sink, SinkError,
    influxdb::{InfluxDb, Keep, Token},
};
use proto::RawValue;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

const JSON: &str = "Content-Type: application/json; charset=utf-8\r\n";
const ORG_ID: &str = "bb0d9e0a0c8f4c3d";

/// InfluxDB 2 as far as its documentation says.
#[derive(Default)]
struct Influx2 {
    /// Names and what they were made with.
    buckets: Vec<(String, Value)>,
    /// Answers to calls in place of the usual ones, by method and path.
    troubles: HashMap<&'static str, (u16, &'static str)>,
}

type Shared = Arc<Mutex<Influx2>>;

fn serve(store: &Scripted, org: &'static str) -> Shared {
    let state = Shared::default();
    let shared = Arc::clone(&state);
    store.rule_of(move |seen, _| answer(&mut shared.lock().unwrap(), org, seen));
    state
}

fn answer(state: &mut Influx2, org: &str, seen: &Seen) -> Answer {
    let say = |status, body: Value| Answer::Refuse(status, JSON, body.to_string());
    let missing = |what: &str| say(404, json!({ "code": "not found", "message": what }));
    let (method, target) = {
        let mut words = seen.head.split(' ');
        (words.next().unwrap(), words.next().unwrap())
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: HashMap<String, String> =
        form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    if !seen.head.to_lowercase().contains("authorization: token secret\r\n") {
        return say(401, json!({ "code": "unauthorized", "message": "unauthorized access" }));
    }
    let call = format!("{method} {path}");
    if let Some((status, body)) = state.troubles.get(call.as_str()) {
        return Answer::Refuse(*status, JSON, (*body).to_owned());
    }
    match call.as_str() {
        "GET /health" => say(
            200,
            json!({
                "name": "influxdb", "message": "ready for queries and writes", "status": "pass",
                "checks": [], "version": "v2.7.4", "commit": "19e5c0e1b7"
            }),
        ),
        "GET /api/v2/orgs" if query.get("org").is_some_and(|of| of == org) => say(
            200,
            json!({
                "links": { "self": "/api/v2/orgs" },
                "orgs": [{
                    "links": { "self": format!("/api/v2/orgs/{ORG_ID}") },
                    "id": ORG_ID, "name": org, "description": "",
                    "createdAt": "2024-01-01T00:00:00Z", "updatedAt": "2024-01-01T00:00:00Z",
                }],
            }),
        ),
        "GET /api/v2/orgs" => missing("organization name not found"),
        "GET /api/v2/buckets" => {
            assert_eq!(query["org"], org);
            let of_name = state.buckets.iter().filter(|(name, _)| *name == query["name"]);
            let found: Vec<_> = of_name
                .map(|(name, _)| {
                    json!({
                        "id": "b1a3c5", "orgID": ORG_ID, "type": "user", "name": name,
                        "retentionRules": [{
                            "type": "expire", "everySeconds": 0,
                            "shardGroupDurationSeconds": 604_800,
                        }],
                        "createdAt": "2024-01-01T00:00:00Z", "labels": [],
                        "links": { "self": "/api/v2/buckets/b1a3c5", "write": "/api/v2/write" },
                    })
                })
                .collect();
            say(200, json!({ "links": { "self": "/api/v2/buckets" }, "buckets": found }))
        }
        "POST /api/v2/buckets" => {
            let asked: Value = serde_json::from_slice(&seen.body).unwrap();
            assert_eq!(asked["orgID"], ORG_ID);
            let name = asked["name"].as_str().unwrap().to_owned();
            state.buckets.push((name, asked.clone()));
            say(201, json!({ "id": "b1a3c5", "name": asked["name"] }))
        }
        "POST /api/v2/write" => {
            let known = state.buckets.iter().any(|(name, _)| *name == query["bucket"]);
            match known && query["org"] == org {
                true => Answer::Store,
                false => missing(&format!("bucket {:?} not found", query["bucket"])),
            }
        }
        other => panic!("an unknown call: {other}"),
    }
}

fn calls(store: &Scripted, call: &str) -> usize {
    store.seen().iter().filter(|seen| seen.head.starts_with(call)).count()
}

/// Over TLS, with a CA of its own: the writes and the calls about buckets take the same way.
#[tokio::test]
async fn a_bucket_that_is_missing_is_made_for_each_realm_with_its_retention() {
    let store = Scripted::start();
    let influx = serve(&store, "a b&c");
    let front = TlsFront::start(store.port());
    let home = Home::new();
    let token = home.path().join("store-token");
    std::fs::write(&token, "secret\n").unwrap();
    let gateway = home.start_with(&format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\nca_file = {:?}\norg = \"a b&c\"\n\
         bucket = \"fleet-{{realm}}\"\ntoken_file = {token:?}\ncreate_bucket = true\n\
         bucket_keep_for = \"30d\"\nbatch_delay = \"20ms\"\n",
        front.url(),
        front.ca(),
    ));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    for seq in 1..=5 {
        device.send_value(seq).await;
        device.acked(seq).await;
    }
    eventually("all of it is stored", || store.stored().len() == 5);
    let made = influx.lock().unwrap().buckets.clone();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(made[0].0, "fleet-default");
    let rules = json!([{ "type": "expire", "everySeconds": 30 * 86_400 }]);
    assert_eq!(made[0].1["retentionRules"], rules);
    assert_eq!(calls(&store, "POST /api/v2/buckets"), 1);
    let said = gateway.says(&["made the bucket"]);
    assert!(!said.contains("secret"), "{said}");

    // It is deleted: made again when a write misses it.
    influx.lock().unwrap().buckets.clear();
    device.send_value(6).await;
    eventually("it is stored", || store.stored().len() == 6);
    assert_eq!(calls(&store, "POST /api/v2/buckets"), 2);
}

#[tokio::test]
async fn whatever_stands_in_the_way_of_a_bucket_is_said_and_loses_nothing() {
    enum Is {
        Stored,
        Waiting(&'static str),
        ForAPerson(&'static str),
    }
    let fails = r#"{"name":"influxdb","message":"boltdb is away","status":"fail","checks":[]}"#;
    let forbidden = r#"{"code":"forbidden","message":"insufficient permissions for write"}"#;
    let exists = r#"{"code":"conflict","message":"bucket with name telemetry already exists"}"#;
    let unavailable = r#"{"code":"unavailable","message":"try later"}"#;
    let cases = [
        ("GET /health", (503, fails), Is::Waiting("boltdb is away")),
        ("GET /health", (404, "not here"), Is::Stored),
        ("GET /health", (200, "OK"), Is::Stored),
        ("GET /api/v2/orgs", (200, r#"{"orgs":[]}"#), Is::ForAPerson("no organisation \"a b&c\"")),
        ("GET /api/v2/orgs", (401, forbidden), Is::ForAPerson("insufficient permissions")),
        ("GET /api/v2/orgs", (200, "<html>"), Is::ForAPerson("not that of InfluxDB 2")),
        ("GET /api/v2/buckets", (404, "bucket not found"), Is::Stored),
        ("GET /api/v2/buckets", (500, "oh"), Is::Waiting("500")),
        ("POST /api/v2/buckets", (403, forbidden), Is::ForAPerson("insufficient permissions")),
        ("POST /api/v2/buckets", (422, "name is wrong"), Is::ForAPerson("name is wrong")),
        ("POST /api/v2/buckets", (503, unavailable), Is::Waiting("try later")),
        // Made by somebody else between the question and the call.
        ("POST /api/v2/buckets", (422, exists), Is::ForAPerson("not found")),
    ];
    for (call, trouble, expected) in cases {
        let store = Scripted::start();
        let influx = serve(&store, "a b&c");
        influx.lock().unwrap().troubles.insert(call, trouble);
        let mut options = options(&store, Token::Text("secret".to_owned()));
        options.create_bucket = Some(Keep::Forever);
        let sink = InfluxDb::open(options).unwrap();
        let write = || sink.write(batch(&[(1, RawValue::Float(1.0))]));
        match (write().await, &expected) {
            (Ok(()), Is::Stored) => {
                let rules = influx.lock().unwrap().buckets[0].1["retentionRules"].clone();
                assert_eq!(rules, json!([]), "{call}: for ever");
            }
            (Err(error), Is::Waiting(words)) => {
                assert!(matches!(error, SinkError::Retry { .. }), "{call} {error}");
                assert!(error.to_string().contains(words), "{call} {error}");
            }
            (Err(error), Is::ForAPerson(words)) => {
                assert!(matches!(error, SinkError::Blocked { .. }), "{call} {error}");
                let said = error.to_string();
                assert!(said.contains(words) && !said.contains("secret"), "{call} {said}");
            }
            (outcome, _) => panic!("{call} {trouble:?}: {outcome:?}"),
        }
        // As soon as it is right, everything goes.
        influx.lock().unwrap().troubles.clear();
        write().await.unwrap();
        assert_eq!(store.stored().len(), 1);
    }
}

#[tokio::test]
async fn a_store_that_goes_silent_over_a_bucket_is_given_up_in_time() {
    let store = Scripted::start();
    store.rule_of(|seen, _| match seen.head.starts_with("POST /api/v2/write") {
        true => Answer::Refuse(404, "", "no such bucket".to_owned()),
        false => Answer::Hang,
    });
    let mut options = options(&store, Token::Text("secret".to_owned()));
    options.create_bucket = Some(Keep::Forever);
    options.timeout = Duration::from_millis(300);
    let sink = InfluxDb::open(options).unwrap();
    let error = sink.write(batch(&[(1, RawValue::Float(1.0))])).await.unwrap_err();
    assert!(matches!(error, SinkError::Retry { .. }), "{error}");
    assert!(error.to_string().contains("did not answer within"), "{error}");
}
