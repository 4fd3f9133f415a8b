//! Readings at a real broker: what is published, and that nothing is lost on the way.

use super::support::{
    Gateway, Home,
    device::{Device, one_reading},
    eventually,
    mosquitto::Mosquitto,
};
use proto::{BatchEncoder, RawValue};
use std::{collections::HashMap, time::Duration};

const TIME_MS: i64 = 1_760_000_000_000;

fn config(broker: &Mosquitto, more: &str) -> String {
    format!("[sinks.broker]\ntype = \"mqtt\"\nbatch_delay = \"20ms\"\n{}{more}", broker.keys())
}

fn ledger(gateway: &Gateway, what: &str) -> f64 {
    gateway.metric(&format!("gateway_sink_{what}_readings_total"), "broker")
}

/// One batch with two measurements, whose names mean something in topics and in line protocol.
async fn send_two_measurements(device: &mut Device) {
    let mut encoder = BatchEncoder::new();
    let fields = [
        ("f", RawValue::Float(21.5)),
        ("b", RawValue::Bool(true)),
        ("s", RawValue::Str("a \"b\"")),
    ];
    encoder
        .readings(1, 3)
        .reading(Some("room"), Some(TIME_MS), &[("floor", "1")], &fields)
        .reading(Some("a/b+c#%"), Some(TIME_MS + 1), &[], &[("x", RawValue::Int(-3))])
        .reading(Some("room"), Some(TIME_MS + 2), &[], &[("f", RawValue::Float(0.1))]);
    device.send(encoder.finish()).await;
    device.acked(1).await;
}

#[tokio::test]
async fn a_message_says_what_the_device_said_in_every_payload() {
    let broker = Mosquitto::start(&[]);
    let subscriber = broker.subscribe("reader", "#");
    let home = Home::new();
    let of = |name: &str, payload: &str, topic: &str| {
        format!(
            "[sinks.{name}]\ntype = \"mqtt\"\npayload = \"{payload}\"\ntopic = \"{topic}\"\n{}",
            broker.keys()
        )
    };
    let gateway = home.start_with(&format!(
        "{}{}{}",
        of("json", "json", "readings/json/{realm}/{device}/{measurement}"),
        of("msgpack", "messagepack", "readings/msgpack/{device}"),
        of("lines", "lineprotocol", "readings/lines/{measurement}"),
    ));
    let mut device = Device::connect(&home, &gateway, "site+1/7").await;
    device.hello_stream(1).await;
    send_two_measurements(&mut device).await;
    let mut messages: HashMap<String, Vec<u8>> = HashMap::new();
    for _ in 0..5 {
        let (topic, payload) = subscriber.next();
        assert!(messages.insert(topic.clone(), payload).is_none(), "{topic} came twice");
    }
    let mut text = |topic: &str| {
        let payload = messages.remove(topic).unwrap_or_else(|| panic!("nothing came to {topic}"));
        String::from_utf8(payload).unwrap()
    };
    assert_eq!(
        text("readings/json/default/site%2B1%2F7/room"),
        "{\"realm\":\"default\",\"device\":\"site+1/7\",\"record\":1,\"readings\":[\
         {\"index\":0,\"measurement\":\"room\",\"time_ns\":1760000000000000000,\
         \"tags\":{\"floor\":\"1\"},\"fields\":{\"f\":21.5,\"b\":true,\"s\":\"a \\\"b\\\"\"}},\
         {\"index\":2,\"measurement\":\"room\",\"time_ns\":1760000000002000000,\
         \"tags\":{},\"fields\":{\"f\":0.1}}]}"
    );
    let other = text("readings/json/default/site%2B1%2F7/a%2Fb%2Bc%23%25");
    assert!(other.contains("\"measurement\":\"a/b+c#%\",\"time_ns\":1760000000001000000"));
    assert!(other.contains("\"fields\":{\"x\":-3.0}"), "{other}");
    assert_eq!(
        text("readings/lines/room"),
        "room,device=site+1/7,floor=1 f=21.5,b=true,s=\"a \\\"b\\\"\" 1760000000000000000\n\
         room,device=site+1/7 f=0.1 1760000000002000000\n"
    );
    let line = text("readings/lines/a%2Fb%2Bc%23%25");
    assert_eq!(line, "a/b+c#%,device=site+1/7 x=-3.0 1760000000001000000\n");
    let packed = messages.remove("readings/msgpack/site%2B1%2F7").unwrap();
    let packed: serde_json::Value = rmp_serde::from_slice(&packed).unwrap();
    assert_eq!(packed["readings"].as_array().unwrap().len(), 3);
    assert_eq!(packed["readings"][1]["fields"]["x"], -3.0);
    assert_eq!(packed["readings"][1]["time_ns"], 1_760_000_000_001_000_000_i64);
    assert_eq!((packed["device"].as_str(), packed["record"].as_u64()), (Some("site+1/7"), Some(1)));
}

/// How often each reading has come, by value.
#[derive(Default)]
struct Seen {
    times: HashMap<u64, u32>,
    messages: u64,
}

