//! Everything that a store can do wrong, from a store that does it on command.

use super::support::{
    Gateway, Home,
    device::Device,
    eventually,
    scripted::{Answer, Scripted},
};
use proto::{BatchEncoder, RawValue};
use std::time::{Duration, Instant, SystemTime};

fn start(home: &Home, store: &Scripted, more: &str) -> Gateway {
    home.start_with(&format!(
        "[sinks.influx]\ntype = \"influxdb\"\nurl = \"{}\"\ntimeout = \"500ms\"\n\
         batch_delay = \"20ms\"\n{more}",
        store.url()
    ))
}

fn line(seq: u64) -> String {
    format!("test,device=d value={seq}.0 {}", (1_760_000_000_000 + seq) * 1_000_000)
}

/// Sends values as a device of its own name and stream.
async fn send(home: &Home, gateway: &Gateway, range: std::ops::RangeInclusive<u64>) -> Device {
    let mut device = Device::connect(home, gateway, "d").await;
    device.hello_stream(1).await;
    let last = *range.end();
    for seq in range {
        device.send_value(seq).await;
    }
    device.acked(last).await;
    device
}

fn refuse(status: u16, body: &str) -> Answer {
    Answer::Refuse(status, "", body.to_owned())
}

#[tokio::test]
async fn whatever_passes_by_itself_is_waited_for_and_nothing_is_lost() {
    let store = Scripted::start();
    let home = Home::new();
    let gateway = start(&home, &store, "");
    let mut device = send(&home, &gateway, 1..=1).await;
    let troubles = [
        refuse(408, ""),
        refuse(429, "slow down"),
        refuse(500, "internal error"),
        refuse(502, ""),
        refuse(503, "restarting"),
        refuse(504, ""),
        refuse(599, "never heard of"),
        Answer::Hang,
        Answer::CutOff,
        Answer::Reset,
        Answer::StoreAndDrop,
        Answer::Slow(Duration::from_millis(200)),
        Answer::Slow(Duration::from_millis(800)),
    ];
    let tried = troubles.len();
    for (seq, trouble) in (2..).zip(troubles) {
        store.next(2, trouble.clone());
        device.send_value(seq).await;
        device.acked(seq).await;
        eventually("the other sink does not notice", || home.count("d") == seq);
        eventually(&format!("stored after {trouble:?}"), || store.stored().contains(&line(seq)));
        eventually("the cursor passes it", || {
            gateway.metric("gateway_sink_stored_readings_total", "influx") == seq as f64
        });
        assert_eq!(store.stored().len(), usize::try_from(seq).unwrap());
    }
    assert!(home.refused("influx").is_empty());
    println!("tried {tried}");
}

#[tokio::test]
async fn a_wish_for_a_pause_is_honoured() {
    let store = Scripted::start();
    let home = Home::new();
    let gateway = start(&home, &store, "");
    // In seconds, and as a date: that has whole seconds, so up to one less is left of it.
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    let date = format!("Retry-After: {date}\r\n");
    store.next(1, Answer::Refuse(429, "Retry-After: 2\r\n", String::new()));
    let mut device = send(&home, &gateway, 1..=1).await;
    eventually("the first attempt", || store.seen().len() == 1);
    let begun = Instant::now();
    eventually("it is stored", || store.stored().contains(&line(1)));
    assert!(begun.elapsed() > Duration::from_millis(1_900), "{:?}", begun.elapsed());

    let until = httpdate::parse_http_date(date["Retry-After: ".len()..].trim()).unwrap();
    let until = until + Duration::from_secs(3);
    let date = format!("Retry-After: {}\r\n", httpdate::fmt_http_date(until));
    store.next(1, Answer::Refuse(503, date.leak(), String::new()));
    device.send_value(2).await;
    eventually("it is stored", || store.stored().contains(&line(2)));
    assert!(SystemTime::now() > until - Duration::from_millis(100), "sooner than it wished");
}

