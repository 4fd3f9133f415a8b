//! A session between a model of a device and a model of the committer, under random schedules.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::record::{Identity, Refusal};
use proptest::prelude::*;
use proto::{
    Limits,
    message::{AckMode, Window},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const WINDOW: u32 = 5;
const BATCHES: u64 = 24;

#[derive(Debug, Clone)]
enum Step {
    /// The device sends what comes next.
    Send,
    /// The device sends a number out of turn.
    SendOther(u64),
    /// The committer takes so many requests, with room in the log or not.
    Commit { requests: usize, full: bool },
    /// So many of its answers arrive together.
    Deliver(usize),
    /// The stores catch up with the log.
    Store,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => Just(Step::Send),
        1 => (1..BATCHES + 4).prop_map(Step::SendOther),
        4 => (1..6_usize, prop::bool::weighted(0.3))
            .prop_map(|(requests, full)| Step::Commit { requests, full }),
        4 => (1..6_usize).prop_map(Step::Deliver),
        1 => Just(Step::Store),
    ];
    prop::collection::vec(step, 0..300)
}

enum Request {
    Open,
    Submit { seq: u64, may_skip: bool },
}

struct Model {
    session: Session<u64>,
    mode: AckMode,
    now: Now,
    // The device.
    first: u64,
    next: u64,
    sent: BTreeSet<u64>,
    acked: u64,
    welcomed: bool,
    nacked: BTreeSet<u64>,
    // The committer.
    queue: VecDeque<Request>,
    answers: VecDeque<Outcome>,
    log: BTreeMap<u64, Position>,
    position: u64,
    stored: u64,
    unanswered: u32,
}

/// Every third batch has a refused reading, every seventh is refused as a whole.
fn facts(seq: u64) -> Facts {
    let refusal = Refusal { index: 0, code: ErrorCode::BadName };
    Facts {
        seq,
        bytes: 100,
        refused: if seq.is_multiple_of(3) { [refusal].into() } else { [].into() },
        refused_whole: seq.is_multiple_of(7).then(|| (ErrorCode::EmptyBatch, String::new())),
        ..Facts::default()
    }
}

impl Model {
    /// `logged` batches are in the log from an older connection; the device begins with `first`.
    fn new(mode: AckMode, logged: u64, first: u64) -> Self {
        let settings = Settings {
            window: Window { batches: WINDOW, bytes: 1_000_000 },
            limits: Limits::default(),
            ack: mode,
            patience: Patience::default(),
        };
        let peer =
            Peer { session: "s".into(), identity: Identity::new("default", "d"), expires_us: None };
        let now = Now { us: 1, unix_ms: 1 };
        let mut model = Self {
            session: Session::new(Arc::new(settings), peer, now),
            mode,
            now,
            first,
            next: first,
            sent: BTreeSet::new(),
            acked: 0,
            welcomed: false,
            nacked: BTreeSet::new(),
            queue: VecDeque::new(),
            answers: VecDeque::new(),
            log: (1..=logged).map(|seq| (seq, Position(seq))).collect(),
            position: logged,
            stored: 0,
            unanswered: 0,
        };
        model.session.on_hello(now, Hello { stream: Some(1), ..Hello::default() });
        model.carry_out();
        model
    }

    fn last(&self) -> u64 {
        self.log.last_key_value().map_or(0, |(seq, _)| *seq)
    }

    fn covered(&self) -> u64 {
        match self.mode {
            AckMode::Durable => self.position,
            AckMode::Stored => self.stored,
        }
    }

    fn send(&mut self, seq: u64) {
        if self.session.wants_read() && (seq == self.first || !self.sent.is_empty()) {
            self.sent.insert(seq);
            self.session.on_batch(self.now, facts(seq), seq);
            self.carry_out();
        }
    }

    fn commit(&mut self, requests: usize, full: bool) {
        for _ in 0..requests {
            let Some(request) = self.queue.pop_front() else { return };
            let outcome = match request {
                Request::Open => {
                    let acked = self.log.iter().rfind(|(_, at)| at.0 <= self.covered());
                    Outcome::Opened {
                        logged_seq: (self.last() > 0).then_some(self.last()),
                        acked_seq: acked.map(|(seq, _)| *seq),
                        position: Position(self.position),
                    }
                }
                Request::Submit { seq, may_skip } => self.admit(seq, may_skip, full),
            };
            self.answers.push_back(outcome);
        }
    }

    fn admit(&mut self, seq: u64, may_skip: bool, full: bool) -> Outcome {
        let facts = facts(seq);
        if let Some(&position) = self.log.get(&seq) {
            let refused_whole = facts.refused_whole.map(|(code, _)| code);
            let refused_total = facts.refused.len() as u32;
            let refused = facts.refused;
            return Outcome::Duplicate { seq, position, refused, refused_total, refused_whole };
        }
        if seq <= self.last() {
            return Outcome::Refused { seq, code: ErrorCode::SeqReused };
        }
        if seq > self.last() + 1 && !may_skip {
            return Outcome::OutOfOrder { seq, expected: self.last() + 1 };
        }
        if full {
            return Outcome::Retry { seq, code: ErrorCode::LogFull, after_ms: 10 };
        }
        self.position += 1;
        self.log.insert(seq, Position(self.position));
        Outcome::Logged { seq, position: Position(self.position) }
    }

