//! The rules of the session, one by one.

use super::*;
use crate::record::{Identity, Refusal};
use proto::{
    Limits,
    message::{AckMode, Window},
};

const NOW: Now = Now { us: 1_000_000, unix_ms: 1_000 };
const SECOND: u64 = 1_000_000;

fn session(ack: AckMode) -> Session<u64> {
    let settings = Settings {
        window: Window { batches: 4, bytes: 1_000 },
        limits: Limits::default(),
        ack,
        patience: Patience::default(),
    };
    let peer =
        Peer { session: "s".into(), identity: Identity::new("default", "d"), expires_us: None };
    Session::new(Arc::new(settings), peer, NOW)
}

fn open(ack: AckMode) -> Session<u64> {
    let mut session = session(ack);
    session.on_hello(NOW, Hello { stream: Some(1), ..Hello::default() });
    session.on_outcome(
        NOW,
        Outcome::Opened { logged_seq: None, acked_seq: None, position: Position::ZERO },
    );
    drain(&mut session);
    session
}

/// What the session wants, in short.
fn drain(session: &mut Session<u64>) -> Vec<String> {
    std::iter::from_fn(|| session.next_action())
        .map(|action| match action {
            Action::OpenStream(stream) => format!("open {stream:?}"),
            Action::Submit { may_skip, body } => {
                format!("submit {body}{}", if may_skip { " may skip" } else { "" })
            }
            Action::Send(message) => match *message {
                GatewayMessage::Welcome(_) => "welcome".to_owned(),
                GatewayMessage::Nack(nack) => format!("nack {} {}", nack.seq, nack.code),
                other => format!("{other:?}"),
            },
            Action::Ack { ack, .. } => format!("ack {}", ack.seq),
            Action::Ping => "ping".to_owned(),
            Action::Close(close) => format!("close {} {}", close.close as u16, close.code),
        })
        .collect()
}

fn batch(session: &mut Session<u64>, seq: u64) {
    session.on_batch(NOW, Facts { seq, bytes: 100, ..Facts::default() }, seq);
}

fn logged(seq: u64) -> Outcome {
    Outcome::Logged { seq, position: Position(seq) }
}

fn going_away() -> Close {
    Close {
        close: CloseCode::GoingAway,
        code: ErrorCode::ShuttingDown,
        reason: "the gateway shuts down".to_owned(),
    }
}

#[test]
fn a_batch_without_hello_opens_a_private_stream() {
    let mut session = session(AckMode::Durable);
    batch(&mut session, 3);
    assert_eq!(drain(&mut session), ["open None"]);
    assert!(!session.wants_read(), "the batch is held, no further one is read");
    session.on_outcome(
        NOW,
        Outcome::Opened { logged_seq: None, acked_seq: None, position: Position::ZERO },
    );
    assert_eq!(drain(&mut session), ["welcome", "submit 3 may skip"]);
    assert!(session.wants_read());
}

#[test]
fn the_window_closes_by_count_and_by_bytes() {
    let mut session = open(AckMode::Durable);
    for seq in 1..=4 {
        assert!(session.wants_read(), "{seq}");
        batch(&mut session, seq);
    }
    assert!(!session.wants_read());
    session.on_outcome(NOW, logged(1));
    session.settle(NOW);
    assert!(session.wants_read());

    let mut session = open(AckMode::Durable);
    session.on_batch(NOW, Facts { seq: 1, bytes: 1_000, ..Facts::default() }, 1);
    assert!(!session.wants_read());
}

#[test]
fn one_ack_for_all_outcomes_that_wait() {
    let mut session = open(AckMode::Durable);
    for seq in 1..=3 {
        batch(&mut session, seq);
    }
    drain(&mut session);
    for seq in 1..=3 {
        session.on_outcome(NOW, logged(seq));
    }
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["ack 3"]);
    session.settle(NOW);
    assert!(drain(&mut session).is_empty());
}

#[test]
fn what_is_safe_is_said_before_what_was_not_kept() {
    let mut session = open(AckMode::Durable);
    for seq in 1..=4 {
        batch(&mut session, seq);
    }
    drain(&mut session);
    session.on_outcome(NOW, logged(1));
    session.on_outcome(NOW, logged(2));
    session.on_outcome(NOW, Outcome::Retry { seq: 3, code: ErrorCode::LogFull, after_ms: 1 });
    session.on_outcome(NOW, Outcome::OutOfOrder { seq: 4, expected: 3 });
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["ack 2", "nack 3 log_full", "nack 4 out_of_order"]);
}

#[test]
fn stored_waits_for_the_position() {
    let mut session = open(AckMode::Stored);
    for seq in 1..=2 {
        batch(&mut session, seq);
        session.on_outcome(NOW, logged(seq));
    }
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["submit 1 may skip", "submit 2"]);
    assert!(session.awaits_position());
    session.on_position(Position(1));
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["ack 1"]);
    session.on_position(Position(9));
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["ack 2"]);
    assert!(!session.awaits_position());
}

#[test]
fn what_an_older_connection_logged_is_acknowledged_on_this_one() {
    let mut session = session(AckMode::Stored);
    session.on_hello(NOW, Hello { stream: Some(1), ..Hello::default() });
    session.on_outcome(
        NOW,
        Outcome::Opened { logged_seq: Some(9), acked_seq: Some(7), position: Position(50) },
    );
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["open Some(1)", "welcome"]);
    assert!(session.awaits_position());
    session.on_position(Position(50));
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["ack 9"]);
}

