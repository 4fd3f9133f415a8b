//! One simulated device: a task that lives from its place in the ramp to the end of the run.
//!
//! It takes up each batch when the schedule says so, whether it is connected or not; the outbox
//! keeps what is not acknowledged; [`super::session`] talks to the gateway while there is a link.

use super::backoff::Backoff;
use super::closed_loop::ClosedLoop;
use super::fleet::{Fleet, Sender};
use super::link::{Link, LinkError};
use super::outbox::Outbox;
use super::session::{self, Ended};
use super::trouble::Troubles;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// What a device knows.
pub(super) struct Device {
    pub(super) fleet: Arc<Fleet>,
    pub(super) sender: Sender,
    pub(super) outbox: Outbox,
    /// Readings in its largest batch; in each of them, but for a replay.
    pub(super) batch: u32,
    /// What the plan makes it go through.
    pub(super) troubles: Option<Box<Troubles>>,
    /// What takes the place of the schedule in a closed loop.
    pub(super) closed_loop: Option<Box<ClosedLoop>>,
    /// Next batch of the schedule.
    tick: u32,
    /// Number of batches in the schedule; less after an early end.
    ticks: u32,
    /// End of the run.
    pub(super) leave_at: Instant,
    pub(super) welcomed_before: bool,
    pub(super) backoff: Backoff,
}

/// Runs a device to its end.
pub(super) async fn run(fleet: Arc<Fleet>, index: u32) {
    let connect_at = fleet.at(fleet.plan.connect_ns(index));
    tokio::select! {
        () = sleep_until(connect_at) => {}
        () = fleet.stop.cancelled() => return,
    }
    let plan = &fleet.plan;
    let kind = plan.kind_of(index);
    let mut device = Device {
        sender: Sender { index, tags: kind.profile.tags(plan.seed, index) },
        outbox: Outbox::new(plan.start_seq, kind.outbox as usize),
        batch: plan.largest_batch(index),
        troubles: Troubles::of(plan, index),
        closed_loop: plan.closed_loop.map(|in_flight| Box::new(ClosedLoop::new(in_flight))),
        tick: 0,
        ticks: plan.ticks(index),
        leave_at: fleet.at(plan.duration_ns),
        welcomed_before: false,
        backoff: Backoff::default(),
        fleet,
    };
    if let Some((kind, sentence)) = device.work().await {
        device.fleet.tally.error(kind, || sentence);
        device.idle().await;
    }
}

impl Device {
    /// Connects, talks, waits, until all is done; or says why it cannot go on.
    async fn work(&mut self) -> Option<(&'static str, String)> {
        let mut visiting = false;
        while !self.finished() && !self.fleet.abort.is_cancelled() {
            let now = Instant::now();
            if let Some(troubles) = &mut self.troubles {
                troubles.pass_over(self.fleet.elapsed_ns(now));
            }
            self.look(now);
            if let Some(until) = self.absent_until() {
                self.wait_for(until).await?;
                continue;
            }
            if let Some(visit) = self.visit_after(now).filter(|_| !visiting) {
                self.wait_for(visit).await?;
                visiting = true;
                continue;
            }
            if self.is_visitor() && self.outbox.is_empty() {
                visiting = false;
                continue;
            }
            let bad = self.troubles.as_ref().is_some_and(|troubles| troubles.bad_credential);
            // Not kept: a token takes more than the device's own name, tags and outbox together.
            let connected = match self.token() {
                Ok(token) if bad => self.connect(format!("{token}x").into()).await,
                Ok(token) => self.connect(token).await,
                Err(error) => return Some(("no_token", format!("{error:#}"))),
            };
            let wait = match connected {
                Some(Ok(link)) => match self.talk(link).await {
                    Ended::Finished => return None,
                    Ended::Flushed => {
                        visiting = false;
                        continue;
                    }
                    Ended::Left | Ended::Forgotten(_) => self.backoff.next(None, fastrand::f64()),
                    Ended::Lost(error) => self.failed(error),
                    Ended::Hopeless(kind, sentence) => return Some((kind, sentence)),
                },
                Some(Err(error)) => self.failed(error),
                None => return None,
            };
            let mut again = Instant::now() + wait;
            if let Some(troubles) = self.troubles.as_ref().filter(|_| bad) {
                // It will be given a good one then.
                again = again.min(self.fleet.at(troubles.wake_ns()));
            }
            self.wait_for(again).await?;
        }
        None
    }

    async fn talk(&mut self, link: Link) -> Ended {
        let fleet = Arc::clone(&self.fleet);
        fleet.tally.connected.add(1);
        let ended = session::run(self, link).await;
        fleet.tally.connected.sub(1);
        ended
    }

