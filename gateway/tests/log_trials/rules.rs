//! The rules of the log, one test each; `FORMAT.md` lists them, and which further tests hold them.

use crate::{
    model_disk::{Call, Fault},
    model_files::ModelFiles,
    script::{DIR, open, options, payload, read, write},
};
use gateway::{
    log::{
        self, Check, CommitError, LogError, ReadError, RealFiles, SegmentInfo,
        retention::{Keep, low_water},
    },
    record::Position,
};
use std::{path::Path, sync::Arc};

const EIO: i32 = 5;

fn call(call: Call, name: &str) -> (Call, String) {
    (call, name.to_owned())
}

const FIRST: &str = "00000000000000000001.seg";

#[test]
fn rule_01_acknowledged_is_what_one_sync_covered() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    let mut reader = shared.reader_at(Position(1));
    files.calls();
    for n in 1..=5 {
        writer.append(&[&payload(n)]).unwrap();
        assert_eq!(shared.durable(), Position::ZERO, "nothing is durable before the sync");
        assert!(reader.next().unwrap().is_none());
    }
    assert_eq!(files.calls(), [], "a group gathers in memory");
    assert_eq!(writer.commit().unwrap(), Position(5));
    // One write and one sync for all of them, in this order.
    assert_eq!(files.calls(), [call(Call::Write, FIRST), call(Call::Sync, FIRST)]);
    assert_eq!(shared.durable(), Position(5));
    files.cut_power();
    let (_writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    assert_eq!(read(&shared).records.len(), 5);
}

#[test]
fn rule_02_a_failed_fsync_is_final() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    writer.append(&[b"one"]).unwrap();
    files.set_fault(Some(Fault { call: Some(Call::Sync), after: 0, errno: EIO, for_good: false }));
    assert!(matches!(writer.commit(), Err(CommitError::Poisoned { .. })));
    files.calls();
    assert!(matches!(writer.append(&[b"two"]), Err(LogError::Poisoned { .. })));
    assert!(matches!(writer.commit(), Err(CommitError::Poisoned { .. })));
    assert!(matches!(writer.vouch(), Err(CommitError::Poisoned { .. })));
    assert!(matches!(writer.roll(), Err(CommitError::Poisoned { .. })));
    assert!(matches!(writer.close(), Err(CommitError::Poisoned { .. })));
    assert_eq!(files.calls(), [], "the file is not touched again, least of all synced");
    assert_eq!(shared.durable(), Position::ZERO);
}

#[test]
fn rule_03_no_recycled_or_moved_space_is_a_record() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    files.calls();
    writer.append(&[&payload(1)]).unwrap();
    writer.append(&[&payload(2)]).unwrap();
    writer.commit().unwrap();
    let writes = files.calls().into_iter().filter(|(call, _)| *call == Call::Write).count();
    assert_eq!(writes, 1, "headers and payloads go in one write");
    drop((writer, shared));
    files.kill();
    let disk = files.contents();
    let index = disk.iter().position(|(path, _)| path.ends_with(FIRST)).unwrap();
    let frames = disk[index].1[64..].to_vec();
    // The same bytes at another offset, and in another segment at the same offset.
    for (at, moved_by) in [(index, frames.len()), (index, 1)] {
        let mut disk = disk.clone();
        let end = disk[at].1.len();
        disk[at].1.resize(end + moved_by - frames.len().min(moved_by), 0);
        disk[at].1.extend_from_slice(&frames);
        let files = ModelFiles::holding(&disk);
        let (_writer, shared, recovery) = open(&files, Check::All, 0).unwrap();
        assert_eq!((recovery.last, recovery.torn.len()), (Position(2), 1));
        assert_eq!(read(&shared).records.len(), 2);
    }
    // Frames of one segment in the place of those of another.
    let files = ModelFiles::new(1);
    let (mut writer, ..) = open(&files, Check::Tail, 0).unwrap();
    write(&mut writer, 1..=20);
    drop(writer);
    let mut disk = files.contents();
    let segments: Vec<_> =
        (0..disk.len()).filter(|&i| disk[i].0.extension().is_some_and(|e| e == "seg")).collect();
    let stolen = disk[segments[0]].1[64..].to_vec();
    disk[segments[1]].1.truncate(64);
    disk[segments[1]].1.extend_from_slice(&stolen);
    let (_writer, shared, recovery) = open(&ModelFiles::holding(&disk), Check::All, 0).unwrap();
    assert!(recovery.damaged.iter().any(|damaged| damaged.records() > 0), "{recovery:?}");
    assert!(read(&shared).records.iter().all(|(n, bytes)| *bytes == payload(*n)));
}

