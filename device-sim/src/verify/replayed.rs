//! One device of a replay: what its capture holds against what is there.
//!
//! Readings of a capture may share their times, in one series or in several, and need not be in the
//! order of time. So all of a device are listed first, by their times, and each is read when its
//! turn comes.

use super::counts::Counts;
use super::report::Example;
use super::rows::{OwnedRow, same_json};
use super::store::{Fidelity, Row};
use crate::journal::Ledger;
use crate::plan::{Plan, Replay};
use proto::{Batch, Limits, RawReading, RawValue};
use std::collections::{BTreeMap, VecDeque};

/// Batches that are kept decoded.
const DECODED: usize = 8;

/// A reading that was sent, or may have been.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// As the store has it.
    time_ns: i64,
    seq: u64,
    tick: u32,
    index: u32,
}

pub(super) struct ReplayedCheck<'a> {
    replay: &'a Replay,
    ledger: &'a Ledger,
    fidelity: Fidelity,
    id: &'a str,
    counts: &'a mut Counts,
    due: VecDeque<Due>,
    decoded: VecDeque<(u32, Vec<RawReading<'a>>)>,
    group: Vec<OwnedRow>,
    group_ns: i64,
}

impl<'a> ReplayedCheck<'a> {
    pub(super) fn new(
        (plan, replay): (&'a Plan, &'a Replay),
        ledger: &'a Ledger,
        complete: bool,
        fidelity: Fidelity,
        id: &'a str,
        counts: &'a mut Counts,
    ) -> Self {
        let scheduled = u64::from(plan.ticks(ledger.device));
        let last = plan.start_seq - 1 + scheduled;
        let last_seq = if complete { ledger.sent } else { ledger.sent.max(last) };
        let (decoded, group) = (VecDeque::new(), Vec::new());
        let due = VecDeque::new();
        let mut check =
            Self { replay, ledger, fidelity, id, counts, due, decoded, group, group_ns: 0 };
        let mut all = Vec::new();
        for seq in (plan.start_seq..=last_seq).filter(|&seq| !ledger.has_dropped(seq)) {
            let tick = ledger.tick_of(plan, seq);
            let readings = plan.batch_of(ledger.device, tick);
            let refused = ledger.refused_of(seq).map_or(0, |refused| refused.count(readings));
            if seq <= ledger.acked {
                check.counts.acked += u64::from(readings.saturating_sub(refused));
                check.counts.refused += u64::from(refused);
            } else {
                check.counts.unanswered += u64::from(readings);
            }
            for (index, reading) in (0..).zip(check.readings(tick)) {
                let time_ns = plan.replayed_ns(replay, ledger.device, tick, index, reading);
                all.push(Due { time_ns: fidelity.time(time_ns), seq, tick, index });
            }
        }
        all.sort_by_key(|due| due.time_ns);
        check.due = all.into();
        check
    }

    /// The next row, not earlier than the one before.
    pub(super) fn row(&mut self, row: Row<'_>) {
        if !self.group.is_empty() && self.group_ns != row.time_ns {
            self.close_group();
        }
        self.counts.rows += 1;
        self.group_ns = row.time_ns;
        let mut owned = OwnedRow::default();
        owned.set(&row);
        self.group.push(owned);
    }

    /// There are no more rows.
    pub(super) fn finish(mut self) {
        if !self.group.is_empty() {
            self.close_group();
        }
        self.pass_to(i64::MAX);
    }

    fn readings(&mut self, tick: u32) -> &[RawReading<'a>] {
        if let Some(place) = self.decoded.iter().position(|(known, _)| *known == tick) {
            return &self.decoded[place].1;
        }
        if self.decoded.len() >= DECODED {
            self.decoded.pop_front();
        }
        let body = self.replay.body(self.ledger.device, tick);
        let batch = Batch::open(body, &Limits::unbounded()).expect("it was read with the capture");
        let (mut readings, mut all) = (batch.readings(), Vec::new());
        let mut reading = RawReading::default();
        while let Ok(Some(_)) = readings.next(&mut reading) {
            all.push(std::mem::take(&mut reading));
        }
        self.decoded.push_back((tick, all));
        &self.decoded[self.decoded.len() - 1].1
    }

    /// Refused by its index.
    fn is_named(&self, due: Due) -> bool {
        self.ledger.refused_of(due.seq).is_some_and(|refused| refused.names(due.index))
    }

    /// …or perhaps, in a batch of which more were refused than were named.
    fn is_refused(&self, due: Due) -> bool {
        let refused = self.ledger.refused_of(due.seq);
        refused.is_some_and(|refused| refused.names(due.index) || refused.unnamed > 0)
    }

