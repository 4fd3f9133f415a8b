//! Names as levels of a topic: escaped, and back.
//!
//! A level must not hold `/`, `+` and `#`, which structure topics and filters. Those, a `$` (at the
//! start of a topic it means the broker's own) and the `%` of the escape itself become `%` and two
//! hexadecimal digits, as in URLs. So do the bytes of control characters and of the code points
//! that Unicode reserves as no characters: brokers close the connection for them.

/// Appends `text` as one level of a topic.
pub fn escape_level(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for c in text.chars() {
        if !matches!(c, '%' | '/' | '+' | '#' | '$') && !c.is_control() && !is_reserved(c) {
            out.push(c);
            continue;
        }
        for &byte in c.encode_utf8(&mut [0; 4]).as_bytes() {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// What was escaped; `None` if it does not come from [`escape_level`] or something like it.
pub fn unescape_level(level: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(level.len());
    let mut rest = level.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(digits[0])? * 16 + digit(digits[1])?;
        bytes.push(u8::try_from(value).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Not a character, by Unicode.
fn is_reserved(c: char) -> bool {
    let code = u32::from(c);
    (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(text: &str) -> String {
        let mut out = String::new();
        escape_level(text, &mut out);
        out
    }

    #[test]
    fn what_means_something_in_a_topic_is_escaped_and_nothing_else() {
        for (text, level) in [
            ("sim-00000", "sim-00000"),
            ("press/7", "press%2F7"),
            ("a+b=c@d:e.f", "a%2Bb=c@d:e.f"),
            ("100%", "100%25"),
            ("#1 $x", "%231 %24x"),
            ("Größe", "Größe"),
            ("\u{FFFE}\u{7F}", "%EF%BF%BE%7F"),
            ("\u{1FFFF}", "%F0%9F%BF%BF"),
        ] {
            assert_eq!(escaped(text), level);
            assert_eq!(unescape_level(level).as_deref(), Some(text));
        }
        for level in ["%", "%2", "%zz", "%+1", "%FF"] {
            assert_eq!(unescape_level(level), None, "{level}");
        }
        assert_eq!(unescape_level("%2f").as_deref(), Some("/"));
    }

    proptest! {
        #[test]
        fn every_text_comes_back_and_holds_nothing_of_a_topic(text in "\\PC{0,40}") {
            let level = escaped(&text);
            prop_assert!(!level.contains(['/', '+', '#', '$']), "{}", level);
            prop_assert_eq!(unescape_level(&level), Some(text));
        }
    }
}
