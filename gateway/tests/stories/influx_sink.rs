//! The sink by itself: what only shows when a single write is looked at.

use super::support::scripted::{Answer, Scripted};
use gateway::{
    record::{Codec, Dropped, Envelope, Identity, Kind, Position, Source},
    sink::{
        Batch, Record, Sink, SinkError,
        influxdb::{InfluxDb, Options, Token},
        line_protocol::Dialect,
    },
};
use proto::{BatchEncoder, DeviceMessage, Limits, RawValue, TimeUnit};
use std::time::Duration;

fn options(store: &Scripted, token: Token) -> Options {
    Options {
        name: "influx".to_owned(),
        url: store.url(),
        org: "a b&c".to_owned(),
        bucket: "telemetry".to_owned(),
        token,
        ca_file: None,
        gzip: false,
        timeout: Duration::from_secs(5),
        in_flight: 4,
        dialect: Dialect::InfluxDb,
    }
}

/// A batch of one record: each value at its time.
fn batch(values: &[(i64, RawValue<'_>)]) -> Batch {
    let count = u32::try_from(values.len()).unwrap();
    let mut encoder = BatchEncoder::new();
    let mut readings = encoder.readings(1, count);
    for (time, value) in values {
        readings = readings.reading(Some("m"), Some(*time), &[], &[("x", *value)]);
    }
    let payload = match DeviceMessage::decode(encoder.finish(), &Limits::unbounded()) {
        Ok(DeviceMessage::Batch(body)) => body.to_vec().into(),
        other => panic!("{other:?}"),
    };
    let envelope = Envelope {
        kind: Kind::Batch,
        source: Source::Device,
        codec: Codec::BatchV1,
        time_unit: TimeUnit::Ns,
        refused_whole: None,
        receive_ns: 1,
        stream: 1,
        seq: 1,
        accepted: count,
        accepted_total: count.into(),
        payload_hash: 0,
        identity: Identity::new("default", "d"),
        measurement: None,
        refused: Vec::new(),
        adjustments: Vec::new(),
    };
    let position = Position(1);
    Batch {
        first: position,
        last: position,
        records: vec![Record { position, envelope, payload }].into(),
        readings: count.into(),
        accepted_total: count.into(),
        dropped: Dropped::default(),
    }
}

#[tokio::test]
async fn a_token_that_was_replaced_in_its_file_is_good_for_the_next_attempt() {
    let store = Scripted::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old-token\n").unwrap();
    let sink = InfluxDb::open(options(&store, Token::File(file.path().to_owned()))).unwrap();
    store.next(2, Answer::Refuse(401, "", r#"{"message":"unauthorized access"}"#.to_owned()));
    for _ in 0..2 {
        let error = sink.write(batch(&[(1, RawValue::Float(1.0))])).await.unwrap_err();
        assert!(matches!(error, SinkError::Blocked { .. }), "{error}");
        assert!(!error.to_string().contains("-token"), "{error}");
        std::fs::write(file.path(), "new-token\n").unwrap();
    }
    sink.write(batch(&[(1, RawValue::Float(1.0))])).await.unwrap();
    let sent: Vec<_> = store.seen().into_iter().map(|of| of.head.to_lowercase()).collect();
    let expected = ["token old-token", "token old-token", "token new-token"];
    for (head, expected) in sent.iter().zip(expected) {
        assert!(head.contains(expected), "{head}");
        assert!(head.contains("?org=a+b%26c&precision=ns&bucket=telemetry "), "{head}");
    }
}

#[tokio::test]
async fn good_points_go_in_their_order_at_last_and_the_newer_of_two_equal_ones_wins() {
    let store = Scripted::start();
    let sink = InfluxDb::open(options(&store, Token::None)).unwrap();
    // The store takes texts only before the time 5.
    store.rule(|lines| {
        let bad = |line: &&str| {
            let time: i64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            line.contains('"') && time >= 5
        };
        let (bad, good): (Vec<&str>, Vec<&str>) = lines.lines().partition(bad);
        if bad.is_empty() {
            return Answer::Store;
        }
        let words = format!(
            "partial write: field type conflict: input field \"x\" on measurement \"m\" is type \
             string, already exists as type float dropped={}",
            bad.len()
        );
        let good = good.into_iter().map(str::to_owned).collect();
        Answer::Partial(good, 400, serde_json::json!({ "error": words }).to_string())
    });
    let (text, number) = (RawValue::Str("t"), RawValue::Float(2.0));
    let values =
        [(1, number), (1, text), (7, text), (2, text), (2, number), (8, text), (9, number)];
    let error = sink.write(batch(&values)).await.unwrap_err();
    let SinkError::Reject { points, unsupported } = error else { panic!("{error}") };
    let refused: Vec<u32> = points.iter().map(|point| point.id.index).collect();
    assert_eq!((refused, unsupported), (vec![2, 5], 0));
    let last = String::from_utf8(store.seen().pop().unwrap().body).unwrap();
    let line = |value: &str, time: u64| format!("m,device=d x={value} {time}\n");
    let expected = [("2.0", 1), ("\"t\"", 1), ("\"t\"", 2), ("2.0", 2), ("2.0", 9)];
    assert_eq!(last, expected.map(|(value, time)| line(value, time)).concat());
}
