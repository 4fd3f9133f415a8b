//! The committer on a real log: what is answered is in the log, and what is in the log comes back.

use super::*;
use crate::{
    ingest::{ConnectionContext, Now, Rules, StreamId, check},
    metrics::Registry,
    record::{Envelope, Identity, Kind, Points},
};
use bytes::Bytes;
use proto::{BatchEncoder, RawValue, TimeUnit};
use std::{path::Path, time::Duration};
use tokio::sync::oneshot;

struct Running {
    handle: CommitterHandle,
    ended: oneshot::Receiver<Result<(), CommitterError>>,
    shared: log::Shared,
}

fn start(dir: &Path, options: log::Options) -> Running {
    let options = log::Options { dir: dir.to_path_buf(), reserve_bytes: 0, ..options };
    let files = Arc::new(log::RealFiles);
    let (writer, shared, _) = log::open(options, files, Position::ZERO).unwrap();
    let metrics = IngestMetrics::new(&Registry::new());
    let committer =
        Committer::new(writer, &shared, shared.watch_durable(), Arc::default(), metrics).unwrap();
    let (handle, ended) = committer.spawn().unwrap();
    Running { handle, ended, shared }
}

pub(super) fn key(device: &str, stream: u64) -> StreamKey {
    StreamKey { identity: Identity::new("default", device), stream: StreamId::Named(stream) }
}

pub(super) fn submission(
    key: &StreamKey,
    seq: u64,
    value: f64,
    may_skip: bool,
    reply: &mpsc::Sender<Outcome>,
) -> Submission {
    let mut encoder = BatchEncoder::new();
    encoder.readings(seq, 1).reading(
        Some("m"),
        Some(1_760_000_000_000),
        &[],
        &[("v", RawValue::Float(value))],
    );
    let message = encoder.finish();
    let proto::DeviceMessage::Batch(body) =
        proto::DeviceMessage::decode(message, &proto::Limits::default()).unwrap()
    else {
        panic!("a batch");
    };
    let context = ConnectionContext {
        identity: key.identity.clone(),
        stream: key.stream,
        time_unit: TimeUnit::Ms,
        measurement: None,
    };
    let now = Now { ns: 1_760_000_000_000_000_000, settled: true };
    let mut guard = crate::ingest::Guards::unguarded().of(&context.identity);
    let checked =
        check(Bytes::copy_from_slice(body), &context, &mut guard, &Rules::default(), now).unwrap();
    Submission {
        stream: key.clone(),
        seq,
        may_skip,
        payload_hash: checked.payload_hash,
        header: checked.header,
        payload: checked.payload,
        accepted: checked.accepted,
        refused: checked.refused,
        refused_whole: None,
        reply: reply.clone(),
        budget: None,
    }
}

async fn ask(running: &Running, key: &StreamKey, seq: u64, value: f64, may_skip: bool) -> Outcome {
    let (reply, mut outcomes) = mpsc::channel(4);
    let request = Request::Submit(submission(key, seq, value, may_skip, &reply));
    running.handle.requests.send(request).await.unwrap();
    outcomes.recv().await.unwrap()
}

async fn open(running: &Running, key: &StreamKey) -> (Option<u64>, Option<u64>) {
    let (reply, mut outcomes) = mpsc::channel(1);
    let request = Request::Open { stream: key.clone(), reply };
    running.handle.requests.send(request).await.unwrap();
    match outcomes.recv().await.unwrap() {
        Outcome::Opened { logged_seq, acked_seq, .. } => (logged_seq, acked_seq),
        other => panic!("{other:?}"),
    }
}

async fn counted(running: &Running, of: Option<Identity>) -> crate::ingest::Counted {
    let (reply, counted) = oneshot::channel();
    running.handle.requests.send(Request::Count { of, reply }).await.unwrap();
    counted.await.unwrap()
}

async fn stop(running: Running) {
    drop(running.handle);
    running.ended.await.unwrap().unwrap();
}

/// (device, seq, value, cumulative count) of every batch in the log.
fn logged(shared: &log::Shared) -> Vec<(String, u64, f64, u64)> {
    let mut reader = shared.reader_at(Position(1));
    let mut found = Vec::new();
    while let Some((position, bytes)) = reader.next().unwrap() {
        let (envelope, payload) = Envelope::decode(position, &bytes).unwrap();
        let each = |point: &record::Point<'_>| {
            if let record::Value::Float(value) = point.fields[0].1 {
                let device = envelope.identity.device.to_string();
                found.push((device, envelope.seq, value, envelope.accepted_total));
            }
        };
        Points::default().for_each(position, &envelope, payload, each).unwrap();
    }
    found
}

