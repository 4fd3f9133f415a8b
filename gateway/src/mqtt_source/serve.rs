//! One connection of the source: subscribed, messages in, answers and acknowledgements out.

use super::{
    Context, Options, TOPIC,
    batch::{self, Answer},
    heard::Heard,
};
use crate::{
    auth::is_device_id,
    mqtt::{
        Connection, Failure, QoS, Session, escape_level,
        packet::{
            Filter, Packet, PubAck, PubAckReason, Publish, RetainForwardRule, Subscribe,
            SubscribeReasonCode,
        },
        unescape_level,
    },
};
use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt};
use proto::GatewayMessage;
use std::{collections::VecDeque, pin::Pin, time::Duration};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Largest packet that is taken, in bytes: above the largest message that can be configured, so
/// that a device which sends too much is told.
const MAX_PACKET_BYTES: u32 = 2 << 20;
/// Packet identifier of the subscription.
const SUBSCRIPTION: u16 = 1;
/// Packet identifiers of answers: 2 and up. Most answers that the broker has not acknowledged.
const MAX_ANSWERS: u16 = 64;
/// What follows the topic of a device in that of its answers.
const REPLY: &str = "/reply";
/// At shutdown, how long what is under way may take.
const DRAIN: Duration = Duration::from_secs(3);

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum End {
    /// We were told to stop.
    Stopped,
    /// It broke, or never was.
    Lost(Failure),
}

/// A message that was dealt with.
struct Done {
    /// 0 at QoS 0.
    pkid: u16,
    topic: Bytes,
    /// `None`: the broker has to keep it.
    answer: Option<Answer>,
}

type Working<'a> = Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

/// What is known from the connections before.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// Failures since we were subscribed last.
    pub(super) failures: u32,
    /// The broker was asked to keep a session of ours, and has agreed.
    has_session: bool,
}

/// Connects, subscribes and takes messages until it is over. The failures are set back once we are
/// subscribed.
pub(super) async fn serve(
    options: &Options,
    context: &Context,
    stop: &CancellationToken,
    past: &mut Past,
) -> End {
    let session = Session {
        keep: Some(options.session),
        receive_maximum: options.in_flight,
        max_packet_bytes: MAX_PACKET_BYTES,
    };
    let connection = tokio::select! {
        () = stop.cancelled() => return End::Stopped,
        opened = Connection::open(&options.broker, &session) => opened,
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(failure) => return End::Lost(failure),
    };
    context.metrics.connections.increment(1);
    let answers = connection.granted().receive_maximum.min(MAX_ANSWERS);
    let mut line = Line {
        options,
        context,
        connection,
        heard: Heard::default(),
        work: FuturesOrdered::new(),
        ready: VecDeque::new(),
        free: (SUBSCRIPTION + 1..=SUBSCRIPTION + answers).collect(),
    };
    match line.run(stop, past).await {
        Ok(()) => {
            line.drain().await;
            line.connection.close().await;
            End::Stopped
        }
        Err(failure) => End::Lost(failure),
    }
}

struct Line<'a> {
    options: &'a Options,
    context: &'a Context,
    connection: Connection,
    heard: Heard,
    /// In the order in which messages came: so they have to be acknowledged.
    work: FuturesOrdered<Working<'a>>,
    /// Dealt with, but the answers wait for the broker to acknowledge earlier ones.
    ready: VecDeque<Done>,
    /// Packet identifiers for answers.
    free: VecDeque<u16>,
}

