//! Rows that are kept while they are compared.

use super::store::{Row, Stored};
use proto::RawValue;

/// A row whose memory is reused.
#[derive(Debug, Default)]
pub(super) struct OwnedRow {
    pub(super) measurement: String,
    pub(super) tags: String,
    pub(super) field: String,
    text: String,
    value: OwnedValue,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum OwnedValue {
    Float(f64),
    Int(i64),
    Bool(bool),
    Number(f64),
    #[default]
    Text,
}

impl OwnedRow {
    pub(super) fn set(&mut self, row: &Row<'_>) {
        for (to, from) in [
            (&mut self.measurement, row.measurement),
            (&mut self.tags, row.tags),
            (&mut self.field, row.field),
        ] {
            if to != from {
                to.clear();
                to.push_str(from);
            }
        }
        self.value = match row.value {
            Stored::Float(x) => OwnedValue::Float(x),
            Stored::Int(n) => OwnedValue::Int(n),
            Stored::Bool(b) => OwnedValue::Bool(b),
            Stored::Number(x) => OwnedValue::Number(x),
            Stored::Str(text) => {
                self.text.clear();
                self.text.push_str(text);
                OwnedValue::Text
            }
        };
    }

    /// Whether it is the value that was sent: to the last bit, an integer as the float that the
    /// gateway makes of it.
    pub(super) fn is(&self, sent: RawValue<'_>) -> bool {
        match (self.value, sent) {
            (OwnedValue::Float(stored) | OwnedValue::Number(stored), RawValue::Float(sent)) => {
                stored.to_bits() == sent.to_bits()
            }
            #[expect(clippy::cast_precision_loss, reason = "profiles stay within ±2⁵³")]
            (OwnedValue::Float(stored) | OwnedValue::Number(stored), RawValue::Int(sent)) => {
                stored.to_bits() == (sent as f64).to_bits()
            }
            (OwnedValue::Number(stored), RawValue::Bool(sent)) => {
                stored.to_bits() == (if sent { 1.0_f64 } else { 0.0 }).to_bits()
            }
            (OwnedValue::Int(stored), RawValue::Int(sent)) => stored == sent,
            (OwnedValue::Bool(stored), RawValue::Bool(sent)) => stored == sent,
            (OwnedValue::Text, RawValue::Str(sent)) => self.text == sent,
            _ => false,
        }
    }

    /// The bits of a number.
    pub(super) fn bits(&self) -> Option<u64> {
        match self.value {
            OwnedValue::Float(x) | OwnedValue::Number(x) => Some(x.to_bits()),
            _ => None,
        }
    }

    pub(super) fn describe(&self) -> String {
        let value = match self.value {
            OwnedValue::Float(x) => Stored::Float(x),
            OwnedValue::Int(n) => Stored::Int(n),
            OwnedValue::Bool(b) => Stored::Bool(b),
            OwnedValue::Number(x) => Stored::Number(x),
            OwnedValue::Text => Stored::Str(&self.text),
        };
        describe_value(&self.field, value)
    }
}

pub(super) fn describe(row: &Row<'_>) -> String {
    describe_value(row.field, row.value)
}

fn describe_value(field: &str, value: Stored<'_>) -> String {
    format!("stored {field} = {value:?}")
}

pub(super) fn same_json(one: &str, other: &str) -> bool {
    let parse = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    parse(one).is_some_and(|one| parse(other) == Some(one))
}
