//! One device of a replay: what its capture holds against what is there.
//!
//! Readings of a capture may share their times, in one series or in several. They come in the order of
//! time, see [`Upcoming`], and their content is read again when they are compared.

use super::counts::Counts;
use super::report::Example;
use super::rows::{OwnedRow, same_json};
use super::store::{Fidelity, Row};
use super::upcoming::{Due, Upcoming};
use crate::journal::Ledger;
use crate::plan::{Plan, Replay};
use anyhow::Result;
use proto::{RawReading, RawValue};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Batches that are kept decoded.
const DECODED: usize = 8;

pub(super) struct ReplayedCheck<'a> {
    replay: &'a Replay,
    ledger: &'a Ledger,
    fidelity: Fidelity,
    id: &'a str,
    counts: &'a mut Counts,
    due: Upcoming<'a>,
    /// By their place in a lap.
    decoded: VecDeque<(u32, Rc<Vec<Sent>>)>,
    frame: Vec<u8>,
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
        let due = Upcoming::new((plan, replay), ledger, last_seq, fidelity);
        let (decoded, group, frame) = (VecDeque::new(), Vec::new(), Vec::new());
        let group_ns = 0;
        let check =
            Self { replay, ledger, fidelity, id, counts, due, decoded, frame, group, group_ns };
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
        }
        check
    }

    /// The next row, not earlier than the one before.
    pub(super) fn row(&mut self, row: Row<'_>) -> Result<()> {
        if !self.group.is_empty() && self.group_ns != row.time_ns {
            self.close_group()?;
        }
        self.counts.rows += 1;
        self.group_ns = row.time_ns;
        let mut owned = OwnedRow::default();
        owned.set(&row);
        self.group.push(owned);
        Ok(())
    }

    /// There are no more rows.
    pub(super) fn finish(mut self) -> Result<()> {
        if !self.group.is_empty() {
            self.close_group()?;
        }
        self.pass_to(i64::MAX)
    }

    /// The readings of a batch.
    fn batch(&mut self, tick: u32) -> Result<Rc<Vec<Sent>>> {
        let (replay, device) = (self.replay, self.ledger.device);
        let place = tick % u32::try_from(replay.batches(device).len())?;
        if let Some((_, batch)) = self.decoded.iter().find(|(known, _)| *known == place) {
            return Ok(Rc::clone(batch));
        }
        if self.decoded.len() >= DECODED {
            self.decoded.pop_front();
        }
        let (mut all, default) = (Vec::new(), replay.measurement(device).unwrap_or_default());
        let played = replay.played((device, tick), &mut self.frame)?;
        played.for_each(|_, reading| all.push(Sent::of(reading, default)))?;
        let all = Rc::new(all);
        self.decoded.push_back((place, Rc::clone(&all)));
        Ok(all)
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
    fn pass_to(&mut self, before_ns: i64) -> Result<()> {
        while let Some(due) = self.due.peek()?.filter(|due| due.time_ns < before_ns) {
            self.due.take();
            if self.is_acked(due) {
                self.missing(due)?;
            }
        }
        Ok(())
    }

    fn missing(&mut self, due: Due) -> Result<()> {
        let (fidelity, batch) = (self.fidelity, self.batch(due.tick)?);
        let mut values = batch[due.index as usize].fields.iter().map(|(_, value)| value.raw());
        if values.any(|value| fidelity.holds(value)) {
            self.counts.lost += 1;
            self.example("lost", due, "acknowledged, and not in the store".to_owned());
        } else {
            self.counts.not_shown += 1;
        }
        Ok(())
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

    fn close_group(&mut self) -> Result<()> {
        self.pass_to(self.group_ns)?;
        let mut rows = std::mem::take(&mut self.group);
        // What is due at this time, by series: the last of a series is what a store keeps.
        let mut series: BTreeMap<(String, String), Vec<DueOf>> = BTreeMap::new();
        while let Some(due) = self.due.peek()?.filter(|due| due.time_ns == self.group_ns) {
            self.due.take();
            let batch = self.batch(due.tick)?;
            let Sent { measurement, tags, .. } = &batch[due.index as usize];
            let key = (measurement.clone(), tags.clone());
            series.entry(key).or_default().push((due, batch));
        }
        for ((measurement, tags), dues) in series {
            let is_of = |row: &OwnedRow| {
                row.measurement == measurement && (row.tags == tags || same_json(&row.tags, &tags))
            };
            let (own, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_of);
            rows = rest;
            self.compare(&own, &dues)?;
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
        Ok(())
    }

    /// The rows of one series and time against what was sent for them.
    fn compare(&mut self, rows: &[OwnedRow], dues: &[DueOf]) -> Result<()> {
        let fidelity = self.fidelity;
        let mut sent: BTreeMap<&str, Vec<RawValue<'_>>> = BTreeMap::new();
        for (due, batch) in dues {
            for (name, value) in &batch[due.index as usize].fields {
                if fidelity.holds(value.raw()) {
                    sent.entry(name).or_default().push(value.raw());
                }
            }
        }
        let first = dues[0].0;
        let acked = dues.iter().filter(|(due, _)| self.is_acked(*due));
        if rows.is_empty() {
            let acked: Vec<Due> = acked.map(|(due, _)| *due).collect();
            return acked.into_iter().try_for_each(|due| self.missing(due));
        }
        let wrong = rows.iter().find(|row| {
            !sent
                .get(row.field.as_str())
                .is_some_and(|values| values.iter().any(|value| row.is(*value)))
        });
        let missing = sent.keys().find(|name| !rows.iter().any(|row| row.field == ***name));
        if let Some(detail) = wrong
            .map(|row| format!("{}, which was not sent", row.describe()))
            .or_else(|| missing.map(|name| format!("field {name} is missing")))
        {
            self.counts.altered += 1;
            self.example("altered", first, detail);
            return Ok(());
        }
        let acked = acked.count() as u64;
        let there = rows.len().div_ceil(sent.len().max(1)) as u64;
        match acked {
            0 if dues.iter().all(|(due, _)| self.is_named(*due)) => {
                self.counts.unexpected += 1;
                let detail = "it was refused for good, and is in the store".to_owned();
                self.example("unexpected", first, detail);
                return Ok(());
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
        Ok(())
    }
}

/// A reading that is due, and its batch.
type DueOf = (Due, Rc<Vec<Sent>>);

/// A reading as it was sent.
struct Sent {
    measurement: String,
    /// As a store writes them.
    tags: String,
    fields: Vec<(String, SentValue)>,
}

enum SentValue {
    Plain(RawValue<'static>),
    Text(Box<str>),
}

impl Sent {
    fn of(reading: &RawReading<'_>, default: &str) -> Self {
        let tags: BTreeMap<_, _> = reading.tags.iter().copied().collect();
        let value = |value: RawValue<'_>| match value {
            RawValue::Float(x) => SentValue::Plain(RawValue::Float(x)),
            RawValue::Int(n) => SentValue::Plain(RawValue::Int(n)),
            RawValue::UInt(n) => SentValue::Plain(RawValue::UInt(n)),
            RawValue::Bool(b) => SentValue::Plain(RawValue::Bool(b)),
            RawValue::Str(text) => SentValue::Text(text.into()),
        };
        Self {
            measurement: reading.measurement.unwrap_or(default).to_owned(),
            tags: serde_json::to_string(&tags).expect("a map of texts is JSON"),
            fields: (reading.fields.iter())
                .map(|&(name, of)| (name.to_owned(), value(of)))
                .collect(),
        }
    }
}

impl SentValue {
    fn raw(&self) -> RawValue<'_> {
        match self {
            SentValue::Plain(value) => *value,
            SentValue::Text(text) => RawValue::Str(text),
        }
    }
}
