//! A device's conversation with the gateway, from `hello` to the end of the connection.
//!
//! Sends what the outbox names, takes acks and refusals. It never blocks on a full socket: writing,
//! reading and the schedule go on side by side in one task.

mod acts;
mod answers;

use super::device::Device;
use super::frame;
use super::link::{Link, LinkError, MAX_RX_BYTES};
use super::outbox::Conflict;
use bytes::Bytes;
use futures_util::{Sink, Stream};
use proto::{ErrorCode, GatewayMessage, Hello, encode::encode_hello};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_tungstenite::tungstenite::{self, Message};

/// Longest wait for `welcome`; the gateway may first have to finish an older connection.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence after which the device pings, and after as much again gives the link up.
const SILENCE: Duration = Duration::from_secs(45);
/// Most bytes that are handed to the socket before it has taken them.
const FLUSH_BYTES: usize = 128 * 1024;
/// Longest wait for the gateway's part of closing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How a connection ended.
pub(super) enum Ended {
    /// Everything is acknowledged and the schedule is over.
    Finished,
    /// A device that connects from time to time has sent what it had.
    Flushed,
    /// The plan wants it so: the link is gone without a word.
    Left,
    /// The plan wants it so: the device has forgotten the link without closing it. It stays until
    /// so many nanoseconds after the start.
    Forgotten(u64),
    /// To be tried again.
    Lost(LinkError),
    /// Going on would lose or double data, or has nothing to send: the kind of it, and a sentence.
    Hopeless(&'static str, String),
}

/// What a connection waits for.
enum Event {
    Message(Message),
    Flushed,
    Lost(LinkError),
    Timer,
    Stop,
    Abort,
}

struct Session<'a> {
    device: &'a mut Device,
    link: Link,
    /// Something waits to be flushed.
    dirty: bool,
    welcomed: bool,
    /// Nothing is sent before this moment: the gateway asked for it.
    pause: Option<Instant>,
    heard: Instant,
    pinged: bool,
    /// The gateway said goodbye: when it wants this device back.
    goodbye: Option<LinkError>,
    /// The first number that was sent on this connection, or 0.
    first_here: u64,
    /// A used number under which other content was sent, or 0.
    reused: u64,
    /// Nothing is sent for the first time: the device is about to leave.
    leaving: bool,
}

/// Talks to the gateway until the connection or the run ends.
pub(super) async fn run(device: &mut Device, link: Link) -> Ended {
    let mut session = Session {
        device,
        link,
        dirty: false,
        welcomed: false,
        pause: None,
        heard: Instant::now(),
        pinged: false,
        goodbye: None,
        first_here: 0,
        reused: 0,
        leaving: false,
    };
    let (Ok(ended) | Err(ended)) = session.talk().await;
    if let Ended::Forgotten(until_ns) = ended {
        let Session { device, link, .. } = session;
        if let Some(troubles) = &mut device.troubles {
            troubles.park(link, until_ns);
        }
    }
    ended
}

impl From<Conflict> for Ended {
    fn from(conflict: Conflict) -> Self {
        Ended::Hopeless("conflict", conflict.to_string())
    }
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        Ended::Lost(error)
    }
}

