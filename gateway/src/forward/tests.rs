#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    metrics::Registry,
    record::{Codec, Envelope, EnvelopeError, GivenUp, Identity, Kind, PointId, Points, Source},
    sink::{Batch, RejectedPoint, SinkError},
};
use bytes::Bytes;
use proto::{BatchEncoder, DeviceMessage, Limits, RawValue, TimeUnit};
use std::{collections::VecDeque, sync::Mutex};
use tokio::{task::JoinHandle, time::Instant};
use uuid::Uuid;

mod away;
mod trouble;

/// A log in memory: what a forwarder would read from disk.
#[derive(Debug, Clone, Default)]
struct MemoryLog(Arc<Mutex<Log>>);

#[derive(Debug, Default)]
struct Log {
    records: Vec<Result<Bytes, ()>>,
    total: u64,
    accepted: Arc<AtomicU64>,
    failures: VecDeque<SourceError>,
    reads: u64,
}

/// What was refused, in memory.
#[derive(Debug, Default)]
struct Kept {
    rejected: Mutex<Vec<Rejected>>,
    passed: Mutex<Position>,
    rewound: Mutex<Vec<(Position, u64)>>,
    given_up: Mutex<Vec<(Position, GivenUp)>>,
}

impl RejectedHandler for Kept {
    fn keep(&self, rejected: &[Rejected]) -> std::io::Result<u64> {
        let mut kept = self.rejected.lock().unwrap();
        kept.retain(|of| of.position <= *self.passed.lock().unwrap());
        kept.extend_from_slice(rejected);
        Ok(0)
    }

    fn give_up(&self, last: Position, given_up: &[GivenUp]) -> std::io::Result<()> {
        let mut kept = self.given_up.lock().unwrap();
        kept.retain(|(at, _)| *at <= *self.passed.lock().unwrap());
        kept.extend(given_up.iter().map(|of| (last, of.clone())));
        Ok(())
    }

    fn passed(&self, position: Position) {
        *self.passed.lock().unwrap() = position;
    }

    fn moves(&self) -> crate::record::Moves {
        crate::record::Moves::default()
    }

