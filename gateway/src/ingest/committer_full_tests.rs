//! The committer when there is no room, and with more streams than fit one group.

use super::{
    super::admit::WINDOW,
    tests::{key, submission},
    *,
};
use crate::{
    log::{File, Files, Locked, Open, RealFiles},
    metrics::Registry,
    record::Refusal,
};
use std::{path::Path, sync::LazyLock};

/// The real file system, whose segments take nothing more while `full`.
struct Disk {
    full: Arc<AtomicBool>,
}

struct DiskFile(Arc<dyn File>, Arc<AtomicBool>);

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        if self.1.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}

impl Files for Disk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(DiskFile(RealFiles.open(path, how)?, Arc::clone(&self.full))))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFiles.create_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealFiles.sync_dir(path)
    }
    fn is_dir(&self, path: &Path) -> bool {
        RealFiles.is_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Locked> {
        RealFiles.lock(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealFiles.free_bytes(path)
    }
    fn now_ns(&self) -> i64 {
        RealFiles.now_ns()
    }
}

/// A committer without its thread: groups are formed by hand.
fn by_hand(dir: &Path, options: log::Options) -> (Committer, log::Shared, Arc<AtomicBool>) {
    let options = log::Options { dir: dir.to_path_buf(), reserve_bytes: 0, ..options };
    let full = Arc::new(AtomicBool::new(false));
    let files = Arc::new(Disk { full: Arc::clone(&full) });
    let (writer, shared, _) = log::open(options, files, Position::ZERO).unwrap();
    let metrics = IngestMetrics::new(&Registry::new());
    let durable = shared.watch_durable();
    let committer = Committer::new(writer, &shared, durable, Arc::default(), metrics).unwrap();
    (committer, shared, full)
}

/// Submits, and gives what was answered once the group is done.
fn group(committer: &mut Committer, batches: &[(&StreamKey, u64, f64, bool)]) -> Vec<Outcome> {
    let (reply, mut outcomes) = mpsc::channel(batches.len());
    for &(key, seq, value, may_skip) in batches {
        committer.take(Request::Submit(submission(key, seq, value, may_skip, &reply))).unwrap();
    }
    committer.finish_group().unwrap();
    std::iter::from_fn(|| outcomes.try_recv().ok()).collect()
}

fn retry(seq: u64) -> Outcome {
    Outcome::Retry { seq, code: ErrorCode::LogFull, after_ms: LOG_FULL_RETRY_MS }
}

fn is_logged(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Logged { .. })
}

#[test]
fn a_group_that_found_the_disk_full_has_not_happened() {
    let dir = tempfile::tempdir().unwrap();
    let (mut committer, shared, full) = by_hand(dir.path(), log::Options::default());
    let (a, b) = (key("a", 1), key("b", 2));
    assert!(group(&mut committer, &[(&a, 5, 5.0, true)]).iter().all(is_logged));
    let durable = shared.durable();
    full.store(true, Ordering::SeqCst);
    let outcomes = group(
        &mut committer,
        &[
            (&a, 6, 6.0, false),
            (&a, 6, 6.0, false), // the same again
            (&a, 6, 6.5, false), // another one under its number
            (&a, 7, 7.0, false),
            (&a, 9, 9.0, false), // out of order
            (&a, 5, 5.0, false), // logged long ago
            (&a, 5, 5.5, false), // another one than was logged
            (&b, 3, 3.0, true),  // the first of a stream
            (&b, 5, 5.0, false), // out of order behind it
        ],
    );
    assert_eq!(outcomes.len(), 9);
    for (at, seq) in [(0, 6), (1, 6), (2, 6), (3, 7), (7, 3)] {
        assert_eq!(outcomes[at], retry(seq), "{at}");
    }
    assert_eq!(outcomes[4], Outcome::OutOfOrder { seq: 9, expected: 6 });
    assert!(matches!(outcomes[5], Outcome::Duplicate { seq: 5, .. }));
    assert_eq!(outcomes[6], Outcome::Refused { seq: 5, code: ErrorCode::SeqReused });
    assert_eq!(outcomes[8], Outcome::OutOfOrder { seq: 5, expected: 1 });
    assert_eq!((shared.durable(), committer.accepted_total), (durable, 1));

    full.store(false, Ordering::SeqCst);
    let again = [(&a, 6, 6.5, false), (&b, 3, 3.0, true), (&a, 7, 7.0, false)];
    assert!(group(&mut committer, &again).iter().all(is_logged));
    assert_eq!((shared.durable(), committer.accepted_total), (Position(durable.0 + 3), 4));
}

