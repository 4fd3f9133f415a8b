//! What a device of a replay has sent, in the order of the times that a store shows.
//!
//! Readings of a capture need not be in the order of time, and laps of it may overlap. So the batches
//! are opened in the order of their earliest readings, each when its time has come, and what is held
//! is only what lies open: of usual traffic, a batch or two. A batch with a reading from long ago
//! stays open from then on.

use super::store::Fidelity;
use crate::journal::Ledger;
use crate::plan::{Plan, Replay};
use anyhow::Result;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A reading that was sent, or may have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    /// As the store has it.
    pub(super) time_ns: i64,
    pub(super) seq: u64,
    pub(super) index: u32,
    pub(super) tick: u32,
}

/// A batch that is opened next: of a lap, and its place in the order of the lap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Opening {
    /// Not later than its first reading, as the store has it.
    time_ns: i64,
    lap: u32,
    place: u32,
}

pub(super) struct Upcoming<'a> {
    plan: &'a Plan,
    replay: &'a Replay,
    ledger: &'a Ledger,
    fidelity: Fidelity,
    /// Places in the schedule of one lap, in the order of their earliest readings.
    order: Vec<u32>,
    /// The first place in the schedule that was not sent.
    end_tick: u32,
    last_seq: u64,
    openings: BinaryHeap<Reverse<Opening>>,
    open: BinaryHeap<Reverse<Due>>,
    frame: Vec<u8>,
}

impl<'a> Upcoming<'a> {
    /// All up to `last_seq`.
    pub(super) fn new(
        (plan, replay): (&'a Plan, &'a Replay),
        ledger: &'a Ledger,
        last_seq: u64,
        fidelity: Fidelity,
    ) -> Self {
        let batches = replay.batches(ledger.device);
        let mut order: Vec<u32> = (0..).take(batches.len()).collect();
        order.sort_by_key(|&tick| batches[tick as usize].first_ns);
        let mut upcoming = Self {
            plan,
            replay,
            ledger,
            fidelity,
            order,
            end_tick: match last_seq < plan.start_seq {
                true => 0,
                false => ledger.tick_of(plan, last_seq).saturating_add(1),
            },
            last_seq,
            openings: BinaryHeap::new(),
            open: BinaryHeap::new(),
            frame: Vec::new(),
        };
        upcoming.announce(0, 0);
        upcoming
    }

    /// The earliest reading that has not been taken.
    pub(super) fn peek(&mut self) -> Result<Option<Due>> {
        loop {
            let due = self.open.peek().map(|due| due.0);
            let next = self.openings.peek().map(|next| next.0);
            match (due, next) {
                (due, None) => return Ok(due),
                (Some(due), Some(next)) if due.time_ns < next.time_ns => return Ok(Some(due)),
                (_, Some(next)) => {
                    self.openings.pop();
                    self.open(next)?;
                }
            }
        }
    }

    /// Takes the reading that `peek` shows.
    pub(super) fn take(&mut self) {
        self.open.pop();
    }

    fn open(&mut self, Opening { lap, place, .. }: Opening) -> Result<()> {
        if place == 0 {
            self.announce(lap + 1, 0);
        }
        self.announce(lap, place + 1);
        let Self { plan, replay, ledger, fidelity, .. } = *self;
        let tick = self.tick(lap, place);
        let Some(seq) = tick.and_then(|tick| ledger.seq_of(plan, tick)) else { return Ok(()) };
        let Some(tick) = tick.filter(|_| seq <= self.last_seq && !ledger.has_dropped(seq)) else {
            return Ok(());
        };
        let open = &mut self.open;
        replay.played((ledger.device, tick), &mut self.frame)?.for_each(|index, reading| {
            let time_ns = plan.replayed_ns(replay, ledger.device, tick, index, reading);
            open.push(Reverse(Due { time_ns: fidelity.time(time_ns), seq, index, tick }));
        })
    }

    /// A batch is to be opened when its time has come; laps begin one after the other.
    fn announce(&mut self, lap: u32, place: u32) {
        let Some(&first) = self.order.get(place as usize) else { return };
        let begins = u64::from(lap) * self.order.len() as u64;
        if begins >= u64::from(self.end_tick) {
            return;
        }
        let tick = u32::try_from(begins + u64::from(first)).unwrap_or(u32::MAX);
        let first_ns = self.plan.first_replayed_ns(self.replay, self.ledger.device, tick);
        let time_ns = self.fidelity.time(first_ns);
        self.openings.push(Reverse(Opening { time_ns, lap, place }));
    }

    /// A place in the schedule, if it was sent.
    fn tick(&self, lap: u32, place: u32) -> Option<u32> {
        let begins = u64::from(lap) * self.order.len() as u64;
        let tick = begins + u64::from(self.order[place as usize]);
        u32::try_from(tick).ok().filter(|&tick| tick < self.end_tick)
    }
}
