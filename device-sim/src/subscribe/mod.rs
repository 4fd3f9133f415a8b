//! A subscriber that writes down what an MQTT broker passes on, for `verify` to read.
//!
//! ```text
//! PUBLISH, QoS 1 → a group: what came meanwhile → recording, synced → PUBACK for each
//! ```
//!
//! The session outlives this process and its connections: the broker keeps what comes while nobody
//! is there, and sends again what was not acknowledged. A message is acknowledged once it is on the
//! disk, so none of them is lost between the two; some come twice, and are recorded twice. Memory is
//! bounded by a group and what comes with one read.

mod broker;
mod message;
mod recording;

pub use broker::Broker;
pub use message::{Payload, Scalar};
#[cfg(test)]
pub(crate) use recording::ADD_REALM;
pub use recording::{FORMAT, Totals};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::FutureExt;
use recording::Recording;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Filter, Packet, Publish, RetainForwardRule, SubAck,
    SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

/// Most messages that the broker may have under way to us.
const RECEIVE_MAXIMUM: u16 = 1_000;
/// Most messages that are written down with one sync.
const MAX_GROUP: usize = RECEIVE_MAXIMUM as usize;
/// A group ends at so many bytes of messages.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Acknowledgements and subscriptions that wait to be written: of all that is under way.
const MAX_REQUESTS: usize = RECEIVE_MAXIMUM as usize + 16;
/// Shortest time from a connection that failed to the next.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long a good-bye may take.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

/// What is subscribed to, and where it is written down.
#[derive(Debug, Clone)]
pub struct Options {
    /// The broker.
    pub broker: Broker,
    /// The topic filter, such as `readings/#`.
    pub topic: String,
    /// What the messages hold.
    pub payload: Payload,
    /// The file; what it holds already stays.
    pub recording: PathBuf,
    /// Ends when nothing has come for so long; else at SIGINT or SIGTERM.
    pub idle: Option<Duration>,
}

/// Records until the end. `say` gets what a person should know meanwhile.
///
/// # Errors
/// The broker does not let us in or subscribe, or the file cannot be written.
pub fn subscribe(options: &Options, say: &dyn Fn(&str)) -> Result<Totals> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let (recording, is_new) = Recording::open(options)?;
        let (address, pipe) = options.broker.pipe().await?;
        let connection = options.broker.connection(&address, RECEIVE_MAXIMUM)?;
        let (client, events) = AsyncClient::new(connection, MAX_REQUESTS);
        let subscriber = Subscriber {
            options,
            say,
            recording,
            client,
            events,
            is_away: false,
            is_new,
            retry: RETRY_MIN,
        };
        tokio::select! {
            ended = subscriber.run() => ended,
            failed = pipe.carry() => Err(failed),
        }
    })
}

struct Subscriber<'a> {
    options: &'a Options,
    say: &'a dyn Fn(&str),
    recording: Recording,
    client: AsyncClient,
    events: EventLoop,
    /// The broker is away, and somebody was told.
    is_away: bool,
    /// There was no session before the next connection.
    is_new: bool,
    /// How long to wait after the next failure.
    retry: Duration,
}

impl Subscriber<'_> {
    async fn run(mut self) -> Result<Totals> {
        let mut stop = Stop::new()?;
        let mut last = Instant::now();
        loop {
            let end = self.options.idle.map(|idle| last + idle);
            let first = tokio::select! {
                biased;
                () = stop.wanted() => break,
                () = sleep_until(end.unwrap_or(last)), if end.is_some() => break,
                first = self.events.poll() => first,
            };
            if self.take(first)? {
                last = Instant::now();
            }
            if self.is_away {
                tokio::select! {
                    () = stop.wanted() => break,
                    () = sleep(self.retry) => self.retry = (self.retry * 2).min(RETRY_MAX),
                }
            }
        }
        self.say_good_bye().await;
        self.recording.totals()
    }

    /// Takes an event and all that has come with it; true if messages were among it.
    fn take(&mut self, first: Result<Event, ConnectionError>) -> Result<bool> {
        let mut group: Vec<Publish> = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        let mut failed = None;
        while let Some(event) = next.take() {
            match event {
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    bytes += message.payload.len();
                    group.push(message);
                }
                Ok(Event::Incoming(Packet::ConnAck(answer))) => self.connected(&answer)?,
                Ok(Event::Incoming(Packet::SubAck(answer))) => self.subscribed(&answer)?,
                Ok(_) => {}
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            if group.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES {
                next = self.events.poll().now_or_never();
            }
        }
        self.recording.write(&group, self.options.payload)?;
        match failed {
            None => {
                for message in &group {
                    // Fails if the broker has sent more than it may have under way.
                    self.client
                        .try_ack(message)
                        .map_err(|_| anyhow!("the broker sends too much"))?;
                }
            }
            // What was not acknowledged on a connection that has ended comes again.
            Some(error) => self.lost_connection(&error)?,
        }
        Ok(!group.is_empty())
    }

    fn connected(&mut self, answer: &ConnAck) -> Result<()> {
        if self.is_away {
            (self.say)("the broker is back");
        }
        if !answer.session_present && !self.is_new {
            (self.say)("the broker has lost our session: what came meanwhile is not recorded");
            self.recording.count_lost_session()?;
        }
        (self.is_away, self.is_new, self.retry) = (false, false, RETRY_MIN);
        let filter = Filter {
            path: self.options.topic.clone(),
            qos: QoS::AtLeastOnce,
            retain_forward_rule: RetainForwardRule::OnNewSubscribe,
            ..Filter::default()
        };
        let asked = self.client.try_subscribe_many([filter]);
        asked.map_err(|_| anyhow!("{:?} is no topic filter", self.options.topic))
    }

    fn subscribed(&self, answer: &SubAck) -> Result<()> {
        let topic = &self.options.topic;
        match answer.return_codes.first() {
            Some(SubscribeReasonCode::Success(QoS::AtMostOnce)) => {
                bail!("the broker grants QoS 0 for {topic:?}: messages may be lost on their way")
            }
            Some(SubscribeReasonCode::Success(_)) => {
                self.recording.note_subscribed()?;
                (self.say)(&format!("subscribed to {topic}"));
            }
            refused => bail!("the broker does not let us subscribe to {topic:?}: {refused:?}"),
        }
        Ok(())
    }

    fn lost_connection(&mut self, error: &ConnectionError) -> Result<()> {
        use ConnectReturnCode as Code;
        let broker = &self.options.broker;
        if let ConnectionError::ConnectionRefused(code) = error {
            match code {
                Code::BadUserNamePassword | Code::NotAuthorized | Code::Banned => {
                    bail!("{broker} does not let us in: {code:?}")
                }
                Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => {
                    bail!("{broker} does not speak MQTT 5")
                }
                Code::ClientIdentifierNotValid | Code::BadClientId => {
                    bail!("{broker} does not take the client id: choose another")
                }
                _ => {}
            }
        }
        // Events of the old connection mean nothing to the new one.
        self.events.state.events.clear();
        if !self.is_away {
            (self.say)(&format!("{broker} is away: {error}"));
        }
        self.is_away = true;
        Ok(())
    }

    /// The session stays; what is queued is written if that is quick.
    async fn say_good_bye(&mut self) {
        let Self { client, events, .. } = self;
        if client.try_disconnect().is_ok() {
            let rest = async { while events.poll().await.is_ok() {} };
            let _ = tokio::time::timeout(CLOSE_WITHIN, rest).await;
        }
    }
}

/// The signals that end it.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Cancel safe.
    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