    fn rewound(&self, position: Position, ledger: &Ledger) -> std::io::Result<()> {
        self.rewound.lock().unwrap().push((position, ledger.epoch));
        self.passed(position);
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryReader {
    log: MemoryLog,
    next: u64,
}

impl RecordSource for MemoryReader {
    fn next(&mut self) -> Result<Option<(Position, Bytes)>, SourceError> {
        let mut log = self.log.0.lock().unwrap();
        log.reads += 1;
        if let Some(failure) = log.failures.pop_front() {
            return Err(failure);
        }
        let at = |n: u64| log.records.get(usize::try_from(n - 1).unwrap());
        match at(self.next) {
            None => Ok(None),
            Some(Ok(bytes)) => {
                self.next += 1;
                Ok(Some((Position(self.next - 1), bytes.clone())))
            }
            Some(Err(())) => {
                let from = Position(self.next);
                while let Some(Err(())) = at(self.next) {
                    self.next += 1;
                }
                Err(SourceError::Damaged { from, to: Position(self.next - 1) })
            }
        }
    }

    fn seek(&mut self, position: Position) {
        self.next = position.0;
    }
}

impl MemoryLog {
    /// Appends a record with so many readings.
    fn append(&self, readings: u32) {
        self.append_payload(readings, |payload| payload);
    }

    fn append_payload(&self, readings: u32, change: impl Fn(Vec<u8>) -> Vec<u8>) {
        let mut log = self.0.lock().unwrap();
        let mut encoder = BatchEncoder::new();
        encoder.readings(1, readings);
        for n in 0..readings {
            let value = RawValue::Float(f64::from(n));
            encoder.reading(Some("m"), None, &[("tag", "t")], &[("x", value)]);
        }
        let payload = match DeviceMessage::decode(encoder.finish(), &Limits::unbounded()) {
            Ok(DeviceMessage::Batch(body)) => change(body.to_vec()),
            other => panic!("{other:?}"),
        };
        log.total += u64::from(readings);
        log.accepted.store(log.total, Ordering::Relaxed);
        let envelope = Envelope {
            kind: Kind::Batch,
            source: Source::Device,
            codec: Codec::BatchV1,
            time_unit: TimeUnit::Ms,
            refused_whole: None,
            receive_ns: 1,
            stream: 1,
            seq: 1,
            accepted: readings,
            accepted_total: log.total,
            payload_hash: 0,
            identity: Identity::new("default", "d"),
            measurement: None,
            refused: Vec::new(),
            adjustments: Vec::new(),
        };
        let mut record = Vec::new();
        envelope.encode(&mut record);
        record.extend_from_slice(&payload);
        log.records.push(Ok(record.into()));
    }

    /// A record of which nothing can be read any more but this, from its first moment on.
    fn append_damaged(&self, readings: u32, left: Result<Bytes, ()>) {
        let mut log = self.0.lock().unwrap();
        log.total += u64::from(readings);
        log.accepted.store(log.total, Ordering::Relaxed);
        log.records.push(left);
    }

    fn damage(&self, position: u64) {
        self.0.lock().unwrap().records[usize::try_from(position).unwrap() - 1] = Err(());
    }

    fn end(&self) -> Position {
        Position(self.0.lock().unwrap().records.len() as u64)
    }
}

/// What the destination does next; afterwards it takes everything.
#[derive(Debug)]
enum Step {
    Retry(Option<Duration>),
    Reject(Vec<PointId>),
    Unsupported(u64),
    Blocked,
    Fatal,
    Hang,
}

#[derive(Debug, Default)]
struct Scripted {
    steps: Mutex<VecDeque<Step>>,
    /// When each attempt was made, with the range of positions.
    attempts: Mutex<Vec<(Instant, u64, u64)>>,
    stored: Mutex<Vec<PointId>>,
    away: std::sync::atomic::AtomicBool,
}

impl Sink for Scripted {
    async fn write(&self, batch: Batch) -> Result<(), SinkError> {
        self.attempts.lock().unwrap().push((Instant::now(), batch.first.0, batch.last.0));
        if self.away.load(Ordering::Relaxed) {
            return Err(SinkError::Retry { after: None, why: "away".to_owned() });
        }
        let mut points = Vec::new();
        let decoded = batch.for_each_point(&mut Points::default(), |point| points.push(point.id));
        decoded.map_err(SinkError::Undecodable)?;
        let step = self.steps.lock().unwrap().pop_front();
        match step {
            None => {}
            Some(Step::Retry(after)) => {
                return Err(SinkError::Retry { after, why: "busy".to_owned() });
            }
            Some(Step::Reject(ids)) => {
                points.retain(|id| !ids.contains(id));
                self.stored.lock().unwrap().extend(points);
                let reject = |id| RejectedPoint { id, reason: "type conflict".to_owned() };
                let points = ids.into_iter().map(reject).collect();
                return Err(SinkError::Reject { points, unsupported: Vec::new() });
            }
            Some(Step::Unsupported(unsupported)) => {
                let unheld = usize::try_from(unsupported).unwrap();
                self.stored.lock().unwrap().extend(points.split_off(unheld));
                let unsupported = points.iter().map(|point| (point.position, 1)).collect();
                return Err(SinkError::Reject { points: Vec::new(), unsupported });
            }
            Some(Step::Blocked) => {
                return Err(SinkError::Blocked { why: "no such bucket".to_owned() });
            }
            Some(Step::Fatal) => return Err(SinkError::Fatal("drop the bucket".to_owned())),
            Some(Step::Hang) => std::future::pending().await,
        }
        self.stored.lock().unwrap().extend(points);
        Ok(())
    }

    fn committed(&self) -> Option<Position> {
        None
    }
}

struct Rig {
    dir: tempfile::TempDir,
    log: MemoryLog,
    range: LogRange,
    durable: watch::Sender<Position>,
    sink: Arc<Scripted>,
    stop: CancellationToken,
    options: Options,
    registry: Registry,
    kept: Arc<Kept>,
}

impl Rig {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let sink =
            Scripted { steps: Mutex::new(steps.into_iter().collect()), ..Scripted::default() };
        Self {
            dir: tempfile::tempdir().unwrap(),
            log: MemoryLog::default(),
            range: LogRange { uuid: Uuid::new_v4(), oldest: Position(1), end: Position(u64::MAX) },
            durable: watch::Sender::new(Position::ZERO),
            sink: Arc::new(sink),
            kept: Arc::default(),
            stop: CancellationToken::new(),
            options: Options::new("scripted"),
            registry: Registry::new(),
        }
    }

    fn start(&self) -> (Handle, JoinHandle<Ended>) {
        let path = self.dir.path().join("scripted.cursor");
        let start = Start::of(&*self.sink, &path, self.range).unwrap();
        let (forwarder, handle) = Forwarder::new(Setup {
            options: self.options.clone(),
            sink: Arc::clone(&self.sink),
            source: MemoryReader { log: self.log.clone(), next: start.next().0 },
            start,
            durable: self.durable.subscribe(),
            accepted_total: Arc::clone(&self.log.0.lock().unwrap().accepted),
            rejected: Arc::clone(&self.kept) as Arc<dyn RejectedHandler>,
            metrics: SinkMetrics::new(&self.registry, "scripted"),
        });
        let stop = self.stop.clone();
        (handle, tokio::spawn(forwarder.run(stop)))
    }

    fn append(&self, readings: &[u32]) {
        for &readings in readings {
            self.log.append(readings);
        }
        self.durable.send_replace(self.log.end());
    }

    fn attempts(&self) -> Vec<(u64, u64)> {
        self.sink.attempts.lock().unwrap().iter().map(|&(_, first, last)| (first, last)).collect()
    }

    fn stored(&self) -> Vec<(u64, u32)> {
        self.sink.stored.lock().unwrap().iter().map(|id| (id.position.0, id.index)).collect()
    }
}

async fn reach(handle: &Handle, position: u64) {
    let mut committed = handle.committed.clone();
    let reached = committed.wait_for(|at| at.0 >= position);
    tokio::time::timeout(Duration::from_secs(600), reached).await.unwrap().unwrap();
}

fn balanced(ledger: &Ledger) -> bool {
    ledger.accepted_total - ledger.base.unwrap_or(0)
        == ledger.stored + ledger.quarantined + ledger.dropped.total()
}

#[tokio::test(start_paused = true)]
async fn records_are_gathered_for_a_while_and_written_at_once_when_there_are_many() {
    let mut rig = Rig::new([]);
    rig.options.batch_readings = 100;
    let (handle, _task) = rig.start();
    let begun = Instant::now();
    rig.append(&[10]);
    tokio::time::sleep(Duration::from_millis(30)).await;
    rig.append(&[10, 10]);
    reach(&handle, 3).await;
    assert_eq!(rig.attempts(), [(1, 3)]);
    let waited = begun.elapsed();
    assert!(waited >= rig.options.linger && waited < 2 * rig.options.linger, "{waited:?}");

    let begun = Instant::now();
    rig.append(&[60, 60, 60, 60]);
    reach(&handle, 7).await;
    assert_eq!(rig.attempts()[1..], [(4, 5), (6, 7)]);
    assert!(begun.elapsed() < rig.options.linger);
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.base, ledger.accepted_total, ledger.stored), (Some(0), 270, 270));
}

