//! InfluxDB's line protocol: `measurement,tags fields time`, one line for each point.
//!
//! Promises that a line says exactly what the point says and nothing else, whatever text a device
//! chose, and that two points of one series have the same bytes up to the fields. What the syntax
//! cannot carry is not written:
//!
//! - A backslash in a name or tag value that stands at the end or before a comma, a space, an
//!   equals sign or another backslash would take the next character's meaning away; the parsers of
//!   InfluxDB 1, 2 and 3 disagree on how to avoid it. (VictoriaMetrics reads a doubled backslash as
//!   one, so nothing is excluded there.)
//! - A measurement that begins with `#` is a comment.
//! - A tag with an empty value is left out: for these stores it is the same as no tag.

use crate::record::{Point, Value};
use foldhash::fast::RandomState;
use std::collections::HashMap;

/// Most bytes of remembered series; beyond it they are forgotten and made again.
const SERIES_CACHE_BYTES: usize = 32 << 20;

/// Whose line protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// InfluxDB 1, 2 and 3.
    InfluxDb,
    /// VictoriaMetrics: numbers only, a doubled backslash is one.
    VictoriaMetrics,
}

impl Dialect {
    /// Whether a name or tag value can be written so that it is read as it is.
    fn holds_name(self, name: &str) -> bool {
        let bytes = name.as_bytes();
        is_plain(name)
            || self == Self::VictoriaMetrics
            || !bytes.iter().enumerate().any(|(at, &byte)| {
                byte == b'\\'
                    && matches!(bytes.get(at + 1), None | Some(b'\\' | b',' | b' ' | b'='))
            })
    }

    fn holds_field(self, name: &str, is_text: bool) -> bool {
        if is_plain(name) {
            return name != "time" && !(self == Self::VictoriaMetrics && is_text);
        }
        // VictoriaMetrics takes a quotation mark in a field's name for the start of a string.
        let odd = is_text || name.contains('"');
        !(self == Self::VictoriaMetrics && odd) && self.holds_name(name)
    }

    fn escape(self, name: &str, specials: &[u8], out: &mut Vec<u8>) {
        if is_plain(name) {
            out.extend_from_slice(name.as_bytes());
            return;
        }
        for &byte in name.as_bytes() {
            if specials.contains(&byte) || (byte == b'\\' && self == Self::VictoriaMetrics) {
                out.push(b'\\');
            }
            out.push(byte);
        }
    }
}

/// Without a character that means something in any name of any dialect.
fn is_plain(name: &str) -> bool {
    const ODD: [bool; 256] = {
        let mut odd = [false; 256];
        let mut at = 0;
        while at < 5 {
            odd[b"\\, =\""[at] as usize] = true;
            at += 1;
        }
        odd
    };
    !name.bytes().any(|byte| ODD[usize::from(byte)])
}

fn is_text(value: &Value<'_>) -> bool {
    matches!(value, Value::Str(_))
}

/// The beginning of a series' lines; `None` cannot be written.
type Prefix = Option<Box<[u8]>>;

/// The name of a field as it stands in a line.
#[derive(Debug, Default)]
struct FieldName {
    name: String,
    /// Escaped, with the equals sign.
    written: Vec<u8>,
    holds_number: bool,
    holds_text: bool,
}

impl FieldName {
    /// Keeps its memory: where devices of several kinds take turns, names change all the time.
    fn become_that_of(&mut self, dialect: Dialect, name: &str) {
        self.name.clear();
        self.name.push_str(name);
        self.written.clear();
        dialect.escape(name, b", =", &mut self.written);
        self.written.push(b'=');
        self.holds_number = dialect.holds_field(name, false);
        self.holds_text = dialect.holds_field(name, true);
    }
}

/// What became of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoded {
    /// A line was appended; this many fields are not in it because the store cannot hold them.
    Line {
        /// Fields that were left out.
        left_out: usize,
    },
    /// The store cannot hold the point at all; nothing was appended.
    Unsupported,
}

/// Encodes points into lines; remembers the beginnings of lines by series, and the names of fields.
#[derive(Debug)]
pub struct LineEncoder {
    dialect: Dialect,
    /// From what names a series to its place in `prefixes`. Devices choose what is hashed: the
    /// hasher's seed keeps them from choosing collisions.
    series: HashMap<Box<[u8]>, usize, RandomState>,
    prefixes: Vec<Prefix>,
    series_bytes: usize,
    key: Vec<u8>,
    /// The series before, a device's points come in runs, and its place.
    current_key: Vec<u8>,
    current: usize,
    /// The names of the fields that came last at each place: readings repeat them. As many as the
    /// longest reading had, which the limits of the protocol bound.
    fields: Vec<FieldName>,
}

