//! Publishes readings to an MQTT 5 broker at QoS 1: at least once, and in order for each device.
//!
//! ```text
//! batch → window (messages, bounded memory) → PUBLISH, many under way → PUBACK for each
//! ```
//!
//! A write is done when the broker has acknowledged every message of the batch; the forwarder's
//! cursor only ever passes what is. What was under way when a connection ended is published again:
//! a broker keeps no session for one that only publishes, the log is our session. A repetition
//! begins behind the records that are known to be acknowledged. Every message names its record and
//! every reading its index, which are the same again: subscribers can tell what comes twice.
//!
//! What the broker refuses for good (a topic that it does not let us publish to) is kept aside
//! with its words, unless it has not taken anything yet: then somebody has to look at its access
//! rules. A broker passes on what comes to whoever is subscribed, and keeps nothing for others.

mod idle;
mod message;
mod publish;

use super::{Batch, RejectedPoint, Sink, SinkError};
use crate::{
    metrics::MqttSinkMetrics,
    mqtt::{Broker, Connection, Failure, FailureKind, Session, packet::PubAckReason},
    record::{PointId, Position},
};
use idle::Idle;
use message::{Encoder, Window};
use publish::{How, Published, Refused, publish};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use tokio::task;

/// Packets that a broker sends to one that only publishes are small; in bytes.
const MAX_ANSWER_BYTES: u32 = 64 << 10;

/// What a message holds. The same for the first two but for the encoding:
/// `{"realm","device","record","readings":[{"index","measurement","time_ns","tags","fields"}]}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// JSON.
    Json,
    /// MessagePack.
    MessagePack,
    /// InfluxDB's line protocol, one line for each reading.
    LineProtocol,
}

/// What the operator may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// The broker.
    pub broker: Broker,
    /// The topic, with `{realm}`, `{device}` and `{measurement}`.
    pub topic: String,
    /// What a message holds.
    pub payload: Payload,
    /// The broker keeps the last message of each topic for who subscribes later.
    pub retain: bool,
    /// Most messages without an acknowledgement.
    pub in_flight: usize,
    /// Largest packet, in bytes.
    pub max_packet_bytes: usize,
}

/// The sink.
#[derive(Debug)]
pub struct Mqtt {
    options: Options,
    metrics: MqttSinkMetrics,
    state: Mutex<State>,
}

/// What is kept from one write to the next; taken out while one is under way.
#[derive(Debug, Default)]
struct State {
    encoder: Option<Encoder>,
    idle: Option<Idle>,
    /// The broker has taken something since the start: it is what it should be.
    accepts: bool,
    progress: Progress,
}

/// How far a batch has come that could not be written at once.
#[derive(Debug, Default)]
struct Progress {
    /// First and last position of the batch.
    batch: (Position, Position),
    /// Every record up to here is answered for.
    done: Position,
    /// Of those records.
    rejected: Vec<RejectedPoint>,
    unsupported: Vec<(Position, u64)>,
    /// Messages that are refused, by their first point.
    refused: HashMap<PointId, Refused>,
    /// The broker has closed because of some message: one at a time shows which.
    one_by_one: bool,
}

impl Mqtt {
    /// A sink that has not connected yet.
    pub fn new(options: Options, metrics: MqttSinkMetrics) -> Self {
        Self { options, metrics, state: Mutex::default() }
    }

    async fn connect(&self, idle: Option<Idle>) -> Result<Connection, Failure> {
        if let Some(idle) = idle {
            match idle.wake().await {
                Ok(connection) => return Ok(connection),
                Err(failure) => tracing::debug!(%failure, "the connection ended while it rested"),
            }
        }
        self.metrics.connected.set(0.0);
        let session =
            Session { keep: None, receive_maximum: 1, max_packet_bytes: MAX_ANSWER_BYTES };
        let connection = Connection::open(&self.options.broker, &session).await?;
        if self.options.retain && !connection.granted().retain {
            return Err(Failure::no_retain(&self.options.broker));
        }
        self.metrics.connections.increment(1);
        self.metrics.connected.set(1.0);
        Ok(connection)
    }

    /// Publishes all of a batch that is not published yet.
    async fn publish(
        &self,
        batch: &Batch,
        connection: &mut Connection,
        state: &mut State,
    ) -> Result<(), Stopped> {
        let granted = connection.granted().max_packet_bytes as usize;
        let limit = self.options.max_packet_bytes.min(granted);
        loop {
            let done = state.progress.done;
            let from = batch.records.partition_point(|record| record.position <= done);
            if from == batch.records.len() {
                return Ok(());
            }
            let window = self.window(batch, from, limit, state).await.map_err(Stopped::Sink)?;
            let how = How {
                retain: self.options.retain,
                in_flight: if state.progress.one_by_one { 1 } else { self.options.in_flight },
                timeout: self.options.broker.timeout,
            };
            let known = &state.progress.refused;
            let published = publish(connection, &window, known, how, &self.metrics).await;
            self.judge(published, &window, state)?;
        }
    }