impl Line<'_> {
    async fn run(&mut self, stop: &CancellationToken, past: &mut Past) -> Result<(), Failure> {
        self.subscribe()?;
        loop {
            let reads = !self.is_full();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(done) = self.work.next() => self.finish(done)?,
                packet = self.connection.next_if(reads) => match packet? {
                    Packet::Publish(publish) => self.take(publish),
                    Packet::SubAck(answer) => {
                        self.subscribed(&answer.return_codes, past)?;
                    }
                    packet => self.acknowledged(&packet)?,
                },
            }
        }
    }

    /// Twice as many messages are held as were asked for: the broker does not keep to it (mosquitto
    /// 2.0.11 does not once there have been acknowledgements). The rest has to wait in the
    /// connection, and with it what the broker says to our answers.
    fn is_full(&self) -> bool {
        self.work.len() + self.ready.len() >= 2 * usize::from(self.options.in_flight)
    }

    fn subscribe(&mut self) -> Result<(), Failure> {
        let path = match &self.options.share {
            None => format!("{TOPIC}+"),
            Some(group) => format!("$share/{group}/{TOPIC}+"),
        };
        let filter = Filter {
            // What a device left behind is old, and came when it was new.
            retain_forward_rule: RetainForwardRule::Never,
            ..Filter::new(path, QoS::AtLeastOnce)
        };
        let subscribe = Subscribe { pkid: SUBSCRIPTION, ..Subscribe::new(filter, None) };
        self.connection.queue(&Packet::Subscribe(subscribe))
    }

    fn subscribed(&self, codes: &[SubscribeReasonCode], past: &mut Past) -> Result<(), Failure> {
        match codes.first() {
            Some(SubscribeReasonCode::Success(QoS::AtLeastOnce | QoS::ExactlyOnce)) => {
                let session = self.connection.granted().session_present;
                if past.has_session && !session {
                    self.context.metrics.sessions_lost.increment(1);
                    tracing::error!(
                        broker = %self.options.broker,
                        "the broker has forgotten the gateway's session: what devices published \
                         since the connection broke is lost; is its persistence on?"
                    );
                }
                *past = Past { failures: 0, has_session: !self.options.session.is_zero() };
                self.context.metrics.connected.set(1.0);
                tracing::info!(
                    broker = %self.options.broker, session, "devices over MQTT are heard"
                );
                Ok(())
            }
            code => Err(Failure::no_subscription(&self.options.broker, &format!("{code:?}"))),
        }
    }

    fn take(&mut self, publish: Publish) {
        if publish.dup {
            self.context.metrics.redelivered.increment(1);
        }
        // The broker keeps to what was agreed, but it promises nothing for QoS 0.
        let most = usize::from(self.options.in_flight);
        if publish.qos == QoS::AtMostOnce && self.work.len() + self.ready.len() >= most {
            self.context.metrics.overrun.increment(1);
            return;
        }
        let Publish { pkid, topic, payload, .. } = publish;
        let (options, context) = (self.options, self.context);
        let Some(device) = device_of(&topic) else {
            tracing::debug!(
                topic = %String::from_utf8_lossy(&topic).escape_debug(),
                "a message to a topic that names no device"
            );
            context.metrics.wrong_topic.increment(1);
            let nothing = Answer { messages: Vec::new() };
            let done = Done { pkid, topic, answer: Some(nothing) };
            return self.work.push_back(Box::pin(std::future::ready(done)));
        };
        let device = self.heard.device(context, options, &device);
        self.work.push_back(Box::pin(async move {
            let answer = batch::take(context, options, &device, payload).await;
            Done { pkid, topic, answer }
        }));
    }

    fn finish(&mut self, done: Done) -> Result<(), Failure> {
        if done.answer.is_none() {
            return Err(Failure::log_closed());
        }
        self.ready.push_back(done);
        self.send_answers()
    }

    /// Answers go before the acknowledgement: if the connection breaks between, the message comes
    /// again and is answered again.
    fn send_answers(&mut self) -> Result<(), Failure> {
        loop {
            let is_full = self.is_full();
            let Some(done) = self.ready.front_mut() else { return Ok(()) };
            let messages = done.answer.as_mut().map(|answer| &mut answer.messages);
            let Some(message) = messages.and_then(|of| (!of.is_empty()).then(|| of.remove(0)))
            else {
                if done.pkid != 0 {
                    self.connection.queue(&Packet::PubAck(PubAck::new(done.pkid, None)))?;
                }
                self.ready.pop_front();
                continue;
            };
            let pkid = self.free.pop_front();
            if pkid.is_none() && !is_full {
                if let Some(answer) = &mut done.answer {
                    answer.messages.insert(0, message);
                }
                return Ok(());
            }
            // The broker has it before the acknowledgement that follows in any case; at QoS 0 it
            // does not keep it for a device that is away.
            let qos = if pkid.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce };
            match &message {
                GatewayMessage::Nack(_) => self.context.metrics.nacks.increment(1),
                _ => self.context.metrics.acks.increment(1),
            }
            let mut payload = Vec::new();
            message.encode(&mut payload);
            let topic = [&done.topic[..], REPLY.as_bytes()].concat();
            let queued = self.connection.queue(&Packet::Publish(Publish {
                qos,
                topic: topic.into(),
                pkid: pkid.unwrap_or_default(),
                payload: payload.into(),
                ..Publish::default()
            }));
            // Larger than the broker takes: the message would come again with every connection.
            if let Err(failure) = queued {
                tracing::debug!(why = %failure, "an answer to a device is left out");
                self.context.metrics.unanswered.increment(1);
                self.free.extend(pkid);
            }
        }
    }

    fn acknowledged(&mut self, packet: &Packet) -> Result<(), Failure> {
        // Nothing else was asked for.
        let Packet::PubAck(ack) = packet else { return Ok(()) };
        if !matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
            tracing::debug!(reason = ?ack.reason, "the broker did not take an answer to a device");
            self.context.metrics.unanswered.increment(1);
        }
        if ack.pkid > SUBSCRIPTION && !self.free.contains(&ack.pkid) {
            self.free.push_back(ack.pkid);
        }
        self.send_answers()
    }

    /// Brings what is under way to its end, if that is quick; what comes meanwhile is left to the
    /// broker.
    async fn drain(&mut self) {
        let until = Instant::now() + DRAIN;
        while !self.work.is_empty() || !self.ready.is_empty() {
            let step = timeout_at(until, async {
                tokio::select! {
                    Some(done) = self.work.next() => self.finish(done),
                    packet = self.connection.next() => self.acknowledged(&packet?),
                }
            });
            if !matches!(step.await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// The device that a topic names. Only in the one way in which its id is escaped: access rules
/// compare topics to the letter, and `%61` would be another user's way to write `a`.
fn device_of(topic: &[u8]) -> Option<String> {
    let level = std::str::from_utf8(topic).ok()?.strip_prefix(TOPIC)?;
    let device = unescape_level(level)?;
    let mut escaped = String::with_capacity(level.len());
    escape_level(&device, &mut escaped);
    (is_device_id(&device) && escaped == level).then_some(device)
}

#[cfg(test)]
#[path = "serve_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;

#[cfg(test)]
mod topic_tests {
    use super::*;

    #[test]
    fn a_topic_names_a_device_or_nobody() {
        let of = |topic: &str| device_of(topic.as_bytes());
        assert_eq!(of("telemetry/meter-1").as_deref(), Some("meter-1"));
        assert_eq!(of("telemetry/press%2F7%2B").as_deref(), Some("press/7+"));
        let long = format!("telemetry/{}", "x".repeat(129));
        for topic in ["telemetry/", "telemetry/ä", "telemetry/a b", "telemetry/%", "other/d", &long]
            .into_iter()
            .chain(["telemetry/%61", "telemetry/a%2fb", "telemetry/a/b", "telemetry/d/reply"])
        {
            assert_eq!(of(topic), None, "{topic}");
        }
        assert_eq!(device_of(b"telemetry/\xFF"), None);
    }
}