#[tokio::test(start_paused = true)]
async fn an_idle_forwarder_does_nothing() {
    let rig = Rig::new([]);
    let (handle, _task) = rig.start();
    rig.append(&[1]);
    reach(&handle, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = rig.log.0.lock().unwrap().reads;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.log.0.lock().unwrap().reads, before);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_repeated_with_growing_pauses_and_nothing_is_lost() {
    let wish = Duration::from_secs(20);
    let steps = (0..5).map(|_| Step::Retry(None)).chain([Step::Retry(Some(wish))]);
    let rig = Rig::new(steps);
    let (handle, _task) = rig.start();
    rig.append(&[2]);
    let mut status = handle.status.clone();
    status.wait_for(|status| matches!(status, Status::Retrying { .. })).await.unwrap();
    rig.append(&[3]);
    reach(&handle, 2).await;
    assert_eq!(*handle.status.borrow(), Status::Running);
    assert_eq!(rig.stored(), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]);
    let times: Vec<_> = rig.sink.attempts.lock().unwrap().iter().map(|of| of.0).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (n, pause) in pauses[..5].iter().enumerate() {
        let full = Duration::from_millis(100) * (1 << n);
        let slack = Duration::from_millis(2);
        assert!(*pause >= full / 2 && *pause <= full + slack, "{n}: {pause:?}");
    }
    assert!(pauses[5] >= wish, "{:?}", pauses[5]);
    let rendered = rig.registry.render();
    assert!(rendered.contains("gateway_sink_retries_total{sink=\"scripted\"} 6"), "{rendered}");
}