#[test]
fn rule_04_a_segment_is_durable_before_its_first_record() {
    let files = ModelFiles::new(1);
    files.calls();
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    let made = files.calls();
    let at = |wanted: (Call, String)| made.iter().position(|call| *call == wanted).unwrap();
    // The directories up to one that existed, from the top down, each synced in its parent.
    assert!(at(call(Call::CreateDir, "data")) < at(call(Call::CreateDir, "log")));
    assert!(made[at(call(Call::CreateDir, "log"))..].contains(&call(Call::SyncDir, "data")));
    assert!(at(call(Call::SyncDir, "data")) < at(call(Call::Rename, "log.meta")));
    writer.append(&[b"x"]).unwrap();
    writer.commit().unwrap();
    files.calls();
    writer.roll().unwrap();
    let second = "00000000000000000002.seg";
    let header = [call(Call::Write, second), call(Call::Sync, second), call(Call::SyncDir, "log")];
    assert_eq!(files.calls()[2..], header, "the seal of the old segment comes before");
    assert_eq!(shared.segments().len(), 2);
}

#[test]
fn rule_05_a_roll_syncs_the_old_segment_first() {
    let files = ModelFiles::new(1);
    let (mut writer, ..) = open(&files, Check::Tail, 0).unwrap();
    writer.append(&[b"old"]).unwrap();
    files.calls();
    // With a group that nobody has committed.
    writer.roll().unwrap();
    writer.append(&[b"new"]).unwrap();
    writer.commit().unwrap();
    let calls = files.calls();
    let second = "00000000000000000002.seg";
    let begun = calls.iter().position(|(_, name)| name == second).unwrap();
    assert_eq!(calls[begun - 1], call(Call::Sync, FIRST), "{calls:?}");
    assert!(calls[begun..].iter().all(|(_, name)| name != FIRST), "{calls:?}");
}

#[test]
fn rule_06_state_files_are_replaced_whole_and_never_start_empty() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    write(&mut writer, 1..=20);
    let uuid = shared.uuid();
    files.calls();
    writer.delete_below(Position(10)).unwrap();
    let calls = files.calls();
    let rename = calls.iter().position(|c| *c == call(Call::Rename, "log.low")).unwrap();
    assert_eq!(calls[rename - 2], call(Call::Write, "log.low.tmp"), "{calls:?}");
    assert_eq!(calls[rename - 1], call(Call::Sync, "log.low.tmp"), "{calls:?}");
    assert_eq!(calls[rename + 1], call(Call::SyncDir, "log"), "{calls:?}");
    let oldest = shared.oldest();
    drop((writer, shared));
    files.kill();
    // Missing, cut short or rotten: all of them are made anew from the segments.
    for name in ["log.meta", "log.low"] {
        for harm in 0..3 {
            let mut disk = files.contents();
            let at = disk.iter().position(|(path, _)| path.ends_with(name)).unwrap();
            match harm {
                0 => drop(disk.remove(at)),
                1 => disk[at].1.truncate(10),
                _ => disk[at].1[33] ^= 1,
            }
            let (_writer, shared, recovery) =
                open(&ModelFiles::holding(&disk), Check::Tail, 20).unwrap();
            assert_eq!((shared.uuid(), shared.oldest()), (uuid, oldest), "{name} {harm}");
            assert_eq!((recovery.damaged, recovery.created), (vec![], false), "{name} {harm}");
            assert_eq!(read(&shared).records.len() as u64, 21 - oldest.0);
        }
    }
}