    async fn window(
        &self,
        batch: &Batch,
        from: usize,
        limit: usize,
        state: &mut State,
    ) -> Result<Window, SinkError> {
        let made = || Encoder::new(self.options.payload, &self.options.topic);
        let (mut encoder, batch) = (state.encoder.take().unwrap_or_else(made), batch.clone());
        let encoded = task::spawn_blocking(move || {
            let window = encoder.window(&batch, from, limit);
            (encoder, window)
        });
        match encoded.await {
            Ok((encoder, window)) => {
                state.encoder = Some(encoder);
                window.map_err(SinkError::Undecodable)
            }
            Err(error) => Err(SinkError::Retry {
                after: None,
                why: format!("encoding has failed ({error}): report this"),
            }),
        }
    }

    /// Takes note of what became of a window.
    fn judge(
        &self,
        published: Published,
        window: &Window,
        state: &mut State,
    ) -> Result<(), Stopped> {
        state.accepts |= published.taken > 0;
        let denied = published.refused.values().find(|of| {
            !matches!(
                of.reason,
                PubAckReason::TopicNameInvalid | PubAckReason::PayloadFormatInvalid
            )
        });
        if let Some(denied) = denied.filter(|_| !state.accepts) {
            return Err(Stopped::Sink(SinkError::Blocked {
                why: format!(
                    "{}; it has taken nothing yet: let the sink's user publish to its topic",
                    denied.why
                ),
            }));
        }
        let progress = &mut state.progress;
        progress.refused.extend(published.refused);
        let answered = |end: &&message::RecordEnd| end.messages <= published.answered;
        for end in window.ends.iter().take_while(answered).filter(|end| end.unsupported > 0) {
            progress.unsupported.push((end.position, end.unsupported));
        }
        if let Some(end) = window.ends.iter().take_while(answered).last() {
            progress.done = end.position;
            progress.rejected.extend(window.too_large[..end.too_large].iter().cloned());
            for message in &window.messages[..end.messages] {
                if let Some(refused) = progress.refused.remove(&message.points[0]) {
                    let reason = refused.why;
                    let point = |&id| RejectedPoint { id, reason: reason.clone() };
                    progress.rejected.extend(message.points.iter().map(point));
                }
            }
        }
        let Some(failure) = published.failed else { return Ok(()) };
        if failure.kind == FailureKind::Message {
            progress.one_by_one = true;
            if let Some(first) = published.alone {
                let reason = PubAckReason::PayloadFormatInvalid;
                progress.refused.insert(first, Refused { reason, why: failure.why.clone() });
            }
        }
        Err(Stopped::Connection(failure))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Mqtt {
    async fn write(&self, batch: Batch) -> Result<(), SinkError> {
        let mut state = std::mem::take(&mut *self.state());
        let this = (batch.first, batch.last);
        if state.progress.batch != this {
            state.progress = Progress { batch: this, ..Progress::default() };
        }
        let result = match self.connect(state.idle.take()).await {
            Err(failure) => Err(error(failure)),
            Ok(mut connection) => match self.publish(&batch, &mut connection, &mut state).await {
                Err(Stopped::Connection(failure)) => {
                    self.metrics.connected.set(0.0);
                    Err(error(failure))
                }
                Err(Stopped::Sink(error)) => {
                    state.idle = Some(Idle::keep(connection));
                    Err(error)
                }
                Ok(()) => {
                    state.idle = Some(Idle::keep(connection));
                    let progress = std::mem::take(&mut state.progress);
                    let (points, unsupported) = (progress.rejected, progress.unsupported);
                    match points.is_empty() && unsupported.is_empty() {
                        true => Ok(()),
                        false => Err(SinkError::Reject { points, unsupported }),
                    }
                }
            },
        };
        *self.state() = state;
        result
    }

    fn committed(&self) -> Option<Position> {
        None
    }
}

/// What keeps a batch from its end.
enum Stopped {
    Connection(Failure),
    /// The connection is good.
    Sink(SinkError),
}

fn error(failure: Failure) -> SinkError {
    match failure.kind {
        FailureKind::Blocked => SinkError::Blocked { why: failure.why },
        FailureKind::Away | FailureKind::Message => {
            SinkError::Retry { after: None, why: failure.why }
        }
    }
}
