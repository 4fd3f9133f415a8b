//! Text from outside, and numbers, as a terminal may show them.

use std::{
    fmt::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Whether a terminal would obey a character or hide others by it.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// In quotes, with everything that acts escaped.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if acts(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A name: as it is where it is plain, else in quotes.
pub fn name(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_.:@%/+-".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { quoted(text) }
}

/// One line of JSON, with everything that acts escaped; such characters stand only within strings.
pub fn json(value: &serde_json::Value) -> String {
    let plain = value.to_string();
    if !plain.chars().any(acts) {
        return plain;
    }
    let mut out = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Nanoseconds since the Unix epoch as RFC 3339.
pub fn time(ns: i64) -> String {
    match u64::try_from(ns) {
        Ok(ns) => humantime::format_rfc3339(UNIX_EPOCH + Duration::from_nanos(ns)).to_string(),
        // The formatter begins with 1970.
        Err(_) => format!("{ns}ns"),
    }
}

/// The time now, nanoseconds since the Unix epoch.
pub fn now_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

/// Bytes for people.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut shown = format!("{bytes} B");
    #[expect(clippy::cast_precision_loss, reason = "rounded for people anyway")]
    let mut value = bytes as f64;
    for unit in UNITS {
        value /= 1024.0;
        if value < 1.0 {
            break;
        }
        shown = format!("{value:.1} {unit}");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for (text, shown, in_json) in [
            ("plain °C", "\"plain °C\"", "\"plain °C\""),
            ("a\"b\\", "\"a\\\"b\\\\\"", "\"a\\\"b\\\\\""),
            ("\x1b[2J", "\"\\u{1b}[2J\"", "\"\\u001b[2J\""),
            ("\u{9b}2J\n", "\"\\u{9b}2J\\u{a}\"", "\"\\u009b2J\\n\""),
            ("a\u{202e}b", "\"a\\u{202e}b\"", "\"a\\u202eb\""),
            ("\u{e0041}", "\"\\u{e0041}\"", "\"\\udb40\\udc41\""),
        ] {
            assert_eq!(quoted(text), shown);
            let line = json(&serde_json::json!(text));
            assert_eq!(line, in_json);
            assert_eq!(serde_json::from_str::<String>(&line).ok().as_deref(), Some(text));
        }
        assert_eq!(name("pump-7/a"), "pump-7/a");
        assert_eq!(name("pump 7"), "\"pump 7\"");
        assert_eq!(name(""), "\"\"");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(64 * 1024 * 1024), "64.0 MiB");
        assert_eq!(time(1_700_000_000_120_000_000), "2023-11-14T22:13:20.120000000Z");
        assert_eq!(time(1_700_000_000_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(time(-1), "-1ns");
    }
}
