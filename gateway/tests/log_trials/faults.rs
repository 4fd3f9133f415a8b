//! Every call to the file system fails once, with every error that it may give, and the process
//! dies at every call: nothing that was acknowledged is lost, and nothing is acknowledged falsely.

use crate::{
    model_disk::{Call, Fault},
    model_files::ModelFiles,
    script::{open, payload, read},
};
use gateway::{
    log::{Check, CommitError, LogError, ReadError, Shared, Writer},
    record::Position,
};

const EIO: i32 = 5;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;

/// What a run achieved before a fault ended it.
#[derive(Debug, Default)]
struct Achieved {
    /// Up to here everything was committed.
    durable: u64,
    /// Up to here something may have been written.
    written: u64,
    /// Deletion was asked for below this.
    low: u64,
}

/// Opens, appends, rolls, deletes, reads, closes; goes on after an error as the committer does.
fn run(files: &ModelFiles) -> Achieved {
    let mut achieved = Achieved { low: 1, ..Achieved::default() };
    for _ in 0..2 {
        let Ok((mut writer, shared, recovery)) = open(files, Check::Tail, achieved.durable) else {
            continue;
        };
        assert!(recovery.last.0 >= achieved.durable);
        achieved.durable = recovery.last.0;
        append(files, &mut writer, &shared, &mut achieved);
        let low = achieved.durable / 2;
        achieved.low = achieved.low.max(low);
        let _ = writer.delete_below(Position(low));
        let mut reader = shared.reader_at(shared.oldest());
        for _ in 0..achieved.durable {
            // A read that failed is tried again.
            if let Ok(Some((position, bytes))) = reader.next() {
                assert!(position.0 <= achieved.durable, "{position} is not durable");
                assert_eq!(bytes, payload(position.0));
            }
        }
        let _ = writer.close();
    }
    achieved
}

