//! Publishes a window of messages and waits for the broker's word on each.

use super::message::{Message, Window};
use crate::{
    metrics::MqttSinkMetrics,
    mqtt::{
        Connection, Failure, FailureKind, QoS,
        packet::{Packet, PubAckReason, Publish},
    },
    record::PointId,
};
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio::time::timeout;

/// The broker is given more to read when less than this waits to be written, in bytes.
const WRITE_BYTES: usize = 256 << 10;

/// How messages are published.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) retain: bool,
    /// Most messages without an acknowledgement.
    pub(super) in_flight: usize,
    /// An acknowledgement must come within this.
    pub(super) timeout: Duration,
}

/// A refusal of one message, for good.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) reason: PubAckReason,
    pub(super) why: String,
}

/// What became of a window.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// So many of its messages, from the first on, are answered: taken or refused.
    pub(super) answered: usize,
    /// Messages that the broker took.
    pub(super) taken: u64,
    /// By the first point of the message.
    pub(super) refused: HashMap<PointId, Refused>,
    /// What ended it before its end.
    pub(super) failed: Option<Failure>,
    /// The one message that was under way then.
    pub(super) alone: Option<PointId>,
}

/// Publishes all messages but those that `known` says are refused.
pub(super) async fn publish(
    connection: &mut Connection,
    window: &Window,
    known: &HashMap<PointId, Refused>,
    how: How,
    metrics: &MqttSinkMetrics,
) -> Published {
    let most = how.in_flight.min(usize::from(connection.granted().receive_maximum));
    let mut work = Work::new(&window.messages, known, most);
    let failed = loop {
        if let Err(failure) = work.send(connection, how.retain) {
            break Some(failure);
        }
        if work.under_way.is_empty() {
            break None;
        }
        match timeout(how.timeout, connection.next()).await {
            Err(_) => break Some(Failure::silent(how.timeout)),
            Ok(Err(failure)) => break Some(failure),
            Ok(Ok(Packet::PubAck(ack))) => {
                if let Err(failure) = work.acknowledged(ack.pkid, ack.reason, metrics) {
                    break Some(failure);
                }
            }
            // Nothing else was asked.
            Ok(Ok(_)) => {}
        }
    };
    work.finish(failed, metrics)
}

struct Work<'a> {
    messages: &'a [Message],
    known: &'a HashMap<PointId, Refused>,
    next: usize,
    /// Packet identifiers that may be given out, least recently used first.
    free: VecDeque<u16>,
    /// From packet identifier to message.
    under_way: HashMap<u16, usize>,
    answered: Vec<bool>,
    done: Published,
}

impl<'a> Work<'a> {
    fn new(messages: &'a [Message], known: &'a HashMap<PointId, Refused>, most: usize) -> Self {
        let ids = 1..=u16::try_from(most.max(1)).unwrap_or(u16::MAX);
        Self {
            messages,
            known,
            next: 0,
            free: ids.collect(),
            under_way: HashMap::new(),
            answered: vec![false; messages.len()],
            done: Published::default(),
        }
    }

    fn send(&mut self, connection: &mut Connection, retain: bool) -> Result<(), Failure> {
        while self.next < self.messages.len() && connection.queued_bytes() < WRITE_BYTES {
            let message = &self.messages[self.next];
            if self.known.contains_key(&message.points[0]) {
                self.answered[self.next] = true;
                self.next += 1;
                continue;
            }
            let Some(pkid) = self.free.pop_front() else { break };
            connection.queue(&Packet::Publish(Publish {
                qos: QoS::AtLeastOnce,
                retain,
                topic: message.topic.clone(),
                pkid,
                payload: message.payload.clone(),
                ..Publish::default()
            }))?;
            self.under_way.insert(pkid, self.next);
            self.next += 1;
        }
        Ok(())
    }

    fn acknowledged(
        &mut self,
        pkid: u16,
        reason: PubAckReason,
        metrics: &MqttSinkMetrics,
    ) -> Result<(), Failure> {
        // One that was not asked for says nothing about what was.
        let Some(&at) = self.under_way.get(&pkid) else { return Ok(()) };
        match reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {
                self.done.taken += 1;
                metrics.published.increment(1);
            }
            PubAckReason::QuotaExceeded | PubAckReason::PacketIdentifierInUse => {
                return Err(Failure::not_now(&format!("{reason:?}")));
            }
            PubAckReason::NotAuthorized => {
                metrics.refused_access.increment(1);
                self.refuse(at, reason);
            }
            PubAckReason::UnspecifiedError
            | PubAckReason::ImplementationSpecificError
            | PubAckReason::TopicNameInvalid
            | PubAckReason::PayloadFormatInvalid => {
                metrics.refused_other.increment(1);
                self.refuse(at, reason);
            }
        }
        self.under_way.remove(&pkid);
        self.free.push_back(pkid);
        self.answered[at] = true;
        Ok(())
    }

    fn refuse(&mut self, at: usize, reason: PubAckReason) {
        let message = &self.messages[at];
        let topic = String::from_utf8_lossy(&message.topic);
        let why = format!("the broker refused the message to {topic}: {reason:?}");
        self.done.refused.insert(message.points[0], Refused { reason, why });
    }

    fn finish(mut self, failed: Option<Failure>, metrics: &MqttSinkMetrics) -> Published {
        metrics.repeated.increment(self.under_way.len() as u64);
        let about_message = failed.as_ref().is_some_and(|of| of.kind == FailureKind::Message);
        if about_message && self.under_way.len() == 1 {
            let only = self.under_way.values().next();
            self.done.alone = only.map(|&at| self.messages[at].points[0]);
        }
        self.done.answered = self.answered.iter().take_while(|answered| **answered).count();
        self.done.failed = failed;
        self.done
    }
}
