//! Every bit flipped, every length cut off, every file missing, of a small log.

use crate::{
    model_files::ModelFiles,
    script::{Content, open, payload, read, write},
};
use gateway::{
    log::{self, Check, LogError, Recovery},
    record::Position,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const RECORDS: u64 = 20;

type Disk = Vec<(PathBuf, Vec<u8>)>;

/// A log in several segments. One that was not closed lacks the seal that vouches for the last
/// group, records 19 and 20.
fn small_log(closed: bool) -> Disk {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    write(&mut writer, 1..=RECORDS);
    assert!(shared.segments().len() >= 4);
    if closed {
        writer.close().unwrap();
    }
    files.contents()
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

/// [`examine`], and then the log goes on.
fn recover(disk: &Disk, check: Check, known: u64, context: &str) -> (BTreeSet<u64>, Recovery) {
    let (files, (lost, recovery, mut expected)) = examine(disk, check, known, context);
    let (mut writer, shared, _) = open(&files, check, known).unwrap();
    let next = writer.append(&[b"goes on"]).unwrap();
    assert_eq!(next, recovery.last.next(), "{context}");
    assert_eq!(writer.commit().unwrap(), next);
    expected.records.push((next.0, b"goes on".to_vec()));
    assert_eq!(read(&shared), expected, "{context}: while open");
    drop((writer, shared));
    files.cut_power();
    let (_writer, shared, again) = open(&files, check, known).unwrap();
    assert_eq!(again.torn, [], "{context}: what was cut is gone");
    assert_eq!(read(&shared), expected, "{context}: opened again");
    (lost, recovery)
}

/// Opens a disturbed log and holds what must always hold: what is read is what was written, and
/// what is not read was reported or was never vouched for. Says which records were lost.
fn examine(
    disk: &Disk,
    check: Check,
    known: u64,
    context: &str,
) -> (ModelFiles, (BTreeSet<u64>, Recovery, Content)) {
    let files = ModelFiles::holding(disk);
    let (writer, shared, recovery) =
        open(&files, check, known).unwrap_or_else(|error| panic!("{context}: {error}"));
    let content = read(&shared);
    for (position, bytes) in &content.records {
        assert_eq!(*bytes, payload(*position), "{context}: record {position}");
    }
    let given: BTreeSet<u64> = content.records.iter().map(|(position, _)| *position).collect();
    assert_eq!(given.len(), content.records.len(), "{context}: a record was given twice");
    let lost: BTreeSet<u64> = (1..=RECORDS).filter(|n| !given.contains(n)).collect();
    for position in &lost {
        let reported = content.damaged.iter().any(|range| range.contains(position))
            || recovery.damaged.iter().any(|range| (range.from.0..=range.to.0).contains(position));
        assert!(reported || Position(*position) > recovery.last, "{context}: {position} is gone");
        assert!(reported || *position > known, "{context}: {position} was known to be durable");
    }
    for range in &content.damaged {
        assert!(range.clone().all(|n| lost.contains(&n)), "{context}: {range:?} was readable");
    }

    drop((writer, shared));
    files.kill();
    (files, (lost, recovery, content))
}

fn flipped(disk: &Disk, file: usize, bit: usize) -> Disk {
    let mut disk = disk.clone();
    disk[file].1[bit / 8] ^= 1 << (bit % 8);
    disk
}

#[test]
fn a_flipped_bit_costs_at_most_the_record_that_it_is_in() {
    let disk = small_log(true);
    for (file, (path, bytes)) in disk.iter().enumerate() {
        println!("every bit of {}: tried {}", path.display(), bytes.len() * 8);
        for bit in 0..bytes.len() * 8 {
            let context = format!("{} bit {bit}", path.display());
            let disk = flipped(&disk, file, bit);
            let (_, (lost, ..)) = examine(&disk, Check::Tail, 0, &context);
            assert!(lost.len() <= 1, "{context}: lost {lost:?}");
            // Once per byte everything is read, and the log goes on.
            if bit % 8 == bit / 8 % 8 {
                let (lost, recovery) = recover(&disk, Check::All, 0, &context);
                assert!(lost.len() <= 1, "{context}: lost {lost:?}");
                let reported: u64 = recovery.damaged.iter().map(log::Damaged::records).sum();
                assert_eq!(reported, lost.len() as u64, "{context}: {recovery:?}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_a_group_that_nothing_vouches_for_cuts_it_there() {
    let disk = small_log(false);
    let last = disk.iter().rposition(|(path, _)| is_segment(path)).unwrap();
    for bit in 0..disk[last].1.len() * 8 {
        let context = format!("bit {bit}");
        let disk = flipped(&disk, last, bit);
        let (lost, recovery) = recover(&disk, Check::Tail, 0, &context);
        let damaged: u64 = recovery.damaged.iter().map(log::Damaged::records).sum();
        match lost.first() {
            Some(19 | 20) => {
                assert_eq!(damaged, 0, "{context}");
                assert_eq!(lost.last(), Some(&20), "{context}: later frames are cut too");
                let [torn] = &recovery.torn[..] else { panic!("{context}: {recovery:?}") };
                let kept = ModelFiles::holding(&disk);
                open(&kept, Check::Tail, 0).unwrap();
                let copy = torn.copy.as_ref().unwrap();
                let kept = kept.contents().into_iter().find(|(path, _)| path == copy).unwrap();
                let offset = usize::try_from(torn.offset).unwrap();
                // Zeros at the end are as good as nothing, and a checksum may end in one.
                let mut cut = disk[last].1[offset..].to_vec();
                cut.truncate(cut.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1));
                assert_eq!(kept.1, cut, "{context}: the cut bytes are kept");
            }
            _ => assert!(lost.len() <= 1 && damaged == lost.len() as u64, "{context}"),
        }
        // A sink that has them says that they were durable: then it is damage.
        let (lost, recovery) = recover(&disk, Check::Tail, RECORDS, &context);
        let damaged: u64 = recovery.damaged.iter().map(log::Damaged::records).sum();
        assert!(lost.len() <= 1 && damaged == lost.len() as u64, "{context}: {recovery:?}");
    }
}

#[test]
fn a_file_cut_anywhere_loses_what_was_behind_the_cut_and_says_so() {
    let disk = small_log(true);
    let last = disk.iter().rposition(|(path, _)| is_segment(path)).unwrap();
    for (file, (path, bytes)) in disk.iter().enumerate() {
        let intact: Vec<u64> = in_segments(&disk, |index| index != file);
        println!("every length of {}: tried {}", path.display(), bytes.len());
        for length in 0..bytes.len() {
            for zeros in [false, true] {
                let context = format!("{} cut to {length}, zeros: {zeros}", path.display());
                let mut disk = disk.clone();
                disk[file].1.truncate(length);
                if zeros {
                    disk[file].1.resize(bytes.len() + 700, 0);
                }
                let (lost, _) = recover(&disk, Check::Tail, RECORDS, &context);
                assert!(intact.iter().all(|n| !lost.contains(n)), "{context}: lost {lost:?}");
                if file == last {
                    // Nobody knows better: it looks like the end of an earlier group.
                    let (lost, recovery) = recover(&disk, Check::Tail, 0, &context);
                    assert!(intact.iter().all(|n| !lost.contains(n)), "{context}: {lost:?}");
                    assert!(lost.iter().all(|n| Position(*n) > recovery.last), "{context}");
                }
            }
        }
    }
}

/// The records in the segments that are chosen by index.
fn in_segments(disk: &Disk, chosen: impl Fn(usize) -> bool) -> Vec<u64> {
    let files = ModelFiles::holding(disk);
    let (_writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    let segments = shared.segments();
    disk.iter()
        .enumerate()
        .filter(|(index, _)| chosen(*index))
        .filter_map(|(_, (path, _))| segments.iter().find(|segment| segment.path == *path))
        .flat_map(|segment| segment.base.0..=segment.last.0)
        .collect()
}

#[test]
fn a_missing_file_costs_what_was_in_it() {
    for closed in [true, false] {
        let disk = small_log(closed);
        for file in 0..disk.len() {
            let context = format!("without {}", disk[file].0.display());
            let gone = in_segments(&disk, |index| index == file);
            let mut left = disk.clone();
            left.remove(file);
            let (lost, recovery) = recover(&left, Check::Tail, RECORDS, &context);
            assert_eq!(lost, gone.into_iter().collect(), "{context}");
            let name = disk[file].0.file_name().unwrap();
            assert_eq!(recovery.meta_rebuilt, name == "log.meta");
            assert_eq!(recovery.low_mark_rebuilt, name == "log.low");
        }
        // All segments are gone: the positions go on, and what is missing is said.
        let left: Disk = disk.iter().filter(|(path, _)| !is_segment(path)).cloned().collect();
        let files = ModelFiles::holding(&left);
        let (_writer, shared, recovery) = open(&files, Check::Tail, RECORDS).unwrap();
        assert_eq!((shared.oldest(), recovery.last), (Position(21), Position(20)));
        let [damaged] = &recovery.damaged[..] else { panic!("{recovery:?}") };
        assert_eq!((damaged.from, damaged.to), (Position(1), Position(20)));
    }
}

#[test]
fn verify_sees_the_same_as_recovery_and_changes_nothing() {
    let disk = small_log(true);
    for (file, (path, bytes)) in disk.iter().enumerate().filter(|(_, (path, _))| is_segment(path)) {
        for byte in 0..bytes.len() {
            let disk = flipped(&disk, file, byte * 8 + byte % 8);
            let files = ModelFiles::holding(&disk);
            let report = log::verify_with(&files, Path::new("/data/log")).unwrap();
            assert_eq!(files.contents(), disk);
            let (lost, _) = recover(&disk, Check::All, 0, "verify");
            assert_eq!(report.lost(), lost.len() as u64, "{} byte {byte}", path.display());
            assert_eq!(report.records(), RECORDS - report.lost());
            assert!(!report.damaged.is_empty() || report.unfinished_bytes > 0);
        }
    }
}

/// The head of a segment or state file, of a later version and otherwise valid.
fn newer(bytes: &mut [u8]) {
    bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let disk = small_log(true);
    for file in 0..disk.len() {
        if disk[file].1.len() < 64 || disk[file].0.ends_with("log.low.tmp") {
            continue;
        }
        let mut disk = disk.clone();
        newer(&mut disk[file].1);
        let files = ModelFiles::holding(&disk);
        let before = files.contents();
        let error = open(&files, Check::Tail, 0).unwrap_err();
        let LogError::Newer { path, version: 2 } = &error else { panic!("{error}") };
        assert_eq!(*path, disk[file].0);
        assert!(error.to_string().contains("run the gateway that wrote it"), "{error}");
        let segments = |disk: &Disk| -> Disk {
            disk.iter().filter(|(path, _)| is_segment(path)).cloned().collect()
        };
        assert_eq!(segments(&files.contents()), segments(&before), "no segment was touched");
    }
}

#[test]
fn files_in_the_wrong_place_are_refused() {
    let disk = small_log(true);
    let other = {
        let files = ModelFiles::new(2);
        let (mut writer, ..) = open(&files, Check::Tail, 0).unwrap();
        write(&mut writer, 1..=RECORDS);
        drop(writer);
        files.contents()
    };
    let (index, (path, bytes)) =
        other.iter().enumerate().find(|(_, (path, _))| is_segment(path)).unwrap();
    let mut mixed = disk.clone();
    mixed[index] = (path.clone(), bytes.clone());
    let error = open(&ModelFiles::holding(&mixed), Check::Tail, 0).unwrap_err();
    assert!(matches!(&error, LogError::Foreign { path: named, .. } if named == path), "{error}");

    let mut renamed = disk.clone();
    let path = PathBuf::from("/data/log/00000000000000000002.seg");
    renamed[index].0.clone_from(&path);
    let error = open(&ModelFiles::holding(&renamed), Check::Tail, 0).unwrap_err();
    assert!(matches!(&error, LogError::Misnamed { path: named, .. } if *named == path), "{error}");

    let unknown: Disk = disk
        .iter()
        .filter(|(path, _)| is_segment(path))
        .map(|(path, bytes)| (path.clone(), [vec![0; 64], bytes[64..].to_vec()].concat()))
        .collect();
    let error = open(&ModelFiles::holding(&unknown), Check::Tail, 0).unwrap_err();
    assert!(matches!(error, LogError::Unidentified { .. }), "{error}");
}

#[test]
fn an_untouched_log_is_whole() {
    for closed in [true, false] {
        let (lost, recovery) = recover(&small_log(closed), Check::All, 0, "untouched");
        assert!(lost.is_empty() && recovery.damaged.is_empty() && recovery.torn.is_empty());
    }
}