#[test]
fn rule_07_the_low_water_mark_is_durable_before_anything_is_unlinked() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    write(&mut writer, 1..=20);
    files.calls();
    let deleted = writer.delete_below(Position(15)).unwrap();
    let calls = files.calls();
    let first = calls.iter().position(|(call, _)| *call == Call::Remove).unwrap();
    let marked = calls.iter().position(|c| *c == call(Call::SyncDir, "log")).unwrap();
    assert!(deleted.segments > 1 && marked < first, "{calls:?}");
    let oldest = shared.oldest();
    drop((writer, shared));
    // What was unlinked may be there again: the entry of the directory was not synced.
    files.cut_power();
    let (_writer, shared, recovery) = open(&files, Check::All, 20).unwrap();
    assert_eq!((shared.oldest(), recovery.damaged), (oldest, vec![]));
}

#[test]
fn rule_08_positions_are_continuous_across_segments_in_numerical_order() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    write(&mut writer, 1..=20);
    let segments = shared.segments();
    assert!(segments.windows(2).all(|pair| pair[0].last.next() == pair[1].base));
    drop((writer, shared));
    let mut disk = files.contents();
    let gone = disk.iter().position(|(path, _)| *path == segments[1].path).unwrap();
    disk.remove(gone);
    // The order of the directory is not the order of the log.
    disk.reverse();
    let (_writer, shared, recovery) = open(&ModelFiles::holding(&disk), Check::Tail, 0).unwrap();
    let [damaged] = &recovery.damaged[..] else { panic!("{recovery:?}") };
    assert_eq!((damaged.from, damaged.to), (segments[1].base, segments[1].last));
    let bases: Vec<u64> = shared.segments().iter().map(|segment| segment.base.0).collect();
    assert!(bases.is_sorted(), "{bases:?}");
}

/// The same damage in the same bytes: a torn tail, unless something says that they were durable.
#[test]
fn rule_09_damage_is_torn_or_corruption_by_what_was_known_to_be_durable() {
    for vouched in [false, true] {
        let files = ModelFiles::new(1);
        let (mut writer, ..) =
            log::open(options(1 << 20, Check::Tail), Arc::new(files.clone()), Position::ZERO)
                .unwrap();
        for n in 1..=3 {
            writer.append(&[&payload(n)]).unwrap();
        }
        writer.commit().unwrap();
        if vouched {
            writer.vouch().unwrap();
        }
        drop(writer);
        files.kill();
        let mut disk = files.contents();
        let at = disk.iter().position(|(path, _)| path.ends_with(FIRST)).unwrap();
        // In the payload of the second record.
        disk[at].1[64 + 32 + payload(1).len() + 28] ^= 0x10;
        let files = ModelFiles::holding(&disk);
        let (_writer, shared, recovery) = open(&files, Check::Tail, 0).unwrap();
        let given: Vec<u64> = read(&shared).records.iter().map(|(n, _)| *n).collect();
        if vouched {
            assert_eq!((given, recovery.torn.len()), (vec![1, 3], 0), "the rest is kept");
            let [damaged] = &recovery.damaged[..] else { panic!("{recovery:?}") };
            assert_eq!((damaged.from, damaged.to), (Position(2), Position(2)));
            assert!(
                damaged.copy.as_ref().is_some_and(|copy| copy.starts_with("/data/log/damaged"))
            );
        } else {
            assert_eq!((given, recovery.damaged.len()), (vec![1], 0), "later frames are cut too");
            let [torn] = &recovery.torn[..] else { panic!("{recovery:?}") };
            assert!(torn.copy.as_ref().is_some_and(|copy| copy.starts_with("/data/log/torn")));
        }
    }
}

