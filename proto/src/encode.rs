//! What a device sends: complete messages, written straight into one buffer that is reused.

use crate::{Hello, RawValue, TimeUnit, msgpack::Write};

/// A map of one pair, and the key `batch`.
const BATCH_KEY: &[u8] = b"\x81\xa5batch";

/// Writes complete `batch` messages: start one with [`readings`](Self::readings) or
/// [`columns`](Self::columns), add what was announced, take the bytes with
/// [`finish`](Self::finish). Lengths stand before their content in MessagePack, so they are
/// announced; the encoder holds the caller to them.
#[derive(Debug, Clone, Default)]
pub struct BatchEncoder {
    buffer: Vec<u8>,
    /// Readings or columns still to come.
    left: u32,
    /// Rows that every column must have.
    rows: Option<usize>,
}

/// The times of columns, in the connection's `time_unit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnTimes<'a> {
    /// The gateway stamps the rows when it receives them.
    Absent,
    /// One time for each row.
    Each(&'a [i64]),
    /// Row `i` has `start + i × step`.
    Steps {
        /// Time of the first row.
        start: i64,
        /// From one row to the next.
        step: i64,
    },
}

impl<'a> ColumnTimes<'a> {
    /// Times of even steps are two numbers.
    pub fn of(times: &'a [i64]) -> Self {
        match times {
            [start, second, ..]
                if times
                    .windows(2)
                    .all(|pair| pair[1].checked_sub(pair[0]) == Some(second - start)) =>
            {
                Self::Steps { start: *start, step: second - start }
            }
            _ => Self::Each(times),
        }
    }
}

impl BatchEncoder {
    /// An empty encoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a batch of `count` readings.
    pub fn readings(&mut self, seq: u64, count: u32) -> &mut Self {
        self.start(seq, "readings");
        self.buffer.put_array(count as usize);
        self.left = count;
        self
    }

    /// Adds a reading; `time` is in the connection's `time_unit`.
    ///
    /// # Panics
    /// More readings than were announced.
    pub fn reading(
        &mut self,
        measurement: Option<&str>,
        time: Option<i64>,
        tags: &[(&str, &str)],
        fields: &[(&str, RawValue<'_>)],
    ) -> &mut Self {
        self.left = self.left.checked_sub(1).expect("no more readings than were announced");
        let out = &mut self.buffer;
        let optional = [measurement.is_some(), time.is_some(), !tags.is_empty()];
        out.put_map(1 + optional.into_iter().filter(|&present| present).count());
        if let Some(time) = time {
            out.extend_from_slice(b"\xa4time");
            out.put_int(time);
        }
        put_series(out, measurement, tags);
        out.extend_from_slice(b"\xa6fields");
        out.put_map(fields.len());
        for &(name, value) in fields {
            out.put_str(name);
            out.put_value(value);
        }
        self
    }

    /// Starts a batch of `count` columns.
    pub fn columns(
        &mut self,
        seq: u64,
        measurement: Option<&str>,
        tags: &[(&str, &str)],
        times: ColumnTimes<'_>,
        count: u32,
    ) -> &mut Self {
        self.start(seq, "columns");
        let out = &mut self.buffer;
        let optional = [measurement.is_some(), times != ColumnTimes::Absent, !tags.is_empty()];
        out.put_map(1 + optional.into_iter().filter(|&present| present).count());
        put_series(out, measurement, tags);
        match times {
            ColumnTimes::Absent => {}
            ColumnTimes::Each(times) => {
                out.put_str("time");
                out.put_array(times.len());
                times.iter().for_each(|&time| out.put_int(time));
                self.rows = Some(times.len());
            }
            ColumnTimes::Steps { start, step } => {
                out.put_str("time");
                out.put_map(2);
                out.put_str("start");
                out.put_int(start);
                out.put_str("step");
                out.put_int(step);
            }
        }
        out.put_str("fields");
        out.put_map(count as usize);
        self.left = count;
        self
    }

    /// Adds a column; `None` where a row has no value.
    ///
    /// # Panics
    /// More columns than were announced, or of another length than those before.
    pub fn column<'v, I>(&mut self, name: &str, values: I) -> &mut Self
    where
        I: IntoIterator<Item = Option<RawValue<'v>>, IntoIter: ExactSizeIterator>,
    {
        self.left = self.left.checked_sub(1).expect("no more columns than were announced");
        let values = values.into_iter();
        let rows = *self.rows.get_or_insert(values.len());
        assert_eq!(values.len(), rows, "columns have the same length");
        self.buffer.put_str(name);
        self.buffer.put_array(rows);
        for value in values {
            match value {
                Some(value) => self.buffer.put_value(value),
                None => self.buffer.put_nil(),
            }
        }
        self
    }

    /// The complete message. It stays until the next batch is started.
    ///
    /// # Panics
    /// Fewer readings or columns than were announced.
    pub fn finish(&self) -> &[u8] {
        assert_eq!(self.left, 0, "as many readings or columns as were announced");
        &self.buffer
    }

    /// The body of the message alone: what stands under the key `batch`.
    ///
    /// # Panics
    /// Nothing was started, or fewer readings or columns came than were announced.
    pub fn body(&self) -> &[u8] {
        &self.finish()[BATCH_KEY.len()..]
    }

    fn start(&mut self, seq: u64, key: &str) {
        self.buffer.clear();
        self.rows = None;
        self.buffer.extend_from_slice(BATCH_KEY);
        self.buffer.extend_from_slice(b"\x82\xa3seq");
        self.buffer.put_uint(seq);
        self.buffer.put_str(key);
    }
}

fn put_series(out: &mut Vec<u8>, measurement: Option<&str>, tags: &[(&str, &str)]) {
    if let Some(measurement) = measurement {
        out.put_str("measurement");
        out.put_str(measurement);
    }
    if !tags.is_empty() {
        out.put_str("tags");
        out.put_map(tags.len());
        for (name, value) in tags {
            out.put_str(name);
            out.put_str(value);
        }
    }
}

/// Appends a complete `hello` message; what is absent or has its default is left out.
pub fn encode_hello(hello: &Hello, out: &mut Vec<u8>) {
    let Hello { stream, time_unit, measurement, max_rx, firmware, model } = hello;
    let texts = [("measurement", measurement), ("firmware", firmware), ("model", model)];
    let numbers = [("stream", *stream), ("max_rx", max_rx.map(u64::from))];
    let unit = match time_unit {
        TimeUnit::S => Some("s"),
        TimeUnit::Ms => None,
        TimeUnit::Us => Some("us"),
        TimeUnit::Ns => Some("ns"),
    };
    let pairs = texts.iter().filter(|(_, text)| text.is_some()).count()
        + numbers.iter().filter(|(_, number)| number.is_some()).count()
        + usize::from(unit.is_some());
    out.extend_from_slice(b"\x81\xa5hello");
    out.put_map(pairs);
    for (key, number) in numbers {
        if let Some(number) = number {
            out.put_str(key);
            out.put_uint(number);
        }
    }
    if let Some(unit) = unit {
        out.put_str("time_unit");
        out.put_str(unit);
    }
    for (key, text) in texts {
        if let Some(text) = text {
            out.put_str(key);
            out.put_str(text);
        }
    }
}
