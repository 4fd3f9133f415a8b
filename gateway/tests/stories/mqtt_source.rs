//! Devices that speak MQTT only: by way of a real broker into the log, checked like all others.

use super::support::{
    Gateway, Home, PATIENCE,
    device::one_reading,
    eventually,
    mosquitto::{Mosquitto, Subscriber, publish_all},
};
use proto::{BatchEncoder, ErrorCode, GatewayMessage, Nack, RawValue};
use std::time::Duration;

const TIME_MS: i64 = 1_760_000_000_000;
const BATCHES: u64 = 200;
const EACH: u64 = 100;

fn config(broker: &Mosquitto, more: &str) -> String {
    format!("[mqtt_source]\nenabled = true\nmeasurement = \"test\"\n{}{more}", broker.keys())
}

fn subscribed(gateway: &Gateway) {
    eventually("the gateway is subscribed", || {
        gateway.metric("gateway_mqtt_source_connected", "") == 1.0
    });
}

fn messages(gateway: &Gateway, outcome: &str) -> f64 {
    gateway.metric("gateway_mqtt_source_messages_total", outcome)
}

fn nack(replies: &Subscriber) -> Nack {
    match GatewayMessage::decode(&replies.next().1).unwrap() {
        GatewayMessage::Nack(nack) => nack,
        other => panic!("expected a nack: {other:?}"),
    }
}

#[test]
fn a_revoked_device_is_refused_over_mqtt_and_its_neighbour_is_not() {
    let broker = Mosquitto::start(&["pump-7", "pump-8"]);
    let replies = broker.subscribe("pump-7", "telemetry/pump-7/reply");
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, "realm = \"field\"\n"));
    subscribed(&gateway);
    // In another realm it is another device.
    for (realm, logged) in [("default", 1.0), ("field", 1.0)] {
        let (code, said) = home.gateway("device", &["revoke", "pump-7", "--realm", realm]);
        assert_eq!(code, 0, "{said}");
        let seq = if realm == "default" { 1 } else { 2 };
        let batch = one_reading(seq, TIME_MS + seq as i64, &[("value", RawValue::Float(1.0))]);
        assert!(broker.publish("pump-7", "telemetry/pump-7", &batch));
        if realm == "field" {
            let refused = nack(&replies);
            assert_eq!((refused.code, refused.refused), (ErrorCode::Revoked, Some(true)));
        }
        eventually("it is logged or not", || messages(&gateway, "logged") == logged);
    }
    let batch = one_reading(1, TIME_MS, &[("value", RawValue::Float(1.0))]);
    assert!(broker.publish("pump-8", "telemetry/pump-8", &batch));
    eventually("the neighbour is logged", || messages(&gateway, "logged") == 2.0);
    eventually("it is stored", || home.count("pump-8") == 1);
    assert_eq!(home.count("pump-7"), 1);
}

#[tokio::test]
async fn a_batch_over_mqtt_is_stored_in_a_realm_of_its_own_and_refusals_are_answered() {
    // The device "press/7"; a user is named as the id stands in the topic.
    let (user, topic) = ("press%2F7", "telemetry/press%2F7");
    let broker = Mosquitto::start(&[user]);
    let replies = broker.subscribe(user, "telemetry/press%2F7/reply");
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, "acks = true\n"));
    subscribed(&gateway);

    let mut encoder = BatchEncoder::new();
    encoder
        .readings(7, 2)
        .reading(None, Some(TIME_MS), &[], &[("value", RawValue::Float(1.5))])
        .reading(None, Some(TIME_MS + 1), &[], &[("value", RawValue::Float(f64::NAN))]);
    let batch = encoder.finish().to_vec();
    assert!(broker.publish(user, topic, &batch));
    let refused = nack(&replies);
    assert_eq!((refused.seq, refused.readings[0].index), (7, 1));
    assert_eq!(refused.readings[0].code, ErrorCode::NotFinite);
    let (reply_topic, reply) = replies.next();
    assert_eq!(reply_topic, "telemetry/press%2F7/reply");
    assert!(
        matches!(GatewayMessage::decode(&reply).unwrap(), GatewayMessage::Ack(a) if a.seq == 7)
    );
    eventually("it is stored", || home.count("press/7") == 1);
    let row = &home.rows("press/7")[0];
    assert_eq!((row.measurement.as_str(), row.time_ns), ("test", TIME_MS * 1_000_000));
    let realm: String =
        home.open_store().query_row("SELECT realm FROM readings", [], |row| row.get(0)).unwrap();
    assert_eq!(realm, "mqtt");

    // The same batch again is recognised by its content, and answered again.
    assert!(broker.publish(user, topic, &batch));
    assert_eq!(nack(&replies), refused);
    replies.next();
    assert_eq!((messages(&gateway, "logged"), messages(&gateway, "duplicate")), (1.0, 1.0));

    // What is no batch is answered once and holds up nobody.
    let too_large = vec![0u8; 300 * 1024];
    for (bytes, code) in
        [(&b"temperature=21.5"[..], ErrorCode::Malformed), (&too_large[..], ErrorCode::TooLarge)]
    {
        assert!(broker.publish(user, topic, bytes));
        let answer = nack(&replies);
        assert_eq!((answer.seq, answer.code, answer.refused), (0, code, Some(true)));
    }
    let value = [("value", RawValue::Float(2.5))];
    assert!(broker.publish(user, topic, &one_reading(8, TIME_MS + 2, &value)));
    replies.next();
    eventually("the next one is stored", || home.count("press/7") == 2);
    assert_eq!(messages(&gateway, "malformed"), 2.0);
    assert_eq!(replies.within(Duration::from_millis(100)), None);

    let (status, _) = gateway.stop();
    assert!(status.success());
}