impl Session<'_> {
    async fn talk(&mut self) -> Result<Ended, Ended> {
        self.put(Message::Binary(self.hello()))?;
        let started = Instant::now();
        if let Some(troubles) = &mut self.device.troubles {
            troubles.pass_over(self.device.fleet.elapsed_ns(started));
        }
        let mut timer = std::pin::pin!(sleep_until(started));
        loop {
            let now = Instant::now();
            self.device.take_due(now);
            if self.device.troubles.is_some() {
                self.go_through_troubles(now).await?;
            }
            if self.welcomed {
                self.send_batches(now)?;
            } else if now >= started + WELCOME_TIMEOUT {
                return Err(LinkError::new("no_welcome", "the gateway sends no welcome").into());
            }
            if self.device.finished() && !self.device.staying(now) {
                self.close().await;
                return Ok(Ended::Finished);
            }
            if self.welcomed && self.device.outbox.is_empty() && self.device.is_visitor() {
                self.close().await;
                return Ok(Ended::Flushed);
            }
            self.watch_silence(now)?;
            let wake = self.wake(started);
            if timer.deadline() != wake {
                timer.as_mut().reset(wake);
            }
            match self.event(timer.as_mut()).await {
                Event::Message(message) => self.take(message)?,
                Event::Flushed => self.dirty = false,
                Event::Lost(error) => return Err(self.goodbye.take().unwrap_or(error).into()),
                Event::Timer => {}
                Event::Stop => self.device.end_schedule(Instant::now()),
                Event::Abort => {
                    self.close().await;
                    return Ok(Ended::Finished);
                }
            }
        }
    }

    fn hello(&self) -> Bytes {
        let (mut hello, plan, index) =
            (Vec::new(), &self.device.fleet.plan, self.device.sender.index);
        encode_hello(
            &Hello {
                stream: Some(plan.stream_of(index)),
                time_unit: plan.time_unit(index),
                measurement: plan.measurement(index).map(str::to_owned),
                max_rx: Some(MAX_RX_BYTES),
                firmware: Some(format!("device-sim {}", crate::VERSION)),
                model: None,
            },
            &mut hello,
        );
        hello.into()
    }

    /// The next moment at which something is to be done without a message.
    fn wake(&self, started: Instant) -> Instant {
        let mut wake = self.heard + if self.pinged { 2 * SILENCE } else { SILENCE };
        if let Some(troubles) = &self.device.troubles {
            wake = wake.min(self.device.fleet.at(troubles.wake_ns()));
        }
        if !self.welcomed {
            wake = wake.min(started + WELCOME_TIMEOUT);
        }
        if self.device.finished() {
            wake = wake.min(self.device.leave_at);
        }
        [self.device.next_due(), self.pause].into_iter().flatten().fold(wake, Instant::min)
    }

    async fn event(&mut self, mut timer: Pin<&mut Sleep>) -> Event {
        let deaf = self.is_deaf();
        let Session { device, link, dirty, .. } = self;
        let link = std::future::poll_fn(|cx| {
            let mut link = Pin::new(&mut *link);
            if *dirty {
                match link.as_mut().poll_flush(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Event::Flushed),
                    Poll::Ready(Err(error)) => return Poll::Ready(Event::Lost(lost(&error))),
                    Poll::Pending => {}
                }
            }
            if deaf {
                return Poll::Pending;
            }
            link.poll_next(cx).map(|read| match read {
                Some(Ok(message)) => Event::Message(message),
                Some(Err(error)) => Event::Lost(lost(&error)),
                None => Event::Lost(LinkError::new("closed", "the gateway closed the connection")),
            })
        });
        tokio::select! {
            biased;
            () = device.fleet.abort.cancelled() => Event::Abort,
            () = device.fleet.stop.cancelled(), if device.staying(Instant::now()) => Event::Stop,
            event = link => event,
            () = &mut timer => Event::Timer,
        }
    }

    /// Hands a message to the link; the loop flushes it.
    fn put(&mut self, message: Message) -> Result<(), Ended> {
        self.dirty = true;
        let put = match message {
            Message::Binary(message) => frame::put(&mut self.link, message),
            message => Pin::new(&mut self.link).start_send(message),
        };
        put.map_err(|error| Ended::Lost(lost(&error)))
    }

    fn send_batches(&mut self, now: Instant) -> Result<(), Ended> {
        self.pause = self.pause.filter(|&until| now < until);
        if self.pause.is_some() || self.goodbye.is_some() {
            return Ok(());
        }
        let mut bytes = 0;
        // What the socket has not taken yet comes first.
        while !self.dirty || bytes > 0 {
            let Some((seq, tick)) = self.device.outbox.next_to_send() else { break };
            if bytes >= FLUSH_BYTES || (self.leaving && self.device.outbox.is_answered()) {
                break;
            }
            let fleet = &self.device.fleet;
            let message = fleet.encode(&self.device.sender, tick, seq).map_err(unreadable)?;
            let readings = u64::from(fleet.plan.batch_of(self.device.sender.index, tick));
            bytes += message.len();
            self.first_here = if self.first_here == 0 { seq } else { self.first_here };
            let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
            if self.device.outbox.sent(length) {
                fleet.tally.sent.add(readings);
                fleet.ledger(self.device.sender.index).sent = seq;
            } else {
                fleet.tally.resent.add(readings);
            }
            self.put(Message::Binary(message))?;
        }
        Ok(())
    }

    fn watch_silence(&mut self, now: Instant) -> Result<(), Ended> {
        if self.is_deaf() {
            self.heard = now;
        }
        let silence = now.duration_since(self.heard);
        if silence >= 2 * SILENCE {
            return Err(LinkError::new("silent", "the gateway answers no ping").into());
        }
        if silence >= SILENCE && !self.pinged {
            self.pinged = true;
            self.put(Message::Ping(Bytes::new()))?;
        }
        Ok(())
    }

    fn take(&mut self, message: Message) -> Result<(), Ended> {
        self.heard = Instant::now();
        self.pinged = false;
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(frame) => {
                let said = frame.map_or(String::new(), |frame| {
                    format!(" with {} {:?}", u16::from(frame.code), frame.reason.as_str())
                });
                let sentence = format!("the gateway closed the connection{said}");
                let error = LinkError::new("closed", sentence);
                return Err(self.goodbye.take().unwrap_or(error).into());
            }
            // A ping was answered by the library; its answer waits to be flushed.
            Message::Ping(_) => {
                self.dirty = true;
                return Ok(());
            }
            _ => return Ok(()),
        };
        let message = match GatewayMessage::decode(&bytes) {
            Ok(message) => message,
            // Later versions of the protocol may send more.
            Err(error) if error.code == ErrorCode::UnknownKind => return Ok(()),
            Err(error) => {
                let sentence = format!("the gateway sends what is no message: {error}");
                return Err(LinkError::new("bad_message", sentence).into());
            }
        };
        match message {
            GatewayMessage::Welcome(welcome) => self.welcome(&welcome),
            GatewayMessage::Ack(ack) => Ok(self.acknowledged(ack.seq)?),
            GatewayMessage::Nack(nack) => self.refused(nack),
            GatewayMessage::Goodbye(goodbye) => {
                let wish = Duration::from_millis(u64::from(goodbye.reconnect_after_ms));
                let sentence =
                    format!("the gateway says goodbye: {} ({})", goodbye.code, goodbye.reason);
                self.goodbye = Some(LinkError {
                    retry_after: Some(wish),
                    ..LinkError::new("goodbye", sentence)
                });
                Ok(())
            }
        }
    }

    /// Closes in good order, as far as the gateway goes along.
    async fn close(&mut self) {
        let close = async {
            if self.link.close(None).await.is_ok() {
                let mut link = Pin::new(&mut self.link);
                while let Some(Ok(_)) = std::future::poll_fn(|cx| link.as_mut().poll_next(cx)).await
                {
                }
            }
        };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
    }
}

fn unreadable(error: anyhow::Error) -> Ended {
    Ended::Hopeless("capture", format!("{error:#}"))
}

fn lost(error: &tungstenite::Error) -> LinkError {
    let kind = match error {
        tungstenite::Error::Io(_) => "broken",
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => "closed",
        _ => "protocol",
    };
    LinkError::new(kind, format!("the connection broke: {error}"))
}