/// Once nothing has come for a while, one frame vouches for all before it, and no second one.
#[test]
fn rule_09_the_newest_records_are_vouched_for_when_idle() {
    let files = ModelFiles::new(1);
    let (mut writer, ..) = open(&files, Check::Tail, 0).unwrap();
    writer.append(&[b"x"]).unwrap();
    writer.commit().unwrap();
    files.calls();
    writer.vouch().unwrap();
    assert_eq!(files.calls(), [call(Call::Write, FIRST), call(Call::Sync, FIRST)]);
    writer.vouch().unwrap();
    assert_eq!(files.calls(), []);
    writer.append(&[b"y"]).unwrap();
    writer.vouch().unwrap();
    assert_eq!((files.calls(), writer.written()), (vec![], Position(2)), "a group is not touched");
    writer.commit().unwrap();
    drop(writer);
    let report = log::verify_with(&files, Path::new(DIR)).unwrap();
    assert_eq!((report.records(), report.lost(), report.durable_upto), (2, 0, Position(1)));
}

#[test]
fn rule_10_a_full_disk_refuses_before_the_reserve_and_recovers_by_itself() {
    let files = ModelFiles::new(1);
    let mut with_reserve = options(1 << 20, Check::Tail);
    with_reserve.reserve_bytes = 1000;
    files.set_free(Some(5000));
    let (mut writer, ..) =
        log::open(with_reserve, Arc::new(files.clone()), Position::ZERO).unwrap();
    let room = writer.room_bytes();
    assert!((1..=4000).contains(&room), "{room}");
    // The write itself finds the disk full: what came through of it is cut off again.
    files.set_free(Some(100));
    files.calls();
    writer.append(&[&[7; 300]]).unwrap();
    assert!(matches!(writer.commit(), Err(CommitError::Full { .. })));
    let calls: Vec<Call> = files.calls().into_iter().map(|(call, _)| call).collect();
    assert_eq!(calls[calls.len() - 2..], [Call::SetLen, Call::Sync], "{calls:?}");
    assert_eq!((writer.written(), writer.durable()), (Position::ZERO, Position::ZERO));
    files.set_free(None);
    writer.append(&[&payload(1)]).unwrap();
    assert_eq!(writer.commit().unwrap(), Position(1));
}

#[test]
fn rule_11_short_and_interrupted_calls_are_gone_on_with_and_a_second_gateway_is_refused() {
    let files = ModelFiles::new(7);
    files.set_short(true);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    write(&mut writer, 1..=60);
    let expected: Vec<_> = (1..=60).map(|n| (n, payload(n))).collect();
    assert_eq!(read(&shared).records, expected);
    let Err(error) = open(&files, Check::Tail, 0) else { panic!("opened twice") };
    assert!(matches!(error, LogError::InUse { .. }), "{error}");
    // No part of the gateway maps a file into memory to write it.
    let mut mapped = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/log")).unwrap() {
        let path = entry.unwrap().path();
        if std::fs::read_to_string(&path).unwrap().contains("mmap(") {
            mapped.push(path);
        }
    }
    assert_eq!(mapped, Vec::<std::path::PathBuf>::new());
}

/// What a sink has not confirmed is not deleted, and what it has may be; a cursor that was not
/// synced is not asked (`forward/cursor.rs`).
#[test]
fn rule_12_retention_trusts_only_what_sinks_confirmed() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    write(&mut writer, 1..=20);
    let segments = shared.segments();
    for confirmed in 0..=20 {
        let cursors = [Position(20), Position(confirmed)];
        let low = low_water(cursors, Some(Position(21)), &segments, &Keep::default(), 0);
        assert!(low <= Position(confirmed + 1), "{low} is not confirmed");
        writer.delete_below(low).unwrap();
        let oldest = shared.oldest();
        assert!(oldest.0 <= confirmed + 1, "{oldest} is the oldest");
        let next = shared.reader_at(Position(confirmed + 1)).next();
        assert!(!matches!(next, Err(ReadError::Deleted { .. })), "{next:?}");
    }
}

#[test]
fn rule_13_the_newest_checkpoint_and_all_after_it_are_kept() {
    let segment = |n: u64| SegmentInfo {
        base: Position(n * 10 + 1),
        last: Position(n * 10 + 10),
        bytes: 100,
        created_at_ns: 0,
        path: Path::new("").to_owned(),
    };
    let segments: Vec<_> = (0..4).map(segment).collect();
    let low =
        |checkpoint| low_water([Position(40)], checkpoint, &segments, &Keep::default(), i64::MAX);
    assert_eq!(low(None), Position::ZERO, "without one the whole log is needed");
    assert_eq!(low(Some(Position(15))), Position(15));
    assert_eq!(low(Some(Position(40))), Position(31), "the active segment stays");
}

