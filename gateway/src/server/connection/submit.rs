//! What a connection asks of the committer.

use super::{Connection, now};
use crate::{
    ingest::{Checked, Outcome, Request, StreamId, StreamKey, Submission},
    server::Context,
};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;

/// How long a batch waits until what is new in it is kept.
const SETTLE_TIME: Duration = Duration::from_secs(10);

impl Connection {
    /// Asks where the stream stands, once no older connection of the device submits any more.
    pub(super) async fn open(&mut self, stream: Option<u64>) {
        let agreed = self.session.agreed();
        if let Some(stream) = stream {
            self.context.stream = StreamId::Named(stream);
        }
        self.context.time_unit = agreed.time_unit;
        self.context.measurement.clone_from(&agreed.measurement);
        // An eviction ends the wait, too: the one that comes next waits for all of us.
        tokio::select! {
            () = self.member.predecessors_stopped() => {}
            _ = self.member.evicted() => return,
        }
        self.opened = true;
        self.request(Request::Open { stream: self.stream_key(), reply: self.reply.clone() }).await;
    }

    /// True for a batch that brings something new while that cannot be kept: it has to come again.
    pub(super) fn cannot_settle(&self, checked: &Checked) -> bool {
        let changes = &self.shared.context.state.changes;
        checked.settle > changes.durable() && changes.trouble().is_some()
    }

    /// Submits once what was learned from the batch is kept: the kinds of its fields must be the
    /// same after a crash. The connection ends if that takes too long.
    pub(super) async fn submit_when_settled(&mut self, may_skip: bool, checked: Checked) {
        let changes = self.shared.context.state.changes.clone();
        if let Err(error) = changes.settled(checked.settle, SETTLE_TIME).await {
            tracing::error!(device = %self.context.identity, %error, "a connection is given up");
            self.session.on_outcome(now(&self.shared), Outcome::Failed { seq: checked.seq });
        } else if let Err(waiting) = self.submit(may_skip, checked) {
            self.submit_when_there_is_room(waiting).await;
        }
    }

    /// Submits at once if there is room; otherwise says what has to wait for room.
    pub(super) fn submit(&self, may_skip: bool, checked: Checked) -> Result<(), Box<Submission>> {
        let Context { requests, budget, .. } = &self.shared.context;
        let mut submission =
            Submission::of(checked, self.stream_key(), may_skip, self.reply.clone());
        submission.budget = budget.clone().try_acquire_many_owned(submission.weight()).ok();
        if submission.budget.is_some() {
            match requests.try_send(Request::Submit(submission)) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(Request::Submit(back))) => submission = back,
                // The closed channel is reported by the slow way.
                Err(TrySendError::Closed(Request::Submit(back))) => submission = back,
                Err(_) => unreachable!("what was sent comes back"),
            }
        }
        Err(Box::new(submission))
    }

    /// Submits when there is room. Nothing else happens on this connection until then: that is the
    /// backpressure.
    pub(super) async fn submit_when_there_is_room(&mut self, mut submission: Box<Submission>) {
        if submission.budget.is_none() {
            let budget = self.shared.context.budget.clone();
            submission.budget = budget.acquire_many_owned(submission.weight()).await.ok();
        }
        self.request(Request::Submit(*submission)).await;
    }

    async fn request(&mut self, request: Request) {
        if self.shared.context.requests.send(request).await.is_err() {
            self.session.on_outcome(now(&self.shared), Outcome::Failed { seq: 0 });
        }
    }

    /// A private stream ends with its connection.
    pub(super) async fn forget(&self) {
        if self.opened && matches!(self.context.stream, StreamId::Private(_)) {
            let _ = self.shared.context.requests.send(Request::Forget(self.stream_key())).await;
        }
    }

    fn stream_key(&self) -> StreamKey {
        StreamKey { identity: self.context.identity.clone(), stream: self.context.stream }
    }
}