    fn is_acked(&self, due: Due) -> bool {
        due.seq <= self.ledger.acked && !self.is_refused(due)
    }

    /// Everything due before a moment is not there.
    fn pass_to(&mut self, before_ns: i64) {
        while let Some(due) = self.due.front().copied().filter(|due| due.time_ns < before_ns) {
            self.due.pop_front();
            if self.is_acked(due) {
                self.missing(due);
            }
        }
    }

    fn missing(&mut self, due: Due) {
        let fidelity = self.fidelity;
        let reading = &self.readings(due.tick)[due.index as usize];
        if reading.fields.iter().any(|(_, value)| fidelity.holds(*value)) {
            self.counts.lost += 1;
            self.example("lost", due, "acknowledged, and not in the store".to_owned());
        } else {
            self.counts.not_shown += 1;
        }
    }

    fn example(&mut self, class: &'static str, due: Due, detail: String) {
        let example = Example {
            device: self.id.to_owned(),
            seq: Some(due.seq),
            index: Some(due.index),
            time_ns: due.time_ns,
            detail,
        };
        self.counts.example(class, || example);
    }

    fn close_group(&mut self) {
        self.pass_to(self.group_ns);
        let mut rows = std::mem::take(&mut self.group);
        // What is due at this time, by series: the last of a series is what a store keeps.
        let mut series: BTreeMap<(String, String), Vec<Due>> = BTreeMap::new();
        while let Some(due) = self.due.front().copied().filter(|due| due.time_ns == self.group_ns) {
            self.due.pop_front();
            let default = self.replay.measurement(self.ledger.device).unwrap_or_default();
            let reading = &self.readings(due.tick)[due.index as usize];
            let measurement = reading.measurement.unwrap_or(default).to_owned();
            let tags: BTreeMap<_, _> = reading.tags.iter().copied().collect();
            let tags = serde_json::to_string(&tags).expect("a map of texts is JSON");
            series.entry((measurement, tags)).or_default().push(due);
        }
        for ((measurement, tags), dues) in series {
            let is_of = |row: &OwnedRow| {
                row.measurement == measurement && (row.tags == tags || same_json(&row.tags, &tags))
            };
            let (own, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_of);
            rows = rest;
            self.compare(&own, &dues);
        }
        if let Some(row) = rows.first() {
            self.counts.unexpected += 1;
            let detail = format!("no such reading was sent for this time; {}", row.describe());
            let example = Example {
                device: self.id.to_owned(),
                seq: None,
                index: None,
                time_ns: self.group_ns,
                detail,
            };
            self.counts.example("unexpected", || example);
        }
    }

    /// The rows of one series and time against what was sent for them.
    fn compare(&mut self, rows: &[OwnedRow], dues: &[Due]) {
        let fidelity = self.fidelity;
        let mut sent: BTreeMap<String, Vec<RawValue<'a>>> = BTreeMap::new();
        for due in dues {
            for (name, value) in &self.readings(due.tick)[due.index as usize].fields {
                if fidelity.holds(*value) {
                    sent.entry((*name).to_owned()).or_default().push(*value);
                }
            }
        }
        let first = dues[0];
        if rows.is_empty() {
            for &due in dues {
                if self.is_acked(due) {
                    self.missing(due);
                }
            }
            return;
        }
        let wrong = rows.iter().find(|row| {
            !sent.get(&row.field).is_some_and(|values| values.iter().any(|value| row.is(*value)))
        });
        let missing = sent.keys().find(|name| !rows.iter().any(|row| row.field == **name));
        if let Some(detail) = wrong
            .map(|row| format!("{}, which was not sent", row.describe()))
            .or_else(|| missing.map(|name| format!("field {name} is missing")))
        {
            self.counts.altered += 1;
            self.example("altered", first, detail);
            return;
        }
        let acked = dues.iter().filter(|due| self.is_acked(**due)).count() as u64;
        let there = rows.len().div_ceil(sent.len().max(1)) as u64;
        match acked {
            0 if dues.iter().all(|due| self.is_named(*due)) => {
                self.counts.unexpected += 1;
                let detail = "it was refused for good, and is in the store".to_owned();
                self.example("unexpected", first, detail);
                return;
            }
            0 => self.counts.unacknowledged_present += 1,
            _ => self.counts.stored += 1,
        }
        // A store keeps the last of one series and time: it shows nothing of the others.
        self.counts.not_shown += acked.saturating_sub(1);
        if there > dues.len() as u64 {
            self.counts.duplicated += there - dues.len() as u64;
            self.example("duplicated", first, format!("{there} times in the store"));
        }
    }
}
