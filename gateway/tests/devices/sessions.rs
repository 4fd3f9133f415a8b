//! Hello, order, acks and nacks as a device sees them.

use crate::{
    committer::{Asked, Mood},
    harness::{Gateway, batch, unix_s},
};
use gateway::record::Position;
use proto::{BatchEncoder, ErrorCode, Hello, RawValue, message::AckMode};
use std::time::Duration;

#[tokio::test]
async fn hello_is_answered_with_welcome() {
    let gateway = Gateway::start().await;
    let (mut device, welcome) = gateway.hello("d1", Some(7)).await;
    assert_eq!((&*welcome.device, &*welcome.realm), ("d1", "default"));
    assert_eq!((welcome.acked_seq, welcome.logged_seq), (None, None));
    assert_eq!(welcome.ping_s, 30);
    for seq in 1..=3 {
        device.send(batch(seq, &[1.0, 2.0])).await;
        device.acked(seq).await;
    }
    drop(device);
    let (_, welcome) = gateway.hello("d1", Some(7)).await;
    assert_eq!((welcome.acked_seq, welcome.logged_seq), (Some(3), Some(3)));
    let (_, other) = gateway.hello("d1", Some(8)).await;
    assert_eq!(other.acked_seq, None);
}

#[tokio::test]
async fn a_batch_without_hello_is_welcomed_and_acknowledged() {
    let gateway = Gateway::start().await;
    for _ in 0..2 {
        let mut device = gateway.connect("d1").await;
        // Several at once, as a device without patience sends them.
        for seq in 1..=3 {
            device.send(batch(seq, &[21.5])).await;
        }
        assert_eq!(device.welcome().await.acked_seq, None);
        device.acked(3).await;
    }
    let asked = gateway.committer.asked();
    let accepted = asked.iter().filter(|asked| matches!(asked, Asked::Submit { .. })).count();
    assert_eq!(accepted, 6, "a private stream is stored twice: {asked:?}");
}

#[tokio::test]
async fn a_private_stream_is_forgotten_with_its_connection() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", None).await;
    device.send(batch(1, &[1.0])).await;
    device.acked(1).await;
    device.socket.close(None).await.unwrap();
    device.ending().await;
    let forgotten = |asked: &Asked| matches!(asked, Asked::Forget(_));
    for _ in 0..100 {
        if gateway.committer.asked().iter().any(forgotten) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never forgotten: {:?}", gateway.committer.asked());
}

#[tokio::test]
async fn only_the_next_batch_is_taken() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    // The first may skip.
    device.send(batch(10, &[1.0])).await;
    device.acked(10).await;
    device.send(batch(12, &[1.0])).await;
    let nack = device.nack().await;
    assert_eq!((nack.seq, nack.code, nack.expected), (12, ErrorCode::OutOfOrder, Some(11)));
    device.send(batch(11, &[1.0])).await;
    device.acked(11).await;
    // The same again, and another payload under the same number.
    device.send(batch(11, &[1.0])).await;
    assert_eq!(device.ack().await, 11);
    device.send(batch(11, &[2.0])).await;
    let nack = device.nack().await;
    assert_eq!((nack.seq, nack.code, nack.refused), (11, ErrorCode::SeqReused, Some(true)));
    assert!(device.is_quiet().await);
}

#[tokio::test]
async fn a_bad_reading_costs_that_reading_only() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    let mut message = BatchEncoder::new();
    message.readings(1, 100);
    for n in 0..100 {
        let value = if n == 41 { f64::NAN } else { 1.0 };
        message.reading(Some("air"), None, &[], &[("t", RawValue::Float(value))]);
    }
    for _ in 0..2 {
        device.send(message.finish().to_vec()).await;
        let nack = device.nack().await;
        let [reading] = &nack.readings[..] else { panic!("{nack:?}") };
        assert_eq!((reading.index, reading.code), (41, ErrorCode::NotFinite));
        assert_eq!(reading.field.as_deref(), Some("t"));
        assert_eq!((nack.more, nack.refused), (None, None));
        assert_eq!(device.ack().await, 1);
    }
    assert_eq!(gateway.metric("gateway_nacks_total{code=\"not_finite\"}"), 2.0);
}

#[tokio::test]
async fn a_batch_refused_as_a_whole_consumes_its_number() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    device.send(batch(1, &[])).await;
    let nack = device.nack().await;
    assert_eq!((nack.seq, nack.code, nack.refused), (1, ErrorCode::EmptyBatch, Some(true)));
    assert_eq!(device.ack().await, 1);
    device.send(batch(2, &[1.0])).await;
    device.acked(2).await;
}

#[tokio::test]
async fn a_nack_fits_what_the_device_can_take() {
    let gateway = Gateway::start().await;
    let mut device = gateway.connect("d1").await;
    device.say_hello(&Hello { max_rx: Some(1024), ..Hello::default() }).await;
    device.welcome().await;
    let name = "n".repeat(120);
    let mut message = BatchEncoder::new();
    message.readings(1, 40);
    for _ in 0..40 {
        message.reading(Some("air"), None, &[], &[(&name, RawValue::Float(f64::NAN))]);
    }
    device.send(message.finish().to_vec()).await;
    let nack = device.nack().await;
    let mut bytes = Vec::new();
    proto::GatewayMessage::Nack(nack.clone()).encode(&mut bytes);
    assert!(bytes.len() <= 1024, "{}", bytes.len());
    assert_eq!(nack.readings.len() as u32 + nack.more.unwrap(), 40);
}

