//! One device: what it must have stored against what is there, merged in the order of time.

use super::counts::Counts;
use super::report::Example;
use super::rows::{OwnedRow, same_json};
use super::shared::Shared;
use super::store::{Fidelity, Row};
use crate::journal::Ledger;
use crate::plan::{Kind, Plan};
use crate::profile::Fields;
use proto::RawValue;
use std::collections::BTreeMap;

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
    fidelity: Fidelity,
    id: &'a str,
    counts: &'a mut Counts,
    kind: &'a Kind,
    /// Tags as the store writes them.
    tags: String,
    next: Option<Expected>,
    /// What is due by each of the device's clocks, in the order of its time; only what comes first
    /// on each: `next` is the earliest of them.
    heads: Vec<Option<Expected>>,
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

impl<'a> DeviceCheck<'a> {
    pub(super) fn new(
        plan: &'a Plan,
        ledger: &'a Ledger,
        complete: bool,
        fidelity: Fidelity,
        id: &'a str,
        counts: &'a mut Counts,
    ) -> Self {
        let kind = plan.kind_of(ledger.device);
        let tags: BTreeMap<_, _> =
            kind.profile.tags(plan.seed, ledger.device).into_iter().collect();
        let scheduled = u64::from(plan.ticks(ledger.device));
        // A run that was killed may have sent, after its last journal, up to its whole schedule.
        let last_seq =
            if complete { ledger.sent } else { ledger.sent.max(plan.start_seq - 1 + scheduled) };
        let mut check = Self {
            plan,
            ledger,
            fidelity,
            id,
            counts,
            kind,
            tags: serde_json::to_string(&tags).expect("a map of texts is JSON"),
            next: None,
            heads: Vec::new(),
            last_seq,
            unnamed: 0,
            group: Vec::new(),
            group_len: 0,
            group_ns: 0,
            fields: Fields::new(),
        };
        check.count_acked();
        check.heads =
            plan.clock_numbers().map(|clock| check.first_from(plan.start_seq, clock)).collect();
        check.next = check.earliest();
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
            // By a single clock, all that comes after what is not acknowledged is not either.
            if self.heads.len() == 1 && expected.seq > self.ledger.acked {
                break;
            }
            self.missing(expected);
        }
    }

    /// Counts what is acknowledged and what of it was refused.
    fn count_acked(&mut self) {
        let (ledger, batch) = (self.ledger, u64::from(self.kind.batch));
        let acked = ledger.acked.saturating_add(1).saturating_sub(self.plan.start_seq);
        let dropped: u64 = ledger.dropped.iter().map(|(first, last)| last + 1 - first).sum();
        let refused: u64 = if self.plan.spoils() {
            (self.plan.start_seq..=ledger.acked)
                .filter(|&seq| !ledger.has_dropped(seq))
                .map(|seq| u64::from(refused_count(self.plan, ledger, seq)))
                .sum()
        } else {
            let acked = ledger.refused.iter().filter(|refused| refused.seq <= ledger.acked);
            acked.map(|refused| u64::from(refused.count(self.kind.batch))).sum()
        };
        self.counts.acked += ((acked - dropped) * batch).saturating_sub(refused);
        self.counts.refused += refused;
        let answered = ledger.acked.max(self.plan.start_seq - 1);
        self.counts.unanswered += self.last_seq.saturating_sub(answered) * batch;
    }

    fn close_group(&mut self) {
        let (fidelity, group_ns) = (self.fidelity, self.group_ns);
        let shown_ns = |next: &Expected| fidelity.time(next.time_ns);
        while let Some(expected) = self.next.filter(|next| shown_ns(next) < group_ns) {
            self.missing(expected);
        }
        match self.next.filter(|next| shown_ns(next) == group_ns) {
            Some(first) => {
                // What of its batch was refused without a name, before the next batch begins.
                let unnamed = self.unnamed;
                self.advance(first);
                if self.next.is_some_and(|next| shown_ns(&next) == group_ns) {
                    self.compare_shared(first, unnamed);
                } else {
                    self.compare(first);
                }
            }
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

    fn altered(&mut self, expected: Expected, detail: String) {
        self.counts.altered += 1;
        let example = self.example(Some(expected), expected.time_ns, detail);
        self.counts.example("altered", || example);
    }

    fn missing(&mut self, expected: Expected) {
        if expected.due == Due::Acked {
            if self.unnamed > 0 {
                self.unnamed -= 1;
            } else if !self.is_held(expected) {
                self.counts.not_shown += 1;
            } else {
                self.lost(expected, "acknowledged, and not in the store");
            }
        }
        self.advance(expected);
    }

    fn lost(&mut self, expected: Expected, detail: &str) {
        self.counts.lost += 1;
        let example = self.example(Some(expected), expected.time_ns, detail.to_owned());
        self.counts.example("lost", || example);
    }

    /// Whether the store can hold anything of a reading.
    fn is_held(&mut self, expected: Expected) -> bool {
        let fidelity = self.fidelity;
        fidelity.strings
            || self.with_fields(expected, |_, fields| {
                fields.iter().any(|(_, value)| fidelity.holds(*value))
            })
    }

    fn with_fields<T>(
        &mut self,
        expected: Expected,
        then: impl FnOnce(&mut Self, &Fields) -> T,
    ) -> T {
        let Expected { seq, index, tick, .. } = expected;
        let mut fields = std::mem::take(&mut self.fields);
        self.plan.fields(self.ledger.device, tick, seq, index, &mut fields);
        let result = then(self, &fields);
        self.fields = fields;
        result
    }

    fn compare(&mut self, expected: Expected) {
        let found = self.with_fields(expected, |check, fields| {
            let found = check.difference(fields);
            if found.is_ok() {
                check.count_fidelity(expected, fields);
            }
            found
        });
        match (found, expected.due) {
            (_, Due::Refused) => {
                let detail = "it was refused for good, and is in the store".to_owned();
                self.unexpected(Some(expected), detail);
            }
            (Err(detail), _) => {
                self.altered(expected, detail);
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
    }

    /// Readings that the store cannot tell apart by their times, from the first on.
    fn compare_shared(&mut self, first: Expected, mut unnamed: u32) {
        let (mut shared, mut acked) = (Shared::default(), 0);
        let mut next = Some(first);
        while let Some(expected) = next {
            let (refused, fidelity) = (expected.due == Due::Refused, self.fidelity);
            let held = self.with_fields(expected, |check, fields| {
                check.count_fidelity(expected, fields);
                shared.add(fields, fidelity, refused)
            });
            match (expected.due, held) {
                (Due::Acked, true) => acked += 1,
                (Due::Acked, false) => self.counts.not_shown += 1,
                _ => {}
            }
            next = self.next.filter(|next| self.fidelity.time(next.time_ns) == self.group_ns);
            if let Some(next) = next {
                unnamed = if next.index == 0 { unnamed + self.unnamed } else { unnamed };
                self.advance(next);
            }
        }
        let readings = shared.readings;
        let rows = &self.group[..self.group_len];
        let found = shared.compare(rows, self.kind.profile.measurement(), &self.tags);
        let there = readings - found.missing;
        let stored = there.min(acked);
        self.counts.stored += stored;
        self.counts.unacknowledged_present += there - stored;
        self.counts.duplicated += found.doubled;
        let mut missing = acked - stored;
        if let Some(detail) = found.altered {
            missing = missing.saturating_sub(1);
            self.altered(first, detail);
        }
        if let Some(detail) = found.refused {
            self.unexpected(Some(first), format!("{detail}, which was refused for good"));
        }
        let missing = missing - self.forgive(missing, unnamed);
        if found.apart {
            for _ in 0..missing {
                self.lost(first, "acknowledged, and not among the readings of its time");
            }
        } else {
            self.counts.not_shown += missing;
        }
    }

    /// How many of the missing readings may have been refused without a name; `unnamed` were, in
    /// the batches that had a part in the group.
    fn forgive(&mut self, missing: u64, unnamed: u32) -> u64 {
        let forgiven = missing.min(unnamed.into());
        if self.next.is_some_and(|next| next.index > 0) {
            // The rest of the last batch is still to come.
            let earlier = u64::from(unnamed - self.unnamed);
            let own = u32::try_from(forgiven.saturating_sub(earlier)).unwrap_or(u32::MAX);
            self.unnamed = self.unnamed.saturating_sub(own);
        }
        forgiven
    }

    /// Counts what of a reading the store holds in part or not at all.
    fn count_fidelity(&mut self, expected: Expected, fields: &Fields) {
        let fidelity = self.fidelity;
        if fidelity == Fidelity::FULL || expected.due == Due::Refused {
            return;
        }
        let cut = fidelity.time(expected.time_ns) != expected.time_ns;
        for (_, value) in fields {
            if !fidelity.holds(*value) {
                self.counts.values_not_held += 1;
            } else if cut || (!fidelity.types && matches!(value, RawValue::Bool(_))) {
                self.counts.values_reduced += 1;
            }
        }
    }

    /// How many times the rows of the group are the expected reading, or what differs.
    fn difference(&self, fields: &Fields) -> Result<u64, String> {
        let rows = &self.group[..self.group_len];
        let measurement = self.kind.profile.measurement();
        for row in rows {
            if row.measurement != measurement {
                return Err(format!("measurement {:?}, sent {measurement:?}", row.measurement));
            }
            if row.tags != self.tags && !same_json(&row.tags, &self.tags) {
                return Err(format!("tags {}, sent {}", row.tags, self.tags));
            }
            match fields.iter().find(|(name, _)| *name == row.field) {
                Some((_, sent)) if self.fidelity.holds(*sent) => {}
                Some((_, sent)) => return Err(format!("{}, sent {sent:?}", row.describe())),
                None => return Err(format!("{}, which was not sent", row.describe())),
            }
        }
        let mut times = 0;
        for (name, sent) in fields.iter().filter(|(_, sent)| self.fidelity.holds(*sent)) {
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
        let clock = self.plan.clock_of(self.ledger.device, done.tick);
        let next = (done.index + 1 < self.kind.batch).then_some(done.index + 1);
        self.heads[clock] = match next {
            Some(index) => self.expected(done.seq, index),
            None => self.first_from(done.seq + 1, clock),
        };
        self.next = self.earliest();
    }

    fn earliest(&self) -> Option<Expected> {
        self.heads.iter().flatten().min_by_key(|head| head.time_ns).copied()
    }

    /// The first reading of the first batch from a sequence number on that was taken by a clock.
    fn first_from(&mut self, from_seq: u64, clock: usize) -> Option<Expected> {
        let (plan, ledger) = (self.plan, self.ledger);
        let seq = (from_seq..=self.last_seq).find(|&seq| {
            !ledger.has_dropped(seq)
                && plan.clock_of(ledger.device, ledger.tick_of(plan, seq)) == clock
        })?;
        self.expected(seq, 0)
    }

    fn expected(&mut self, seq: u64, index: u32) -> Option<Expected> {
        let device = self.ledger.device;
        let refused = self.ledger.refused_of(seq);
        let tick = self.ledger.tick_of(self.plan, seq);
        if index == 0 {
            self.unnamed = refused_count(self.plan, self.ledger, seq)
                - known_refused(self.plan, self.ledger, seq);
        }
        let is_refused = self.plan.refuses(device, tick, seq, index)
            || refused.is_some_and(|refused| refused.names(index));
        let due = match seq {
            _ if is_refused => Due::Refused,
            seq if seq <= self.ledger.acked => Due::Acked,
            _ => Due::Sent,
        };
        let time_ns = self.plan.time_ns(device, tick, index);
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

/// How many readings of a batch were refused: those that the plan or the gateway names, and those
/// that the gateway only counted.
fn refused_count(plan: &Plan, ledger: &Ledger, seq: u64) -> u32 {
    let said = ledger.refused_of(seq);
    let said = said.map_or(0, |refused| refused.count(plan.kind_of(ledger.device).batch));
    said.max(known_refused(plan, ledger, seq))
}

/// How many of them are known by their index.
fn known_refused(plan: &Plan, ledger: &Ledger, seq: u64) -> u32 {
    let (refused, device) = (ledger.refused_of(seq), ledger.device);
    let batch = plan.kind_of(device).batch;
    if !plan.spoils() {
        return refused.map_or(0, |refused| refused.named(batch));
    }
    let tick = ledger.tick_of(plan, seq);
    let is_known = |index: &u32| {
        plan.refuses(device, tick, seq, *index) || refused.is_some_and(|said| said.names(*index))
    };
    u32::try_from((0..batch).filter(is_known).count()).unwrap_or(u32::MAX)
}