#[test]
fn a_nack_comes_before_its_ack_and_again_with_a_repetition() {
    let mut session = open(AckMode::Durable);
    let refused: Arc<[Refusal]> = [Refusal { index: 4, code: ErrorCode::NotFinite }].into();
    let facts = Facts { seq: 1, bytes: 9, refused: refused.clone(), ..Facts::default() };
    session.on_batch(NOW, facts.clone(), 1);
    assert_eq!(drain(&mut session), ["submit 1 may skip"], "no nack before it is logged");
    session.on_outcome(NOW, logged(1));
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["nack 1 not_finite", "ack 1"]);
    session.on_batch(NOW, facts, 1);
    let position = Position(1);
    session.on_outcome(
        NOW,
        Outcome::Duplicate {
            seq: 1,
            position,
            refused_total: refused.len() as u32,
            refused,
            refused_whole: None,
        },
    );
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["submit 1", "nack 1 not_finite", "ack 1"]);
}

#[test]
fn another_payload_under_a_used_number_is_never_acknowledged() {
    let mut session = open(AckMode::Durable);
    batch(&mut session, 1);
    session.on_outcome(NOW, Outcome::Refused { seq: 1, code: ErrorCode::SeqReused });
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["submit 1 may skip", "nack 1 seq_reused"]);
}

#[test]
fn a_batch_that_cannot_be_judged_now_is_put_off() {
    let mut session = open(AckMode::Durable);
    let facts = Facts { seq: 1, retry: Some((ErrorCode::ClockJump, 10_000)), ..Facts::default() };
    session.on_batch(NOW, facts, 1);
    batch(&mut session, 2);
    assert_eq!(drain(&mut session), ["nack 1 clock_jump", "nack 2 out_of_order"]);
    batch(&mut session, 1);
    assert_eq!(drain(&mut session), ["submit 1 may skip"]);
}

#[test]
fn hello_comes_once() {
    for mut session in [open(AckMode::Durable), session(AckMode::Durable)] {
        batch(&mut session, 1);
        drain(&mut session);
        session.on_hello(NOW, Hello::default());
        assert_eq!(drain(&mut session), ["close 1002 unexpected_hello"]);
        assert!(session.is_closed());
    }
}

#[test]
fn bad_batches_are_bounded_and_good_ones_forgive() {
    let mut session = open(AckMode::Durable);
    let mut seq = 0;
    let mut bad = |session: &mut Session<u64>, whole: bool| {
        seq += 1;
        let refused_whole = whole.then(|| (ErrorCode::EmptyBatch, String::new()));
        session.on_batch(NOW, Facts { seq, refused_whole, ..Facts::default() }, seq);
        session.on_outcome(NOW, logged(seq));
        session.settle(NOW);
        drain(session).pop()
    };
    for _ in 0..3 {
        for _ in 0..MAX_BAD_IN_A_ROW {
            assert!(bad(&mut session, true).unwrap_or_default().starts_with("ack"));
        }
        bad(&mut session, false);
    }
    for _ in 0..MAX_BAD_IN_A_ROW {
        bad(&mut session, true);
    }
    assert_eq!(bad(&mut session, true).as_deref(), Some("close 1008 too_many_bad"));
}

#[test]
fn batches_put_off_for_ever_end_the_connection() {
    let mut session = open(AckMode::Durable);
    let mut last = None;
    for _ in 0..=MAX_RETRIES_IN_A_ROW {
        batch(&mut session, 1);
        session.on_outcome(NOW, Outcome::Retry { seq: 1, code: ErrorCode::LogFull, after_ms: 1 });
        last = drain(&mut session).pop();
    }
    assert_eq!(last.as_deref(), Some("close 1013 log_full"));
}

#[test]
fn a_log_that_has_failed_ends_the_connection_without_an_ack() {
    let mut session = open(AckMode::Durable);
    batch(&mut session, 1);
    drain(&mut session);
    session.on_outcome(NOW, Outcome::Failed { seq: 1 });
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["close 1011 internal"]);
}

#[test]
fn a_stop_waits_for_what_is_under_way_but_not_for_ever() {
    let mut session = open(AckMode::Durable);
    batch(&mut session, 1);
    drain(&mut session);
    session.on_shutdown(NOW, NOW.us + 5 * SECOND, going_away());
    assert!(drain(&mut session).is_empty());
    assert!(!session.wants_read());
    session.on_outcome(NOW, logged(1));
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["ack 1", "close 1001 shutting_down"]);

    let mut session = open(AckMode::Durable);
    batch(&mut session, 1);
    drain(&mut session);
    session.on_shutdown(NOW, NOW.us + 5 * SECOND, going_away());
    assert_eq!(session.next_tick_us(Heard::default()), NOW.us + 5 * SECOND);
    let later = Now { us: NOW.us + 5 * SECOND, ..NOW };
    session.on_tick(later, Heard::default());
    assert_eq!(drain(&mut session), ["close 1001 shutting_down"]);
}

#[test]
fn nothing_is_submitted_after_the_end() {
    let mut session = open(AckMode::Durable);
    batch(&mut session, 1);
    // The end comes before the shell has carried out the submission.
    session.close(Close {
        close: CloseCode::TakenOver,
        code: ErrorCode::TakenOver,
        reason: String::new(),
    });
    batch(&mut session, 2);
    session.on_outcome(NOW, logged(1));
    session.settle(NOW);
    assert_eq!(drain(&mut session), ["close 4001 taken_over"]);
}

#[test]
fn a_malformed_message_names_its_close_code() {
    for (code, close) in [
        (ErrorCode::Malformed, "close 1007 malformed"),
        (ErrorCode::UnknownKind, "close 1007 unknown_kind"),
        (ErrorCode::TooDeep, "close 1007 too_deep"),
        (ErrorCode::TooLarge, "close 1009 too_large"),
    ] {
        let mut session = session(AckMode::Durable);
        session.on_malformed(&MessageError { code, detail: String::new() });
        assert_eq!(drain(&mut session), [close]);
    }
}