fn append(files: &ModelFiles, writer: &mut Writer, shared: &Shared, achieved: &mut Achieved) {
    for group in 0..7 {
        // One group finds the disk full.
        files.set_free((group == 3).then_some(10));
        for _ in 0..3 {
            let next = writer.written().next();
            match writer.append(&[&payload(next.0)]) {
                Ok(position) => assert_eq!(position, next),
                Err(LogError::Poisoned { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
        achieved.written = writer.written().0;
        match writer.commit() {
            Ok(durable) => {
                assert_eq!(durable, shared.durable());
                achieved.durable = durable.0;
            }
            Err(CommitError::Full { .. }) => {
                assert_eq!(writer.written(), writer.durable());
                assert_eq!(writer.durable(), shared.durable());
            }
            Err(error) => {
                assert!(matches!(error, CommitError::Poisoned { .. }), "{error}");
                assert!(shared.poisoned().is_some());
                assert!(writer.commit().is_err() && writer.roll().is_err(), "it is final");
                return;
            }
        }
        if writer.needs_roll() {
            let _ = writer.roll();
        }
    }
}

/// After a fault: the log opens again, with everything that was committed.
fn check(files: &ModelFiles, achieved: &Achieved, context: &str) {
    let (_writer, shared, recovery) = open(files, Check::All, achieved.durable)
        .unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(recovery.damaged, [], "{context}");
    let last = shared.durable().0;
    assert!(last >= achieved.durable, "{context}: {last} of {}", achieved.durable);
    assert!(last <= achieved.written.max(achieved.durable), "{context}: {last} was never written");
    let oldest = shared.oldest().0;
    assert!(oldest <= achieved.low.max(1), "{context}: {oldest} is the oldest");
    let content = read(&shared);
    assert_eq!(content.damaged, [], "{context}");
    let expected: Vec<_> = (oldest..=last).map(|n| (n, payload(n))).collect();
    assert_eq!(content.records, expected, "{context}");
}

/// Runs once with the fault, and says whether it struck.
fn trial(fault: Fault, seed: u64) -> bool {
    let mut struck = false;
    for cut_power in [true, false] {
        let files = ModelFiles::new(seed);
        files.set_fault(Some(fault));
        let achieved = run(&files);
        struck = files.fault_struck();
        if cut_power {
            files.cut_power();
        } else {
            files.kill();
        }
        check(&files, &achieved, &format!("{fault:?}, seed {seed}, power cut: {cut_power}"));
    }
    struck
}

#[test]
fn each_call_fails_once() {
    for call in Call::ALL {
        for errno in [EIO, ENOSPC, EMFILE] {
            let fault = |after| Fault { call: Some(call), after, errno, for_good: false };
            let sites = (0..).take_while(|&after| trial(fault(after), after)).count();
            assert!(sites > 0, "{call:?} was never called");
            println!("{call:?}, error {errno}: tried {sites}");
        }
    }
}

#[test]
fn the_process_dies_at_each_call() {
    for seed in 0..3 {
        let fault = |after| Fault { call: None, after, errno: EIO, for_good: true };
        let sites = (0..).take_while(|&after| trial(fault(after), seed)).count();
        assert!(sites > 100, "{sites} sites");
        println!("death, seed {seed}: tried {sites}");
    }
}

#[test]
fn a_failed_sync_is_final_though_a_second_one_would_succeed() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    writer.append(&[b"one"]).unwrap();
    writer.commit().unwrap();
    files.set_fault(Some(Fault { call: Some(Call::Sync), after: 0, errno: EIO, for_good: false }));
    writer.append(&[b"two"]).unwrap();
    let CommitError::Poisoned { reason } = writer.commit().unwrap_err() else { panic!() };
    assert!(reason.contains("cannot sync") && reason.contains(".seg"), "{reason}");
    for _ in 0..3 {
        assert!(matches!(writer.append(&[b"three"]), Err(LogError::Poisoned { .. })));
        assert!(matches!(writer.commit(), Err(CommitError::Poisoned { .. })));
        assert!(matches!(writer.roll(), Err(CommitError::Poisoned { .. })));
        assert!(matches!(writer.delete_below(Position(9)), Err(LogError::Poisoned { .. })));
    }
    assert_eq!(shared.durable(), Position(1));
    assert!(writer.close().is_err(), "no seal vouches for what may not be there");
}

#[test]
fn a_full_disk_costs_the_group_and_nothing_else() {
    let files = ModelFiles::new(1);
    let (mut writer, shared, _) = open(&files, Check::Tail, 0).unwrap();
    for n in 1..=30 {
        writer.append(&[&payload(n)]).unwrap();
        writer.commit().unwrap();
        if writer.needs_roll() {
            writer.roll().unwrap();
        }
    }
    for free in 0..40 {
        files.set_free(Some(free));
        let position = writer.append(&[&[7; 300]]).unwrap();
        assert!(matches!(writer.commit(), Err(CommitError::Full { .. })), "{free} bytes free");
        assert_eq!(
            (position, writer.written(), writer.durable()),
            (Position(31), Position(30), Position(30))
        );
        assert_eq!(writer.group_bytes(), 0);
    }
    // Retention frees space although there is none for its own state file.
    files.set_free(Some(0));
    assert!(writer.delete_below(Position(20)).unwrap().segments > 3);
    assert!(writer.delete_below(Position(25)).unwrap().segments > 0);
    assert_eq!(writer.append(&[&payload(31)]).unwrap(), Position(31));
    assert_eq!(writer.commit().unwrap(), Position(31));
    drop(writer);
    files.cut_power();
    let (_writer, again, recovery) = open(&files, Check::All, 31).unwrap();
    assert_eq!((recovery.damaged.len(), again.oldest()), (0, shared.oldest()));
    let expected: Vec<_> = (again.oldest().0..=31).map(|n| (n, payload(n))).collect();
    assert_eq!(read(&again).records, expected);
}

#[test]
fn the_reserve_is_kept_free() {
    let files = ModelFiles::new(1);
    let mut options = crate::script::options(1 << 20, Check::Tail);
    (options.reserve_bytes, options.max_bytes) = (1000, 5000);
    let (mut writer, shared, _) =
        gateway::log::open(options, std::sync::Arc::new(files.clone()), Position::ZERO).unwrap();
    assert_eq!(writer.room_bytes(), 5000 - shared.size_bytes(), "the size is the limit");
    writer.append(&[&[1; 4000]]).unwrap();
    writer.commit().unwrap();
    assert_eq!(writer.room_bytes(), 5000 - shared.size_bytes());
    drop((writer, shared));
    files.set_free(Some(1300));
    let (mut writer, ..) = open_with_reserve(&files, 1000);
    let before = writer.room_bytes();
    assert!((1..=300).contains(&before), "the reserve is the limit: {before}");
    writer.append(&[&[1; 400]]).unwrap();
    writer.commit().unwrap();
    assert_eq!(writer.room_bytes(), 0, "what was written counts before the disk is asked again");
}

fn open_with_reserve(files: &ModelFiles, reserve_bytes: u64) -> (Writer, Shared) {
    let mut options = crate::script::options(1 << 20, Check::Tail);
    options.reserve_bytes = reserve_bytes;
    let files = std::sync::Arc::new(files.clone());
    let (writer, shared, _) = gateway::log::open(options, files, Position::ZERO).unwrap();
    (writer, shared)
}

#[test]
fn short_and_interrupted_calls_are_gone_on_with() {
    let files = ModelFiles::new(3);
    files.set_short(true);
    let achieved = run(&files);
    assert_eq!(achieved.durable, 36);
    files.cut_power();
    check(&files, &achieved, "short calls");
}

/// A log of three segments of records of 1000 bytes, and the paths of the segments.
fn large_log(files: &ModelFiles) -> Vec<std::path::PathBuf> {
    let options = crate::script::options(20_000, Check::Tail);
    let files = std::sync::Arc::new(files.clone());
    let (mut writer, shared, _) = gateway::log::open(options, files, Position::ZERO).unwrap();
    for n in 1..=50 {
        writer.append(&[&[n; 1000]]).unwrap();
        writer.commit().unwrap();
        if writer.needs_roll() {
            writer.roll().unwrap();
        }
    }
    writer.close().unwrap();
    shared.segments().into_iter().map(|segment| segment.path).collect()
}

#[test]
fn a_sector_that_cannot_be_read_costs_the_records_in_it() {
    let segments = large_log(&ModelFiles::new(1));
    assert_eq!(segments.len(), 3);
    for (segment, path) in segments.iter().enumerate() {
        // The last one is half as long.
        let offsets = if segment < 2 { &[0, 4096, 8192, 16_384][..] } else { &[0, 4096, 8192] };
        for &offset in offsets {
            for check in [Check::Tail, Check::All] {
                let context = format!("segment {segment}, offset {offset}, {check:?}");
                let files = ModelFiles::new(1);
                large_log(&files);
                files.set_bad(path, offset);
                let (_writer, shared, _) = match open(&files, check, 0) {
                    Ok(opened) => opened,
                    // The end of the last one: nobody knows what was in it.
                    Err(error) => {
                        assert_eq!((segment, offset), (2, 8192), "{context}: {error}");
                        assert!(error.to_string().contains("read the end"), "{error}");
                        continue;
                    }
                };
                let mut reader = shared.reader_at(Position(1));
                let (mut given, mut damaged, mut failed) = (0, 0, 0);
                loop {
                    match reader.next() {
                        Ok(Some((position, bytes))) => {
                            assert_eq!(bytes, [u8::try_from(position.0).unwrap(); 1000][..]);
                            given += 1;
                        }
                        Ok(None) => break,
                        Err(ReadError::Damaged { from, to }) => damaged += to.0 - from.0 + 1,
                        Err(ReadError::Io { .. }) => {
                            failed += 1;
                            let again = reader.next().unwrap_err();
                            assert!(matches!(again, ReadError::Io { .. }), "{context}: {again}");
                            reader.pass_unreadable();
                        }
                        Err(error) => panic!("{context}: {error}"),
                    }
                }
                assert_eq!((given + damaged, failed), (50, 1), "{context}");
                assert!((1..=6).contains(&damaged), "{context}: {damaged} lost");
            }
        }
    }
}