impl LineEncoder {
    /// An encoder that remembers nothing yet.
    pub fn new(dialect: Dialect) -> Self {
        Self {
            dialect,
            series: HashMap::default(),
            prefixes: Vec::new(),
            series_bytes: 0,
            key: Vec::new(),
            current_key: Vec::new(),
            current: 0,
            fields: Vec::new(),
        }
    }

    /// Appends the line of a point, newline included.
    pub fn encode(&mut self, point: &Point<'_>, out: &mut Vec<u8>) -> Encoded {
        self.name_series(point);
        if self.key != self.current_key {
            self.current = match self.series.get(self.key.as_slice()) {
                Some(&known) => known,
                None => self.remember(point),
            };
            std::mem::swap(&mut self.key, &mut self.current_key);
        }
        let Some(prefix) = &self.prefixes[self.current] else { return Encoded::Unsupported };
        let start = out.len();
        out.extend_from_slice(prefix);
        let mut left_out = 0;
        let mut separator = b' ';
        for (place, (name, value)) in point.fields.iter().enumerate() {
            let field = field(&mut self.fields, self.dialect, place, name);
            if !(if is_text(value) { field.holds_text } else { field.holds_number }) {
                left_out += 1;
                continue;
            }
            out.push(separator);
            separator = b',';
            out.extend_from_slice(&field.written);
            push_value(value, out);
        }
        if separator == b' ' {
            out.truncate(start);
            return Encoded::Unsupported;
        }
        out.push(b' ');
        out.extend_from_slice(itoa::Buffer::new().format(point.time_ns).as_bytes());
        out.push(b'\n');
        Encoded::Line { left_out }
    }

    /// Puts what names the series of a point into `key`. None of these texts has control
    /// characters, so a zero byte keeps them apart.
    fn name_series(&mut self, point: &Point<'_>) {
        let key = &mut self.key;
        key.clear();
        let identity = [&*point.identity.realm, &*point.identity.device, point.measurement];
        for text in identity.into_iter().chain(point.tags.iter().flat_map(|tag| [tag.0, tag.1])) {
            key.extend_from_slice(text.as_bytes());
            key.push(0);
        }
    }

    fn remember(&mut self, point: &Point<'_>) -> usize {
        let prefix = prefix(self.dialect, point);
        let bytes = self.key.len() + prefix.as_ref().map_or(0, |prefix| prefix.len());
        let bytes = bytes + size_of::<(Box<[u8]>, usize, Prefix)>();
        self.series_bytes += bytes;
        if self.series_bytes > SERIES_CACHE_BYTES {
            self.series.clear();
            self.prefixes.clear();
            self.series_bytes = bytes;
        }
        let place = self.prefixes.len();
        self.prefixes.push(prefix);
        self.series.insert(self.key.as_slice().into(), place);
        place
    }
}

/// The name of a field, as it was written last at this place if it is the same.
#[inline]
fn field<'a>(
    known: &'a mut Vec<FieldName>,
    dialect: Dialect,
    place: usize,
    name: &str,
) -> &'a FieldName {
    // Fields come in order, so this is the next place.
    if place == known.len() {
        known.push(FieldName::default());
    }
    let field = &mut known[place];
    // No field is called nothing, so a new one differs.
    if field.name != name {
        field.become_that_of(dialect, name);
    }
    field
}

/// Measurement and tags, by name; the gateway's own tags among them.
fn prefix(dialect: Dialect, point: &Point<'_>) -> Prefix {
    let mut tags: Vec<(&str, &str)> = Vec::with_capacity(point.tags.len() + 2);
    tags.extend(point.tags.iter().filter(|(_, value)| !value.is_empty()));
    tags.push(("device", &point.identity.device));
    if &*point.identity.realm != "default" {
        tags.push(("realm", &point.identity.realm));
    }
    tags.sort_unstable();
    let names = tags.iter().flat_map(|tag| [tag.0, tag.1]).chain([point.measurement]);
    if point.measurement.starts_with('#') || names.into_iter().any(|n| !dialect.holds_name(n)) {
        return None;
    }
    let mut out = Vec::with_capacity(128);
    dialect.escape(point.measurement, b", ", &mut out);
    for (name, value) in tags {
        out.push(b',');
        dialect.escape(name, b", =", &mut out);
        out.push(b'=');
        dialect.escape(value, b", =", &mut out);
    }
    Some(out.into())
}

fn push_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match *value {
        // The shortest text that reads back as the same float.
        Value::Float(x) => out.extend_from_slice(zmij::Buffer::new().format_finite(x).as_bytes()),
        Value::Int(n) => {
            out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
            out.push(b'i');
        }
        Value::Bool(b) => out.extend_from_slice(if b { b"true" } else { b"false" }),
        Value::Str(text) => {
            out.push(b'"');
            for &byte in text.as_bytes() {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(byte);
            }
            out.push(b'"');
        }
    }
}

#[cfg(test)]
#[path = "line_protocol_tests.rs"]
mod tests;
