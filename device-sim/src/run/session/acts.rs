//! What a session does because the plan wants something to go wrong.

use super::{Ended, Session, unreadable};
use crate::plan::{Absence, Trouble};
use crate::profile::mix;
use crate::run::device::Device;
use bytes::Bytes;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

/// Longest piece of a batch that is sent in place of the whole, in bytes.
const PIECE_BYTES: usize = 40;

impl Session<'_> {
    /// Takes note of what is in force, does what is due.
    pub(super) async fn go_through_troubles(&mut self, now: Instant) -> Result<(), Ended> {
        let changed = self.device.look(now);
        let Device { fleet, sender, troubles: Some(troubles), outbox, .. } = &mut *self.device
        else {
            return Ok(());
        };
        if troubles.bad_credential {
            return Err(Ended::Left);
        }
        self.leaving = false;
        match troubles.absent {
            _ if fleet.stop.is_cancelled() => {}
            Some((_, Absence::Offline)) => return Err(Ended::Left),
            Some((_, Absence::Gap)) if self.welcomed && outbox.is_answered() => {
                troubles.forgetful = true;
                self.close().await;
                return Err(Ended::Left);
            }
            Some((_, Absence::Gap)) => self.leaving = true,
            None => {}
        }
        if !changed {
            return Ok(());
        }
        self.link.get_mut().io_mut().slow_down(troubles.slow);
        let (fleet, index) = (fleet.clone(), sender.index);
        let at_ns = fleet.elapsed_ns(now);
        loop {
            let due = self.device.troubles.as_mut().and_then(|t| t.next(&fleet.plan, index, at_ns));
            let Some(fault) = due else { return Ok(()) };
            self.act(fault)?;
        }
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.device.troubles.as_ref().is_some_and(|troubles| troubles.deaf)
    }

    fn act(&mut self, fault: usize) -> Result<(), Ended> {
        let fleet = self.device.fleet.clone();
        let trouble = fleet.plan.faults[fault].trouble;
        let ended = match trouble {
            Trouble::Drop => Some(Ended::Left),
            Trouble::HalfOpen => {
                let until_ns = fleet.plan.fault_end_ns(fault);
                Some(Ended::Forgotten(until_ns))
            }
            _ => None,
        };
        let sent = match trouble {
            Trouble::Repeat => self.again(0)?,
            Trouble::Reuse => self.again(1)?,
            Trouble::Skip => self.out_of_turn()?,
            Trouble::Malformed => Some(self.malformed(fault)?),
            _ => None,
        };
        if ended.is_some() || sent.is_some() {
            fleet.tally.fault(trouble.name());
        }
        if let Some(message) = sent {
            self.put(message)?;
        }
        ended.map_or(Ok(()), Err)
    }

    /// The last batch that was sent on this connection and acknowledged, once more; with the
    /// content of another place in the schedule if that is so many further.
    fn again(&mut self, further: u32) -> Result<Option<Message>, Ended> {
        let Device { fleet, sender, outbox, .. } = &*self.device;
        let seq = outbox.acked();
        if self.first_here == 0 || seq < self.first_here {
            return Ok(None);
        }
        let tick = fleet.ledger(sender.index).tick_of(&fleet.plan, seq);
        let message = fleet.encode(sender, tick + further, seq).map_err(unreadable)?;
        if further > 0 {
            self.reused = seq;
        }
        Ok(Some(Message::Binary(message)))
    }

    /// A batch with the number after the one that comes next. Not as the first of a connection:
    /// that one may skip numbers.
    fn out_of_turn(&self) -> Result<Option<Message>, Ended> {
        let Device { fleet, sender, outbox, .. } = &*self.device;
        if self.first_here == 0 || outbox.acked() < self.first_here {
            return Ok(None);
        }
        let seq = outbox.next() + 1;
        Ok(Some(Message::Binary(fleet.encode(sender, 0, seq).map_err(unreadable)?)))
    }

    fn malformed(&self, fault: usize) -> Result<Message, Ended> {
        let Device { fleet, sender, outbox, .. } = &*self.device;
        let hash = mix(&[fleet.plan.seed, fault as u64, sender.index.into(), outbox.next(), 81]);
        Ok(match hash % 5 {
            0 => Message::Binary(Bytes::from_static(&[0xc1; 16])),
            1 => {
                let whole = fleet.encode(sender, 0, outbox.next()).map_err(unreadable)?;
                let piece = 1 + (hash >> 8) as usize % PIECE_BYTES.min(whole.len() - 1);
                Message::Binary(whole.slice(..piece))
            }
            2 => Message::Text("21.5".into()),
            3 => Message::Binary(Bytes::from_static(b"\x81\xa5bogus\x80")),
            _ => Message::Binary(self.hello()),
        })
    }

    /// A device that was away has lost half of what it took meanwhile.
    pub(super) fn lose(&mut self) {
        let Device { fleet, sender, outbox, troubles, .. } = &mut *self.device;
        let Some(troubles) = troubles.as_mut().filter(|troubles| troubles.forgetful) else {
            return;
        };
        troubles.forgetful = false;
        if let Some((first, last)) = outbox.lose_half() {
            let (plan, mut ledger) = (&fleet.plan, fleet.ledger(sender.index));
            let readings = |seq| plan.batch_of(sender.index, ledger.tick_of(plan, seq));
            let dropped = (first..=last).map(|seq| u64::from(readings(seq))).sum();
            ledger.dropped.push((first, last));
            fleet.tally.dropped.add(dropped);
            fleet.tally.fault(Trouble::Gap.name());
        }
    }
}
