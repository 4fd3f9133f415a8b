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
    pub(super) welcomed_before: bool,
    pub(super) backoff: Backoff,
}

/// Runs a device to its end.
pub(super) async fn run(fleet: Arc<Fleet>, index: u32) {
    let connect_at = fleet.start + Duration::from_nanos(fleet.plan.connect_ns(index));
    tokio::select! {
        () = sleep_until(connect_at) => {}
        () = fleet.stop.cancelled() => return,
    }
    let plan = &fleet.plan;
    let token = fleet.credentials.token(&plan.device_id(index));
    let mut device = Device {
        sender: Sender { index, tags: plan.profile.tags(plan.seed, index) },
        outbox: Outbox::new(plan.start_seq, fleet.outbox),
        tick: 0,
        ticks: plan.ticks(index),
        welcomed_before: false,
        backoff: Backoff::default(),
        fleet,
    };
    let given_up = match token {
        Ok(token) => device.work(&token).await,
        Err(error) => Some(("no_token", format!("{error:#}"))),
    };
    if let Some((kind, sentence)) = given_up {
        device.fleet.tally.error(kind, || sentence);
        device.idle().await;
    }
}

impl Device {
    /// Connects, talks, waits, until all is done; or says why it cannot go on.
    async fn work(&mut self, token: &str) -> Option<(&'static str, String)> {
        while !self.finished() && !self.fleet.abort.is_cancelled() {
            let wait = match self.connect(token).await {
                Some(Ok(link)) => {
                    self.fleet.tally.connected.add(1);
                    let ended = session::run(self, link).await;
                    self.fleet.tally.connected.sub(1);
                    match ended {
                        Ended::Finished => return None,
                        Ended::Lost(error) => self.failed(error),
                        Ended::Hopeless(sentence) => return Some(("conflict", sentence)),
                    }
                }
                Some(Err(error)) => self.failed(error),
                None => return None,
            };
            let again = Instant::now() + wait;
            if self.meanwhile(sleep_until(again)).await.is_none() {
                break;
            }
        }
        None
    }

    /// Connects; `None` if the run is over. The future is boxed because it is large and short-lived.
    async fn connect(&mut self, token: &str) -> Option<Result<Link, LinkError>> {
        let fleet = Arc::clone(&self.fleet);
        let index = self.sender.index;
        self.meanwhile(Box::pin(async move { fleet.connector.connect(index, token).await })).await
    }

    /// Takes up the rest of the schedule without a gateway: what this device owes stays due, the
    /// report must not look better without it.
    async fn idle(&mut self) {
        while let Some(next) = self.next_due() {
            tokio::select! {
                () = self.fleet.abort.cancelled() => return,
                () = self.fleet.stop.cancelled() => self.end_schedule(Instant::now()),
                () = sleep_until(next) => self.take_due(Instant::now()),
            }
        }
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