#[test]
fn a_full_log_is_not_held_by_its_own_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let max_bytes = 128 * 1024;
    let options = log::Options { segment_bytes: 8192, max_bytes, ..log::Options::default() };
    let (mut committer, shared, _) = by_hand(dir.path(), options);
    // So many streams that the next checkpoint would be due beyond the size of the log.
    let keys: Vec<_> = (1..=200).map(|n| key(&format!("a-device-{n}"), n)).collect();
    let mut seq = 0;
    let full_at = loop {
        seq += 1;
        assert!(seq < 100, "never full");
        let batches: Vec<_> = keys.iter().map(|key| (key, seq, 1.0, seq == 1)).collect();
        if group(&mut committer, &batches).iter().any(|outcome| !is_logged(outcome)) {
            break seq;
        }
    };
    assert!(committer.newest_checkpoint < shared.segments()[2].base, "an old one is the newest");
    assert!(committer.room.is_full());
    // Every sink has everything.
    let from = shared.segments().last().unwrap().base;
    committer.take(Request::Retain { from }).unwrap();
    assert!(shared.size_bytes() < max_bytes / 2, "{} bytes are left", shared.size_bytes());
    assert!(!committer.room.is_full(), "without waiting for a batch");
    let again = group(&mut committer, &[(&keys[199], full_at, 1.0, false)]);
    assert!(is_logged(&again[0]), "{again:?}");
}

/// So many streams that a checkpoint is larger than a group may be.
fn many_streams() -> Admission {
    static REFUSED: LazyLock<Vec<Refusal>> = LazyLock::new(|| {
        (200..216).map(|index| Refusal { index, code: ErrorCode::NotFinite }).collect()
    });
    let mut admission = Admission::default();
    for stream in 1..=20_000 {
        let key = key(&format!("device-{stream}"), stream);
        for seq in 1..=WINDOW as u64 {
            let refusals = Refusals::of(None, &REFUSED);
            admission.admit(&key, Seen { seq, hash: seq, position: Position(seq), refusals });
        }
    }
    admission.confirm();
    admission
}

#[test]
fn a_checkpoint_may_be_larger_than_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let (mut committer, shared, _) = by_hand(dir.path(), log::Options::default());
    assert!(group(&mut committer, &[(&key("d", 1), 1, 1.0, true)]).iter().all(is_logged));
    committer.admission = many_streams();
    committer.write_checkpoint().unwrap();
    assert!(committer.newest_checkpoint > Position::ZERO, "it was written");
    assert!(shared.size_bytes() > 64 * 1024 * 1024, "{} bytes", shared.size_bytes());
    let recovered = recover::recover(&shared).unwrap();
    assert_eq!(recovered.newest_checkpoint, committer.newest_checkpoint);
    assert_eq!(recovered.admission.named().count(), 20_000);
}

#[test]
fn the_count_goes_on_from_what_a_sink_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let options = log::Options { dir: dir.path().to_path_buf(), ..log::Options::default() };
    let files = Arc::new(RealFiles);
    let (writer, shared, _) = log::open(options, files, Position::ZERO).unwrap();
    let metrics = IngestMetrics::new(&Registry::new());
    let (durable, total) = (shared.watch_durable(), Arc::new(AtomicU64::new(70)));
    let committer = Committer::new(writer, &shared, durable, Arc::clone(&total), metrics).unwrap();
    assert_eq!((committer.accepted_total, total.load(Ordering::Relaxed)), (70, 70));
}
