//! One device: what it must have stored against what is there, merged in the order of time.

use super::report::Example;
use super::store::{Row, Stored};
use crate::journal::Ledger;
use crate::plan::Plan;
use crate::profile::Fields;
use proto::RawValue;
use std::collections::BTreeMap;

/// Most examples that are kept of each class.
pub(super) const EXAMPLES: usize = 10;

/// What was found so far, in readings.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) acked: u64,
    pub(super) stored: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) altered: u64,
    pub(super) unexpected: u64,
    pub(super) unacknowledged_present: u64,
    pub(super) refused: u64,
    /// Rows that were compared.
    pub(super) rows: u64,
    pub(super) examples: BTreeMap<&'static str, Vec<Example>>,
    /// Time of the reading of a stranger that was counted last.
    stranger_ns: Option<i64>,
}

impl Counts {
    /// Different readings that are in the store.
    pub(super) fn present(&self) -> u64 {
        self.stored + self.altered + self.unexpected + self.unacknowledged_present
    }

    fn example(&mut self, class: &'static str, make: impl FnOnce() -> Example) {
        let examples = self.examples.entry(class).or_default();
        if examples.len() < EXAMPLES {
            examples.push(make());
        }
    }

    /// The rows of a device that the run does not have follow.
    pub(super) fn begin_stranger(&mut self) {
        self.stranger_ns = None;
    }

    /// A row of a device that the run does not have.
    pub(super) fn stranger(&mut self, device: &str, row: Row<'_>) {
        self.rows += 1;
        if self.stranger_ns.replace(row.time_ns) != Some(row.time_ns) {
            self.unexpected += 1;
            self.example("unexpected", || {
                let detail = format!("the run has no such device; {}", describe(&row));
                Example {
                    device: device.into(),
                    seq: None,
                    index: None,
                    time_ns: row.time_ns,
                    detail,
                }
            });
        }
    }
}

/// What may be in the store for one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// It must be there, once.
    Acked,
    /// It may be there, once.
    Sent,
    /// It must not be there.
    Refused,
}

/// A reading that the device took.
#[derive(Debug, Clone, Copy)]
struct Expected {
    seq: u64,
    index: u32,
    tick: u32,
    time_ns: i64,
    due: Due,
}

/// The comparison for one device.
pub(super) struct DeviceCheck<'a> {
    plan: &'a Plan,
    ledger: &'a Ledger,
    id: &'a str,
    counts: &'a mut Counts,
    /// Tags as the store writes them.
    tags: String,
    next: Option<Expected>,
    /// Last sequence number that may be in the store.
    last_seq: u64,
    /// Readings of the batch of `next` that were refused without being named.
    unnamed: u32,
    /// Rows of the same time.
    group: Vec<OwnedRow>,
    group_len: usize,
    group_ns: i64,
    fields: Fields,
}

