//! The sink by itself: what only shows when a single write is looked at.

use super::support::{
    scripted::{Answer, Scripted},
    servers::TlsFront,
};
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

pub(crate) fn options(store: &Scripted, token: Token) -> Options {
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
        create_bucket: None,
    }
}

/// A batch of one record: each value at its time.
pub(crate) fn batch(values: &[(i64, RawValue<'_>)]) -> Batch {
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
        given_up: std::sync::Arc::default(),
    }
}

#[tokio::test]
async fn a_token_that_was_replaced_in_its_file_is_used_at_once() {
    let store = Scripted::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old-token\n").unwrap();
    let sink = InfluxDb::open(options(&store, Token::File(file.path().to_owned()))).unwrap();
    let good = std::sync::Arc::new(std::sync::Mutex::new("old-token"));
    let demanded = std::sync::Arc::clone(&good);
    store.rule_of(move |seen, _| {
        let expected = format!("token {}\r\n", demanded.lock().unwrap());
        match seen.head.to_lowercase().contains(&expected) {
            true => Answer::Store,
            false => Answer::Refuse(401, "", r#"{"message":"unauthorized access"}"#.to_owned()),
        }
    });
    let write = || sink.write(batch(&[(1, RawValue::Float(1.0))]));
    write().await.unwrap();
    *good.lock().unwrap() = "new-token";
    // Not replaced yet: said once, and not tried again with the same token.
    let error = write().await.unwrap_err();
    assert!(matches!(error, SinkError::Blocked { .. }), "{error}");
    assert!(!error.to_string().contains("-token"), "{error}");
    std::fs::write(file.path(), "new-token\n").unwrap();
    write().await.unwrap();
    write().await.unwrap();
    let sent: Vec<_> = store.seen().into_iter().map(|of| of.head.to_lowercase()).collect();
    let expected = ["old", "old", "old", "new", "new"];
    assert_eq!(sent.len(), expected.len());
    for (head, expected) in sent.iter().zip(expected) {
        assert!(head.contains(&format!("token {expected}-token")), "{head}");
        assert!(head.contains("?org=a+b%26c&precision=ns&bucket=telemetry "), "{head}");
    }
}

/// InfluxDB 3 stores the rest and names the lines, from 1; its quotation marks are gone.
#[tokio::test]
async fn lines_that_influxdb_3_names_are_refused_with_its_words_and_the_rest_is_stored() {
    let store = Scripted::start();
    let sink = InfluxDb::open(options(&store, Token::None)).unwrap();
    store.rule(|lines| {
        let bad = |line: &str| line.contains('"');
        let named: Vec<_> = (1..).zip(lines.lines()).filter(|(_, line)| bad(line)).collect();
        if named.is_empty() {
            return Answer::Store;
        }
        let good = lines.lines().filter(|line| !bad(line)).map(str::to_owned).collect();
        let data = named.iter().map(|(number, line)| {
            serde_json::json!({
                "original_line": line.replace('"', ""),
                "line_number": number,
                "error_message": format!("invalid column type for column 'x' in {}", line.len()),
            })
        });
        let data: Vec<_> = data.collect();
        let body =
            serde_json::json!({ "error": "partial write of line protocol occurred", "data": data });
        Answer::Partial(good, 400, body.to_string())
    });
    let values: Vec<_> = (0..200)
        .map(|n: i64| match n {
            17 | 90 | 199 => (n, RawValue::Str(&"abcdefg"[..usize::try_from(n % 7).unwrap()])),
            _ => (n, RawValue::Float(0.5)),
        })
        .collect();
    let error = sink.write(batch(&values)).await.unwrap_err();
    let SinkError::Reject { points, unsupported } = error else { panic!("{error}") };
    let refused: Vec<u32> = points.iter().map(|point| point.id.index).collect();
    assert_eq!((refused, unsupported), (vec![17, 90, 199], Vec::new()));
    for point in &points {
        let words = format!(
            "invalid column type for column 'x' in {}",
            format!("m,device=d x=\"\" {}", point.id.index).len() + point.id.index as usize % 7
        );
        assert_eq!(point.reason, words, "each has its own words");
    }
    assert_eq!(store.stored().len(), 197);
    assert_eq!(store.seen().len(), 3, "the whole, the good ones, the named ones");
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
    assert_eq!((refused, unsupported), (vec![2, 5], Vec::new()));
    let last = String::from_utf8(store.seen().pop().unwrap().body).unwrap();
    let line = |value: &str, time: u64| format!("m,device=d x={value} {time}\n");
    let expected = [("2.0", 1), ("\"t\"", 1), ("\"t\"", 2), ("2.0", 2), ("2.0", 9)];
    assert_eq!(last, expected.map(|(value, time)| line(value, time)).concat());
}

#[tokio::test]
async fn a_store_behind_tls_is_known_by_its_ca() {
    let store = Scripted::start();
    let front = TlsFront::start(store.port());
    let open = |ca_file| {
        let options = Options { url: front.url(), ca_file, ..options(&store, Token::None) };
        InfluxDb::open(options).unwrap()
    };
    let values = [(1, RawValue::Float(1.0))];
    // Not one of the system's: nothing is sent, and nothing is lost.
    let error = open(None).write(batch(&values)).await.unwrap_err();
    assert!(matches!(error, SinkError::Retry { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(store.seen().is_empty());
    open(Some(front.ca())).write(batch(&values)).await.unwrap();
    assert_eq!(store.stored().len(), 1);
}
