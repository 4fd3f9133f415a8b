//! Bytes that are no MessagePack, or no message, or a message with a value of the wrong kind.

use super::{
    Arena, Fate,
    wire::{BINARY, frame},
};
use proto::ErrorCode::{
    BadBatch, BadType, BadUtf8, DuplicateKey, EmptyBatch, IntegerInexact, Malformed, NoFields,
    NoMeasurement, NotFinite, TimeImplausible, TooDeep, TooManyBad, TooManyFields, TooManyReadings,
    TooManyTags, UnequalColumns, UnknownKind,
};

/// A batch with `seq` 1 and one more key.
fn batch(rest: &[u8]) -> Vec<u8> {
    [b"\x81\xa5batch\x82\xa3seq\x01", rest].concat()
}

fn readings(rest: &[u8]) -> Vec<u8> {
    batch(&[b"\xa8readings", rest].concat())
}

/// A batch of one reading, which is this.
fn reading(rest: &[u8]) -> Vec<u8> {
    readings(&[b"\x91", rest].concat())
}

/// A reading with a measurement, a field and one more key.
fn keyed(rest: &[u8]) -> Vec<u8> {
    reading(&[b"\x83\xabmeasurement\xa1m\xa6fields\x81\xa1v\x01", rest].concat())
}

/// A reading with these fields.
fn fields(rest: &[u8]) -> Vec<u8> {
    reading(&[b"\x82\xabmeasurement\xa1m\xa6fields", rest].concat())
}

/// A reading whose field has this value.
fn value(value: &[u8]) -> Vec<u8> {
    fields(&[b"\x81\xa1v", value].concat())
}

fn time(time: &[u8]) -> Vec<u8> {
    keyed(&[b"\xa4time", time].concat())
}

/// Columns with a measurement and one more key.
fn columns(rest: &[u8]) -> Vec<u8> {
    batch(&[b"\xa7columns\x82\xabmeasurement\xa1m", rest].concat())
}

/// Columns with `time` and `fields` as they stand here.
fn timed_columns(time: &[u8], fields: &[u8]) -> Vec<u8> {
    let head = b"\xa7columns\x83\xabmeasurement\xa1m\xa4time";
    batch(&[head, time, b"\xa6fields", fields].concat())
}

/// A batch of one good reading.
pub(super) fn good() -> Vec<u8> {
    value(b"\x01")
}

fn float(value: f64) -> Vec<u8> {
    [&[0xcb][..], &value.to_be_bytes()].concat()
}

/// A timestamp of 96 bits.
fn timestamp(nanos: u32, seconds: i64) -> Vec<u8> {
    [b"\xc7\x0c\xff", &nanos.to_be_bytes()[..], &seconds.to_be_bytes()].concat()
}

/// Maps of `n` pairs of a name of two bytes and this value.
fn many(n: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0xde][..], &n.to_be_bytes()].concat();
    for i in 0..n {
        bytes.extend([0xa2, b'a' + (i / 26) as u8, b'a' + (i % 26) as u8]);
        bytes.extend(value);
    }
    bytes
}

impl Arena {
    async fn fate_of(&self, device: &str, message: &[u8]) -> Fate {
        let mut wire = self.device(device).await;
        wire.send(&frame(BINARY, message)).await;
        wire.fate().await
    }

