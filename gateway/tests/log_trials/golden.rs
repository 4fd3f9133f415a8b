//! Holds the format to the files in `tests/golden/log`, which were written by version 1 and are
//! never written again: a log that a user has must stay readable.

use crate::{
    model_files::ModelFiles,
    script::{open, payload, read},
};
use gateway::log::{self, Check, RealFiles};
use std::path::{Path, PathBuf};

const UUID: [u8; 16] = *b"golden log of v1";
const RECORDS: u64 = 9;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/log")
}

/// By the table in FORMAT.md.
fn head(magic: &[u8; 8], value: u64, time_ns: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(magic);
    bytes.extend_from_slice(&1u32.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&UUID);
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.extend_from_slice(&time_ns.to_le_bytes());
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// By the table in FORMAT.md.
fn frame(segment: &mut Vec<u8>, magic: [u8; 4], position: u64, durable_upto: u64, payload: &[u8]) {
    let base = u64::from_le_bytes(segment[32..40].try_into().unwrap());
    let salt = [&UUID[..], &base.to_le_bytes(), &(segment.len() as u64).to_le_bytes()].concat();
    let mut header = magic.to_vec();
    header.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    header.extend_from_slice(&position.to_le_bytes());
    header.extend_from_slice(&durable_upto.to_le_bytes());
    let header_crc = crc32c::crc32c(&[&salt[..], &header].concat());
    let payload_crc = crc32c::crc32c(&[&salt[..], &header, payload].concat());
    segment.extend_from_slice(&header);
    segment.extend_from_slice(&header_crc.to_le_bytes());
    segment.extend_from_slice(payload);
    segment.extend_from_slice(&payload_crc.to_le_bytes());
}

#[test]
fn the_golden_log_is_what_the_document_says() {
    const RECORD: [u8; 4] = [0xF8, 0x52, 0x45, 0x43];
    const SEAL: [u8; 4] = [0xF8, 0x45, 0x4E, 0x44];
    let time_ns = 1_700_000_000_000_000_000;
    let mut first = head(b"GWLOGSEG", 1, time_ns);
    for (position, durable_upto) in [(1, 0), (2, 0), (3, 0), (4, 3), (5, 3), (6, 3)] {
        frame(&mut first, RECORD, position, durable_upto, &payload(position));
    }
    frame(&mut first, SEAL, 6, 6, b"");
    let mut second = head(b"GWLOGSEG", 7, time_ns);
    for position in 7..=9 {
        frame(&mut second, RECORD, position, 6, &payload(position));
    }
    frame(&mut second, SEAL, 9, 9, b"");
    for (name, expected) in [
        ("log.meta", head(b"GWLOGMET", 0, time_ns)),
        ("log.low", head(b"GWLOGLOW", 1, time_ns)),
        ("00000000000000000001.seg", first),
        ("00000000000000000007.seg", second),
    ] {
        assert_eq!(std::fs::read(golden().join(name)).unwrap(), expected, "{name}");
    }
}

#[test]
fn the_writer_writes_the_golden_log() {
    let meta = head(b"GWLOGMET", 0, 1_700_000_000_000_000_000);
    let files = ModelFiles::holding(&[("/data/log/log.meta".into(), meta)]);
    files.stop_clock();
    let (mut writer, ..) = open(&files, Check::Tail, 0).unwrap();
    for position in 1..=RECORDS {
        let payload = payload(position);
        let (head, tail) = payload.split_at(payload.len() / 2);
        writer.append(&[head, tail]).unwrap();
        if position % 3 == 0 {
            writer.commit().unwrap();
        }
        if position == 6 {
            writer.roll().unwrap();
        }
    }
    writer.close().unwrap();
    let mut compared = 0;
    for (path, bytes) in files.contents() {
        let name = path.file_name().unwrap().to_str().unwrap();
        if matches!(name, "log.lock" | "log.low.tmp") {
            continue;
        }
        assert_eq!(std::fs::read(golden().join(name)).unwrap(), bytes, "{name}");
        compared += 1;
    }
    assert_eq!(compared, 4);
}

#[test]
fn the_golden_log_is_read() {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let report = log::verify(copy.path()).unwrap();
    assert_eq!(report.uuid.unwrap().as_bytes(), &UUID);
    assert_eq!((report.records(), report.lost(), report.unfinished_bytes), (RECORDS, 0, 0));
    assert_eq!((report.low.unwrap().0, report.durable_upto.0), (1, 9));
    assert!(report.segments.iter().all(|segment| segment.sealed));
    let options = log::Options { dir: copy.path().to_owned(), ..log::Options::default() };
    let (_writer, shared, recovery) =
        log::open(options, std::sync::Arc::new(RealFiles), Default::default()).unwrap();
    assert!(!recovery.created && recovery.damaged.is_empty() && recovery.torn.is_empty());
    let expected: Vec<_> = (1..=RECORDS).map(|n| (n, payload(n))).collect();
    assert_eq!(read(&shared).records, expected);
}