#[tokio::test]
async fn outcomes_come_in_order_and_only_for_what_is_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), log::Options::default());
    let key = key("d", 1);
    let (reply, mut outcomes) = mpsc::channel(1000);
    for seq in 1..=500 {
        let request = Request::Submit(submission(&key, seq, seq as f64, seq == 1, &reply));
        running.handle.requests.send(request).await.unwrap();
    }
    for expected in 1..=500 {
        match outcomes.recv().await.unwrap() {
            Outcome::Logged { seq, position } => {
                assert_eq!(seq, expected);
                assert!(position <= running.shared.durable(), "answered before it was durable");
            }
            other => panic!("{other:?}"),
        }
    }
    let found = logged(&running.shared);
    assert_eq!(found.len(), 500);
    assert_eq!(found[499], ("d".into(), 500, 500.0, 500));
    stop(running).await;
}

#[tokio::test]
async fn the_state_of_streams_survives_a_restart_with_and_without_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let key = key("d", 1);
    // Small segments: several checkpoints on the way.
    let options = || log::Options { segment_bytes: 4096, ..log::Options::default() };
    let running = start(dir.path(), options());
    for seq in 1..=200 {
        ask(&running, &key, seq, 1.0, false).await;
    }
    assert!(running.shared.segments().len() > 3);
    stop(running).await;

    let running = start(dir.path(), options());
    assert_eq!(open(&running, &key).await, (Some(200), Some(200)));
    for seq in [137, 200] {
        let outcome = ask(&running, &key, seq, 1.0, false).await;
        assert!(matches!(outcome, Outcome::Duplicate { .. }), "{seq}: {outcome:?}");
    }
    let reused = ask(&running, &key, 200, 2.0, false).await;
    assert_eq!(reused, Outcome::Refused { seq: 200, code: ErrorCode::SeqReused });
    assert!(matches!(ask(&running, &key, 201, 1.0, false).await, Outcome::Logged { .. }));
    assert_eq!(logged(&running.shared).last().unwrap().3, 201, "the count goes on");
    stop(running).await;
}

#[tokio::test]
async fn contents_survive_a_restart_although_their_records_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let content = |device: &str| StreamKey { stream: StreamId::Content, ..key(device, 0) };
    let options = || log::Options { segment_bytes: 4096, ..log::Options::default() };
    let running = start(dir.path(), options());
    // In no order, and far more than the last of one device.
    let seqs = || (1..=300).map(|n| n * 7 % 307);
    for seq in seqs() {
        let device = if seq % 100 == 0 { "quiet" } else { "busy" };
        let outcome = ask(&running, &content(device), seq, 1.0, false).await;
        assert!(matches!(outcome, Outcome::Logged { .. }), "{seq}: {outcome:?}");
    }
    let segments = running.shared.segments().len();
    running.handle.requests.send(Request::Retain { from: Position(u64::MAX) }).await.unwrap();
    stop(running).await;

    let running = start(dir.path(), options());
    assert!(running.shared.segments().len() < segments, "nothing was deleted");
    // What is new makes the gateway forget what is too old, and nothing else.
    let outcome = ask(&running, &content("busy"), 1, 2.0, false).await;
    assert!(matches!(outcome, Outcome::Logged { .. }), "the same number: {outcome:?}");
    for seq in seqs() {
        let device = if seq % 100 == 0 { "quiet" } else { "busy" };
        let outcome = ask(&running, &content(device), seq, 1.0, false).await;
        assert!(matches!(outcome, Outcome::Duplicate { .. }), "{seq}: {outcome:?}");
        let other = if seq % 100 == 0 { "busy" } else { "quiet" };
        if seq < 5 {
            let outcome = ask(&running, &content(other), seq, 1.0, false).await;
            assert!(matches!(outcome, Outcome::Logged { .. }), "another device's: {outcome:?}");
        }
    }
    stop(running).await;
}

#[tokio::test]
async fn retention_keeps_what_the_streams_need() {
    let dir = tempfile::tempdir().unwrap();
    let (busy, quiet) = (key("busy", 1), key("quiet", 2));
    let options = || log::Options { segment_bytes: 4096, ..log::Options::default() };
    let running = start(dir.path(), options());
    ask(&running, &quiet, 7, 7.0, true).await;
    for seq in 1..=300 {
        ask(&running, &busy, seq, 1.0, false).await;
    }
    let before = running.shared.segments().len();
    let everything = Request::Retain { from: Position(u64::MAX) };
    running.handle.requests.send(everything).await.unwrap();
    open(&running, &busy).await;
    assert!(running.shared.segments().len() < before, "something was deleted");
    assert!(running.shared.oldest() > Position(1));
    stop(running).await;

    let running = start(dir.path(), options());
    assert_eq!(open(&running, &quiet).await, (Some(7), Some(7)), "known from the checkpoint");
    // …and so is what the log has of whom, to the reading.
    let counted = counted(&running, None).await;
    let accepted = |key: &StreamKey| counted.devices[&key.identity].accepted;
    assert_eq!((accepted(&quiet), accepted(&busy), counted.others), (1, 300, 0));
    let outcome = ask(&running, &quiet, 7, 7.0, true).await;
    assert!(matches!(outcome, Outcome::Duplicate { .. }), "{outcome:?}");
    stop(running).await;
}

