//! The kind of a field, and conversions between kinds that lose nothing.
//!
//! A conversion is noted in the envelope and carried out whenever the record is read, so what this
//! file makes of a value is a promise on disk: it never changes (`coerced-v1.txt` holds it).

use super::Value;
use proto::RawValue;
use std::fmt::Write;

/// What stores keep apart under one name. Floats and integers are both numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FieldKind {
    /// A float, or an integer.
    Number = 1,
    /// True or false.
    Bool = 2,
    /// A string.
    Text = 3,
}

impl FieldKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Number, Self::Bool, Self::Text];

    /// The kind of a value as it stands in the message.
    #[inline]
    pub fn of_raw(raw: &RawValue<'_>) -> Self {
        match raw {
            RawValue::Float(_) | RawValue::Int(_) | RawValue::UInt(_) => Self::Number,
            RawValue::Bool(_) => Self::Bool,
            RawValue::Str(_) => Self::Text,
        }
    }

    /// The kind of a value as stores receive it.
    pub fn of(value: &Value<'_>) -> Self {
        match value {
            Value::Float(_) | Value::Int(_) => Self::Number,
            Value::Bool(_) => Self::Bool,
            Value::Str(_) => Self::Text,
        }
    }

    /// Its name for people and in `state.db`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Number => "number",
            Self::Bool => "bool",
            Self::Text => "text",
        }
    }

    /// The kind of this name.
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl std::fmt::Display for FieldKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Converts a value to another kind where nothing is lost; `None` where something would be.
/// `text` is where a new text is put.
///
/// A number becomes its shortest decimal text, true and false become 1 and 0, the texts `true` and
/// `false` become booleans, and a text that is a JSON number becomes that number if it writes no
/// digit that a 64-bit float cannot hold.
pub fn coerce<'a>(value: Value<'a>, to: FieldKind, text: &'a mut String) -> Option<Value<'a>> {
    if FieldKind::of(&value) == to {
        return Some(value);
    }
    match (value, to) {
        (Value::Float(x), FieldKind::Text) => {
            text.clear();
            // Without an exponent, so that no rule about when to write one has to be kept.
            write!(text, "{x}").ok()?;
            Some(Value::Str(text))
        }
        (Value::Int(n), FieldKind::Text) => {
            text.clear();
            write!(text, "{n}").ok()?;
            Some(Value::Str(text))
        }
        (Value::Bool(b), FieldKind::Number) => Some(Value::Float(f64::from(u8::from(b)))),
        (Value::Str(written), FieldKind::Number) => exact_number(written).map(Value::Float),
        (Value::Str("true"), FieldKind::Bool) => Some(Value::Bool(true)),
        (Value::Str("false"), FieldKind::Bool) => Some(Value::Bool(false)),
        _ => None,
    }
}

/// The float that a text writes as a JSON number, if the shortest decimal of the float is the same
/// number: `21.50` and `1e3` are, `9007199254740993` and `0.10000000000000001` are not.
fn exact_number(written: &str) -> Option<f64> {
    let meant = Decimal::parse(written)?;
    let x: f64 = written.parse().ok()?;
    if !x.is_finite() {
        return None;
    }
    (Decimal::parse(&format!("{x}"))? == meant).then_some(x)
}

/// A decimal number: ±0.d₁d₂d₃… × 10^exponent, without zeros at either end.
#[derive(PartialEq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// By the grammar of JSON.
    fn parse(text: &str) -> Option<Self> {
        let negative = text.starts_with('-');
        let text = &text[usize::from(negative)..];
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Self::exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let is_whole = whole == "0" || !whole.is_empty() && !whole.starts_with('0');
        if !is_whole || !are_digits(whole) || !are_digits(fraction) {
            return None;
        }
        let all = [whole, fraction].concat();
        let significant = all.trim_start_matches('0');
        let leading = all.len() - significant.len();
        let digits = significant.trim_end_matches('0').to_owned();
        let point = i64::try_from(whole.len()).ok()? - i64::try_from(leading).ok()?;
        let exponent = if digits.is_empty() { 0 } else { exponent.checked_add(point)? };
        Some(Self { negative, digits, exponent })
    }

    fn exponent(text: &str) -> Option<i64> {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let good = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        // Text that `i64` does not hold is no exponent that a float has.
        good.then(|| text.parse().ok()).flatten()
    }
}

#[cfg(test)]
#[path = "kind_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