    /// Waits for a moment while the schedule goes on, or until the run ends early; `None` if there
    /// is nothing left to wait for.
    async fn wait_for(&mut self, moment: Instant) -> Option<()> {
        let stop = self.fleet.stop.clone();
        let wait = async {
            tokio::select! {
                () = sleep_until(moment) => {}
                () = stop.cancelled() => {}
            }
        };
        self.meanwhile(wait).await
    }

    /// Connects; `None` if the run is over. Boxed because the future is large and short-lived.
    async fn connect(&mut self, token: Box<str>) -> Option<Result<Link, LinkError>> {
        let fleet = Arc::clone(&self.fleet);
        let index = self.sender.index;
        self.meanwhile(Box::pin(async move { fleet.connector.connect(index, &token).await })).await
    }

    fn token(&self) -> anyhow::Result<Box<str>> {
        self.fleet.credentials.token(&self.fleet.plan.device_id(self.sender.index))
    }

    /// Takes note of the troubles at a moment; true if something has changed.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        let Self { fleet, sender, troubles, .. } = self;
        troubles.as_mut().is_some_and(|troubles| {
            troubles.look(&fleet.plan, sender.index, fleet.elapsed_ns(now), &fleet.tally)
        })
    }

    /// Until when there is no link. After an early end there always is one.
    fn absent_until(&self) -> Option<Instant> {
        let (until, _) = self.troubles.as_ref()?.absent?;
        (!self.fleet.stop.is_cancelled()).then(|| self.fleet.at(until))
    }

    /// Whether this device connects, flushes and leaves.
    pub(super) fn is_visitor(&self) -> bool {
        self.fleet.plan.kind_of(self.sender.index).connect_every_ns.is_some()
    }

    /// The next visit of such a device; the end of the schedule is the last.
    fn visit_after(&self, now: Instant) -> Option<Instant> {
        let plan = &self.fleet.plan;
        let visit = plan.next_visit(self.sender.index, self.fleet.elapsed_ns(now))?;
        (self.tick < self.ticks).then(|| self.fleet.at(visit.min(plan.duration_ns)))
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

    /// When the next batch is due; `None` after the last. In a closed loop the end of the run: what
    /// else makes a batch due is an ack.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.closed_loop.is_some() {
            return (self.tick < self.ticks).then_some(self.leave_at);
        }
        (self.tick < self.ticks).then(|| self.fleet.due(self.sender.index, self.tick))
    }

    /// Takes up every batch that is due. What finds the outbox full is shed, and counted.
    pub(super) fn take_due(&mut self, now: Instant) {
        if self.closed_loop.is_some() {
            return self.take_next(now);
        }
        let fleet = &self.fleet;
        let index = self.sender.index;
        while self.tick < self.ticks {
            let due = fleet.due(index, self.tick);
            if due > now {
                return;
            }
            let readings = u64::from(fleet.plan.batch_of(index, self.tick));
            fleet.tally.schedule_lag(index, fleet.due_at(index, due), now - due);
            fleet.tally.scheduled.add(readings);
            if self.outbox.offer(self.tick).is_none() {
                fleet.tally.shed.add(readings);
                fleet.ledger(index).shed_before(self.outbox.end());
            }
            self.tick += 1;
        }
    }

    /// Takes up as many batches as there may be without an ack.
    fn take_next(&mut self, now: Instant) {
        if now >= self.leave_at {
            self.give_up_the_rest();
        }
        let index = self.sender.index;
        while self.tick < self.ticks
            && self.closed_loop.as_mut().is_some_and(|closed_loop| closed_loop.take(now))
        {
            let readings = self.fleet.plan.batch_of(index, self.tick);
            self.fleet.tally.scheduled.add(readings.into());
            // There is room: the outbox has place for as many.
            self.outbox.offer(self.tick);
            self.tick += 1;
        }
        if self.tick >= self.ticks {
            // A capture that is played once is through.
            self.leave_at = self.leave_at.min(now);
        }
    }

    /// The time is over. What is left of a capture that is played once was due, and is not sent.
    fn give_up_the_rest(&mut self) {
        let plan = &self.fleet.plan;
        if plan.replay.as_ref().is_some_and(|replay| replay.loop_ns.is_none()) {
            let rest = (self.tick..self.ticks).map(|tick| plan.batch_of(self.sender.index, tick));
            self.fleet.tally.scheduled.add(rest.map(u64::from).sum());
        }
        self.ticks = self.tick;
    }

    /// The run ends early: what is not due yet never will be.
    pub(super) fn end_schedule(&mut self, now: Instant) {
        self.take_due(now);
        self.ticks = self.tick;
        self.leave_at = now;
    }

    /// True until the run is over or ends early; a device stays connected as long.
    pub(super) fn staying(&self, now: Instant) -> bool {
        now < self.leave_at
    }

    /// True if everything was sent and acknowledged.
    pub(super) fn finished(&self) -> bool {
        self.tick >= self.ticks && self.outbox.is_empty()
    }
}
