//! The task of one connection: the shell around a session. It reads, submits, sends, keeps the
//! time, and decides nothing.

mod socket;
mod submit;

use super::{
    Shared, closing,
    registry::{Eviction, Membership},
    tls::TlsStream,
    watched::Watched,
};
use crate::{
    auth::Verified,
    ingest::{self, Checked, ConnectionContext, Guard, Notes, Outcome, StreamId},
    session::{Action, Close, CloseCode, Facts, Now, Peer, Session},
};
use bytes::Bytes;
use futures_util::{Sink, Stream};
use proto::{DeviceMessage, ErrorCode, GatewayMessage};
use socket::{offence, web_socket};
use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WsError, Message},
};

/// Outcomes that are handled before an ack goes out.
const MAX_OUTCOMES_AT_ONCE: usize = 256;
/// When a batch may come again that brings something new while `state.db` cannot be written.
const SETTLE_RETRY_MS: u32 = 5_000;

/// A device's connection after the upgrade.
pub(super) struct Connection {
    shared: Arc<Shared>,
    member: Membership,
    socket: WebSocketStream<Watched>,
    session: Session<Checked>,
    context: ConnectionContext,
    guard: Guard,
    notes: Notes,
    outcomes: mpsc::Receiver<Outcome>,
    reply: mpsc::Sender<Outcome>,
    opened: bool,
    /// Since when something has waited to be sent.
    unsent_since_us: Option<u64>,
}

enum Event {
    Frame(Option<Result<Message, WsError>>),
    Outcome(Outcome),
    Sent(Result<(), WsError>),
    Evicted(Eviction),
    PositionMoved,
    Tick,
}

