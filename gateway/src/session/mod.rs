//! A connection of a device as a state machine: no await, no clock, no socket.
//!
//! It is told what happened (`on_…`) and answers with [`Action`]s, which the shell around it takes
//! out with [`Session::next_action`] and carries out in order. It owns the rules of the wire
//! protocol: hello and welcome, the order of batches, the window, which nack and which ack goes out
//! when, liveness, and why a connection ends. It promises that an ack never runs ahead of the log
//! (or, in the mode `stored`, of the stores), that a nack leaves before the ack that covers it, and
//! that nothing it holds grows beyond the window. It refuses to guess: whether a batch is a
//! repetition is decided by the committer.
//!
//! Batches that come before the stream is open: one is held, further ones are not read.

mod hello;
mod liveness;
#[cfg(test)]
mod model_tests;
mod nack;
mod order;
mod outstanding;
#[cfg(test)]
mod tests;
mod types;

use crate::{ingest::Outcome, record::Position};
pub use hello::Agreed;
use liveness::Liveness;
pub use liveness::{Heard, Patience};
use nack::Complaint;
pub use nack::{nack_again, nack_of};
use order::{Order, Verdict};
use outstanding::Outstanding;
use proto::{Ack, ErrorCode, GatewayMessage, Hello, Nack, Welcome, message::MessageError};
use std::{collections::VecDeque, sync::Arc};
pub use types::{Action, Close, CloseCode, Facts, Now, Peer, Settings};

/// Batches refused as a whole in a row, after which the connection ends.
pub const MAX_BAD_IN_A_ROW: u32 = 32;
/// Batches out of order in a row, after which the connection ends: several windows, since one
/// refusal costs everything that was under way behind it.
pub const MAX_OUT_OF_ORDER_IN_A_ROW: u32 = 1024;
/// Batches put off in a row, after which the device is sent away (close code 1013).
pub const MAX_RETRIES_IN_A_ROW: u32 = 256;

#[derive(Debug)]
enum State {
    /// Neither hello nor batch has come.
    Fresh,
    /// The committer was asked where the stream stands.
    Opening,
    /// Welcome was sent.
    Open,
    /// Nothing more is read; the connection closes once all that is under way is answered, or at
    /// this time.
    Draining { until_us: u64, close: Box<Close> },
    /// The close was handed out.
    Closed,
}

/// The state machine of one connection.
#[derive(Debug)]
pub struct Session<B> {
    settings: Arc<Settings>,
    peer: Peer,
    state: State,
    hello: Agreed,
    order: Order,
    outstanding: Outstanding,
    held: Option<Box<(u64, Facts, B)>>,
    liveness: Liveness,
    bad: u32,
    out_of_order: u32,
    retries: u32,
    actions: VecDeque<Action<B>>,
}

