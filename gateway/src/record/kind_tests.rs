//! Coercion loses nothing, and makes the same of a value for ever.

use super::*;
use proptest::prelude::*;

/// `FROM VALUE → KIND RESULT`, one conversion a line. Lines are only ever added.
const GOLDEN: &str = include_str!("../../tests/golden/coerced-v1.txt");

fn value(text: &str) -> Value<'_> {
    match text.split_once(' ').unwrap() {
        ("number", bits) => Value::Float(f64::from_bits(u64::from_str_radix(bits, 16).unwrap())),
        ("bool", b) => Value::Bool(b.parse().unwrap()),
        ("text", text) => Value::Str(text),
        _ => panic!("{text}"),
    }
}

fn show(value: Option<Value<'_>>) -> String {
    match value {
        Some(Value::Float(x)) => format!("number {:016x}", x.to_bits()),
        Some(Value::Bool(b)) => format!("bool {b}"),
        Some(Value::Str(text)) => format!("text {text}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn what_was_made_of_a_value_is_made_of_it_for_ever() {
    let mut lines = 0;
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let (from, to) = line.split_once(" -> ").unwrap();
        let (kind, expected) = to.split_once(": ").unwrap();
        let mut text = String::new();
        let kind = FieldKind::from_text(kind).unwrap();
        assert_eq!(show(coerce(value(from), kind, &mut text)), expected, "{line}");
        lines += 1;
    }
    assert!(lines > 40, "{lines}");
}

fn same(a: &Value<'_>, b: &Value<'_>) -> bool {
    match (a, b) {
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        _ => a == b,
    }
}

proptest! {
    /// Every finite number survives as text, to the bit.
    #[test]
    fn a_number_comes_back_from_its_text(bits: u64) {
        let x = f64::from_bits(bits);
        prop_assume!(x.is_finite());
        let (mut there, mut back) = (String::new(), String::new());
        let text = coerce(Value::Float(x), FieldKind::Text, &mut there).unwrap();
        let Value::Str(written) = text else { panic!("{text:?}") };
        prop_assert!(serde_json::from_str::<serde_json::Number>(written).is_ok(), "{written}");
        prop_assert!(written.len() <= 350, "{}", written.len());
        let again = coerce(text, FieldKind::Number, &mut back).unwrap();
        prop_assert!(same(&again, &Value::Float(x)), "{written}");
    }

    /// A text that is taken for a number says the same number, digit by digit.
    #[test]
    fn a_text_is_a_number_only_if_no_digit_is_lost(
        sign in "-?", whole in "0|[1-9][0-9]{0,18}", fraction in "(\\.[0-9]{1,20})?",
        exponent in "([eE][+-]?[0-9]{1,3})?",
    ) {
        let written = format!("{sign}{whole}{fraction}{exponent}");
        let (mut text, mut back) = (String::new(), String::new());
        let number = coerce(Value::Str(&written), FieldKind::Number, &mut text);
        let Some(number) = number else { return Ok(()) };
        let again = coerce(number, FieldKind::Text, &mut back).unwrap();
        let Value::Str(again) = again else { panic!("{again:?}") };
        let [a, b] = [&*written, again].map(scaled);
        prop_assert_eq!(a, b, "{} became {}", written, again);
    }

    /// Whatever is no JSON number stays a text.
    #[test]
    fn other_texts_are_no_numbers(written in "\\PC{0,12}") {
        let mut text = String::new();
        let taken = coerce(Value::Str(&written), FieldKind::Number, &mut text).is_some();
        let is_json = serde_json::from_str::<serde_json::Number>(&written).is_ok();
        prop_assert!(!taken || is_json && written.trim() == written, "{written:?}");
    }

    /// Of a kind already: nothing happens.
    #[test]
    fn a_value_of_the_kind_stays_as_it_is(x: f64, b: bool, written in ".{0,20}") {
        for value in [Value::Float(x), Value::Bool(b), Value::Str(&written), Value::Int(-7)] {
            let mut text = String::new();
            let same_kind = coerce(value, FieldKind::of(&value), &mut text).unwrap();
            prop_assert!(same(&same_kind, &value) || x.is_nan());
        }
    }
}

/// Another way to the same number: sign, digits as an integer, power of ten. Written apart from
/// [`Decimal`], so that one checks the other.
fn scaled(text: &str) -> (bool, Vec<u8>, i64) {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().unwrap()),
        None => (text, 0),
    };
    let places = mantissa.find('.').map_or(0, |at| mantissa.len() - at - 1);
    let mut digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    let mut power = exponent - i64::try_from(places).unwrap();
    while digits.last() == Some(&b'0') {
        digits.pop();
        power += 1;
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    digits.drain(..zeros);
    if digits.is_empty() {
        power = 0;
    }
    (text.starts_with('-'), digits, power)
}