/// A row whose memory is reused.
#[derive(Debug, Default)]
struct OwnedRow {
    measurement: String,
    tags: String,
    field: String,
    text: String,
    value: OwnedValue,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum OwnedValue {
    Float(f64),
    Int(i64),
    Bool(bool),
    #[default]
    Text,
}

impl<'a> DeviceCheck<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        ledger: &'a Ledger,
        complete: bool,
        id: &'a str,
        counts: &'a mut Counts,
    ) -> Self {
        let tags: BTreeMap<_, _> =
            plan.profile.tags(plan.seed, ledger.device).into_iter().collect();
        let scheduled = u64::from(plan.ticks(ledger.device));
        // A run that was killed may have sent, after its last journal, up to its whole schedule.
        let last_seq =
            if complete { ledger.sent } else { ledger.sent.max(plan.start_seq - 1 + scheduled) };
        let acked_batches = (ledger.acked + 1).saturating_sub(plan.start_seq);
        let all = acked_batches * u64::from(plan.batch);
        let refused: u64 = ledger
            .refused
            .iter()
            .filter(|refused| refused.seq <= ledger.acked)
            .map(|refused| u64::from(refused.count(plan.batch)))
            .sum();
        counts.acked += all.saturating_sub(refused);
        counts.refused += refused;
        let mut check = Self {
            plan,
            ledger,
            id,
            counts,
            tags: serde_json::to_string(&tags).expect("a map of texts is JSON"),
            next: None,
            last_seq,
            unnamed: 0,
            group: Vec::new(),
            group_len: 0,
            group_ns: 0,
            fields: Fields::new(),
        };
        check.next = check.expected(plan.start_seq, 0);
        check
    }

    /// The next row, not earlier than the one before.
    pub(super) fn row(&mut self, row: Row<'_>) {
        if self.group_len > 0 && self.group_ns != row.time_ns {
            self.close_group();
        }
        self.counts.rows += 1;
        self.group_ns = row.time_ns;
        if self.group.len() == self.group_len {
            self.group.push(OwnedRow::default());
        }
        self.group[self.group_len].set(&row);
        self.group_len += 1;
    }

    /// There are no more rows.
    pub(super) fn finish(mut self) {
        if self.group_len > 0 {
            self.close_group();
        }
        while let Some(expected) = self.next {
            if expected.seq > self.ledger.acked {
                break;
            }
            self.missing(expected);
        }
    }

    fn close_group(&mut self) {
        while let Some(expected) = self.next.filter(|next| next.time_ns < self.group_ns) {
            self.missing(expected);
        }
        match self.next.filter(|next| next.time_ns == self.group_ns) {
            Some(expected) => self.compare(expected),
            None => {
                let row = &self.group[0];
                let detail = format!("no reading was sent for this time; {}", row.describe());
                self.unexpected(None, detail);
            }
        }
        self.group_len = 0;
    }

    fn unexpected(&mut self, expected: Option<Expected>, detail: String) {
        self.counts.unexpected += 1;
        let example = self.example(expected, self.group_ns, detail);
        self.counts.example("unexpected", || example);
    }

    fn missing(&mut self, expected: Expected) {
        if expected.due == Due::Acked {
            if self.unnamed > 0 {
                self.unnamed -= 1;
            } else {
                self.counts.lost += 1;
                let detail = "acknowledged, and not in the store".to_owned();
                let example = self.example(Some(expected), expected.time_ns, detail);
                self.counts.example("lost", || example);
            }
        }
        self.advance(expected);
    }

    fn compare(&mut self, expected: Expected) {
        let (device, Expected { seq, index, tick, .. }) = (self.ledger.device, expected);
        let mut fields = std::mem::take(&mut self.fields);
        self.plan.fields(device, tick, seq, index, &mut fields);
        let found = self.difference(&fields);
        self.fields = fields;
        match (found, expected.due) {
            (_, Due::Refused) => {
                let detail = "it was refused for good, and is in the store".to_owned();
                self.unexpected(Some(expected), detail);
            }
            (Err(detail), _) => {
                self.counts.altered += 1;
                let example = self.example(Some(expected), expected.time_ns, detail);
                self.counts.example("altered", || example);
            }
            (Ok(times), due) => {
                match due {
                    Due::Acked => self.counts.stored += 1,
                    _ => self.counts.unacknowledged_present += 1,
                }
                if times > 1 {
                    self.counts.duplicated += times - 1;
                    let detail = format!("{times} times in the store");
                    let example = self.example(Some(expected), expected.time_ns, detail);
                    self.counts.example("duplicated", || example);
                }
            }
        }
        self.advance(expected);
    }

    /// How many times the rows of the group are the expected reading, or what differs.
    fn difference(&self, fields: &Fields) -> Result<u64, String> {
        let rows = &self.group[..self.group_len];
        let measurement = self.plan.profile.measurement();
        for row in rows {
            if row.measurement != measurement {
                return Err(format!("measurement {:?}, sent {measurement:?}", row.measurement));
            }
            if row.tags != self.tags && !same_json(&row.tags, &self.tags) {
                return Err(format!("tags {}, sent {}", row.tags, self.tags));
            }
            if !fields.iter().any(|(name, _)| *name == row.field) {
                return Err(format!("{}, which was not sent", row.describe()));
            }
        }
        let mut times = 0;
        for (name, sent) in fields {
            let mut of_field = 0;
            for row in rows.iter().filter(|row| row.field == *name) {
                if !row.is(*sent) {
                    return Err(format!("{}, sent {sent:?}", row.describe()));
                }
                of_field += 1;
            }
            if of_field == 0 {
                return Err(format!("field {name} is missing, sent {sent:?}"));
            }
            times = of_field.max(times);
        }
        Ok(times)
    }

    fn advance(&mut self, done: Expected) {
        let next = (done.index + 1 < self.plan.batch).then_some(done.index + 1);
        self.next = match next {
            Some(index) => self.expected(done.seq, index),
            None => self.expected(done.seq + 1, 0),
        };
    }

    fn expected(&mut self, seq: u64, index: u32) -> Option<Expected> {
        if seq > self.last_seq {
            return None;
        }
        let refused = self.ledger.refused_of(seq);
        if index == 0 {
            self.unnamed = refused.map_or(0, |refused| refused.unnamed);
        }
        let is_refused = refused.is_some_and(|refused| {
            refused.whole.is_some()
                || refused.readings.binary_search_by_key(&index, |&(index, _)| index).is_ok()
        });
        let tick = self.ledger.tick_of(self.plan, seq);
        let due = match seq {
            _ if is_refused => Due::Refused,
            seq if seq <= self.ledger.acked => Due::Acked,
            _ => Due::Sent,
        };
        let time_ns = self.plan.time_ns(self.ledger.device, tick, index);
        Some(Expected { seq, index, tick, time_ns, due })
    }

    fn example(&self, expected: Option<Expected>, time_ns: i64, detail: String) -> Example {
        Example {
            device: self.id.to_owned(),
            seq: expected.map(|expected| expected.seq),
            index: expected.map(|expected| expected.index),
            time_ns,
            detail,
        }
    }
}