#[tokio::test]
async fn after_a_retry_everything_waits_for_that_batch() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    gateway.committer.set(Mood::Full);
    device.send(batch(1, &[1.0])).await;
    let nack = device.nack().await;
    assert_eq!((nack.seq, nack.code, nack.retry_after_ms), (1, ErrorCode::LogFull, Some(50)));
    device.send(batch(2, &[1.0])).await;
    let nack = device.nack().await;
    assert_eq!((nack.seq, nack.code, nack.expected), (2, ErrorCode::OutOfOrder, Some(1)));
    gateway.committer.set(Mood::Prompt);
    device.send(batch(1, &[1.0])).await;
    device.send(batch(2, &[1.0])).await;
    device.acked(2).await;
}

#[tokio::test]
async fn a_full_window_stops_reading_and_loses_nothing() {
    let gateway = Gateway::start().await;
    let (mut device, welcome) = gateway.hello("d1", Some(1)).await;
    gateway.committer.set(Mood::Held);
    let window = u64::from(welcome.window.batches);
    for seq in 1..=window * 3 {
        device.send(batch(seq, &[1.0])).await;
    }
    assert!(device.is_quiet().await);
    // What was taken before the window was full is all that can be on its way.
    gateway.committer.set(Mood::Prompt);
    device.acked(window * 3).await;
    let asked = gateway.committer.asked();
    let seqs: Vec<u64> = asked
        .iter()
        .filter_map(|asked| match asked {
            Asked::Submit { seq, .. } => Some(*seq),
            _ => None,
        })
        .collect();
    assert_eq!(seqs, (1..=window * 3).collect::<Vec<_>>());
}

#[tokio::test]
async fn acks_are_cumulative() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    gateway.committer.set(Mood::Held);
    for seq in 1..=20 {
        device.send(batch(seq, &[1.0])).await;
    }
    assert!(device.is_quiet().await);
    gateway.committer.set(Mood::Prompt);
    let mut acks = 0;
    let mut last = 0;
    while last < 20 {
        let ack = device.ack().await;
        assert!(ack > last);
        last = ack;
        acks += 1;
    }
    assert!(acks < 20, "{acks} acks for 20 batches that were logged together");
}

#[tokio::test]
async fn stored_means_stored() {
    let gateway = Gateway::start_with(AckMode::Stored, |_| {}).await;
    let (mut device, welcome) = gateway.hello("d1", Some(1)).await;
    assert_eq!(welcome.ack, AckMode::Stored);
    for seq in 1..=3 {
        device.send(batch(seq, &[1.0])).await;
    }
    assert!(device.is_quiet().await);
    gateway.stored.send_replace(Position(2));
    assert_eq!(device.ack().await, 2);
    assert!(device.is_quiet().await);
    gateway.stored.send_replace(Position(3));
    assert_eq!(device.ack().await, 3);
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection() {
    let gateway = Gateway::start().await;
    let hello = || {
        let mut bytes = Vec::new();
        proto::encode::encode_hello(&Hello::default(), &mut bytes);
        bytes
    };
    let unknown = b"\x81\xa5hullo\x80".to_vec();
    for (what, messages, code, close) in [
        ("0xc1", vec![vec![0xc1]], "malformed", 1007),
        ("empty", vec![Vec::new()], "malformed", 1007),
        ("half a batch", vec![batch(1, &[1.0])[..9].to_vec()], "malformed", 1007),
        ("unknown kind", vec![unknown], "unknown_kind", 1007),
        ("hello twice", vec![hello(), hello()], "unexpected_hello", 1002),
        ("hello after a batch", vec![batch(1, &[1.0]), hello()], "unexpected_hello", 1002),
    ] {
        let mut device = gateway.connect("d1").await;
        for message in messages {
            device.send(message).await;
        }
        assert_eq!(device.ends_with().await, (code.to_owned(), close), "{what}");
    }
}

#[tokio::test]
async fn too_many_bad_batches_end_the_connection() {
    let gateway = Gateway::start().await;
    let (mut device, _) = gateway.hello("d1", Some(1)).await;
    for seq in 1..=40 {
        use futures_util::SinkExt;
        let message = tokio_tungstenite::tungstenite::Message::Binary(batch(seq, &[]).into());
        if device.socket.send(message).await.is_err() {
            break;
        }
    }
    assert_eq!(device.ends_with().await, ("too_many_bad".to_owned(), 1008));
}

#[tokio::test]
async fn a_credential_expires_in_mid_stream() {
    let gateway = Gateway::start().await;
    let until = unix_s() - gateway::auth::LEEWAY_S + 2;
    let mut device = gateway.connect_with(&gateway.token_until("d1", until)).await;
    device.say_hello(&Hello::default()).await;
    device.welcome().await;
    assert_eq!(device.ends_with().await, ("expired".to_owned(), 1008));
}

#[tokio::test]
async fn silence_is_pinged_and_then_ends() {
    let gateway = Gateway::start_with(AckMode::Durable, |config| {
        config.patience.ping_after = Duration::from_millis(200);
        config.patience.close_after = Duration::from_millis(600);
    })
    .await;
    let (mut device, _) = gateway.hello("d1", None).await;
    let (mut silent, _) = gateway.hello("d2", None).await;
    // The library answers pings only while it is being read.
    let alive = tokio::time::timeout(Duration::from_millis(1500), device.receive());
    let (alive, ()) = tokio::join!(alive, tokio::time::sleep(Duration::from_millis(1500)));
    assert!(alive.is_err(), "answered pings keep the connection");
    assert_eq!(silent.ends_with().await, ("idle_timeout".to_owned(), 1008));
}