impl Seen {
    fn take(&mut self, payload: &[u8]) {
        let message: serde_json::Value = serde_json::from_slice(payload).unwrap();
        self.messages += 1;
        for reading in message["readings"].as_array().unwrap() {
            #[expect(clippy::cast_possible_truncation, reason = "small whole numbers")]
            #[expect(clippy::cast_sign_loss, reason = "small whole numbers")]
            let value = reading["fields"]["value"].as_f64().unwrap() as u64;
            *self.times.entry(value).or_default() += 1;
        }
    }

    fn duplicates(&self) -> u64 {
        self.times.values().map(|times| u64::from(times - 1)).sum()
    }
}

/// Sends batches of readings with the values `from..from + batches × each`.
async fn stream(device: &mut Device, from: u64, batches: u64, each: u64) {
    let mut acked = 0;
    for batch in 0..batches {
        let mut encoder = BatchEncoder::new();
        let mut readings = encoder.readings(batch + 1, u32::try_from(each).unwrap());
        for n in 0..each {
            let value = from + batch * each + n;
            let time = TIME_MS + i64::try_from(value).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let field = RawValue::Float(value as f64);
            readings = readings.reading(Some("m"), Some(time), &[], &[("value", field)]);
        }
        device.send(encoder.finish()).await;
        while acked + 16 < batch {
            acked = device.ack().await.seq;
        }
    }
    while acked < batches {
        acked = device.ack().await.seq;
    }
}

const BATCHES: u64 = 200;
const EACH: u64 = 100;

/// So many devices send 200 batches of 100 readings each.
async fn fleet(home: &Home, gateway: &Gateway, devices: u64) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..devices {
        let mut device = Device::connect(home, gateway, &format!("d{n}")).await;
        tasks.spawn(async move {
            device.hello_stream(1).await;
            stream(&mut device, n * BATCHES * EACH, BATCHES, EACH).await;
        });
    }
    tasks
}