impl OwnedRow {
    fn set(&mut self, row: &Row<'_>) {
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
            Stored::Str(text) => {
                self.text.clear();
                self.text.push_str(text);
                OwnedValue::Text
            }
        };
    }

    /// Whether it is the value that was sent: to the last bit, an integer as the float that the
    /// gateway makes of it.
    fn is(&self, sent: RawValue<'_>) -> bool {
        match (self.value, sent) {
            (OwnedValue::Float(stored), RawValue::Float(sent)) => {
                stored.to_bits() == sent.to_bits()
            }
            #[expect(clippy::cast_precision_loss, reason = "profiles stay within ±2⁵³")]
            (OwnedValue::Float(stored), RawValue::Int(sent)) => {
                stored.to_bits() == (sent as f64).to_bits()
            }
            (OwnedValue::Int(stored), RawValue::Int(sent)) => stored == sent,
            (OwnedValue::Bool(stored), RawValue::Bool(sent)) => stored == sent,
            (OwnedValue::Text, RawValue::Str(sent)) => self.text == sent,
            _ => false,
        }
    }

    fn describe(&self) -> String {
        let value = match self.value {
            OwnedValue::Float(x) => Stored::Float(x),
            OwnedValue::Int(n) => Stored::Int(n),
            OwnedValue::Bool(b) => Stored::Bool(b),
            OwnedValue::Text => Stored::Str(&self.text),
        };
        describe_value(&self.field, value)
    }
}

fn describe(row: &Row<'_>) -> String {
    describe_value(row.field, row.value)
}

fn describe_value(field: &str, value: Stored<'_>) -> String {
    format!("stored {field} = {value:?}")
}

fn same_json(one: &str, other: &str) -> bool {
    let parse = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    parse(one).is_some_and(|one| parse(other) == Some(one))
}