#[tokio::test]
async fn what_was_refused_for_lack_of_room_is_not_counted_and_what_others_had_counts_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let device = key("d", 1);
    let options =
        log::Options { segment_bytes: 4096, max_bytes: 16 * 1024, ..log::Options::default() };
    let running = start(dir.path(), options);
    let mut logged = 0;
    while let Outcome::Logged { .. } = ask(&running, &device, logged + 1, 1.0, false).await {
        logged += 1;
    }
    let here = counted(&running, Some(device.identity.clone())).await;
    assert_eq!(here.devices[&device.identity].accepted, logged);
    assert_eq!(here.upto, running.shared.durable());
    assert!(counted(&running, Some(key("e", 1).identity)).await.devices.is_empty());
    stop(running).await;

    // A sink remembers more than the log has: nobody knows of whom it was.
    let files = Arc::new(log::RealFiles);
    let options = log::Options { dir: dir.path().into(), reserve_bytes: 0, ..Default::default() };
    let (writer, shared, _) = log::open(options, files, Position::ZERO).unwrap();
    let metrics = IngestMetrics::new(&Registry::new());
    let remembered = Arc::new(AtomicU64::new(logged + 9));
    let durable = shared.watch_durable();
    let committer = Committer::new(writer, &shared, durable, remembered, metrics).unwrap();
    let here = committer.counted(None);
    assert_eq!((here.devices[&device.identity].accepted, here.others), (logged, 9));
}

#[tokio::test]
async fn a_full_log_refuses_and_keeps_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let key = key("d", 1);
    let options =
        log::Options { segment_bytes: 4096, max_bytes: 16 * 1024, ..log::Options::default() };
    let running = start(dir.path(), options);
    let mut seq = 1;
    let refused = loop {
        match ask(&running, &key, seq, 1.0, false).await {
            Outcome::Logged { .. } => seq += 1,
            other => break other,
        }
        assert!(seq < 1000, "never full");
    };
    assert!(matches!(refused, Outcome::Retry { code: ErrorCode::LogFull, .. }), "{refused:?}");
    assert_eq!(open(&running, &key).await.0, Some(seq - 1));
    let next = ask(&running, &key, seq + 1, 1.0, false).await;
    assert_eq!(next, Outcome::OutOfOrder { seq: seq + 1, expected: seq });
    running.handle.requests.send(Request::Retain { from: Position(u64::MAX) }).await.unwrap();
    assert!(matches!(ask(&running, &key, seq, 1.0, false).await, Outcome::Logged { .. }));
    let values: Vec<u64> = logged_from(&running.shared);
    assert!(values.windows(2).all(|pair| pair[1] == pair[0] + 1), "{values:?}");
    stop(running).await;
}

fn logged_from(shared: &log::Shared) -> Vec<u64> {
    let mut reader = shared.reader_at(shared.oldest());
    let mut seqs = Vec::new();
    while let Some((position, bytes)) = reader.next().unwrap() {
        let (envelope, _) = Envelope::decode(position, &bytes).unwrap();
        if envelope.kind == Kind::Batch {
            seqs.push(envelope.seq);
        }
    }
    seqs
}

#[tokio::test]
async fn a_private_stream_is_forgotten_with_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), log::Options::default());
    let private = StreamKey { stream: StreamId::Private(9), ..key("d", 0) };
    assert!(matches!(ask(&running, &private, 1, 1.0, true).await, Outcome::Logged { .. }));
    assert!(matches!(ask(&running, &private, 1, 1.0, true).await, Outcome::Duplicate { .. }));
    running.handle.requests.send(Request::Forget(private.clone())).await.unwrap();
    // It is forgotten with the group that the connection's end falls into.
    for _ in 0..2 {
        open(&running, &key("d", 1)).await;
    }
    assert!(matches!(ask(&running, &private, 1, 1.0, true).await, Outcome::Logged { .. }));
    stop(running).await;
}

#[tokio::test]
async fn everyone_who_waits_is_answered_before_the_thread_ends() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), log::Options::default());
    let (reply, mut outcomes) = mpsc::channel(100);
    for stream in 1..=100 {
        let request = Request::Submit(submission(&key("d", stream), 1, 1.0, true, &reply));
        running.handle.requests.send(request).await.unwrap();
    }
    let shared = running.shared.clone();
    stop(running).await;
    drop(reply);
    let mut answered = 0;
    while let Ok(Some(Outcome::Logged { .. })) =
        tokio::time::timeout(Duration::from_secs(5), outcomes.recv()).await
    {
        answered += 1;
    }
    assert_eq!((answered, logged(&shared).len()), (100, 100));
}