#[tokio::test(start_paused = true)]
async fn what_the_destination_refuses_is_kept_before_the_cursor_passes_it() {
    let id = |position, index| PointId { position: Position(position), index };
    let rig = Rig::new([Step::Reject(vec![id(1, 2), id(2, 0), id(1, 2)])]);
    let (handle, _task) = rig.start();
    rig.append(&[3, 2]);
    reach(&handle, 2).await;
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.stored, ledger.quarantined), (3, 2));
    assert!(balanced(&ledger));
    let kept = rig.kept.rejected.lock().unwrap();
    assert_eq!(kept.len(), 2);
    let first = (kept[0].position.0, kept[0].index, &*kept[0].reason);
    assert_eq!(first, (1, 2, "type conflict"));
    let second = (kept[1].position.0, kept[1].index, &*kept[1].device);
    assert_eq!(second, (2, 0, "d"));
    // What is kept decodes as the record of a log does.
    let batch = proto::Batch::open(&kept[0].reading, &Limits::unbounded()).unwrap();
    let (mut readings, mut raw) = (batch.readings(), proto::RawReading::default());
    assert!(matches!(readings.next(&mut raw), Ok(Some(Ok(())))));
    assert!(matches!(raw.fields[..], [("x", RawValue::Float(2.0))]), "{:?}", raw.fields);
}

#[tokio::test(start_paused = true)]
async fn what_the_destination_cannot_hold_is_counted_as_dropped() {
    let rig = Rig::new([Step::Unsupported(2)]);
    let (handle, _task) = rig.start();
    rig.append(&[3, 2]);
    reach(&handle, 2).await;
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.stored, ledger.quarantined, ledger.dropped.unsupported), (3, 0, 2));
    assert!(balanced(&ledger), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_destination_that_waits_for_a_person_is_tried_every_minute() {
    let rig = Rig::new((0..5).map(|_| Step::Blocked));
    let (handle, _task) = rig.start();
    rig.append(&[2]);
    reach(&handle, 1).await;
    let times: Vec<_> = rig.sink.attempts.lock().unwrap().iter().map(|of| of.0).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(pauses, [60; 5]);
    assert_eq!(*handle.status.borrow(), Status::Running);
    assert_eq!(rig.stored().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_sink_that_needs_a_person_is_parked_and_keeps_its_readings() {
    let rig = Rig::new([Step::Fatal]);
    let (handle, task) = rig.start();
    rig.append(&[2, 2]);
    let mut status = handle.status.clone();
    let parked = status.wait_for(|status| matches!(status, Status::Parked { .. })).await.unwrap();
    assert_eq!(*parked, Status::Parked { why: "drop the bucket".to_owned() });
    drop(parked);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(*handle.committed.borrow(), Position::ZERO);
    assert_eq!(rig.attempts().len(), 1);
    let rendered = rig.registry.render();
    assert!(rendered.contains("gateway_sink_up{sink=\"scripted\"} 0"), "{rendered}");
    assert!(rendered.contains("gateway_sink_pending_readings{sink=\"scripted\"} 4"), "{rendered}");
    rig.stop.cancel();
    assert_eq!(task.await.unwrap(), Ended::Pending);
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_where_it_was_after_a_restart() {
    let mut rig = Rig::new([]);
    let (handle, task) = rig.start();
    rig.append(&[1, 2]);
    reach(&handle, 2).await;
    let before = *handle.ledger.borrow();
    rig.stop.cancel();
    assert_eq!(task.await.unwrap(), Ended::Drained);
    rig.stop = CancellationToken::new();
    rig.append(&[3]);
    let (handle, _task) = rig.start();
    assert_eq!(*handle.ledger.borrow(), before);
    reach(&handle, 3).await;
    assert_eq!(rig.attempts(), [(1, 2), (3, 3)]);
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.accepted_total, ledger.stored), (6, 6));
}
