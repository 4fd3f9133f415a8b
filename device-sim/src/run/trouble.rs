//! What the plan makes a device go through: its faults and dead zones, as time goes on.
//!
//! Knows when the next change comes, what is in force, and which momentary faults are due; the
//! device and its session act on it. A fleet without faults has none of this.

use super::link::Link;
use super::tally::Tally;
use crate::plan::{Absence, Plan, Trouble};

/// The troubles of one device.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// Nothing changes before this; nanoseconds after the start.
    wake_ns: u64,
    /// The last momentary fault that was due.
    moment: Option<(u64, usize)>,
    /// Until when there is no link.
    pub(super) absent: Option<(u64, Absence)>,
    /// Bytes a second that the link passes.
    pub(super) slow: Option<u32>,
    /// The device does not read.
    pub(super) deaf: bool,
    /// The credential is not valid.
    pub(super) bad_credential: bool,
    /// The device has left and loses half of what it takes before it is back.
    pub(super) forgetful: bool,
    /// Faults that last and were counted, one bit each.
    counted: u32,
    /// A connection that was forgotten without closing it, and when it goes.
    parked: Option<Box<(Link, u64)>>,
}

impl Troubles {
    /// The troubles of a device; `None` if it has none.
    pub(super) fn of(plan: &Plan, device: u32) -> Option<Box<Self>> {
        plan.has_trouble(device).then(Box::default)
    }

    /// When something changes next, in nanoseconds after the start.
    pub(super) fn wake_ns(&self) -> u64 {
        self.wake_ns
    }

    /// Takes note of the time; false if nothing has changed.
    pub(super) fn look(&mut self, plan: &Plan, device: u32, at_ns: u64, tally: &Tally) -> bool {
        if at_ns < self.wake_ns {
            return false;
        }
        let was_absent = self.absent.is_some();
        self.absent = plan.absent(device, at_ns);
        (self.slow, self.deaf, self.bad_credential) = (None, false, false);
        let mut fault_of_absence = false;
        for (index, trouble) in plan.in_force(device, at_ns) {
            match trouble {
                Trouble::Slow { bytes_per_s } => self.slow = Some(bytes_per_s),
                Trouble::Deaf => self.deaf = true,
                Trouble::BadCredential => self.bad_credential = true,
                Trouble::Offline | Trouble::Gap => fault_of_absence = true,
                _ => {}
            }
            let bit = 1_u32 << index;
            // A gap counts when something is lost.
            if self.counted & bit == 0 && trouble != Trouble::Gap {
                self.counted |= bit;
                tally.fault(trouble.name());
            }
        }
        if self.absent.is_some() && !was_absent && !fault_of_absence {
            tally.fault("dead_zone");
        }
        if self.parked.as_ref().is_some_and(|parked| parked.1 <= at_ns) {
            self.parked = None;
        }
        self.set_wake(plan, device, at_ns);
        true
    }

    fn set_wake(&mut self, plan: &Plan, device: u32, at_ns: u64) {
        let moment = plan.next_moment(device, self.moment).map(|(at, _)| at);
        let parked = self.parked.as_ref().map(|parked| parked.1);
        let turns = [plan.next_turn(device, at_ns), moment, parked];
        self.wake_ns = turns.into_iter().flatten().min().unwrap_or(u64::MAX);
    }

    /// The next momentary fault that is due.
    pub(super) fn next(&mut self, plan: &Plan, device: u32, at_ns: u64) -> Option<usize> {
        let due = plan.next_moment(device, self.moment).filter(|&(at, _)| at <= at_ns);
        if due.is_some() {
            self.moment = due;
        } else {
            self.set_wake(plan, device, at_ns);
        }
        due.map(|(_, index)| index)
    }

    /// What was due while there was no connection happens to nobody.
    pub(super) fn pass_over(&mut self, at_ns: u64) {
        self.moment = self.moment.max(Some((at_ns, usize::MAX)));
        self.wake_ns = 0;
    }

    /// Keeps a forgotten connection open until a moment.
    pub(super) fn park(&mut self, link: Link, until_ns: u64) {
        self.parked = Some(Box::new((link, until_ns)));
        self.wake_ns = self.wake_ns.min(until_ns);
    }
}