#[tokio::test]
async fn a_device_cannot_write_as_another_and_no_topic_makes_a_device_of_nothing() {
    let broker = Mosquitto::start(&["one", "two"]);
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, ""));
    subscribed(&gateway);
    let batch = |seq| one_reading(seq, TIME_MS, &[("value", RawValue::Float(1.0))]);
    assert!(!broker.publish("one", "telemetry/two", &batch(1)), "the broker lets it through");
    assert!(!broker.publish("one", "telemetry/two/reply", &batch(1)));
    assert!(broker.publish("one", "telemetry/one", &batch(1)));
    // The reader may publish everywhere: then the gateway itself looks at the topic.
    assert!(broker.publish("reader", "telemetry/a device", &batch(1)));
    eventually("it is passed over", || messages(&gateway, "wrong_topic") == 1.0);
    eventually("the own batch is stored", || home.count("one") == 1);
    assert_eq!(home.count("two"), 0);
    assert_eq!(messages(&gateway, "logged"), 1.0);
}

/// Devices that each publish 200 batches of 100 readings as careful devices do.
fn fleet(broker: &Mosquitto, devices: u64) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..devices {
        let batch = |batch: u64| {
            let mut encoder = BatchEncoder::new();
            let mut readings = encoder.readings(batch + 1, u32::try_from(EACH).unwrap());
            for reading in 0..EACH {
                let time = TIME_MS + i64::try_from(batch * EACH + reading).unwrap();
                readings =
                    readings.reading(None, Some(time), &[], &[("value", RawValue::Float(0.5))]);
            }
            encoder.finish().to_vec()
        };
        let messages = (0..BATCHES).map(batch).collect();
        let seen = broker.as_seen_by(&format!("d{n}"));
        tasks.spawn(publish_all(seen, format!("telemetry/d{n}"), messages));
    }
    tasks
}

/// Every batch is in the log once, however often the broker or its device sent it.
fn taken_once(gateway: &Gateway, devices: u64) {
    let accepted = gateway.metric("gateway_accepted_readings_total", "");
    assert_eq!(accepted, (devices * BATCHES * EACH) as f64, "a batch was taken twice");
    assert_eq!(gateway.metric("gateway_store_overwritten_total", ""), 0.0);
}