#[test]
fn rule_14_the_scrub_finds_what_has_rotted_in_a_sealed_segment() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        log::Options { dir: dir.path().to_owned(), segment_bytes: 200, ..log::Options::default() };
    let (mut writer, shared, _) = log::open(options, Arc::new(RealFiles), Position::ZERO).unwrap();
    write(&mut writer, 1..=20);
    for segment in shared.segments() {
        let report = shared.check_segment(segment.base).unwrap();
        assert_eq!((report.damaged, report.last), (vec![], segment.last));
    }
    let rotten = &shared.segments()[1];
    let mut bytes = std::fs::read(&rotten.path).unwrap();
    bytes[64 + 5] ^= 1;
    std::fs::write(&rotten.path, bytes).unwrap();
    let report = shared.check_segment(rotten.base).unwrap();
    let [damaged] = &report.damaged[..] else { panic!("{report:?}") };
    assert_eq!((damaged.from, damaged.to, damaged.offset), (rotten.base, rotten.base, 64));
    writer.delete_below(Position(20)).unwrap();
    let gone = shared.check_segment(rotten.base);
    assert!(matches!(gone, Err(ReadError::Deleted { .. })), "{gone:?}");
}

#[test]
fn rule_15_retention_is_one_pure_minimum() {
    let segment = |n: u64| SegmentInfo {
        base: Position(n * 10 + 1),
        last: Position(n * 10 + 10),
        bytes: 100,
        created_at_ns: i64::try_from(n).unwrap() * 10,
        path: Path::new("").to_owned(),
    };
    let segments: Vec<_> = (0..5).map(segment).collect();
    let mut rng = fastrand::Rng::with_seed(15);
    for _ in 0..2000 {
        let cursors: Vec<_> = (0..rng.usize(0..4)).map(|_| Position(rng.u64(0..60))).collect();
        let checkpoint = rng.bool().then(|| Position(rng.u64(1..60)));
        let keep =
            Keep { age: std::time::Duration::from_nanos(rng.u64(0..60)), bytes: rng.u64(0..700) };
        let now = rng.i64(0..100);
        let low = low_water(cursors.clone(), checkpoint, &segments, &keep, now);
        assert_eq!(low, low_water(cursors.clone(), checkpoint, &segments, &keep, now));
        assert!(cursors.iter().all(|cursor| low <= cursor.next()));
        assert!(low <= checkpoint.unwrap_or(Position::ZERO));
        assert!(low <= segments[4].base, "the active segment stays");
        // It is the minimum: what one of them does not need, the others decide.
        let without = low_water([], Some(Position(u64::MAX)), &segments, &keep, now);
        let least = cursors.iter().map(|cursor| cursor.next()).chain(checkpoint).min();
        assert_eq!(low, checkpoint.map_or(Position::ZERO, |_| least.unwrap().min(without)));
    }
}

/// Source files below `dir`.
fn sources(dir: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(std::fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn the_table_of_rules_names_tests_that_exist() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = Vec::new();
    sources(&here.join("src"), &mut all);
    sources(&here.join("tests"), &mut all);
    let document = std::fs::read_to_string(here.join("src/log/FORMAT.md")).unwrap();
    let (_, table) = document.split_once("## The rules, and the tests that hold them").unwrap();
    for rule in 1..=15 {
        let row = table.lines().find(|line| line.starts_with(&format!("| {rule} |"))).unwrap();
        let tests: Vec<&str> =
            row.rsplit('|').nth(1).unwrap().split('`').skip(1).step_by(2).collect();
        assert!(tests[0].starts_with(&format!("rule_{rule:02}_")), "rule {rule} has no test");
        for test in tests {
            let is_there = |source: &String| source.contains(&format!("fn {test}("));
            assert!(all.iter().any(is_there), "rule {rule}: there is no test {test}");
        }
    }
}
