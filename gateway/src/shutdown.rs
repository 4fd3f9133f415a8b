//! The order of stopping.
//!
//! 1. the listener stops accepting;
//! 2. every connection says `goodbye`, stops reading and ends; so does the subscription for devices
//!    over MQTT, once what it has taken is answered;
//! 3. the committer takes what still waits, syncs, answers, and closes the log;
//! 4. the forwarders bring their sinks up to the end of the log and commit their cursors;
//! 5. the admin listener ends, so that `/readyz` and `/metrics` tell about 1 to 4;
//! 6. small state files are written.
//!
//! Each step ends before the next begins, and one deadline holds for all of them: what a step does
//! not use is left to the next, and once it has passed the rest is cut short. That loses nothing
//! that was acknowledged, because an ack never waits for shutdown; it costs a recovery at the next
//! start. A second signal ends the process at once.

use std::{fmt, io, panic, time::Duration};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{Id, JoinError, JoinSet},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// Exit code after a second signal.
const EXIT_IMPATIENT: i32 = 1;

/// A token that is cancelled by the first SIGTERM or SIGINT. A second signal ends the process with
/// code 1 without waiting for anything.
///
/// # Errors
/// The handlers cannot be installed.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let first = token.clone();
    // Lives as long as the process, and holds nothing that anyone waits for.
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "stopping; a second signal stops at once");
        first.cancel();
        let name = next().await;
        tracing::warn!(signal = name, "stopped at once, without waiting for anything");
        std::process::exit(EXIT_IMPATIENT);
    });
    Ok(token)
}

/// The steps of one shutdown, under one deadline.
#[derive(Debug)]
pub struct Sequence {
    deadline: Instant,
    late: Vec<&'static str>,
}

impl Sequence {
    /// Begins now.
    pub fn begin(within: Duration) -> Self {
        Self { deadline: Instant::now() + within, late: Vec::new() }
    }

    /// When everything must have stopped.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits for a step; `None` if the deadline came first (the step's future is dropped then).
    pub async fn step<T>(
        &mut self,
        name: &'static str,
        done: impl Future<Output = T>,
    ) -> Option<T> {
        let begun = Instant::now();
        match timeout_at(self.deadline, done).await {
            Ok(value) => {
                tracing::debug!(step = name, took = ?begun.elapsed(), "stopped");
                Some(value)
            }
            Err(_) => {
                tracing::error!(step = name, "did not stop before the deadline");
                self.late.push(name);
                None
            }
        }
    }

    /// Waits for tasks and notes the ones that are late by their names.
    pub async fn tasks(&mut self, tasks: &mut Tasks) {
        while !tasks.is_empty() {
            match timeout_at(self.deadline, tasks.next()).await {
                Ok(Some(Ended { name, how: How::Returned })) => {
                    tracing::debug!(task = name, "stopped");
                }
                Ok(Some(ended)) => {
                    tracing::error!(task = ended.name, "{ended} while stopping");
                    self.late.push(ended.name);
                }
                Ok(None) => break,
                Err(_) => {
                    self.late.extend(tasks.names());
                    tasks.abort();
                    break;
                }
            }
        }
    }

    /// The end.
    ///
    /// # Errors
    /// Names the steps and tasks that did not finish.
    pub fn finish(self) -> Result<(), NotStopped> {
        if self.late.is_empty() { Ok(()) } else { Err(NotStopped { late: self.late }) }
    }
}

/// Some steps did not finish within the deadline, or failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "did not stop in order: {} unfinished at the deadline; nothing acknowledged is lost, the next \
     start recovers",
    late.join(", ")
)]
pub struct NotStopped {
    /// Their names, in the order of stopping.
    pub late: Vec<&'static str>,
}

/// Tasks with names. Dropping it aborts those that still run.
#[derive(Debug, Default)]
pub struct Tasks {
    set: JoinSet<Result<(), String>>,
    names: Vec<(Id, &'static str)>,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It returned.
    Returned,
    /// It returned an error.
    Failed(String),
    /// It panicked, with this message.
    Panicked(String),
}

/// A task that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub name: &'static str,
    /// How.
    pub how: How,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            How::Returned => write!(f, "{} ended", self.name),
            How::Failed(why) => write!(f, "{} failed: {why}", self.name),
            How::Panicked(why) => write!(f, "{} panicked: {why}", self.name),
        }
    }
}

