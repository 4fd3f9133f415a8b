//! In which kind the store holds a field, by its words about a conflict.
//!
//! A reading that the store refused because it holds the field in another kind teaches that kind
//! to whoever listens, so that the next such reading is refused to its device. A late reading
//! teaches nothing: InfluxDB 1 keeps kinds by week, and what it holds of last year need not be what
//! it holds now.

use super::InfluxDb;
use crate::{
    record::{FieldKind, Point, PointId, Points},
    sink::{Batch, RejectedPoint},
};
use std::collections::HashMap;

/// A reading that was older than this when it came teaches nothing, in nanoseconds: a day.
const LATE_NS: i64 = 24 * 3600 * 1_000_000_000;

/// What the store holds.
#[derive(Debug, PartialEq, Eq)]
struct Held<'a> {
    measurement: &'a str,
    field: &'a str,
    kind: FieldKind,
}

impl InfluxDb {
    /// Passes on what the refused points of a batch teach.
    pub(super) fn tell_kinds(&self, batch: &Batch, rejected: &[RejectedPoint]) {
        let Some((sink, witness)) = &self.witness else { return };
        let conflicts: HashMap<PointId, Held<'_>> = rejected
            .iter()
            .filter_map(|point| Some((point.id, Held::by(&point.reason)?)))
            .collect();
        let mut points = Points::default();
        for record in batch.records.iter() {
            if !conflicts.keys().any(|id| id.position == record.position) {
                continue;
            }
            let received_ns = record.envelope.receive_ns;
            let each = |point: &Point<'_>| {
                let is_late = point.time_ns < received_ns.saturating_sub(LATE_NS);
                if !is_late
                    && let Some(held) = conflicts.get(&point.id).filter(|held| held.is_in(point))
                {
                    let realm = &point.identity.realm;
                    witness.holds(sink, (realm, held.measurement, held.field), held.kind);
                }
            };
            let walked = points.for_each(record.position, &record.envelope, &record.payload, each);
            if let Err(error) = walked {
                tracing::error!(%error, "a refused reading cannot be decoded");
            }
        }
    }
}

impl<'a> Held<'a> {
    /// `… input field "F" on measurement "M" is type T, already exists as type KIND …`
    fn by(words: &'a str) -> Option<Self> {
        let (_, rest) = words.split_once("input field \"")?;
        let (field, rest) = rest.split_once("\" on measurement \"")?;
        let (measurement, rest) = rest.split_once("\" is type ")?;
        let (_, rest) = rest.split_once(", already exists as type ")?;
        let kind = match rest.split([' ', ',']).next()? {
            "float" | "integer" | "unsigned" => FieldKind::Number,
            "boolean" => FieldKind::Bool,
            "string" => FieldKind::Text,
            _ => return None,
        };
        Some(Self { measurement, field, kind })
    }

    /// The words may be about another point of the same request. Two kinds of numbers are one
    /// here: such a conflict teaches nothing.
    fn is_in(&self, point: &Point<'_>) -> bool {
        let differs = |(name, value): &(&str, crate::record::Value<'_>)| {
            *name == self.field && FieldKind::of(value) != self.kind
        };
        point.measurement == self.measurement && point.fields.iter().any(differs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_store_name_the_kind_that_it_holds() {
        let words = |held: &str| {
            format!(
                "partial write: field type conflict: input field \"a b\" on measurement \"m, 1\" \
                 is type string, already exists as type {held} dropped=3"
            )
        };
        for (held, kind) in [
            ("float", Some(FieldKind::Number)),
            ("integer", Some(FieldKind::Number)),
            ("unsigned", Some(FieldKind::Number)),
            ("boolean", Some(FieldKind::Bool)),
            ("string", Some(FieldKind::Text)),
            ("something", None),
        ] {
            let expected = kind.map(|kind| Held { measurement: "m, 1", field: "a b", kind });
            assert_eq!(Held::by(&words(held)), expected, "{held}");
        }
        assert_eq!(Held::by("partial write: points beyond retention policy dropped=1"), None);
        assert_eq!(Held::by("input field \"a\" on measurement \"m\" is type string"), None);
    }
}
