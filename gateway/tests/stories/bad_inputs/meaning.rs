//! Messages that are sound and mean something that must not be, or look as if they did.

use super::{
    Arena, Fate,
    wire::{BINARY, frame},
};
use crate::support::device::now_ms;
use proto::{
    BatchEncoder,
    ErrorCode::{
        BadName, BadTagValue, Malformed, NameTooLong, OutOfOrder, ReservedName, SeqReused,
        StringTooLong, TimeImplausible, TimeInFuture, UnexpectedHello,
    },
    Hello, RawValue,
    encode::encode_hello,
};
use rusqlite::types::Value;
use serde_json::json;
use std::time::Duration;

const TIME_MS: i64 = 1_760_000_000_000;

/// A reading with at most one tag and one field.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reading<'a> {
    measurement: &'a str,
    tag: Option<(&'a str, &'a str)>,
    field: &'a str,
    text: &'a str,
}

impl Reading<'_> {
    fn batch(&self, seq: u64, time_ms: i64) -> Vec<u8> {
        let mut encoder = BatchEncoder::new();
        let tags: Vec<_> = self.tag.into_iter().collect();
        let fields = [(self.field, RawValue::Str(self.text))];
        encoder.readings(seq, 1).reading(Some(self.measurement), Some(time_ms), &tags, &fields);
        frame(BINARY, encoder.finish())
    }
}

const PLAIN: Reading<'static> = Reading { measurement: "m", tag: None, field: "f", text: "x" };