impl<B> Session<B> {
    /// A session of a device whose upgrade was accepted.
    pub fn new(settings: Arc<Settings>, peer: Peer, now: Now) -> Self {
        Self {
            outstanding: Outstanding::new(settings.window, settings.ack),
            liveness: Liveness::new(settings.patience, now.us, peer.expires_us),
            settings,
            peer,
            state: State::Fresh,
            hello: Agreed::default(),
            order: Order::default(),
            held: None,
            bad: 0,
            out_of_order: 0,
            retries: 0,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do, in order.
    pub fn next_action(&mut self) -> Option<Action<B>> {
        self.actions.pop_front()
    }

    /// Gives back memory that an idle connection does not need.
    pub fn rest(&mut self) {
        if self.actions.is_empty() {
            self.actions = VecDeque::new();
        }
        self.outstanding.rest();
    }

    /// True while a message may be read: false means that the window is full, that the stream is
    /// being opened or that the connection is ending.
    pub fn wants_read(&self) -> bool {
        match self.state {
            State::Fresh | State::Open => self.held.is_none() && !self.outstanding.is_full(),
            State::Opening | State::Draining { .. } | State::Closed => false,
        }
    }

    /// True while an ack waits for the ack position to move.
    pub fn awaits_position(&self) -> bool {
        !matches!(self.state, State::Closed) && self.outstanding.awaits_position()
    }

    /// True once the close was handed out: nothing is submitted any more.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// True while an ordered stop is under way.
    pub fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// What was agreed in hello; before it, what an empty hello means.
    pub fn agreed(&self) -> &Agreed {
        &self.hello
    }

    /// A `hello` has come.
    pub fn on_hello(&mut self, now: Now, hello: Hello) {
        match self.state {
            State::Fresh => match hello::agree(hello) {
                Ok(agreed) => {
                    self.actions.push_back(Action::OpenStream(agreed.stream));
                    self.hello = agreed;
                    self.state = State::Opening;
                    self.liveness.on_reading(now.us, false);
                }
                Err(close) => self.close(close),
            },
            State::Opening | State::Open => self.close(Close {
                close: CloseCode::Protocol,
                code: ErrorCode::UnexpectedHello,
                reason: "hello comes once, before the first batch".to_owned(),
            }),
            State::Draining { .. } | State::Closed => {}
        }
    }

    /// A batch has come and is about to be decoded: without a hello an empty one is taken, so that
    /// [`Session::agreed`] is final from here on.
    pub fn on_batch_begin(&mut self, now: Now) {
        if matches!(self.state, State::Fresh) {
            self.on_hello(now, Hello::default());
        }
    }

    /// A batch was decoded and validated.
    pub fn on_batch(&mut self, now: Now, facts: Facts, body: B) {
        self.on_batch_begin(now);
        match self.state {
            State::Opening => self.held = Some(Box::new((now.us, facts, body))),
            State::Open => self.take(now.us, facts, body),
            State::Fresh | State::Draining { .. } | State::Closed => {}
        }
        self.liveness.on_reading(now.us, self.wants_read());
    }

    fn take(&mut self, received_us: u64, facts: Facts, body: B) {
        let seq = facts.seq;
        match (self.order.arrive(seq), facts.retry) {
            (Verdict::Submit { .. }, Some((code, after_ms))) => {
                self.order.put_off(seq);
                self.put_off(seq, code, after_ms);
            }
            (Verdict::Submit { may_skip }, None) => {
                let complaint = Complaint::of(&facts);
                self.outstanding.submitted(seq, facts.bytes, received_us, complaint);
                self.actions.push_back(Action::Submit { may_skip, body });
            }
            (Verdict::OutOfOrder { expected }, _) => self.out_of_order(seq, expected),
        }
    }

    /// A message could not be decoded.
    pub fn on_malformed(&mut self, error: &MessageError) {
        let close = match error.code {
            ErrorCode::TooLarge => CloseCode::TooLarge,
            _ => CloseCode::Invalid,
        };
        self.close(Close { close, code: error.code, reason: error.detail.clone() });
    }

    /// The committer has answered. Acks are handed out by [`Session::settle`], which the shell
    /// calls after the last outcome that waits.
    pub fn on_outcome(&mut self, now: Now, outcome: Outcome) {
        if self.is_closed() {
            return;
        }
        match outcome {
            Outcome::Opened { logged_seq, acked_seq, position } => {
                self.on_opened(now, logged_seq, acked_seq, position);
            }
            Outcome::Logged { seq, position } => {
                let complaint = self.outstanding.logged(seq, position);
                self.admitted(seq);
                if let Some(complaint) = complaint {
                    self.complain(seq, &complaint);
                } else {
                    self.bad = 0;
                }
            }
            Outcome::Duplicate { seq, position, refused, refused_total, refused_whole } => {
                let fresh = self.outstanding.logged(seq, position);
                self.admitted(seq);
                let fresh = fresh.as_deref();
                let was = Complaint::repeated(&refused, refused_total, refused_whole, fresh);
                if let Some(was) = was {
                    self.complain(seq, &was);
                }
            }
            Outcome::Refused { seq, code } => {
                self.hand_out_ack(now);
                self.outstanding.dropped(seq);
                self.order.admitted(seq);
                let detail = "taken before with other content, or too long ago to tell".to_owned();
                self.complain(seq, &Complaint::Whole { code, detail: Some(detail) });
            }
            Outcome::OutOfOrder { seq, expected } => {
                self.hand_out_ack(now);
                self.outstanding.dropped(seq);
                let expected = self.order.not_admitted(seq, expected);
                self.out_of_order(seq, expected);
            }
            Outcome::Retry { seq, code, after_ms } => {
                self.hand_out_ack(now);
                self.outstanding.dropped(seq);
                self.order.put_off(seq);
                self.put_off(seq, code, after_ms);
            }
            Outcome::Failed { .. } => self.close(Close {
                close: CloseCode::Internal,
                code: ErrorCode::Internal,
                reason: "the gateway cannot store any more".to_owned(),
            }),
        }
    }

    fn on_opened(
        &mut self,
        now: Now,
        logged_seq: Option<u64>,
        acked_seq: Option<u64>,
        position: Position,
    ) {
        if !matches!(self.state, State::Opening) {
            return;
        }
        self.state = State::Open;
        self.outstanding.opened(logged_seq, acked_seq, position);
        let welcome = Welcome {
            session: self.peer.session.to_string(),
            device: self.peer.identity.device.to_string(),
            realm: self.peer.identity.realm.to_string(),
            time: now.unix_ms,
            acked_seq,
            logged_seq,
            window: self.settings.window,
            limits: self.settings.limits.clone(),
            ping_s: u32::try_from(self.settings.patience.ping_after.as_secs()).unwrap_or(u32::MAX),
            ack: self.settings.ack,
        };
        self.actions.push_back(Action::Send(Box::new(GatewayMessage::Welcome(welcome))));
        if let Some(held) = self.held.take() {
            let (received_us, facts, body) = *held;
            self.take(received_us, facts, body);
        }
    }

    /// Everything up to this position is as safe as the ack mode says.
    pub fn on_position(&mut self, position: Position) {
        self.outstanding.covered(position);
    }

    /// Hands out the ack that has become due, if any: one for everything that was logged since the
    /// last call. Closes a draining connection that has nothing more to wait for.
    pub fn settle(&mut self, now: Now) {
        if self.is_closed() {
            return;
        }
        self.hand_out_ack(now);
        self.liveness.on_reading(now.us, self.wants_read());
        self.drain(now);
    }

    /// Also before a nack of what was not kept: a device learns what is safe before it turns back.
    fn hand_out_ack(&mut self, now: Now) {
        if let Some((seq, received_us)) = self.outstanding.due() {
            let ack = Ack { seq, time: now.unix_ms };
            self.actions.push_back(Action::Ack { ack, received_us });
        }
    }

    /// The time has come that [`Session::next_tick_us`] named.
    pub fn on_tick(&mut self, now: Now, heard: Heard) {
        self.drain(now);
        if matches!(self.state, State::Draining { .. } | State::Closed) {
            return;
        }
        match self.liveness.tick(now.us, heard) {
            liveness::Due::Nothing => {}
            liveness::Due::Ping => self.actions.push_back(Action::Ping),
            liveness::Due::Close(code, reason) => {
                self.close(Close { close: CloseCode::Policy, code, reason: reason.to_owned() })
            }
        }
    }

    /// When to call [`Session::on_tick`], given what was heard so far.
    pub fn next_tick_us(&self, heard: Heard) -> u64 {
        match self.state {
            State::Draining { until_us, .. } => until_us,
            _ => self.liveness.next_us(heard),
        }
    }

    /// Stops reading, waits until what is under way is answered, at most until `until_us`, and
    /// then closes.
    pub fn on_shutdown(&mut self, now: Now, until_us: u64, close: Close) {
        if matches!(self.state, State::Draining { .. } | State::Closed) {
            return;
        }
        self.held = None;
        self.state = State::Draining { until_us, close: Box::new(close) };
        self.drain(now);
    }

    fn drain(&mut self, now: Now) {
        if let State::Draining { until_us, close } = &self.state
            && (self.outstanding.is_empty() || now.us >= *until_us)
        {
            let close = (**close).clone();
            self.close(close);
        }
    }

    /// Ends the connection now. Acks that were handed out before still go out.
    pub fn close(&mut self, close: Close) {
        if self.is_closed() {
            return;
        }
        // What was not carried out yet is not carried out any more, except what was promised.
        self.actions.retain(|action| matches!(action, Action::Send(_) | Action::Ack { .. }));
        self.held = None;
        self.state = State::Closed;
        self.actions.push_back(Action::Close(close));
    }

    /// The device has gone: nothing is sent any more.
    pub fn on_gone(&mut self) {
        self.held = None;
        self.actions.clear();
        self.state = State::Closed;
    }

    fn admitted(&mut self, seq: u64) {
        self.order.admitted(seq);
        self.out_of_order = 0;
        self.retries = 0;
    }

    fn complain(&mut self, seq: u64, complaint: &Complaint) {
        match complaint {
            Complaint::Whole { .. } => self.bad += 1,
            Complaint::Readings { .. } => self.bad = 0,
        }
        self.nack(nack::refusal(seq, complaint, self.hello.max_rx));
        if self.bad > MAX_BAD_IN_A_ROW {
            self.too_many("too many batches refused as a whole");
        }
    }

    fn out_of_order(&mut self, seq: u64, expected: u64) {
        self.out_of_order += 1;
        self.nack(nack::out_of_order(seq, expected));
        if self.out_of_order > MAX_OUT_OF_ORDER_IN_A_ROW {
            self.too_many("too many batches out of order");
        }
    }

    fn put_off(&mut self, seq: u64, code: ErrorCode, after_ms: u32) {
        self.retries += 1;
        self.nack(nack::retry(seq, code, after_ms));
        if self.retries > MAX_RETRIES_IN_A_ROW {
            self.close(Close {
                close: CloseCode::TryAgain,
                code,
                reason: "nothing can be taken for now".to_owned(),
            });
        }
    }

    fn too_many(&mut self, reason: &str) {
        self.close(Close {
            close: CloseCode::Policy,
            code: ErrorCode::TooManyBad,
            reason: reason.to_owned(),
        });
    }

    fn nack(&mut self, nack: Nack) {
        self.actions.push_back(Action::Send(Box::new(GatewayMessage::Nack(nack))));
    }
}
