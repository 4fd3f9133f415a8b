//! What is sent: readings as a small weather station takes them, encoded before the clock starts.

use proto::{BatchEncoder, RawValue};

/// Measurement of all readings; devices name it once, in `hello`.
pub const MEASUREMENT: &str = "environment";

/// For the report.
pub const DESCRIPTION: &str = "rows; a reading has `time` (ms, 9 bytes), the tag `sensor` (10 \
     values, in turn) and the fields `temperature`, `humidity` (float 64 with two decimals) and \
     `battery` (a small integer); the measurement stands in `hello`";

/// Sensors of a device; consecutive readings are of different ones, so of different series.
const SENSORS: i64 = 10;
/// Different messages; each connection sends them in turn.
const VARIANTS: usize = 16;
/// Stands for a sequence number of four bytes.
const PLACEHOLDER_SEQ: u64 = u32::MAX as u64;

/// An encoded `batch` message and where its sequence number stands.
#[derive(Debug, Clone)]
pub struct Message {
    /// The message.
    pub bytes: Vec<u8>,
    /// Four bytes, big-endian.
    pub seq: std::ops::Range<usize>,
}

/// Messages with so many readings each, all different; times count up to `now_ms`.
pub fn messages(readings: u32, now_ms: i64) -> Vec<Message> {
    let mut random = fastrand::Rng::with_seed(1);
    let sensors: Vec<String> = (0..SENSORS).map(|n| format!("s-{n:03}")).collect();
    (0..VARIANTS).map(|_| message(readings, now_ms, &sensors, &mut random)).collect()
}

/// Mean bytes of a reading in messages with so many of them.
pub fn bytes_per_reading(readings: u32) -> f64 {
    let bytes: usize = messages(readings, 1_795_305_600_000).iter().map(|m| m.bytes.len()).sum();
    bytes as f64 / (VARIANTS as f64 * f64::from(readings))
}

fn message(readings: u32, now_ms: i64, sensors: &[String], random: &mut fastrand::Rng) -> Message {
    let mut encoder = BatchEncoder::new();
    encoder.readings(PLACEHOLDER_SEQ, readings);
    for n in 0..i64::from(readings) {
        let time = now_ms - i64::from(readings) + n;
        let sensor = sensors[usize::try_from(n % SENSORS).unwrap_or(0)].as_str();
        let fields = [
            ("temperature", RawValue::Float(hundredths(random, -2_000..4_000))),
            ("humidity", RawValue::Float(hundredths(random, 0..10_000))),
            ("battery", RawValue::Int(random.i64(0..=100))),
        ];
        encoder.reading(None, Some(time), &[("sensor", sensor)], &fields);
    }
    let bytes = encoder.finish().to_vec();
    let placeholder = PLACEHOLDER_SEQ.to_be_bytes();
    let width = placeholder.len() / 2;
    let start = bytes
        .windows(width)
        .position(|window| window == &placeholder[width..])
        .expect("the encoder writes the sequence number as its four bytes");
    Message { bytes, seq: start..start + width }
}

fn hundredths(random: &mut fastrand::Rng, range: std::ops::Range<i32>) -> f64 {
    f64::from(random.i32(range)) / 100.0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proto::{Batch, DeviceMessage, Limits, RawReading};

    #[test]
    fn messages_are_sound_and_all_different() {
        let messages = messages(100, 1_795_305_600_000);
        for message in &messages {
            let mut bytes = message.bytes.clone();
            bytes[message.seq.clone()].copy_from_slice(&7_u32.to_be_bytes());
            let DeviceMessage::Batch(body) =
                DeviceMessage::decode(&bytes, &Limits::default()).unwrap()
            else {
                panic!("not a batch");
            };
            let batch = Batch::open(body, &Limits::default()).unwrap();
            assert_eq!((batch.seq(), batch.len()), (7, 100));
            let (mut readings, mut reading) = (batch.readings(), RawReading::default());
            while let Some(result) = readings.next(&mut reading).unwrap() {
                result.unwrap();
                assert_eq!((reading.fields.len(), reading.tags.len()), (3, 1));
            }
        }
        assert!(messages.windows(2).all(|pair| pair[0].bytes != pair[1].bytes));
        let per_reading = bytes_per_reading(100);
        assert!((85.0..95.0).contains(&per_reading), "{per_reading}");
    }
}