/// The places where a device may write a text, each with what becomes of it there.
fn everywhere(text: &str) -> [(Reading<'_>, Fate); 5] {
    let control = text.contains(char::is_control);
    let name = |reserved: bool| match text {
        _ if text.len() > 128 => Fate::Reading(NameTooLong),
        _ if text.is_empty() || text.starts_with('_') || control => Fate::Reading(BadName),
        _ if reserved => Fate::Reading(ReservedName),
        _ => Fate::Taken,
    };
    let tag_value = match text.len() {
        1..=256 if !control => Fate::Taken,
        _ => Fate::Reading(BadTagValue),
    };
    let value = if text.len() > 4096 { Fate::Reading(StringTooLong) } else { Fate::Taken };
    [
        (Reading { measurement: text, ..PLAIN }, name(text.starts_with("gateway_"))),
        (Reading { field: text, ..PLAIN }, name(text == "time")),
        (
            Reading { tag: Some((text, "x")), ..PLAIN },
            name(matches!(text, "time" | "device" | "realm")),
        ),
        (Reading { tag: Some(("t", text)), ..PLAIN }, tag_value),
        (Reading { text, ..PLAIN }, value),
    ]
}

impl Arena {
    /// Writes a text in every place where a text may stand, and looks into the store.
    async fn writes_everywhere(&self, device: &str, text: &str) -> Fate {
        let mut wire = self.device(device).await;
        let mut taken = Vec::new();
        for (seq, (reading, expected)) in (1..).zip(everywhere(text)) {
            wire.send(&reading.batch(seq, TIME_MS + seq.cast_signed())).await;
            assert_eq!(wire.fate().await, expected, "{reading:?}");
            if expected == Fate::Taken {
                taken.push(reading);
            }
        }
        while self.home.count(device) < taken.len() as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for (row, reading) in self.home.rows(device).into_iter().zip(taken) {
            let tags = match reading.tag {
                Some((name, value)) => json!({ name: value }),
                None => json!({}),
            };
            assert_eq!(row.measurement, reading.measurement);
            assert_eq!(row.field, reading.field);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&row.tags).unwrap(), tags);
            assert_eq!(row.value, Value::Text(reading.text.to_owned()));
        }
        Fate::Taken
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_stored_as_they_are_or_refused() {
    let arena = Arena::open().await;
    let long = |length| -> &'static str { "x".repeat(length).leak() };
    let mut texts = vec![
        "",
        "../",
        "/",
        "/etc/passwd",
        "..",
        "a\0b",
        "a\rb",
        "a\nb",
        "a\tb",
        ",",
        "a=b",
        "a b",
        " ",
        "a\\",
        "\"",
        "'",
        "`",
        "#",
        "#a",
        "_a",
        "a_b",
        "time",
        "device",
        "realm",
        "gateway_x",
        "gateway",
        "😀",
        "\u{202e}abc",
        "\u{200b}",
        "\u{feff}a",
        "e\u{301}",
        "\u{85}",
        "\u{9b}2J",
        "\x1b[31mred",
        "\x7f",
        "+",
        "$",
        "$SYS/x",
        "a.b",
        "*",
        ">",
        "\"} or up",
        "|> drop()",
        "{{x}}",
        "${x}",
        "%s%n",
        "'; DROP TABLE series; --",
        "<script>",
        "NULL",
        "1u",
        "-0",
        "NaN",
    ];
    texts.extend([127, 128, 129, 256, 257, 4096, 4097].map(long));
    let cases = texts.iter().map(|&text| (text, text, Fate::Taken)).collect();
    arena
        .try_all(cases, |device, text| {
            let arena = &arena;
            async move { arena.writes_everywhere(&device, text).await }
        })
        .await;
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_that_cannot_be_are_refused() {
    let arena = Arena::open().await;
    let now = now_ms();
    let minutes = |n: i64| now + n * 60_000;
    let implausible = Fate::Reading(TimeImplausible);
    let in_future = Fate::Reading(TimeInFuture);
    let year_2000 = 946_684_800_000;
    let mut device = arena.device("clock").await;
    for (seq, (what, time, expected)) in (1..).zip([
        ("now", now, Fate::Taken),
        ("a month ago", minutes(-30 * 24 * 60), Fate::Taken),
        ("the first of 2000", year_2000, Fate::Taken),
        ("the last of 1999", year_2000 - 1, implausible),
        ("0", 0, implausible),
        ("-1", -1, implausible),
        ("the least", i64::MIN, implausible),
        ("the greatest", i64::MAX, implausible),
        ("seconds", now / 1000, implausible),
        ("microseconds", now * 1000, implausible),
        ("nanoseconds", now * 1_000_000, implausible),
        ("nine minutes ahead", minutes(9), Fate::Taken),
        ("eleven minutes ahead", minutes(11), in_future),
        ("a year ahead", minutes(365 * 24 * 60), in_future),
        ("ten years ahead", minutes(3650 * 24 * 60), in_future),
        ("the last that 64 bits hold", i64::MAX / 1_000_000, in_future),
    ]) {
        device.send(&PLAIN.batch(seq, time)).await;
        assert_eq!(device.fate().await, expected, "{what}");
    }
    drop(device);
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_and_hellos_in_the_wrong_order() {
    let arena = Arena::open().await;
    let batch = |seq| PLAIN.batch(seq, TIME_MS);
    let other = |seq| PLAIN.batch(seq, TIME_MS + 1);
    let hello = |measurement: Option<&str>| {
        let mut bytes = Vec::new();
        let measurement = measurement.map(str::to_owned);
        encode_hello(&Hello { stream: Some(7), measurement, ..Hello::default() }, &mut bytes);
        frame(BINARY, &bytes)
    };
    let malformed = Fate::Closed(1007, Malformed);
    let unexpected = Fate::Closed(1002, UnexpectedHello);
    let named = |name: &str, code| (vec![hello(Some(name))], Fate::Closed(1007, code));
    let (long, begins) = (named(&"x".repeat(129), Malformed), named("_x", BadName));
    let (reserved, control) = (named("gateway_x", ReservedName), named("a\nb", BadName));
    let cases = vec![
        ("seq 0", vec![batch(0)], malformed),
        ("seq 2^53", vec![batch(1 << 53)], malformed),
        ("seq 2^64-1", vec![batch(u64::MAX)], malformed),
        (
            "the last seq, and the one that does not exist",
            vec![batch(proto::MAX_SEQ), batch(proto::MAX_SEQ + 1)],
            malformed,
        ),
        ("the first batch skips ahead", vec![batch(1_000_000)], Fate::Taken),
        ("the same again", vec![batch(1), batch(1)], Fate::Taken),
        ("the same number for other content", vec![batch(1), other(1)], Fate::Batch(SeqReused)),
        ("a gap", vec![batch(1), batch(3)], Fate::Batch(OutOfOrder)),
        ("a gap, and then the right one", vec![batch(1), batch(3), batch(2)], Fate::Taken),
        ("hello after a batch", vec![batch(1), hello(None)], unexpected),
        ("hello twice", vec![[hello(None), hello(None)].concat()], unexpected),
        ("hello with a long measurement", long.0, long.1),
        ("hello with a measurement that begins with _", begins.0, begins.1),
        ("hello with a reserved measurement", reserved.0, reserved.1),
        ("hello with a control character", control.0, control.1),
    ];
    arena
        .try_all(cases, |device, frames: Vec<Vec<u8>>| {
            let arena = &arena;
            async move {
                let mut wire = arena.device(&device).await;
                let mut fate = Fate::Gone;
                for frame in frames {
                    wire.send(&frame).await;
                    fate = wire.fate().await;
                }
                fate
            }
        })
        .await;
    arena.close().await;
}