async fn done(mut tasks: tokio::task::JoinSet<()>) {
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

fn sink_metric(gateway: &Gateway, what: &str) -> f64 {
    gateway.metric(&format!("gateway_mqtt_sink_{what}_total"), "broker")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_broker_among_100_000_readings_loses_none() {
    let total = 5 * BATCHES * EACH;
    let mut broker = Mosquitto::start(&[]);
    let subscriber = broker.subscribe("reader", "readings/#");
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, "batch_readings = 2000\nin_flight = 20\n"));
    let tasks = fleet(&home, &gateway, 5).await;
    let mut seen = Seen::default();
    for until in [150, 500] {
        while seen.messages < until {
            seen.take(&subscriber.next().1);
        }
        broker.stop();
        broker.up();
    }
    done(tasks).await;
    eventually("the ledger says so", || ledger(&gateway, "stored") == total as f64);
    while (seen.times.len() as u64) < total {
        seen.take(&subscriber.next().1);
    }
    while let Some((_, payload)) = subscriber.within(Duration::from_millis(100)) {
        seen.take(&payload);
    }
    // Besides what the sink repeats, a broker sends again what its subscriber had not acknowledged.
    let (twice, repeated) = (seen.duplicates(), sink_metric(&gateway, "repeated_messages"));
    println!("{total} readings, {twice} twice; the sink repeated {repeated} messages");
    assert_eq!(seen.times.len() as u64, total);
    assert_eq!(sink_metric(&gateway, "connections"), 3.0);
    assert_eq!(ledger(&gateway, "quarantined") + ledger(&gateway, "dropped"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_loses_only_what_it_had_acknowledged_itself() {
    let total = 2 * BATCHES * EACH;
    // It writes down at once what it holds, the subscription first of all.
    let mut broker = Mosquitto::with(&[], |config| {
        format!("{config}\nautosave_on_changes true\nautosave_interval 1\n")
    });
    let subscriber = broker.subscribe("reader", "readings/#");
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, "batch_readings = 2000\n"));
    let tasks = fleet(&home, &gateway, 2).await;
    let mut seen = Seen::default();
    while seen.messages < 100 {
        seen.take(&subscriber.next().1);
    }
    broker.kill();
    eventually("the sink has noticed", || {
        gateway.metric("gateway_mqtt_sink_connected", "broker") == 0.0
    });
    let acknowledged = sink_metric(&gateway, "published_messages");
    // What the broker had passed on is in the subscriber's socket or beyond.
    while let Some((_, payload)) = subscriber.within(Duration::from_millis(300)) {
        seen.take(&payload);
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let lost_by_broker = (acknowledged as u64).saturating_sub(seen.messages) * EACH;
    broker.up();
    done(tasks).await;
    eventually("the ledger says so", || ledger(&gateway, "stored") == total as f64);
    while let Some((_, payload)) = subscriber.within(Duration::from_millis(300)) {
        seen.take(&payload);
    }
    let missing = total - seen.times.len() as u64;
    println!("{missing} of {total} missing; the broker had acknowledged {lost_by_broker} of them");
    assert!(missing <= lost_by_broker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_publishes_the_rest_after_its_next_start() {
    let total = 2 * BATCHES * EACH;
    let broker = Mosquitto::start(&[]);
    let subscriber = broker.subscribe("reader", "readings/#");
    let home = Home::new();
    let config = config(&broker, "batch_readings = 2000\n");
    // Everything is in the log before the first message is published.
    let gateway = home.start_with("");
    done(fleet(&home, &gateway, 2).await).await;
    gateway.stop();
    let mut seen = Seen::default();
    for until in [60, 200] {
        let gateway = home.start_with(&config);
        while seen.messages < until {
            seen.take(&subscriber.next().1);
        }
        gateway.kill();
    }
    let gateway = home.start_with(&config);
    while (seen.times.len() as u64) < total {
        seen.take(&subscriber.next().1);
    }
    eventually("the ledger says so", || ledger(&gateway, "stored") == total as f64);
    println!("{total} readings, {} twice", seen.duplicates());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_holds_up_nobody_and_gets_everything_when_it_is_back() {
    let mut broker = Mosquitto::start(&[]);
    let subscriber = broker.subscribe("reader", "readings/#");
    broker.stop();
    let home = Home::new();
    let gateway = home.start_with(&config(&broker, ""));
    done(fleet(&home, &gateway, 1).await).await;
    eventually("the embedded store has all of it", || home.count("d0") == BATCHES * EACH);
    assert_eq!(ledger(&gateway, "stored"), 0.0);
    eventually("the sink tells", || gateway.metric("gateway_sink_up", "broker") == 0.0);
    broker.up();
    let mut seen = Seen::default();
    while (seen.times.len() as u64) < BATCHES * EACH {
        seen.take(&subscriber.next().1);
    }
    eventually("the ledger says so", || ledger(&gateway, "stored") == (BATCHES * EACH) as f64);
}

async fn one_value(home: &Home, gateway: &Gateway, device: &str, field: RawValue<'_>) {
    let mut device = Device::connect(home, gateway, device).await;
    device.hello_stream(1).await;
    device.send(&one_reading(1, TIME_MS, &[("value", field)])).await;
    device.acked(1).await;
}

#[tokio::test]
async fn a_message_that_the_broker_refuses_is_set_aside_and_others_go_on() {
    let broker = Mosquitto::start(&[]);
    let subscriber = broker.subscribe("reader", "#");
    let home = Home::new();
    // The user may publish below readings/ only; devices called "readings" come first.
    let more = "topic = \"{device}/{measurement}\"\nmax_packet_bytes = \"1KiB\"\n";
    let gateway = home.start_with(&config(&broker, more));
    one_value(&home, &gateway, "readings", RawValue::Float(1.0)).await;
    assert_eq!(subscriber.next().0, "readings/test");
    one_value(&home, &gateway, "denied", RawValue::Float(2.0)).await;
    let long = "x".repeat(2_000);
    let mut device = Device::connect(&home, &gateway, "readings").await;
    device.hello_stream(2).await;
    device.send(&one_reading(1, TIME_MS, &[("note", RawValue::Str(&long))])).await;
    device.send(&one_reading(2, TIME_MS + 1, &[("value", RawValue::Float(3.0))])).await;
    device.acked(2).await;
    let (topic, payload) = subscriber.next();
    assert_eq!(topic, "readings/test");
    assert!(String::from_utf8(payload).unwrap().contains("{\"value\":3.0}"));
    eventually("two are set aside", || ledger(&gateway, "quarantined") == 2.0);
    eventually("two are published", || ledger(&gateway, "stored") == 2.0);
    let refused = home.refused("broker");
    let reasons: Vec<_> = refused.iter().map(|of| of["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons[0], "the broker refused the message to denied/test: NotAuthorized");
    assert!(reasons[1].contains("more than the 1024 of a packet"), "{reasons:?}");
}

#[tokio::test]
async fn a_broker_that_takes_nothing_waits_for_a_person_and_loses_nothing() {
    let broker = Mosquitto::start(&[]);
    let wrong_password = broker.file("wrong-password");
    std::fs::write(&wrong_password, "top secret").unwrap();
    let keys = broker.keys();
    let home = Home::new();
    let gateway = home.start_with(&format!(
        "[sinks.denied]\ntype = \"mqtt\"\ntopic = \"elsewhere/{{device}}\"\n{keys}\
         [sinks.stranger]\ntype = \"mqtt\"\ntopic = \"readings/{{device}}\"\n{}",
        keys.replace("gateway-password", "wrong-password")
    ));
    one_value(&home, &gateway, "d", RawValue::Float(1.0)).await;
    let said = gateway.says(&[
        "let the sink's user publish to its topic",
        "does not let the user \"gateway\" in: correct the user or the password",
    ]);
    assert!(!said.contains("top secret") && !said.contains("correct horse"), "{said}");
    for sink in ["denied", "stranger"] {
        assert_eq!(gateway.metric("gateway_sink_quarantined_readings_total", sink), 0.0);
        assert_eq!(home.refused(sink), Vec::<serde_json::Value>::new());
    }
}