async fn all_stored(home: &Home, devices: u64, mut tasks: tokio::task::JoinSet<()>) {
    while let Some(done) = tokio::time::timeout(PATIENCE * 2, tasks.join_next()).await.unwrap() {
        done.unwrap();
    }
    for n in 0..devices {
        eventually("every reading is stored", || home.count(&format!("d{n}")) == BATCHES * EACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_broker_among_100_000_readings_of_devices_loses_none() {
    let users = ["d0", "d1", "d2", "d3", "d4"];
    let mut broker = Mosquitto::start(&users);
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, ""));
    subscribed(&gateway);
    let tasks = fleet(&broker, 5);
    for logged in [150.0, 500.0] {
        eventually("it is in the middle", || messages(&gateway, "logged") >= logged);
        broker.stop();
        broker.up();
    }
    all_stored(&home, 5, tasks).await;
    let redelivered = gateway.metric("gateway_mqtt_source_redelivered_messages_total", "");
    let duplicate = messages(&gateway, "duplicate");
    println!("0 lost, {duplicate} batches came twice, {redelivered} were marked as such");
    taken_once(&gateway, 5);
    assert!(gateway.metric("gateway_mqtt_source_connections_total", "") >= 3.0);
}

/// Nothing that the gateway has acknowledged is lost. What the broker had acknowledged to a device
/// and neither passed on nor written is, and is there once the device sends again what it has no
/// answer of the gateway for.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_loses_only_what_the_gateway_never_had_and_devices_send_again() {
    // As a user has it: what it holds is written now and then.
    let mut broker = Mosquitto::with(&["d0", "d1", "last"], |config| {
        format!("{config}\nautosave_on_changes true\nautosave_interval 50\n")
    });
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, ""));
    subscribed(&gateway);
    let mut tasks = fleet(&broker, 2);
    let accepted = || gateway.metric("gateway_accepted_readings_total", "");
    for until in [60.0, 180.0] {
        eventually("it is in the middle", || messages(&gateway, "logged") >= until);
        broker.kill();
        let before = accepted();
        broker.up();
        subscribed(&gateway);
        assert!(accepted() >= before);
    }
    while let Some(done) = tokio::time::timeout(PATIENCE * 2, tasks.join_next()).await.unwrap() {
        done.unwrap();
    }
    // The broker gives in order: nothing of the others is under way any more.
    let last = one_reading(1, TIME_MS, &[("value", RawValue::Float(1.0))]);
    publish_all(broker.as_seen_by("last"), "telemetry/last".to_owned(), vec![last]).await;
    let stored = || home.count("d0") + home.count("d1") + home.count("last");
    eventually("the last has come", || home.count("last") == 1);
    eventually("what was accepted is stored", || stored() as f64 == accepted());
    let all = 2 * BATCHES * EACH;
    let (had, twice) = (stored() - 1, messages(&gateway, "duplicate"));
    // A device that has no answer of the gateway sends the same bytes again.
    all_stored(&home, 2, fleet(&broker, 2)).await;
    let last = one_reading(2, TIME_MS + 1, &[("value", RawValue::Float(1.0))]);
    publish_all(broker.as_seen_by("last"), "telemetry/last".to_owned(), vec![last]).await;
    eventually("all of that has come", || home.count("last") == 2);
    println!(
        "of {all} readings that the broker had acknowledged it lost {}, {twice} batches came twice; \
         sent again: 0 lost",
        all - had
    );
    assert_eq!(accepted(), (all + 2) as f64, "a batch was taken twice");
    assert_eq!(gateway.metric("gateway_store_overwritten_total", ""), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_gets_from_the_broker_what_it_had_not_logged() {
    let broker = Mosquitto::start(&["d0", "d1"]);
    let home = Home::new();
    let config = config(&broker, "");
    let gateway = home.start_with(&config);
    subscribed(&gateway);
    let tasks = fleet(&broker, 2);
    eventually("it is in the middle", || messages(&gateway, "logged") >= 60.0);
    gateway.kill();
    let gateway = home.start_with(&config);
    eventually("it is in the middle", || messages(&gateway, "logged") >= 60.0);
    gateway.kill();
    let gateway = home.start_with(&config);
    all_stored(&home, 2, tasks).await;
    println!("0 lost, {} batches came twice", messages(&gateway, "duplicate"));
    taken_once(&gateway, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_of_a_group_divide_the_batches_and_together_have_all() {
    let broker = Mosquitto::start(&["d0", "d1", "d2"]);
    let config = config(&broker, "share = \"gateways\"\n");
    let homes = [Home::new(), Home::new()];
    let gateways = homes.each_ref().map(|home| home.start_with(&config));
    gateways.iter().for_each(subscribed);
    let mut tasks = fleet(&broker, 3);
    while let Some(done) = tokio::time::timeout(PATIENCE * 2, tasks.join_next()).await.unwrap() {
        done.unwrap();
    }
    for n in 0..3 {
        let device = format!("d{n}");
        eventually("together they have every reading", || {
            homes.iter().map(|home| home.count(&device)).sum::<u64>() == BATCHES * EACH
        });
    }
    for gateway in &gateways {
        assert!(messages(gateway, "logged") > 0.0, "one has done all the work");
        assert_eq!(messages(gateway, "duplicate"), 0.0);
    }
}

#[tokio::test]
async fn while_the_log_is_full_the_broker_keeps_the_batches_and_then_all_are_taken() {
    const SMALL: &str = "[limits]\nmessage_bytes = \"16KiB\"\n[log]\nsegment_bytes = \"64KiB\"\n\
                         max_bytes = \"256KiB\"\nkeep_bytes = \"128KiB\"\n";
    let broker = Mosquitto::start(&["d"]);
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, SMALL));
    subscribed(&gateway);
    let lock = rusqlite::Connection::open(home.store()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let text = "x".repeat(4000);
    let fields = ["a", "b", "c"].map(|name| (name, RawValue::Str(&text)));
    let batches = (1..=100).map(|seq| one_reading(seq, TIME_MS + seq as i64, &fields)).collect();
    // The broker takes all of them: 1.2 MB, of which 256 KiB fit the log.
    publish_all(broker.as_seen_by("d"), "telemetry/d".to_owned(), batches).await;
    eventually("the log is full", || gateway.get("/readyz").0 == 503);
    let held = messages(&gateway, "logged");
    assert!(held < 30.0, "{held} batches in the log");
    lock.execute_batch("ROLLBACK").unwrap();
    eventually("all are stored", || home.count("d") == 300);
    assert_eq!(messages(&gateway, "logged"), 100.0);
    assert_eq!(gateway.metric("gateway_mqtt_source_connections_total", ""), 1.0);
}

#[tokio::test]
async fn what_is_odd_about_a_message_harms_nobody() {
    let broker = Mosquitto::start(&["d"]);
    let replies = broker.subscribe("d", "telemetry/d/reply");
    let batch = |seq| one_reading(seq, TIME_MS + seq as i64, &[("value", RawValue::Float(1.0))]);
    let publish = |qos: &str, retain: bool, payload: &[u8]| {
        let mut more = vec!["-q", qos];
        more.extend(retain.then_some("-r"));
        assert!(broker.publish_with("d", "telemetry/d", payload, &more));
    };
    // Retained: whoever subscribes is given it, be it years old. The gateway asks for none.
    publish("1", true, &batch(1));
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, ""));
    subscribed(&gateway);
    publish("0", false, &batch(2));
    publish("2", true, &batch(3));
    eventually("both are stored", || home.count("d") == 2);
    // Nothing at all: that is how a retained message is removed. Like all that is no batch, it is
    // answered once; so is what would be `hello`.
    publish("1", true, b"");
    assert_eq!(nack(&replies).code, ErrorCode::Malformed);
    publish("1", false, b"\x81\xa5hello\x80");
    assert_eq!(nack(&replies).code, ErrorCode::UnknownKind);
    // What MQTT lets a message say besides; none of it means anything here.
    let mut more = vec!["-q", "1"];
    for property in [
        &["content-type", "x"][..],
        &["correlation-data", "0"],
        &["message-expiry-interval", "600"],
        &["payload-format-indicator", "0"],
        &["response-topic", "telemetry/other/reply"],
        &["user-property", "", ""],
    ] {
        more.extend(["-D", "PUBLISH"]);
        more.extend(property);
    }
    assert!(broker.publish_with("d", "telemetry/d", &batch(6), &more));
    eventually("it is stored", || home.count("d") == 3);
    // The kind of a field that another device of the realm may have made known.
    publish("1", false, &one_reading(4, TIME_MS + 4, &[("value", RawValue::Str("on"))]));
    let conflict = nack(&replies);
    assert_eq!((conflict.seq, conflict.readings[0].code), (4, ErrorCode::TypeConflict));

    // Topics that no device has, from one who may publish everywhere.
    for (at, topic) in
        ["telemetry/", "telemetry/%64", "telemetry/a%2fb", "telemetry/ä", "telemetry/$x"]
            .into_iter()
            .enumerate()
    {
        assert!(broker.publish("reader", topic, &batch(9)), "{topic}");
        eventually("it is counted", || messages(&gateway, "wrong_topic") == (at + 1) as f64);
    }
    assert!(broker.publish("reader", "telemetry/d/deeper", &batch(9)));
    publish("1", false, &batch(5));
    eventually("the next one is stored", || home.count("d") == 4);
    assert_eq!(messages(&gateway, "malformed"), 2.0);
    assert_eq!(gateway.metric("gateway_mqtt_source_connections_total", ""), 1.0);
}
