//! Readings of a device that a store cannot tell apart by their times.
//!
//! Readings microseconds apart have one time in a store of milliseconds. They are compared as a
//! set: each stored value must be one that was sent for that time, as often as it was sent. A store
//! that keeps a single value of each series and time shows one of them and says nothing of the
//! others; one that shows several keeps them all, so what is missing there is lost.

use super::rows::{OwnedRow, same_json};
use super::store::Fidelity;
use crate::profile::Fields;
use proto::RawValue;
use std::collections::{BTreeMap, HashMap};

/// What may stand in the store for one time of a device.
#[derive(Debug, Default)]
pub(super) struct Shared {
    fields: BTreeMap<&'static str, Field>,
    /// Readings that may be there.
    pub(super) readings: u64,
}

/// A field of those readings.
#[derive(Debug, Default)]
struct Field {
    /// Its values by their bits.
    values: HashMap<u64, Times>,
    all: Times,
    /// Values that came more often than they were sent.
    too_often: u64,
}

/// How often something may be there, and how often it was.
#[derive(Debug, Default, Clone, Copy)]
struct Times {
    due: u64,
    come: u64,
}

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Readings that are not there.
    pub(super) missing: u64,
    /// Readings that are there too often.
    pub(super) doubled: u64,
    /// Whether several of them show, so that what is missing is not just hidden.
    pub(super) apart: bool,
    /// What was refused and is there.
    pub(super) refused: Option<String>,
    /// What differs.
    pub(super) altered: Option<String>,
}

impl Shared {
    /// A reading that may be there, or that was refused; false if the store holds nothing of it.
    pub(super) fn add(&mut self, fields: &Fields, fidelity: Fidelity, refused: bool) -> bool {
        let mut held = false;
        for &(name, value) in fields.iter().filter(|(_, value)| fidelity.holds(*value)) {
            let Some(bits) = bits(value) else { continue };
            held = true;
            let field = self.fields.entry(name).or_default();
            // One that was refused is known, and not due.
            let times = field.values.entry(bits).or_default();
            if !refused {
                times.due += 1;
                field.all.due += 1;
            }
        }
        self.readings += u64::from(held && !refused);
        held
    }

    /// Holds it against the rows of that time.
    pub(super) fn compare(mut self, rows: &[OwnedRow], measurement: &str, tags: &str) -> Found {
        let mut found = Found::default();
        for row in rows {
            if row.measurement != measurement || (row.tags != tags && !same_json(&row.tags, tags)) {
                found.altered =
                    Some(format!("{} {} {}", row.describe(), row.measurement, row.tags));
                continue;
            }
            let field = self.fields.get_mut(row.field.as_str());
            let known = field.and_then(|field| {
                let times = field.values.get_mut(&row.bits()?)?;
                Some((times, &mut field.all, &mut field.too_often))
            });
            let Some((times, all, too_often)) = known else {
                let detail =
                    format!("{}, sent by none of the readings of this time", row.describe());
                found.altered = Some(detail);
                continue;
            };
            if times.come < times.due {
                times.come += 1;
                all.come += 1;
            } else if times.due > 0 {
                *too_often += 1;
            } else {
                found.refused = Some(row.describe());
            }
        }
        for (name, Field { all, too_often, .. }) in self.fields {
            if all.due > 0 && all.come == 0 && found.altered.is_none() {
                found.altered = Some(format!("field {name} is missing"));
            }
            found.missing = found.missing.max(all.due - all.come);
            found.doubled = found.doubled.max(too_often);
            found.apart |= all.come > 1;
        }
        found
    }
}

/// A value as a store of numbers has it.
fn bits(value: RawValue<'_>) -> Option<u64> {
    match value {
        RawValue::Float(x) => Some(x.to_bits()),
        #[expect(clippy::cast_precision_loss, reason = "profiles stay within ±2⁵³")]
        RawValue::Int(n) => Some((n as f64).to_bits()),
        RawValue::Bool(b) => Some((if b { 1.0_f64 } else { 0.0 }).to_bits()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::{Row, Stored};
    use super::*;

    const FIDELITY: Fidelity = Fidelity { time_ns: 1_000_000, types: false, strings: false };

    fn compared(stored: &[(&str, f64)]) -> Found {
        let mut shared = Shared::default();
        let text = ("s", RawValue::Str("not held"));
        for fields in [
            vec![("t", RawValue::Float(1.5)), ("door", RawValue::Bool(true))],
            vec![("t", RawValue::Int(2)), text],
            vec![("t", RawValue::Int(2))],
        ] {
            assert!(shared.add(&fields, FIDELITY, false));
        }
        assert!(shared.add(&vec![("t", RawValue::Int(9))], FIDELITY, true));
        assert!(!shared.add(&vec![text], FIDELITY, false));
        assert_eq!(shared.readings, 3);
        let rows: Vec<OwnedRow> = stored
            .iter()
            .map(|&(field, x)| {
                let value = Stored::Number(x);
                let mut row = OwnedRow::default();
                row.set(&Row { time_ns: 0, measurement: "m", tags: "{}", field, value });
                row
            })
            .collect();
        shared.compare(&rows, "m", "{}")
    }

    #[test]
    fn all_of_them_one_of_them_and_lies() {
        let all = [("t", 2.0), ("door", 1.0), ("t", 1.5), ("t", 2.0)];
        assert_eq!(compared(&all), Found { apart: true, ..Found::default() });
        let one = compared(&[("t", 2.0), ("door", 1.0)]);
        assert_eq!(one, Found { missing: 2, ..Found::default() });
        let lost = compared(&all[..3]);
        assert_eq!(lost, Found { missing: 1, apart: true, ..Found::default() });
        let twice = compared(&[all.as_slice(), &all[..1]].concat());
        assert_eq!(twice, Found { doubled: 1, apart: true, ..Found::default() });
        let refused = compared(&[all.as_slice(), &[("t", 9.0)]].concat());
        assert!(refused.refused.is_some() && refused.missing == 0, "{refused:?}");
        for lie in [("t", 2.5), ("s", 0.0), ("door", 0.0)] {
            let altered = compared(&[all.as_slice(), &[lie]].concat());
            assert!(altered.altered.is_some_and(|detail| detail.contains(lie.0)));
        }
        let fieldless = compared(&[("t", 2.0)]);
        assert_eq!(fieldless.altered.as_deref(), Some("field door is missing"));
    }
}
