//! One simulated device: a task that lives from its place in the ramp to the end of the run.
//!
//! It takes up each batch when the schedule says so, whether it is connected or not; the outbox
//! keeps what is not acknowledged; [`super::session`] talks to the gateway while there is a link.

use super::backoff::Backoff;
use super::fleet::{Fleet, Sender};
use super::link::{Link, LinkError};
use super::outbox::Outbox;
use super::session::{self, Ended};
use super::tally::lock;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What a device knows.
pub(super) struct Device {
    pub(super) fleet: Arc<Fleet>,
    pub(super) sender: Sender,
    pub(super) outbox: Outbox,
    /// Next batch of the schedule.
    tick: u32,
    /// Number of batches in the schedule; less after an early end.
    ticks: u32,
    token: Box<str>,
    pub(super) welcomed_before: bool,
    pub(super) backoff: Backoff,
}

/// Runs a device to its end.
pub(super) async fn run(fleet: Arc<Fleet>, index: u32) {
    fleet.tally.devices.add(1);
    let tally = Arc::clone(&fleet);
    live(fleet, index).await;
    tally.tally.devices.sub(1);
}

async fn live(fleet: Arc<Fleet>, index: u32) {
    let connect_at = fleet.start + Duration::from_nanos(fleet.plan.connect_ns(index));
    tokio::select! {
        () = sleep_until(connect_at) => {}
        () = fleet.stop.cancelled() => return,
    }
    let token = match fleet.credentials.token(&fleet.plan.device_id(index)) {
        Ok(token) => token,
        Err(error) => {
            fleet.tally.error("no_token", || format!("{error:#}"));
            return;
        }
    };
    let plan = &fleet.plan;
    let mut device = Device {
        sender: Sender { index, tags: plan.profile.tags(plan.seed, index) },
        outbox: Outbox::new(plan.start_seq, fleet.outbox),
        tick: 0,
        ticks: plan.ticks(index),
        token,
        welcomed_before: false,
        backoff: Backoff::default(),
        fleet,
    };
    device.work().await;
}

impl Device {
    async fn work(&mut self) {
        while !self.finished() && !self.fleet.abort.is_cancelled() {
            let wait = match self.connect().await {
                Some(Ok(link)) => {
                    self.fleet.tally.connected.add(1);
                    let ended = session::run(self, link).await;
                    self.fleet.tally.connected.sub(1);
                    match ended {
                        Ended::Finished => break,
                        Ended::Lost(error) => self.failed(error),
                        Ended::Hopeless(sentence) => {
                            self.fleet.tally.error("conflict", || sentence);
                            break;
                        }
                    }
                }
                Some(Err(error)) => self.failed(error),
                None => break,
            };
            let again = Instant::now() + wait;
            if self.meanwhile(sleep_until(again)).await.is_none() {
                break;
            }
        }
    }

    /// Connects; `None` if the run is over. The future is boxed because it is large and short-lived.
    async fn connect(&mut self) -> Option<Result<Link, LinkError>> {
        let fleet = Arc::clone(&self.fleet);
        let token = self.token.clone();
        let index = self.sender.index;
        self.meanwhile(Box::pin(async move { fleet.connector.connect(index, &token).await })).await
    }

    fn failed(&mut self, error: LinkError) -> Duration {
        let LinkError { kind, sentence, retry_after, .. } = error;
        self.fleet.tally.error(kind, || sentence);
        self.backoff.next(retry_after, fastrand::f64())
    }

    /// Waits for something while the schedule goes on; `None` if there is nothing left to wait for.
    async fn meanwhile<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        loop {
            self.take_due(Instant::now());
            if self.finished() {
                return None;
            }
            let next = self.next_due();
            tokio::select! {
                biased;
                () = self.fleet.abort.cancelled() => return None,
                output = &mut future => return Some(output),
                () = self.fleet.stop.cancelled(), if self.tick < self.ticks => {
                    self.end_schedule(Instant::now());
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    /// When the next batch is due; `None` after the last.
    pub(super) fn next_due(&self) -> Option<Instant> {
        (self.tick < self.ticks).then(|| self.fleet.due(self.sender.index, self.tick))
    }

    /// Takes up every batch that is due. What finds the outbox full is shed, and counted.
    pub(super) fn take_due(&mut self, now: Instant) {
        let fleet = &self.fleet;
        let (index, readings) = (self.sender.index, u64::from(fleet.plan.batch));
        while self.tick < self.ticks {
            let due = fleet.due(index, self.tick);
            if due > now {
                return;
            }
            fleet.tally.schedule_lag(index, now - due);
            fleet.tally.scheduled.add(readings);
            if self.outbox.offer(self.tick).is_none() {
                fleet.tally.shed.add(readings);
                lock(&fleet.ledgers[index as usize]).shed_before(self.outbox.end());
            }
            self.tick += 1;
        }
    }

    /// The run ends early: what is not due yet never will be.
    pub(super) fn end_schedule(&mut self, now: Instant) {
        self.take_due(now);
        self.ticks = self.tick;
    }

    /// True if the schedule goes on.
    pub(super) fn scheduling(&self) -> bool {
        self.tick < self.ticks
    }

    /// True if everything was sent and acknowledged.
    pub(super) fn finished(&self) -> bool {
        self.tick >= self.ticks && self.outbox.is_empty()
    }
}