/// How a connection ends.
enum End {
    /// The gateway closes.
    Close(Close),
    /// The device has closed in order.
    ByDevice,
    /// The device has gone, and nothing can be said any more.
    Gone,
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        stream: TlsStream,
        early: Bytes,
        verified: Verified,
        member: Membership,
    ) -> Box<Self> {
        let now = now(&shared);
        let unix_s = now.unix_ms / 1000;
        let peer = Peer {
            session: format!("{:x}-{:x}", fastrand::u64(..), member.number()).into(),
            identity: verified.identity.clone(),
            expires_us: verified.expires_unix_s.map(|at| {
                let left_s = u64::try_from(at.saturating_sub(unix_s)).unwrap_or(0);
                now.us.saturating_add(left_s.saturating_mul(1_000_000))
            }),
        };
        // Every batch in the window can be answered, and an open.
        let (reply, outcomes) = mpsc::channel(shared.settings.window.batches as usize + 2);
        let session = Session::new(shared.settings.clone(), peer, now);
        let context = ConnectionContext {
            identity: verified.identity,
            stream: StreamId::Private(member.number()),
            time_unit: session.agreed().time_unit,
            measurement: None,
        };
        let guard = shared.context.guards.of(&context.identity);
        let devices = &shared.context.state.devices;
        let notes = Notes::new(devices.enter(&context.identity, now.unix_ms));
        let socket = web_socket(Watched::new(stream, shared.clock, &early), early, &shared);
        Box::new(Self {
            shared,
            member,
            socket,
            session,
            context,
            guard,
            notes,
            outcomes,
            reply,
            opened: false,
            unsent_since_us: None,
        })
    }

    /// Serves the device until the connection ends.
    pub(super) async fn run(mut self: Box<Self>) {
        let metrics = self.shared.context.metrics.clone();
        metrics.connections.increment(1.0);
        let Err(end) = self.serve().await;
        Box::pin(self.forget()).await;
        self.notes.left(now(&self.shared).unix_ms);
        // No more requests from here on: a newer connection may go ahead.
        self.member.leave();
        match end {
            End::Close(close) => {
                tracing::debug!(
                    device = %self.context.identity, code = %close.code, reason = close.reason,
                    "connection closed"
                );
                Box::pin(closing::close(&self.shared, &mut self.socket, &close)).await;
            }
            End::ByDevice => {
                metrics.closed_by_device.increment(1);
                Box::pin(closing::answer(&mut self.socket)).await;
            }
            End::Gone => metrics.lost.increment(1),
        }
        metrics.connections.decrement(1.0);
    }

    /// Serves the device until there is a reason to end.
    async fn serve(&mut self) -> Result<Infallible, End> {
        let mut timer = std::pin::pin!(sleep_until(self.shared.clock.instant(0)));
        let mut armed_us = 0;
        let mut position = self.shared.context.ack_position.clone();
        self.session.on_position(*position.borrow_and_update());
        loop {
            self.carry_out().await?;
            self.arm(timer.as_mut(), &mut armed_us);
            // The busiest comes first, so that the others cost nothing while it is ready; the
            // runtime's budget for a task sees to it that they have their turn.
            let event = tokio::select! {
                biased;
                event = poll_fn(|cx| poll_socket(
                    &mut self.socket, &mut self.outcomes, &self.session,
                    self.unsent_since_us.is_some(), cx,
                )) => event,
                why = self.member.evicted(), if !self.session.is_draining() => Event::Evicted(why),
                moved = position.changed(), if self.session.awaits_position() => match moved {
                    Ok(()) => Event::PositionMoved,
                    Err(_) => return Err(End::Gone),
                },
                () = timer.as_mut() => Event::Tick,
            };
            match event {
                Event::Frame(frame) => self.on_frame(frame)?,
                Event::Outcome(outcome) => self.on_outcomes(outcome),
                Event::Sent(Ok(())) => self.unsent_since_us = None,
                Event::Sent(Err(_)) => return Err(End::Gone),
                Event::Evicted(why) => self.on_evicted(why),
                Event::PositionMoved => {
                    self.session.on_position(*position.borrow_and_update());
                    self.session.settle(now(&self.shared));
                }
                Event::Tick => {
                    armed_us = 0;
                    self.on_tick();
                }
            }
        }
    }

    /// Carries out what the session wants.
    async fn carry_out(&mut self) -> Result<(), End> {
        while let Some(action) = self.session.next_action() {
            match action {
                // What has to wait lives in a future of its own, so that the task stays small.
                Action::OpenStream(stream) => Box::pin(self.open(stream)).await,
                Action::Submit { may_skip, body } => {
                    if body.settle > self.shared.context.state.changes.durable() {
                        Box::pin(self.submit_when_settled(may_skip, body)).await;
                    } else if let Err(waiting) = self.submit(may_skip, body) {
                        Box::pin(self.submit_when_there_is_room(waiting)).await;
                    }
                }
                Action::Send(message) => self.send(&message)?,
                Action::Ack { ack, received_us } => {
                    if let Some(received_us) = received_us {
                        let waited_us = self.shared.clock.now_us().saturating_sub(received_us);
                        let seconds = Duration::from_micros(waited_us).as_secs_f64();
                        self.shared.context.metrics.ack_seconds.record(seconds);
                        self.notes.acked(waited_us);
                    }
                    self.send(&GatewayMessage::Ack(ack))?;
                }
                Action::Ping => self.put(Message::Ping(Bytes::new()))?,
                Action::Close(close) => return Err(End::Close(close)),
            }
        }
        self.session.rest();
        Ok(())
    }

    fn on_frame(&mut self, frame: Option<Result<Message, WsError>>) -> Result<(), End> {
        let metrics = &self.shared.context.metrics;
        metrics.received_bytes.increment(self.socket.get_mut().take_received_bytes());
        match frame {
            Some(Ok(Message::Binary(bytes))) => {
                metrics.messages.increment(1);
                self.on_message(&bytes);
            }
            Some(Ok(Message::Text(_))) => self.session.close(Close {
                close: CloseCode::Unsupported,
                code: ErrorCode::TextMessage,
                reason: "messages are binary".to_owned(),
            }),
            // A ping is answered by the library; the answer has to go out.
            Some(Ok(Message::Ping(_))) => self.unsent(),
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) => return Err(End::ByDevice),
            Some(Err(error)) => match offence(&error, self.socket.get_ref().excess()) {
                Some(close) => self.session.close(close),
                None => return Err(End::Gone),
            },
            None => return Err(End::Gone),
        }
        Ok(())
    }

    fn on_message(&mut self, bytes: &Bytes) {
        let rules = &self.shared.context.rules;
        match DeviceMessage::decode(bytes, &rules.limits) {
            Ok(DeviceMessage::Batch(body)) => {
                let now = now(&self.shared);
                self.session.on_batch_begin(now);
                let body = bytes.slice_ref(body);
                let wall = self.shared.wall.now();
                match ingest::check(body, &self.context, &mut self.guard, rules, wall) {
                    Ok(checked) => self.on_checked(now, bytes.len(), checked),
                    Err(error) => self.session.on_malformed(&error),
                }
            }
            Ok(DeviceMessage::Hello(hello)) => self.session.on_hello(now(&self.shared), hello),
            Ok(DeviceMessage::Reserved(_)) => {}
            Err(error) => self.session.on_malformed(&error),
        }
    }

    fn on_checked(&mut self, now: Now, bytes: usize, mut checked: Checked) {
        let metrics = &self.shared.context.metrics;
        for refusal in checked.refused.iter() {
            metrics.refused.add(refusal.code, 1);
        }
        if let Some((code, _)) = &checked.refused_whole {
            metrics.refused.add(*code, 1);
        }
        self.notes.sent(&self.shared.context.state.devices, now.unix_ms, &checked);
        if checked.retry.is_none() && self.cannot_settle(&checked) {
            checked.retry = Some((ErrorCode::Overloaded, SETTLE_RETRY_MS));
        }
        let facts = Facts {
            seq: checked.seq,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            refused: checked.refused.clone(),
            details: std::mem::take(&mut checked.details),
            refused_whole: checked.refused_whole.clone(),
            retry: checked.retry,
        };
        self.session.on_batch(now, facts, checked);
    }

    fn on_outcomes(&mut self, first: Outcome) {
        let now = now(&self.shared);
        self.notes.outcome(&first);
        self.session.on_outcome(now, first);
        // One ack for all that wait.
        for _ in 0..MAX_OUTCOMES_AT_ONCE {
            let Ok(outcome) = self.outcomes.try_recv() else { break };
            self.notes.outcome(&outcome);
            self.session.on_outcome(now, outcome);
        }
        self.session.settle(now);
    }

    fn on_evicted(&mut self, why: Eviction) {
        let now = now(&self.shared);
        let config = &self.shared.context.config;
        match why {
            Eviction::TakenOver => self.session.close(Close {
                close: CloseCode::TakenOver,
                code: ErrorCode::TakenOver,
                reason: "a newer connection of this device has taken over".to_owned(),
            }),
            Eviction::Revoked => self.session.close(Close {
                close: CloseCode::Policy,
                code: ErrorCode::Revoked,
                reason: "the credential was revoked".to_owned(),
            }),
            Eviction::Shutdown => {
                let drain_us = u64::try_from(config.drain.as_micros()).unwrap_or(u64::MAX);
                let (close, code, reason) = if config.restart {
                    (CloseCode::Restart, ErrorCode::Restart, "the gateway restarts")
                } else {
                    (CloseCode::GoingAway, ErrorCode::ShuttingDown, "the gateway shuts down")
                };
                let close = Close { close, code, reason: reason.to_owned() };
                self.session.on_shutdown(now, now.us.saturating_add(drain_us), close);
            }
        }
    }

    fn on_tick(&mut self) {
        let now = now(&self.shared);
        let heard = self.socket.get_ref().heard();
        self.session.on_tick(now, heard);
        if self.send_due_us().is_some_and(|at| now.us >= at) {
            self.not_reading();
        }
    }

    fn not_reading(&mut self) {
        self.session.close(Close {
            close: CloseCode::Policy,
            code: ErrorCode::NotReading,
            reason: "what is sent is not read".to_owned(),
        });
    }

    /// Sets the timer if it would fire too late. One that fires too early only costs a look.
    fn arm(&self, timer: Pin<&mut Sleep>, armed_us: &mut u64) {
        let next_us = self.session.next_tick_us(self.socket.get_ref().heard());
        let next_us = next_us.min(self.send_due_us().unwrap_or(u64::MAX));
        if *armed_us == 0 || next_us < *armed_us {
            timer.reset(self.shared.clock.instant(next_us));
            *armed_us = next_us.max(1);
        }
    }

    fn send_due_us(&self) -> Option<u64> {
        let wait_us =
            u64::try_from(self.shared.context.config.write_time.as_micros()).unwrap_or(u64::MAX);
        self.unsent_since_us.map(|since| since.saturating_add(wait_us))
    }

    fn send(&mut self, message: &GatewayMessage) -> Result<(), End> {
        if let GatewayMessage::Nack(nack) = message {
            self.shared.context.metrics.nacks.add(nack.code, 1);
        }
        let sent = closing::send(&mut self.socket, message);
        self.sent(sent)
    }

    fn put(&mut self, message: Message) -> Result<(), End> {
        let sent = Pin::new(&mut self.socket).start_send(message);
        self.sent(sent)
    }

    fn sent(&mut self, sent: Result<(), WsError>) -> Result<(), End> {
        self.unsent();
        match sent {
            Ok(()) => Ok(()),
            Err(WsError::WriteBufferFull(_)) => {
                self.not_reading();
                Ok(())
            }
            Err(_) => Err(End::Gone),
        }
    }

    fn unsent(&mut self) {
        self.unsent_since_us.get_or_insert_with(|| self.shared.clock.now_us());
    }
}

