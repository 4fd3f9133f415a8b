//! The forwarder between a real log and a real store.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    log,
    metrics::{Registry, StoreMetrics},
    record::{Codec, Envelope, Identity, Kind, Source},
    sink::store::{self, Store, query},
};
use proto::{BatchEncoder, DeviceMessage, Limits, RawValue, TimeUnit};

struct Rig {
    dir: tempfile::TempDir,
    writer: log::Writer,
    log: log::Shared,
    total: Arc<AtomicU64>,
    appended: u64,
}

/// The embedded store refuses nothing.
#[derive(Debug)]
struct Refusing;

impl RejectedHandler for Refusing {
    fn keep(&self, rejected: &[Rejected]) -> std::io::Result<u64> {
        assert!(rejected.is_empty(), "the embedded store refuses nothing");
        Ok(0)
    }

    fn give_up(&self, _: Position, given_up: &[crate::record::GivenUp]) -> std::io::Result<()> {
        assert!(given_up.is_empty(), "the embedded store counts them itself");
        Ok(())
    }

    fn passed(&self, _: Position) {}

    fn moves(&self) -> crate::record::Moves {
        crate::record::Moves::default()
    }

    fn rewound(&self, _: Position, _: &Ledger) -> std::io::Result<()> {
        Ok(())
    }
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = log::Options {
            dir: dir.path().join("log"),
            segment_bytes: 16 * 1024,
            reserve_bytes: 0,
            ..log::Options::default()
        };
        let (writer, log, _) =
            log::open(options, Arc::new(log::RealFiles), Position::ZERO).unwrap();
        Self { dir, writer, log, total: Arc::default(), appended: 0 }
    }

    /// Appends records of 10 readings each; every reading has a time of its own.
    fn append(&mut self, records: u64) {
        for _ in 0..records {
            let mut encoder = BatchEncoder::new();
            encoder.readings(1, 10);
            for _ in 0..10 {
                let n = i64::try_from(self.appended).unwrap();
                let value = RawValue::Float(self.appended as f64 / 3.0);
                encoder.reading(Some("m"), Some(1_700_000_000_000 + n), &[], &[("x", value)]);
                self.appended += 1;
            }
            let Ok(DeviceMessage::Batch(payload)) =
                DeviceMessage::decode(encoder.finish(), &Limits::unbounded())
            else {
                panic!("not a batch")
            };
            let envelope = Envelope {
                kind: Kind::Batch,
                source: Source::Device,
                codec: Codec::BatchV1,
                time_unit: TimeUnit::Ms,
                refused_whole: None,
                receive_ns: 1,
                stream: 1,
                seq: 1,
                accepted: 10,
                accepted_total: self.appended,
                payload_hash: 0,
                identity: Identity::new("default", "d"),
                measurement: None,
                refused: Vec::new(),
                adjustments: Vec::new(),
            };
            let mut header = Vec::new();
            envelope.encode(&mut header);
            self.writer.append(&[&header, payload]).unwrap();
            self.writer.commit().unwrap();
            if self.writer.needs_roll() {
                self.writer.roll().unwrap();
            }
        }
        self.total.store(self.appended, Ordering::Relaxed);
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("telemetry.db")
    }

    fn start(&self, stop: &CancellationToken) -> (Handle, tokio::task::JoinHandle<Ended>) {
        let registry = Registry::new();
        let range =
            LogRange { uuid: self.log.uuid(), oldest: self.log.oldest(), end: self.log.durable() };
        let options = store::Options::new(self.path());
        let sink = Arc::new(Store::open(options, range, StoreMetrics::new(&registry)).unwrap());
        let start = Start::of(&*sink, &self.dir.path().join("unused"), range).unwrap();
        let (forwarder, handle) = Forwarder::new(Setup {
            options: Options {
                batch_readings: 70,
                linger: Duration::from_millis(5),
                ..Options::new("store")
            },
            source: self.log.reader_at(start.next()),
            start,
            sink,
            durable: self.log.watch_durable(),
            accepted_total: Arc::clone(&self.total),
            rejected: Arc::new(Refusing),
            metrics: SinkMetrics::new(&registry, "store"),
        });
        let stop = stop.clone();
        (handle, tokio::spawn(forwarder.run(stop)))
    }

    fn stored(&self) -> Vec<(i64, query::Stored)> {
        let reader = query::Reader::open(&self.path()).unwrap();
        assert_eq!(reader.counts().unwrap().1, 0, "nothing is written twice");
        reader.points(1, 0..i64::MAX, u32::MAX).unwrap()
    }

    fn expected(&self) -> Vec<(i64, query::Stored)> {
        let time = |n: u64| 1_700_000_000_000_000_000 + i64::try_from(n).unwrap() * 1_000_000;
        (0..self.appended).map(|n| (time(n), query::Stored::Float(n as f64 / 3.0))).collect()
    }
}

async fn reach(handle: &Handle, position: u64) {
    let mut committed = handle.committed.clone();
    let reached = committed.wait_for(|at| at.0 >= position);
    tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_reading_is_stored_once_however_often_the_forwarder_dies() {
    let mut rig = Rig::new();
    for round in 0..12 {
        let stop = CancellationToken::new();
        let (_, task) = rig.start(&stop);
        rig.append(40);
        // Dies in the middle of whatever it does.
        tokio::time::sleep(Duration::from_millis(round)).await;
        task.abort();
        let _ = task.await;
    }
    let stop = CancellationToken::new();
    let (handle, task) = rig.start(&stop);
    rig.append(3);
    reach(&handle, 12 * 40 + 3).await;
    assert_eq!(rig.stored(), rig.expected());
    let ledger = *handle.ledger.borrow();
    assert_eq!((ledger.base, ledger.accepted_total), (Some(0), rig.appended));
    assert_eq!((ledger.stored, ledger.dropped.total()), (rig.appended, 0));
    stop.cancel();
    assert_eq!(task.await.unwrap(), Ended::Drained);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_costs_what_was_in_it_and_the_ledger_says_how_much() {
    let mut rig = Rig::new();
    rig.append(100);
    let segments = rig.log.segments();
    assert!(segments.len() > 2);
    let victim = &segments[1];
    let mut bytes = std::fs::read(&victim.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&victim.path, bytes).unwrap();

    let stop = CancellationToken::new();
    let (handle, task) = rig.start(&stop);
    reach(&handle, 100).await;
    let ledger = *handle.ledger.borrow();
    assert!(ledger.dropped.damaged >= 10, "{ledger:?}");
    assert_eq!(ledger.stored + ledger.dropped.damaged, 1000);
    assert_eq!(rig.stored().len() as u64, ledger.stored);
    stop.cancel();
    task.await.unwrap();
}