impl Tasks {
    /// No tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that should run until it is told to stop.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let id = self.set.spawn(task).id();
        self.names.push((id, name));
    }

    /// Watches a thread that should run until it is told to stop.
    pub fn watch_thread(
        &mut self,
        name: &'static str,
        thread: std::thread::JoinHandle<Result<(), String>>,
    ) {
        let join = move || thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
        let id = self.set.spawn_blocking(join).id();
        self.names.push((id, name));
    }

    /// Nothing is left to wait for.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Names of the tasks that still run, in the order of their start.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.names.iter().map(|(_, name)| *name)
    }

    /// The next task that ends; `None` if there is none. Before shutdown any end is early, and
    /// fatal. Cancel safe.
    pub async fn next(&mut self) -> Option<Ended> {
        let joined = self.set.join_next_with_id().await?;
        let id = match &joined {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let at = self.names.iter().position(|(known, _)| *known == id);
        let name = at.map_or("a task", |at| self.names.remove(at).1);
        let how = match joined {
            Ok((_, Ok(()))) => How::Returned,
            Ok((_, Err(why))) => How::Failed(why),
            Err(error) => panicked(error),
        };
        Some(Ended { name, how })
    }

    fn abort(&mut self) {
        self.set.abort_all();
        self.names.clear();
    }
}

fn panicked(error: JoinError) -> How {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            How::Panicked(text.unwrap_or_else(|| "no message".to_owned()))
        }
        Err(_) => How::Failed("it was cancelled".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn the_task_that_ends_early_is_named_with_the_reason() {
        let mut tasks = Tasks::new();
        tasks.spawn("listener", pending());
        tasks.spawn("forwarder store", async { Err("the disk is on fire".to_owned()) });
        let ended = tasks.next().await.unwrap();
        assert_eq!(ended.to_string(), "forwarder store failed: the disk is on fire");
        assert_eq!(tasks.names().collect::<Vec<_>>(), ["listener"]);
    }

    #[tokio::test]
    async fn a_panic_names_its_task_and_message() {
        let mut tasks = Tasks::new();
        tasks.watch_thread("committer", std::thread::spawn(|| panic!("no {}", "luck")));
        let ended = tasks.next().await.unwrap();
        assert_eq!(ended.to_string(), "committer panicked: no luck");
        assert_eq!(tasks.next().await, None);
    }

    #[tokio::test]
    async fn steps_share_one_deadline_and_the_late_ones_are_named() {
        let begun = Instant::now();
        let mut sequence = Sequence::begin(Duration::from_millis(400));
        let slow = tokio::time::sleep(Duration::from_millis(10));
        assert!(sequence.step("connections", slow).await.is_some());
        assert!(sequence.step("committer", pending::<()>()).await.is_none());
        let mut tasks = Tasks::new();
        tasks.spawn("forwarder store", pending());
        tasks.spawn("forwarder mqtt", async { Ok(()) });
        tokio::task::yield_now().await;
        sequence.tasks(&mut tasks).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "a step began a deadline of its own");
        let error = sequence.finish().unwrap_err();
        assert_eq!(error.late, ["committer", "forwarder store"]);
        assert!(error.to_string().contains("committer, forwarder store unfinished"), "{error}");
    }

    #[tokio::test]
    async fn an_orderly_stop_says_nothing() {
        let mut sequence = Sequence::begin(Duration::from_secs(10));
        let mut tasks = Tasks::new();
        tasks.spawn("listener", async { Ok(()) });
        tasks.watch_thread("committer", std::thread::spawn(|| Ok(())));
        sequence.tasks(&mut tasks).await;
        assert_eq!(sequence.step("state files", async { 1 }).await, Some(1));
        assert_eq!(sequence.finish(), Ok(()));
    }
}
