//! When to read, and when a batch is ready: the asynchronous side of [`Assembly`].

use super::{Ask, Backoff, Cursor, Options, RecordSource, SourceError, Status, assemble::Assembly};
use crate::{record::Position, sink::Batch};
use std::time::Duration;
use tokio::{
    sync::watch,
    task,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// So many records waiting in the log end a batch's wait for more.
const ENOUGH_RECORDS: u64 = 2_000;

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    Batch(Batch),
    /// The sink is to be rewound first.
    Asked,
    /// Told to stop, and nothing is left.
    Drained,
    /// Told to stop while the log could not be read.
    Stopped,
    /// A person has to do something.
    Fatal(String),
}

/// Reads ahead by one batch.
#[derive(Debug)]
pub(super) struct Reader<S> {
    /// `None` while it is away on a blocking thread; for good if that has panicked.
    assembly: Option<Box<Assembly<S>>>,
    durable: watch::Receiver<Position>,
    skip_to: watch::Receiver<Position>,
    ask: watch::Receiver<Ask>,
    /// The number of the ask that was followed.
    asked: u64,
    linger: Duration,
    backoff: Backoff,
    failures: u32,
    /// What the last read met.
    trouble: Option<SourceError>,
}

impl<S: RecordSource> Reader<S> {
    pub(super) fn new(
        source: S,
        cursor: Cursor,
        options: &Options,
        durable: watch::Receiver<Position>,
        skip_to: watch::Receiver<Position>,
        ask: watch::Receiver<Ask>,
    ) -> Self {
        Self {
            assembly: Some(Box::new(Assembly::new(source, cursor, options))),
            durable,
            skip_to,
            ask,
            asked: 0,
            linger: options.linger,
            backoff: options.backoff,
            failures: 0,
            trouble: None,
        }
    }

    /// Goes on behind the cursor: what was read ahead has been given up.
    pub(super) fn restart(&mut self, cursor: Cursor) {
        self.asked = self.ask.borrow().number;
        if let Some(assembly) = &mut self.assembly {
            assembly.restart(cursor);
        }
    }

    /// Reads what is there, up to one batch. To be awaited to its end.
    pub(super) async fn prefetch(&mut self) {
        if self.trouble.is_some() {
            return;
        }
        let skip_to = *self.skip_to.borrow();
        let ready = |assembly: &Assembly<S>| assembly.is_full() && !assembly.would_skip(skip_to);
        if self.assembly.as_deref().is_none_or(ready) {
            return;
        }
        let Some(mut assembly) = self.assembly.take() else { return };
        let read = task::spawn_blocking(move || {
            assembly.skip(skip_to);
            let result = assembly.fill();
            (assembly, result)
        });
        match read.await {
            Ok((assembly, result)) => {
                self.assembly = Some(assembly);
                self.trouble = result.err();
            }
            Err(error) => {
                self.trouble = Some(SourceError::Fatal(format!(
                    "reading the log has failed ({error}): restart the gateway and report this"
                )));
            }
        }
    }

    /// The next batch: as soon as it is full, or has waited for more for long enough.
    pub(super) async fn next(
        &mut self,
        stop: &CancellationToken,
        status: &watch::Sender<Status>,
    ) -> Next {
        let mut linger_until = None;
        loop {
            if self.ask.borrow().number > self.asked {
                return Next::Asked;
            }
            self.durable.borrow_and_update();
            self.prefetch().await;
            // What was read before the trouble goes first.
            let left = self.assembly.as_ref().is_some_and(|assembly| !assembly.is_empty());
            if !left {
                match self.trouble.take() {
                    None | Some(SourceError::Damaged { .. }) => self.failures = 0,
                    Some(SourceError::Fatal(why)) => return Next::Fatal(why),
                    Some(SourceError::Retry(why)) => {
                        if self.pause(why, stop, status).await {
                            continue;
                        }
                        return Next::Stopped;
                    }
                }
            }
            let Some(assembly) = &mut self.assembly else {
                return Next::Fatal("reading the log has failed before".to_owned());
            };
            let full = assembly.is_full();
            if !assembly.is_empty() {
                let until = *linger_until.get_or_insert_with(|| Instant::now() + self.linger);
                let hurry = full || self.trouble.is_some() || stop.is_cancelled();
                if (hurry || Instant::now() >= until)
                    && let Some(batch) = assembly.take()
                {
                    return Next::Batch(batch);
                }
            } else if stop.is_cancelled() {
                return Next::Drained;
            }
            self.wait(linger_until, stop).await;
        }
    }

    /// Waits before the log is read again; false if told to stop.
    async fn pause(
        &mut self,
        why: String,
        stop: &CancellationToken,
        status: &watch::Sender<Status>,
    ) -> bool {
        self.failures += 1;
        let pause = self.backoff.pause(self.failures, None);
        tracing::warn!(%why, ?pause, "the log cannot be read, it is tried again");
        status.send_replace(Status::Retrying { why });
        tokio::select! {
            () = stop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// Waits until it is worth looking again: at once for the first record of a batch, later for
    /// the others.
    async fn wait(&mut self, linger_until: Option<Instant>, stop: &CancellationToken) {
        let last = self.assembly.as_ref().map_or(Position::ZERO, |assembly| assembly.last());
        let until = async {
            match linger_until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = &mut until => return,
                // Nobody is left to ask for it: everything else goes on.
                Ok(()) = self.skip_to.changed() => return,
                Ok(()) = self.ask.changed() => return,
                durable = self.durable.changed() => match durable {
                    Ok(()) => {
                        let waiting = self.durable.borrow_and_update().0.saturating_sub(last.0);
                        if linger_until.is_none() || waiting >= ENOUGH_RECORDS {
                            return;
                        }
                    }
                    // The log is closed: nothing more will come, and shutdown follows.
                    Err(_) => {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = &mut until => {}
                        }
                        return;
                    }
                },
            }
        }
    }
}