/// The old token ends, the new one is in the file: nobody waits for the next probe.
#[tokio::test]
async fn a_token_can_be_replaced_while_the_gateway_runs() {
    let store = Scripted::start();
    let home = Home::new();
    let token = home.path().join("store-token");
    std::fs::write(&token, "first-token\n").unwrap();
    let gateway = start(&home, &store, &format!("token_file = {token:?}\n"));
    let mut device = send(&home, &gateway, 1..=1).await;
    eventually("it is stored", || store.stored().len() == 1);
    std::fs::write(&token, "second-token\n").unwrap();
    store.rule_of(|seen, _| match seen.head.contains("Token second-token") {
        true => Answer::Store,
        false => refuse(401, r#"{"code":"unauthorized","message":"unauthorized access"}"#),
    });
    device.send_value(2).await;
    eventually("it is stored with the new one", || store.stored().len() == 2);
    let said = gateway.lines().concat();
    let told = ["waits for a person", "first-token", "second-token"];
    assert!(!told.iter().any(|words| said.contains(words)), "{said}");
}

/// Far more than the gateway may hold in memory is on its way to a store that never answers.
#[tokio::test]
async fn a_store_that_is_away_costs_no_memory() {
    let store = Scripted::start();
    let home = Home::new();
    let gateway = start(&home, &store, "when_full = \"hold\"\n");
    store.rule(|_| refuse(503, "not now"));
    let mut device = Device::connect(&home, &gateway, "d").await;
    device.hello_stream(1).await;
    let text = "x".repeat(4_000);
    let mut seq = 0;
    let mut before = 0;
    let mut sent = 0;
    // The first part fills every buffer; the second must not show.
    for (bytes, is_first) in [(128 << 20, true), (96 << 20, false)] {
        let until = sent + bytes;
        while sent < until {
            seq += 1;
            let mut encoder = BatchEncoder::new();
            let mut readings = encoder.readings(seq, 50);
            for at in 0..50 {
                let time = Some(1_760_000_000_000 + i64::try_from(seq * 50 + at).unwrap());
                readings = readings.reading(None, time, &[], &[("text", RawValue::Str(&text))]);
            }
            let message = encoder.finish();
            sent += message.len();
            device.send(message).await;
            device.acked(seq).await;
        }
        eventually("the other sink has everything", || home.count("d") == seq * 50);
        if is_first {
            before = gateway.memory_kib();
        }
    }
    let grown = gateway.memory_kib().saturating_sub(before);
    assert!(grown < 48 << 10, "{grown} KiB more, of {sent} bytes that wait");
    let waiting = || gateway.metric("gateway_sink_pending_readings", "influx");
    eventually("the ledger tells what waits", || waiting() == (seq * 50) as f64);
}

#[tokio::test]
async fn a_store_that_needs_a_person_is_asked_seldom_and_keeps_its_data_in_the_log() {
    for status in [401, 403, 404] {
        let store = Scripted::start();
        let home = Home::new();
        let token = home.path().join("store-token");
        std::fs::write(&token, "a-secret-token\n").unwrap();
        let more = format!("token_file = {token:?}\n");
        let gateway = start(&home, &store, &more);
        store.rule(move |_| refuse(status, r#"{"message":"not for you"}"#));
        let mut device = send(&home, &gateway, 1..=1).await;
        eventually("it was tried", || !store.seen().is_empty());
        for seq in 2..=5 {
            device.send_value(seq).await;
            device.acked(seq).await;
        }
        eventually("the other sink has it", || home.count("d") == 5);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(store.seen().len(), 1, "once a minute");
        let said = gateway.says(&["not for you"]);
        let of_sink: Vec<_> = said.lines().filter(|line| line.contains("influx")).collect();
        assert_eq!(of_sink.len(), 1, "{said}");
        assert!(of_sink[0].contains("not for you"), "{of_sink:?}");
        assert!(!said.contains("a-secret-token"));
        drop(gateway);
        store.rule(|_| Answer::Store);
        let _gateway = start(&home, &store, &more);
        eventually("all of it comes later", || store.stored().len() == 5);
        let head = store.seen().pop().unwrap().head.to_ascii_lowercase();
        assert!(head.contains("authorization: token a-secret-token"), "{head}");
        assert!(head.contains("/api/v2/write?org=&precision=ns&bucket=telemetry "), "{head}");
        assert!(home.refused("influx").is_empty());
    }
}

#[tokio::test]
async fn a_store_that_says_little_and_stores_nothing_still_gets_the_good_points() {
    let store = Scripted::start();
    let home = Home::new();
    let gateway = start(&home, &store, "");
    // More than anybody wants to read.
    let words = format!("bad request {}", "x".repeat(200_000));
    let bad = [line(7), line(8), line(40)];
    let poison = bad.clone();
    store.rule(move |lines| match lines.lines().any(|of| poison.iter().any(|bad| bad == of)) {
        true => refuse(400, &words),
        false => Answer::Store,
    });
    let _device = send(&home, &gateway, 1..=100).await;
    eventually("the good points are stored", || store.stored().len() == 97);
    assert!(bad.iter().all(|line| !store.stored().contains(line)));
    eventually("the others are kept", || home.refused("influx").len() == 3);
    let reason = home.refused("influx")[0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("bad request x") && reason.len() < 1_000, "{reason}");
    assert_eq!(home.refused("influx")[0]["fields"]["value"], 7.0);
}

/// The search goes on where it was, however often the store goes away in the middle of it.
#[tokio::test]
async fn a_search_for_bad_points_comes_to_its_end_also_with_interruptions() {
    let store = Scripted::start();
    let home = Home::new();
    let gateway = start(&home, &store, "");
    let mut requests = 0;
    store.rule(move |lines| {
        requests += 1;
        let bad = |line: &str| line.contains("2.0 ");
        match (requests % 6, lines.lines().any(bad)) {
            (0, _) => Answer::Reset,
            (_, true) => refuse(400, "unable to parse"),
            _ => Answer::Store,
        }
    });
    let _device = send(&home, &gateway, 1..=40).await;
    eventually("the good points are stored", || store.stored().len() == 36);
    eventually("the others are kept", || home.refused("influx").len() == 4);
}

#[tokio::test]
async fn a_store_that_drops_many_points_at_once_is_not_asked_one_by_one() {
    let store = Scripted::start();
    let home = Home::new();
    let gateway = start(&home, &store, "");
    store.rule(|lines| {
        let (old, new): (Vec<&str>, Vec<&str>) = lines.lines().partition(|line| {
            line.rsplit(' ').next().unwrap().parse::<i64>().unwrap() <= 1_760_000_000_250_000_000
        });
        let new = new.into_iter().map(str::to_owned).collect();
        let words = format!(
            "failure writing points to database: partial write: points beyond retention policy \
             dropped={}",
            old.len()
        );
        match old.len() {
            0 => Answer::Store,
            _ => Answer::Partial(new, 422, serde_json::json!({ "message": words }).to_string()),
        }
    });
    let _device = send(&home, &gateway, 1..=500).await;
    eventually("what is new enough is stored", || store.stored().len() == 250);
    eventually("the rest is kept", || home.refused("influx").len() == 250);
    assert!(store.seen().len() < 100, "{} requests", store.seen().len());
}

#[tokio::test]
async fn a_request_that_is_too_large_is_divided() {
    let store = Scripted::start();
    let home = Home::new();
    let gateway = start(&home, &store, "");
    store.rule(|lines| match lines.len() > 1_000 {
        true => refuse(413, "too large"),
        false => Answer::Store,
    });
    let _device = send(&home, &gateway, 1..=500).await;
    eventually("all of it is stored", || store.stored().len() == 500);
    assert!(home.refused("influx").is_empty());
}

#[tokio::test]
async fn a_store_that_refuses_everything_from_the_start_empties_no_log() {
    let store = Scripted::start();
    let home = Home::new();
    let gateway = start(&home, &store, "");
    store.rule(|_| refuse(400, "this is a mail server"));
    let _device = send(&home, &gateway, 1..=100).await;
    eventually("a person is called", || {
        gateway.lines().iter().any(|line| line.contains("refuses everything"))
    });
    assert!(home.refused("influx").is_empty());
    drop(gateway);
    store.rule(|_| Answer::Store);
    let _gateway = start(&home, &store, "");
    eventually("all of it comes later", || store.stored().len() == 100);
}
