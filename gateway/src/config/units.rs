//! Durations, sizes and addresses as a person writes them, and back.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, net::SocketAddr, time::Duration};

/// Parses `30s`, `1h 30min`, `30d`; a bare number counts seconds.
///
/// # Errors
/// A sentence that shows the form.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|_| {
        format!("must be a duration such as \"30s\", \"5min\" or \"30d\", not {text:?}")
    })
}

/// The shortest form that [`parse_duration`] reads back: one number and the largest unit that
/// divides it.
pub fn format_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("min", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let nanos = duration.as_nanos();
    match UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(*unit)) {
        Some((name, unit)) if nanos > 0 => format!("{}{name}", nanos / unit),
        _ => "0s".to_owned(),
    }
}

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A size as a person writes it, in bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.replace('_', "").parse().ok()?;
    let unit = match unit.trim() {
        "" => 1,
        unit => SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    number.checked_mul(unit)
}

fn format_size(bytes: u64) -> String {
    let mut binary = SIZES[..4].iter();
    match binary.find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// A duration: `"30s"`, or a number of seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// A duration or `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpanOrOff(pub(super) Option<Duration>);

/// A size: `"64MiB"`, or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// An address and port: `"0.0.0.0:8443"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub(super) SocketAddr);

/// Reads a text or a whole number; everything else is refused with `wanted`.
struct TextOrNumber<F> {
    wanted: &'static str,
    read: F,
}

impl<'de, T, F: Fn(&str) -> Result<T, String>> de::Visitor<'de> for TextOrNumber<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wanted)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.read)(text).map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> Result<T, A::Error> {
        Err(de::Error::custom(format!("must be {}, not a table", self.wanted)))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<T, A::Error> {
        Err(de::Error::custom(format!("must be {}, not a list", self.wanted)))
    }
}

macro_rules! as_text {
    ($type:ty, $wanted:literal, $read:expr, $write:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_any(TextOrNumber { wanted: $wanted, read: $read })
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&$write(self))
            }
        }
    };
}

as_text!(
    Span,
    "a duration such as \"30s\"",
    |text: &str| parse_duration(text).map(Span),
    |span: &Span| format_duration(span.0)
);
as_text!(
    SpanOrOff,
    "a duration such as \"30d\", or \"off\"",
    |text: &str| match text.trim() {
        "off" => Ok(SpanOrOff(None)),
        text => parse_duration(text)
            .map(|duration| SpanOrOff(Some(duration)))
            .map_err(|_| format!("must be a duration such as \"30d\", or \"off\", not {text:?}")),
    },
    |span: &SpanOrOff| span.0.map_or("off".to_owned(), format_duration)
);
as_text!(
    Size,
    "a size such as \"64MiB\"",
    |text: &str| parse_size(text).map(Size).ok_or_else(|| format!(
        "must be a size such as \"64MiB\", \"500MB\" or a number of bytes, not {text:?}"
    )),
    |size: &Size| format_size(size.0)
);
as_text!(
    Address,
    "an address and port such as \"0.0.0.0:8443\"",
    |text: &str| text.trim().parse().map(Address).map_err(|_| format!(
        "must be an address and port such as \"0.0.0.0:8443\" or \"[::]:8443\", not {text:?}"
    )),
    |address: &Address| address.0.to_string()
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written_and_write_as_read() {
        let table = [
            ("30s", 30_000, "30s"),
            ("30", 30_000, "30s"),
            ("5min", 300_000, "5min"),
            ("90s", 90_000, "90s"),
            ("1h 30min", 5_400_000, "90min"),
            ("30d", 2_592_000_000, "30d"),
            ("250ms", 250, "250ms"),
            ("0s", 0, "0s"),
        ];
        for (text, millis, written) in table {
            let duration = parse_duration(text);
            assert_eq!(duration, Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(millis)), written);
            assert_eq!(parse_duration(written), duration);
        }
        for text in ["", "soon", "-3s", "1.5", "30 parsecs", "off"] {
            assert!(parse_duration(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn sizes_read_as_written_and_write_as_read() {
        let table = [
            ("64MiB", 64 << 20, "64MiB"),
            ("64 mib", 64 << 20, "64MiB"),
            ("262144", 262_144, "256KiB"),
            ("1_000", 1_000, "1000B"),
            ("500MB", 500_000_000, "500000000B"),
            ("0", 0, "0B"),
        ];
        for (text, bytes, written) in table {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(format_size(bytes), written);
            assert_eq!(parse_size(written), Some(bytes));
        }
        for text in ["", "64M", "MiB", "-1", "1.5GiB", "99999999999TiB", "64 M iB"] {
            assert_eq!(parse_size(text), None, "{text:?} was taken");
        }
    }
}
