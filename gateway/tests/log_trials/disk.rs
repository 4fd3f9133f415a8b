//! On the real file system.

use gateway::{
    log::{self, LogError, Options, ReadError, Reader, RealFiles, Recovery, Shared, Writer},
    record::Position,
};
use std::{path::Path, sync::Arc};

fn open(dir: &Path, segment_bytes: u64) -> (Writer, Shared, Recovery) {
    let options = Options { dir: dir.to_owned(), segment_bytes, ..Options::default() };
    log::open(options, Arc::new(RealFiles), Position::ZERO).unwrap()
}

fn read_all(reader: &mut Reader) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some((position, bytes)) = reader.next().unwrap() {
        records.push((position.0, bytes.to_vec()));
    }
    records
}

fn payload(position: u64) -> Vec<u8> {
    format!("record {position} ").repeat(1 + usize::try_from(position % 7).unwrap()).into_bytes()
}

#[test]
fn what_was_committed_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a/b/log");
    let expected: Vec<_> = (1..=100).map(|position| (position, payload(position))).collect();
    let uuid = {
        let (mut writer, shared, recovery) = open(&dir, 1000);
        assert!(recovery.created);
        for (position, bytes) in &expected {
            let (head, tail) = bytes.split_at(3);
            assert_eq!(writer.append(&[head, tail]).unwrap(), Position(*position));
            if position % 5 == 0 {
                assert_eq!(writer.commit().unwrap(), Position(*position));
            }
            if writer.needs_roll() {
                writer.roll().unwrap();
            }
        }
        assert!(shared.segments().len() > 3);
        assert_eq!(read_all(&mut shared.reader_at(Position(1))), expected);
        assert_eq!(read_all(&mut shared.reader_at(Position(57))), expected[56..]);
        writer.close().unwrap();
        shared.uuid()
    };
    let (_writer, shared, recovery) = open(&dir, 1000);
    assert_eq!(shared.uuid(), uuid);
    assert_eq!(recovery.last, Position(100));
    assert_eq!(recovery.damaged, []);
    assert_eq!(recovery.torn, []);
    assert_eq!(read_all(&mut shared.reader_at(Position(1))), expected);
    let report = log::verify(&dir).unwrap();
    assert_eq!((report.records(), report.lost(), report.unfinished_bytes), (100, 0, 0));
}

#[test]
fn a_second_gateway_is_told_who_has_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (_writer, ..) = open(dir.path(), 1000);
    let options = Options { dir: dir.path().to_owned(), ..Options::default() };
    let error = log::open(options, Arc::new(RealFiles), Position::ZERO).unwrap_err();
    let LogError::InUse { dir: named, pid } = &error else { panic!("{error}") };
    assert_eq!((named.as_path(), *pid), (dir.path(), Some(std::process::id())));
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_reader_whose_segment_is_deleted_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, shared, _) = open(dir.path(), 200);
    let mut reader = shared.reader_at(Position(1));
    for position in 1..=20 {
        writer.append(&[&payload(position)]).unwrap();
        writer.commit().unwrap();
        if writer.needs_roll() {
            writer.roll().unwrap();
        }
    }
    reader.next().unwrap().unwrap();
    let deleted = writer.delete_below(Position(15)).unwrap();
    assert!(deleted.segments > 0);
    let oldest = shared.oldest();
    assert!(oldest > Position(1) && oldest <= Position(15));
    for mut reader in [reader, shared.reader_at(Position(2))] {
        let error = reader.next().unwrap_err();
        let ReadError::Deleted { wanted, oldest: named } = error else { panic!("{error}") };
        assert_eq!((wanted, named), (Position(2), oldest));
    }
    assert_eq!(read_all(&mut shared.reader_at(oldest)).len() as u64, 21 - oldest.0);
}

#[test]
fn readers_follow_a_writer_over_rolls_and_deletions() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, shared, _) = open(dir.path(), 20_000);
    const LAST: u64 = 20_000;
    let follow = |from: u64| {
        let (shared, mut durable) = (shared.clone(), shared.watch_durable());
        move || {
            let mut reader = shared.reader_at(Position(from));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (mut read, mut deleted) = (0, 0);
            while reader.position().0 <= LAST {
                let wanted = reader.position();
                match reader.next() {
                    Ok(Some((position, bytes))) => {
                        assert_eq!(position, wanted);
                        assert_eq!(bytes, payload(position.0));
                        assert!(position <= shared.durable());
                        read += 1;
                    }
                    Ok(None) => {
                        // Woken once for every record that comes, or it would wait for ever.
                        runtime.block_on(durable.wait_for(|durable| *durable >= wanted)).unwrap();
                    }
                    Err(ReadError::Deleted { wanted, oldest }) => {
                        assert!(oldest > wanted);
                        reader = shared.reader_at(oldest);
                        deleted += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            (read, deleted)
        }
    };
    let readers: Vec<_> = [1, 1, 500].map(|from| std::thread::spawn(follow(from))).into();
    for position in 1..=LAST {
        writer.append(&[&payload(position)]).unwrap();
        if position % 16 == 0 || position == LAST {
            writer.commit().unwrap();
        }
        if writer.group_bytes() == 0 && writer.needs_roll() {
            writer.roll().unwrap();
            writer.delete_below(Position(position.saturating_sub(3000))).unwrap();
        }
    }
    for reader in readers {
        let (read, deleted) = reader.join().unwrap();
        assert!(read > 0);
        assert!(read >= LAST - 499 || deleted > 0, "{read} read, {deleted} times deleted");
    }
    assert!(shared.oldest() > Position(1));
}

#[test]
fn a_record_costs_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, shared, _) = open(dir.path(), 1 << 30);
    for position in 1..=1000 {
        writer.append(&[&payload(position)]).unwrap();
    }
    writer.commit().unwrap();
    let mut reader = shared.reader_at(Position(1));
    let (_, first) = reader.next().unwrap().unwrap();
    let (_, second) = reader.next().unwrap().unwrap();
    let gap = second.as_ptr() as usize - (first.as_ptr() as usize + first.len());
    assert_eq!(gap, 32, "two records are slices of one buffer, a frame's overhead apart");
}

#[test]
fn what_is_too_large_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        Options { dir: dir.path().to_owned(), max_record_bytes: 100, ..Options::default() };
    let (mut writer, shared, _) = log::open(options, Arc::new(RealFiles), Position::ZERO).unwrap();
    writer.append(&[&[1; 60]]).unwrap();
    let error = writer.append(&[&[2; 60], &[2; 41]]).unwrap_err();
    assert!(matches!(error, LogError::TooLarge { bytes: 101, limit: 100 }), "{error}");
    writer.append(&[&[3; 60], &[3; 40]]).unwrap();
    writer.discard();
    assert_eq!(writer.append(&[&[4; 100]]).unwrap(), Position(1), "positions are given again");
    assert_eq!(shared.durable(), Position::ZERO);
    assert!(shared.reader_at(Position(1)).next().unwrap().is_none(), "not durable, not read");
    writer.commit().unwrap();
    assert_eq!(read_all(&mut shared.reader_at(Position(1))), [(1, vec![4; 100])]);
}