    fn deliver(&mut self, answers: usize) {
        for _ in 0..answers {
            let Some(outcome) = self.answers.pop_front() else { break };
            if !matches!(outcome, Outcome::Opened { .. }) {
                self.unanswered -= 1;
            }
            self.session.on_outcome(self.now, outcome);
        }
        self.session.settle(self.now);
        self.carry_out();
    }

    fn store(&mut self) {
        self.stored = self.position;
        self.session.on_position(Position(self.stored));
        self.session.settle(self.now);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        // A nack of what was not kept goes out behind the ack of what was kept before it.
        let (mut acks, mut turns) = (0, 1);
        while let Some(action) = self.session.next_action() {
            match action {
                Action::OpenStream(_) => self.queue.push_back(Request::Open),
                Action::Submit { may_skip, body } => {
                    assert!(self.welcomed, "a submission before the stream is open");
                    let is_first = body == self.first && !self.log.contains_key(&body);
                    assert!(!may_skip || body == self.first, "{body} may not skip");
                    assert!(may_skip || !is_first, "the first may skip until it is admitted");
                    self.unanswered += 1;
                    assert!(self.unanswered <= WINDOW, "the window holds");
                    self.queue.push_back(Request::Submit { seq: body, may_skip });
                }
                Action::Ack { ack, .. } => {
                    acks += 1;
                    self.on_ack(ack.seq);
                }
                Action::Send(message) => {
                    turns += 1;
                    self.on_message(*message);
                }
                Action::Ping => {}
                Action::Close(close) => panic!("closed: {close:?}"),
            }
        }
        assert!(acks <= turns, "one ack for everything that came together");
    }

    fn on_ack(&mut self, seq: u64) {
        assert!(self.welcomed);
        assert!(seq >= self.acked, "acks do not go back");
        let position = self.log.get(&seq).expect("an ack of what is not logged");
        assert!(position.0 <= self.covered(), "an ack ahead of the ack position");
        // What this ack covers for the first time on this connection.
        for seq in (self.acked + 1).max(self.first)..=seq {
            let facts = facts(seq);
            let complains = !facts.refused.is_empty() || facts.refused_whole.is_some();
            if complains && self.sent.contains(&seq) {
                assert!(self.nacked.contains(&seq), "the nack of {seq} comes before its ack");
            }
        }
        self.acked = seq;
    }

    fn on_message(&mut self, message: GatewayMessage) {
        match message {
            GatewayMessage::Welcome(_) => {
                assert!(!self.welcomed, "one welcome");
                self.welcomed = true;
            }
            GatewayMessage::Nack(nack) => {
                assert!(self.welcomed, "welcome comes first");
                match (nack.retry_after_ms, nack.expected) {
                    (Some(_), None) => self.next = self.next.min(nack.seq),
                    (None, Some(expected)) => {
                        assert!(expected >= self.first, "expects what was never there");
                        self.next = expected;
                    }
                    (None, None) => {
                        self.nacked.insert(nack.seq);
                    }
                    _ => panic!("two meanings: {nack:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn step(&mut self, step: &Step) {
        self.now.us += 1;
        match step {
            Step::Send if self.session.wants_read() => {
                let seq = self.next;
                self.next += 1;
                self.send(seq);
            }
            Step::Send => {}
            Step::SendOther(seq) => self.send(*seq),
            Step::Commit { requests, full } => self.commit(*requests, *full),
            Step::Deliver(answers) => self.deliver(*answers),
            Step::Store => self.store(),
        }
    }

    /// With room in the log and stores that keep up, everything is acknowledged in the end.
    fn finish(&mut self) {
        let until = self.first + BATCHES;
        for _ in 0..10_000 {
            if self.acked >= until {
                return;
            }
            if self.next <= until && self.session.wants_read() {
                self.step(&Step::Send);
            }
            self.commit(usize::MAX, false);
            self.deliver(usize::MAX);
            self.store();
            if self.next > until && self.acked < until && self.queue.is_empty() {
                // The device's own timer: nothing has come for what was sent.
                self.next = self.next.min(self.acked.max(self.first - 1) + 1);
            }
        }
        panic!("stuck: acked {} of {until}, next {}", self.acked, self.next);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_under_any_schedule(
        stored in any::<bool>(),
        logged in 0..8_u64,
        skip in 0..5_u64,
        back in 0..4_u64,
        steps in steps(),
    ) {
        let mode = if stored { AckMode::Stored } else { AckMode::Durable };
        let first = (logged + 1 + skip).saturating_sub(back).max(1);
        let mut model = Model::new(mode, logged, first);
        for step in &steps {
            model.step(step);
        }
        model.finish();
    }
}
