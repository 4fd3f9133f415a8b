//! The readings of a device in pieces of time that fit into memory.
//!
//! Stores answer series by series, the oracle wants the order of time. So the times of the walk are
//! cut into slices, each is fetched whole and sorted. A slice that turns out too large is fetched
//! again as two; small ones make the next longer. Runs of few readings a device take one question
//! for each device, long ones several.

use super::store::{Row, Stored};
use anyhow::{Result, ensure};

/// Most values that are held at once.
pub(super) const MAX_VALUES: usize = 100_000;

/// The values of a device within a slice.
#[derive(Debug, Default)]
pub(super) struct Slice {
    names: Vec<Name>,
    values: Vec<(i64, usize, Value)>,
}

#[derive(Debug)]
struct Name {
    measurement: String,
    tags: String,
    field: String,
}

/// A value that is held.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Float(f64),
    Int(i64),
    Bool(bool),
    Number(f64),
    Text(Box<str>),
}

impl Slice {
    /// How many series there are.
    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    /// A series; values refer to it by the number that comes back.
    pub(super) fn name(&mut self, measurement: &str, tags: &str, field: &str) -> usize {
        let (measurement, tags, field) = (measurement.into(), tags.into(), field.into());
        self.names.push(Name { measurement, tags, field });
        self.names.len() - 1
    }

    pub(super) fn push(&mut self, time_ns: i64, name: usize, value: Value) {
        self.values.push((time_ns, name, value));
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    fn emit(&mut self, each: &mut dyn FnMut(Row<'_>)) {
        self.values.sort_by_key(|&(time_ns, ..)| time_ns);
        for (time_ns, name, value) in &self.values {
            let Name { measurement, tags, field } = &self.names[*name];
            let value = match value {
                Value::Float(x) => Stored::Float(*x),
                Value::Int(n) => Stored::Int(*n),
                Value::Bool(b) => Stored::Bool(*b),
                Value::Number(x) => Stored::Number(*x),
                Value::Text(text) => Stored::Str(text),
            };
            each(Row { time_ns: *time_ns, measurement, tags, field, value });
        }
        self.names.clear();
        self.values.clear();
    }
}

/// Cuts the times of a walk.
#[derive(Debug)]
pub(super) struct Slicer {
    /// What the store can tell apart, in nanoseconds.
    grain_ns: i64,
    from_ns: i64,
    to_ns: i64,
    length_ns: i64,
}

impl Slicer {
    pub(super) fn new(grain_ns: i64) -> Self {
        Self { grain_ns, from_ns: 0, to_ns: 0, length_ns: i64::MAX }
    }

    /// The times of the walk, inclusive, as the store has them.
    pub(super) fn begin(&mut self, from_ns: i64, to_ns: i64) {
        self.from_ns = from_ns.div_euclid(self.grain_ns) * self.grain_ns;
        self.to_ns = to_ns.div_euclid(self.grain_ns) * self.grain_ns;
    }

    pub(super) fn times(&self) -> (i64, i64) {
        (self.from_ns, self.to_ns)
    }

    /// Walks the slices. `fetch` fills one from its first to its last time, both inclusive; it says
    /// false if there is more than fits.
    pub(super) fn walk(
        &mut self,
        mut fetch: impl FnMut(i64, i64, &mut Slice) -> Result<bool>,
        each: &mut dyn FnMut(Row<'_>),
    ) -> Result<()> {
        let mut slice = Slice::default();
        let mut from_ns = self.from_ns;
        while from_ns <= self.to_ns {
            let whole = self.to_ns - from_ns + self.grain_ns;
            let length_ns = self.length_ns.min(whole);
            let last_ns = from_ns + length_ns - self.grain_ns;
            if fetch(from_ns, last_ns, &mut slice)? {
                if slice.len() < MAX_VALUES / 4 {
                    self.length_ns = self.length_ns.saturating_mul(2);
                }
                slice.emit(each);
                from_ns += length_ns;
                continue;
            }
            ensure!(length_ns > self.grain_ns, "too many values at the time {from_ns}");
            slice = Slice::default();
            self.length_ns = (length_ns / self.grain_ns / 2) * self.grain_ns;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn walked(grain_ns: i64, times: &[i64], fits: usize) -> (Vec<i64>, usize) {
        let mut slicer = Slicer::new(grain_ns);
        slicer.begin(times[0], times[times.len() - 1] + grain_ns - 1);
        let (mut seen, mut questions) = (vec![], 0);
        let fetch = |from: i64, to: i64, slice: &mut Slice| {
            questions += 1;
            assert!(from % grain_ns == 0 && to % grain_ns == 0 && from <= to);
            let within: Vec<i64> =
                times.iter().copied().filter(|time| (from..=to).contains(time)).collect();
            let name = slice.name("m", "{}", "f");
            // As a store may: not in the order of time.
            within.iter().rev().for_each(|&time| slice.push(time, name, Value::Int(time)));
            Ok(within.len() <= fits)
        };
        slicer.walk(fetch, &mut |row| seen.push(row.time_ns)).unwrap();
        (seen, questions)
    }

    #[test]
    fn every_value_comes_once_and_in_order() {
        let times: Vec<i64> = (0..1_000).map(|n| 7_000_000 + n * n * 3_000_000).collect();
        for grain_ns in [1, 1_000_000] {
            for fits in [1, 3, 10, 999, 1_000] {
                let (seen, questions) = walked(grain_ns, &times, fits);
                assert_eq!(seen, times, "{grain_ns} {fits}");
                assert_eq!(questions == 1, fits == 1_000, "{grain_ns} {fits}: {questions}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_at_one_time_is_an_error() {
        let mut slicer = Slicer::new(1_000_000);
        slicer.begin(5_000_000, 90_000_000);
        let error = slicer.walk(|_, _, _| Ok(false), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("at the time 5000000"), "{error}");
    }
}