    async fn try_messages(self, cases: Vec<(&'static str, Vec<u8>, Fate)>) {
        self.try_all(cases, |device, message| {
            let arena = &self;
            async move { arena.fate_of(&device, &message).await }
        })
        .await;
        self.close().await;
    }
}

const MALFORMED: Fate = Fate::Closed(1007, Malformed);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_message_ends_the_connection() {
    let deep = |depth: usize| value(&[vec![0x91; depth], vec![1]].concat());
    let huge = b"\xff\xff\xff\xff";
    let claim = |kind: u8| [&[kind][..], huge].concat();
    let reserved = |inside: &[u8]| batch(&[b"\xa1x", inside].concat());
    let too_deep = Fate::Closed(1007, TooDeep);
    let cases = vec![
        ("the byte that is never used", b"\xc1".to_vec(), MALFORMED),
        ("nil", b"\xc0".to_vec(), MALFORMED),
        ("a number", b"\x07".to_vec(), MALFORMED),
        ("an array", b"\x91\x01".to_vec(), MALFORMED),
        ("an empty map", b"\x80".to_vec(), MALFORMED),
        ("two kinds", b"\x82\xa5hello\x80\xa5batch\x80".to_vec(), MALFORMED),
        ("a kind that is a number", b"\x81\x01\x80".to_vec(), MALFORMED),
        ("a kind that is nil", b"\x81\xc0\x80".to_vec(), MALFORMED),
        ("an unknown kind", b"\x81\xa5hullo\x80".to_vec(), Fate::Closed(1007, UnknownKind)),
        ("a kind of the gateway", b"\x81\xa3ack\x80".to_vec(), Fate::Closed(1007, UnknownKind)),
        (
            "a kind that is not UTF-8",
            b"\x81\xa2\xff\xfe\x80".to_vec(),
            Fate::Closed(1007, UnknownKind),
        ),
        (
            "a kind of escape sequences",
            b"\x81\xa5\x1b[2J\n\x80".to_vec(),
            Fate::Closed(1007, UnknownKind),
        ),
        ("an empty kind", b"\x81\xa0\x80".to_vec(), Fate::Closed(1007, UnknownKind)),
        ("a batch that is an array", b"\x81\xa5batch\x90".to_vec(), MALFORMED),
        ("a batch that is nil", b"\x81\xa5batch\xc0".to_vec(), MALFORMED),
        ("a hello that is text", b"\x81\xa5hello\xa1x".to_vec(), MALFORMED),
        ("bytes behind the end", [good(), b"\0".to_vec()].concat(), MALFORMED),
        ("two messages in one", [good(), good()].concat(), MALFORMED),
        ("a field nine levels down", deep(4), too_deep),
        ("a field a thousand levels down", deep(1_000), too_deep),
        ("a field a hundred thousand levels down", deep(100_000), too_deep),
        (
            "a map in a map a thousand times",
            [b"\x81\xa1a".repeat(1_000), b"\x01".to_vec()].concat(),
            too_deep,
        ),
        ("an array of 2^32-1", reserved(&claim(0xdd)), MALFORMED),
        ("a map of 2^32-1", reserved(&claim(0xdf)), MALFORMED),
        ("a string of 2^32-1", reserved(&claim(0xdb)), MALFORMED),
        ("bytes of 2^32-1", reserved(&claim(0xc6)), MALFORMED),
        ("an extension of 2^32-1", reserved(&claim(0xc9)), MALFORMED),
        (
            "arrays of 2^32-1 inside each other",
            reserved(&[claim(0xdd), claim(0xdd), claim(0xdd), claim(0xdd)].concat()),
            MALFORMED,
        ),
        ("readings of 2^32-1", readings(&claim(0xdd)), MALFORMED),
        ("a reading of 2^32-1 keys", reading(&claim(0xdf)), MALFORMED),
        ("fields of 2^32-1", fields(&claim(0xdf)), MALFORMED),
        (
            "a column of 2^32-1",
            columns(&[&b"\xa6fields\x81\xa1v"[..], &claim(0xdd)].concat()),
            MALFORMED,
        ),
        ("a key of a batch that is a number", b"\x81\xa5batch\x81\x01\x01".to_vec(), MALFORMED),
        ("a key of a reading that is a number", reading(b"\x81\x01\x01"), MALFORMED),
        ("a field whose name is nil", fields(b"\x81\xc0\x01"), MALFORMED),
        ("a batch without seq", b"\x81\xa5batch\x81\xa8readings\x90".to_vec(), MALFORMED),
        ("seq twice", batch(b"\xa3seq\x01"), MALFORMED),
        ("seq as text", b"\x81\xa5batch\x81\xa3seq\xa11".to_vec(), MALFORMED),
        ("seq as a float", b"\x81\xa5batch\x81\xa3seq\xca\x3f\x80\0\0".to_vec(), MALFORMED),
        ("seq nil", b"\x81\xa5batch\x81\xa3seq\xc0".to_vec(), MALFORMED),
        ("stream 0", b"\x81\xa5hello\x81\xa6stream\0".to_vec(), MALFORMED),
        ("stream twice", b"\x81\xa5hello\x82\xa6stream\x01\xa6stream\x02".to_vec(), MALFORMED),
        ("an unknown unit", b"\x81\xa5hello\x81\xa9time_unit\xa1h".to_vec(), MALFORMED),
        ("a small max_rx", b"\x81\xa5hello\x81\xa6max_rx\x01".to_vec(), MALFORMED),
        ("a model that is not UTF-8", b"\x81\xa5hello\x81\xa5model\xa1\xff".to_vec(), MALFORMED),
    ];
    Arena::open().await.try_messages(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_the_wrong_kind_costs_its_reading() {
    let bad_type = Fate::Reading(BadType);
    let not_finite = Fate::Reading(NotFinite);
    let inexact = Fate::Reading(IntegerInexact);
    let implausible = Fate::Reading(TimeImplausible);
    let cases = vec![
        ("minus zero", value(&float(-0.0)), Fate::Taken),
        ("a subnormal", value(&float(5e-324)), Fate::Taken),
        ("the largest float", value(&float(f64::MAX)), Fate::Taken),
        ("a float of 32 bits", value(b"\xca\x3d\xcc\xcc\xcd"), Fate::Taken),
        ("2^53", value(b"\xcf\0\x20\0\0\0\0\0\0"), Fate::Taken),
        ("-2^53", value(b"\xd3\xff\xe0\0\0\0\0\0\0"), Fate::Taken),
        ("a number in more bytes than it needs", value(b"\xcf\0\0\0\0\0\0\0\x01"), Fate::Taken),
        ("unknown keys", keyed(b"\xa1x\x91\x81\xa1y\xc0"), Fate::Taken),
        ("NaN", value(&float(f64::NAN)), not_finite),
        ("a signalling NaN", value(b"\xcb\x7f\xf0\0\0\0\0\0\x01"), not_finite),
        ("NaN of 32 bits", value(b"\xca\x7f\xc0\0\0"), not_finite),
        ("infinity", value(&float(f64::INFINITY)), not_finite),
        ("minus infinity of 32 bits", value(b"\xca\xff\x80\0\0"), not_finite),
        ("2^53+1", value(b"\xcf\0\x20\0\0\0\0\0\x01"), inexact),
        ("the least integer", value(b"\xd3\x80\0\0\0\0\0\0\0"), inexact),
        ("2^63", value(b"\xcf\x80\0\0\0\0\0\0\0"), inexact),
        ("2^64-1", value(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), inexact),
        ("nil", value(b"\xc0"), bad_type),
        ("an array", value(b"\x91\x01"), bad_type),
        ("a map", value(b"\x81\xa1a\x01"), bad_type),
        ("bytes", value(b"\xc4\x01\0"), bad_type),
        ("an extension of 1 byte", value(b"\xd4\x05\0"), bad_type),
        ("an extension of 16 bytes", value(&[&b"\xd8\x7f"[..], &[0; 16]].concat()), bad_type),
        ("an extension of no bytes", value(b"\xc7\0\x80"), bad_type),
        ("a timestamp as a value", value(b"\xd6\xff\x65\0\0\0"), bad_type),
        ("a string that is not UTF-8", value(b"\xa2\xc3\x28"), Fate::Reading(BadUtf8)),
        ("half of a surrogate pair", value(b"\xa3\xed\xa0\x80"), Fate::Reading(BadUtf8)),
        ("a slash in too many bytes", value(b"\xa2\xc0\xaf"), Fate::Reading(BadUtf8)),
        ("a field name that is not UTF-8", fields(b"\x81\xa1\xff\x01"), Fate::Reading(BadUtf8)),
        ("a field twice", fields(b"\x82\xa1v\x01\xa1v\x02"), Fate::Reading(DuplicateKey)),
        ("fields twice", keyed(b"\xa6fields\x81\xa1v\x01"), Fate::Reading(DuplicateKey)),
        (
            "time twice",
            reading(b"\x83\xa6fields\x81\xa1v\x01\xa4time\xc0\xa4time\xc0"),
            Fate::Reading(DuplicateKey),
        ),
        ("fields that are an array", fields(b"\x91\x01"), bad_type),
        ("fields that are nil", fields(b"\xc0"), Fate::Reading(NoFields)),
        ("no fields", fields(b"\x80"), Fate::Reading(NoFields)),
        ("65 fields", fields(&many(65, b"\x01")), Fate::Reading(TooManyFields)),
        (
            "17 tags",
            keyed(&[b"\xa4tags", &*many(17, b"\xa1x")].concat()),
            Fate::Reading(TooManyTags),
        ),
        ("tags that are text", keyed(b"\xa4tags\xa1x"), bad_type),
        ("a tag that is a number", keyed(b"\xa4tags\x81\xa1a\x01"), bad_type),
        ("a tag that is not UTF-8", keyed(b"\xa4tags\x81\xa1a\xa1\xff"), Fate::Reading(BadUtf8)),
        ("no measurement", reading(b"\x81\xa6fields\x81\xa1v\x01"), Fate::Reading(NoMeasurement)),
        (
            "a measurement that is a number",
            reading(b"\x82\xabmeasurement\x01\xa6fields\x81\xa1v\x01"),
            bad_type,
        ),
        (
            "a measurement that is not UTF-8",
            reading(b"\x82\xabmeasurement\xa1\xff\xa6fields\x81\xa1v\x01"),
            Fate::Reading(BadUtf8),
        ),
        ("a reading that is a number", reading(b"\x07"), bad_type),
        ("a reading that is nil", reading(b"\xc0"), bad_type),
        ("a timestamp of 32 bits", time(b"\xd6\xff\x65\0\0\0"), Fate::Taken),
        ("a timestamp of 64 bits", time(b"\xd7\xff\0\0\0\x04\x65\0\0\0"), Fate::Taken),
        ("a timestamp of 96 bits", time(&timestamp(999_999_999, 1_700_000_000)), Fate::Taken),
        ("64 bits with 10^9 nanoseconds", time(b"\xd7\xff\xee\x6b\x28\x00\x65\0\0\0"), implausible),
        ("96 bits with 10^9 nanoseconds", time(&timestamp(1_000_000_000, 1)), implausible),
        ("96 bits with the last second", time(&timestamp(0, i64::MAX)), implausible),
        ("96 bits with the first second", time(&timestamp(0, i64::MIN)), implausible),
        ("a timestamp of 5 bytes", time(b"\xc7\x05\xff\0\0\0\0\0"), bad_type),
        ("a time of another extension", time(b"\xd6\x01\x65\0\0\0"), bad_type),
        ("a time that is text", time(b"\xa42020"), bad_type),
        ("a time that is a float", time(&float(1.8e12)), bad_type),
        ("a time that is NaN", time(&float(f64::NAN)), bad_type),
        ("a time that is a map", time(b"\x80"), bad_type),
        ("a time above 64 bits signed", time(b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"), implausible),
    ];
    Arena::open().await.try_messages(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_none_is_refused_as_a_whole() {
    let bad_batch = Fate::Batch(BadBatch);
    let unequal = Fate::Batch(UnequalColumns);
    let many_readings = [&b"\xdd\0\0\x13\x89"[..], &[0xc0; 5001]].concat();
    let many_rows = [&b"\xa6fields\x81\xa1v\xdd\0\0\x13\x89"[..], &[1; 5001]].concat();
    let cases = vec![
        ("no readings", readings(b"\x90"), Fate::Batch(EmptyBatch)),
        ("5,001 readings", readings(&many_readings), Fate::Batch(TooManyReadings)),
        ("readings that are nil", readings(b"\xc0"), bad_batch),
        ("readings that are a map", readings(b"\x80"), bad_batch),
        ("neither readings nor columns", b"\x81\xa5batch\x81\xa3seq\x01".to_vec(), bad_batch),
        (
            "readings twice",
            b"\x81\xa5batch\x83\xa3seq\x01\xa8readings\x90\xa8readings\x90".to_vec(),
            bad_batch,
        ),
        (
            "readings and columns",
            b"\x81\xa5batch\x83\xa3seq\x01\xa7columns\x80\xa8readings\x90".to_vec(),
            bad_batch,
        ),
        ("columns that are an array", batch(b"\xa7columns\x90"), bad_batch),
        ("columns without fields", columns(b"\xa1x\x01"), bad_batch),
        ("a column that is no array", columns(b"\xa6fields\x81\xa1v\x01"), bad_batch),
        ("columns of no rows", columns(b"\xa6fields\x81\xa1v\x90"), Fate::Batch(EmptyBatch)),
        ("5,001 rows", columns(&many_rows), Fate::Batch(TooManyReadings)),
        (
            "65 columns",
            columns(&[b"\xa6fields", &*many(65, b"\x91\x01")].concat()),
            Fate::Batch(TooManyFields),
        ),
        (
            "columns of unequal length",
            columns(b"\xa6fields\x82\xa1a\x91\x01\xa1b\x92\x01\x02"),
            unequal,
        ),
        ("more times than rows", timed_columns(b"\x92\xc0\xc0", b"\x81\xa1v\x91\x01"), unequal),
        (
            "a start without a step",
            timed_columns(b"\x81\xa5start\x01", b"\x81\xa1v\x91\x01"),
            bad_batch,
        ),
        (
            "a step that is a float",
            timed_columns(b"\x82\xa5start\x01\xa4step\xca\0\0\0\0", b"\x81\xa1v\x91\x01"),
            bad_batch,
        ),
        (
            "steps beyond 64 bits",
            timed_columns(
                b"\x82\xa5start\x01\xa4step\xcf\x7f\xff\xff\xff\xff\xff\xff\xff",
                b"\x81\xa1v\x92\x01\x02",
            ),
            Fate::Reading(TimeImplausible),
        ),
        (
            "a row without a value",
            columns(b"\xa6fields\x81\xa1v\x92\x01\xc0"),
            Fate::Reading(NoFields),
        ),
        ("a map in a column", columns(b"\xa6fields\x81\xa1v\x92\x01\x80"), Fate::Reading(BadType)),
    ];
    Arena::open().await.try_messages(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_cut_at_any_byte_is_malformed() {
    let arena = Arena::open().await;
    let message = good();
    let cases = (0..message.len()).map(|at| ("cut", message[..at].to_vec(), MALFORMED)).collect();
    arena.try_messages(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_bad_batches_end_the_connection() {
    let arena = Arena::open().await;
    let mut wire = arena.device("d").await;
    let mut fates = Vec::new();
    for seq in 1..=40_u8 {
        let batch = [b"\x81\xa5batch\x82\xa3seq", &[seq][..], b"\xa8readings\x90"].concat();
        wire.send(&frame(BINARY, &batch)).await;
        fates.push(wire.fate().await);
        if !matches!(fates.last(), Some(Fate::Batch(_))) {
            break;
        }
    }
    assert_eq!(fates.pop(), Some(Fate::Closed(1008, TooManyBad)));
    assert_eq!(fates, vec![Fate::Batch(EmptyBatch); 32]);
    drop(wire);
    arena.close().await;
}