/// The next thing that happens on the socket or comes from the committer. Cancel safe.
fn poll_socket(
    socket: &mut WebSocketStream<Watched>,
    outcomes: &mut mpsc::Receiver<Outcome>,
    session: &Session<Checked>,
    unsent: bool,
    cx: &mut TaskContext<'_>,
) -> Poll<Event> {
    if let Poll::Ready(Some(outcome)) = outcomes.poll_recv(cx) {
        return Poll::Ready(Event::Outcome(outcome));
    }
    if unsent {
        // Nothing is read while the device does not read: that is the backpressure.
        return Pin::new(socket).poll_flush(cx).map(Event::Sent);
    }
    if session.wants_read() {
        return Pin::new(socket).poll_next(cx).map(Event::Frame);
    }
    Poll::Pending
}

fn now(shared: &Shared) -> Now {
    Now { us: shared.clock.now_us(), unix_ms: shared.wall.unix_ms() }
}

#[cfg(test)]
mod tests {
    use super::{super::listener, *};
    use std::net::SocketAddr;
    use tokio::net::TcpStream;

    fn future_bytes<F: Future>(_: fn(Arc<Shared>, TcpStream, SocketAddr) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_device_costs_little() {
        // The rest is TLS (about 8 KiB), the read buffer and the channel for outcomes.
        assert!(size_of::<Connection>() <= 2304, "{}", size_of::<Connection>());
        let task = future_bytes(listener::serve);
        assert!(task <= 1024, "{task}");
    }
}
