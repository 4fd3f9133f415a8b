//! What the gateway answers: welcome, acks, refusals.

use super::{Ended, Session};
use crate::journal::{Ledger, RefusedBatch};
use crate::plan::Plan;
use crate::run::device::Device;
use crate::run::outbox::Conflict;
use proto::{ErrorCode, Nack, Welcome};
use std::time::Duration;
use tokio::time::Instant;

impl Session<'_> {
    pub(super) fn welcome(&mut self, welcome: &Welcome) -> Result<(), Ended> {
        let (batch, readings) = (self.device.batch, welcome.limits.readings);
        if batch > readings {
            return Err(Ended::Hopeless(
                "conflict",
                format!("--batch {batch} is more than this gateway takes: {readings}"),
            ));
        }
        if let Some(acked) = welcome.acked_seq {
            self.acknowledged(acked)?;
        }
        let logged = welcome.logged_seq.max(welcome.acked_seq);
        self.device.outbox.welcome(welcome.window, logged)?;
        self.lose();
        self.device.backoff.reset();
        self.welcomed = true;
        let tally = &self.device.fleet.tally;
        tally.welcomes.add(1);
        if std::mem::replace(&mut self.device.welcomed_before, true) {
            tally.reconnects.add(1);
        }
        Ok(())
    }

    pub(super) fn acknowledged(&mut self, seq: u64) -> Result<(), Conflict> {
        let now = Instant::now();
        let Device { fleet, sender, outbox, closed_loop, .. } = &mut *self.device;
        let mut ledger = fleet.ledger(sender.index);
        outbox.acknowledged(seq, |seq, tick| {
            let taken = closed_loop.as_mut().and_then(|closed_loop| closed_loop.acknowledged());
            let due = taken.unwrap_or_else(|| fleet.due(sender.index, tick));
            let when = fleet.due_at(sender.index, due);
            fleet.tally.ack_latency(sender.index, when, now - due);
            let planned = fleet.plan.refused_count(sender.index, tick, seq);
            let unplanned = unplanned(&fleet.plan, &ledger, tick, seq);
            if planned > 0 && unplanned == 0 {
                // The plan says it all; a journal that lists it would only grow.
                ledger.forget_refusal(seq);
            }
            let batch = fleet.plan.batch_of(sender.index, tick);
            let refused = (planned + unplanned).min(batch);
            fleet.tally.acked.add(u64::from(batch - refused));
            fleet.tally.refused_planned.add(planned.into());
            fleet.tally.refused_unplanned.add(u64::from(refused - planned));
            ledger.acked = seq;
        })
    }

    pub(super) fn refused(&mut self, nack: Nack) -> Result<(), Ended> {
        if let Some(after) = nack.retry_after_ms {
            self.device.fleet.tally.retries.add(1);
            self.device.outbox.put_off(nack.seq);
            let until = Instant::now() + Duration::from_millis(u64::from(after));
            self.pause = Some(self.pause.map_or(until, |pause| pause.max(until)));
            return Ok(());
        }
        if let Some(expected) = nack.expected {
            return Ok(self.device.outbox.expected(expected)?);
        }
        if nack.seq < self.device.fleet.plan.start_seq {
            // Of nothing that this run has sent.
            return Ok(());
        }
        let reused = nack.code == ErrorCode::SeqReused && nack.seq == self.reused;
        let Device { fleet, sender, outbox, .. } = &*self.device;
        let refused = refused_batch(&nack);
        let mut ledger = fleet.ledger(sender.index);
        let tick = ledger.tick_of(&fleet.plan, nack.seq);
        let batch = fleet.plan.batch_of(sender.index, tick);
        if nack.seq <= outbox.acked() {
            let planned = fleet.plan.refused_count(sender.index, tick, nack.seq);
            // The answer to the plan's own misuse of the number, or a refusal said again.
            if reused || (planned > 0 && refused.count(batch) == planned) {
                return Ok(());
            }
        }
        if ledger.refuse(refused.clone()) {
            match refused.whole {
                Some(code) => fleet.tally.refused(code, u64::from(batch)),
                None => {
                    refused.readings.iter().for_each(|&(_, code)| fleet.tally.refused(code, 1));
                    fleet.tally.refused(nack.code, u64::from(refused.unnamed));
                }
            }
        }
        Ok(())
    }
}

fn refused_batch(nack: &Nack) -> RefusedBatch {
    let mut readings: Vec<_> =
        nack.readings.iter().map(|reading| (reading.index, reading.code)).collect();
    readings.sort_unstable_by_key(|&(index, _)| index);
    readings.dedup_by_key(|&mut (index, _)| index);
    RefusedBatch {
        seq: nack.seq,
        whole: (nack.refused == Some(true)).then_some(nack.code),
        readings,
        unnamed: nack.more.unwrap_or(0),
    }
}

/// How many readings of a batch the gateway refused although the plan foresaw it not.
fn unplanned(plan: &Plan, ledger: &Ledger, tick: u32, seq: u64) -> u32 {
    let Some(said) = ledger.refused_of(seq) else { return 0 };
    let (device, batch) = (ledger.device, plan.batch_of(ledger.device, tick));
    let planned = plan.refused_count(device, tick, seq);
    let named = said.named(batch);
    if !plan.spoils() || said.whole.is_some() {
        return said.count(batch).saturating_sub(planned);
    }
    let foreseen = said.readings.iter().filter(|(at, _)| plan.refuses(device, tick, seq, *at));
    let foreseen = u32::try_from(foreseen.count()).unwrap_or(named);
    named - foreseen + said.unnamed.saturating_sub(planned.saturating_sub(foreseen))
}
