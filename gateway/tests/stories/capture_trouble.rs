//! `gateway capture` where something is in its way: a disk that is full, records that cannot be read, a
//! file that cannot be made.

use super::support::{Home, run_to_end};
use capture_file::{End, EndedBy, Reader, Record};
use gateway::{
    log::{self, Options, RealFiles, Writer},
    record::{Codec, Envelope, Identity, Kind, Position, Source},
};
use proto::{BatchEncoder, DeviceMessage, Limits, RawValue, TimeUnit};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

/// Readings of a batch.
const READINGS: u32 = 10;

/// An envelope and its payload.
fn record(device: &str, seq: u64) -> (Envelope, Vec<u8>) {
    let mut encoder = BatchEncoder::new();
    encoder.readings(seq, READINGS);
    for index in 0..READINGS {
        let time = i64::try_from(seq).unwrap() * 1_000 + i64::from(index);
        let fields = [("x", RawValue::Float(seq as f64)), ("state", RawValue::Str("secret"))];
        encoder.reading(Some("m"), Some(time), &[], &fields);
    }
    let payload = match DeviceMessage::decode(encoder.finish(), &Limits::unbounded()) {
        Ok(DeviceMessage::Batch(body)) => body.to_vec(),
        other => panic!("{other:?}"),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let envelope = Envelope {
        kind: Kind::Batch,
        source: Source::Device,
        codec: Codec::BatchV1,
        time_unit: TimeUnit::Ms,
        refused_whole: None,
        receive_ns: i64::try_from(now.as_nanos()).unwrap(),
        stream: 1,
        seq,
        accepted: READINGS,
        accepted_total: u64::from(READINGS) * seq,
        payload_hash: 0,
        identity: Identity::new("default", device),
        measurement: None,
        refused: Vec::new(),
        adjustments: Vec::new(),
    };
    (envelope, payload)
}

fn bytes((envelope, payload): &(Envelope, Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    envelope.encode(&mut bytes);
    bytes.extend(payload);
    bytes
}

fn open(home: &Home) -> Writer {
    let options = Options { dir: home.data().join("log"), ..Options::default() };
    std::fs::create_dir_all(home.data()).unwrap();
    log::open(options, Arc::new(RealFiles), Position::ZERO).unwrap().0
}

fn append(writer: &mut Writer, records: &[Vec<u8>]) {
    for record in records {
        writer.append(&[record]).unwrap();
    }
    writer.commit().unwrap();
}

/// A log of so many batches of three devices.
fn filled(batches: u64) -> Home {
    let home = Home::new();
    let mut writer = open(&home);
    let all: Vec<_> =
        (1..=batches).map(|seq| bytes(&record(&format!("device-{}", seq % 3), seq))).collect();
    append(&mut writer, &all);
    home
}

/// Batches by device number, and the end.
fn read(path: &Path) -> (BTreeMap<u32, u64>, End) {
    let mut reader = Reader::open(std::fs::File::open(path).unwrap()).unwrap();
    let mut batches = BTreeMap::new();
    loop {
        match reader.next().unwrap() {
            Record::Device(device) => drop(batches.insert(device.number, 0)),
            Record::Batch(head, _) => *batches.get_mut(&head.device).unwrap() += 1,
            Record::End(end) => return (batches, end),
        }
    }
}

/// `gateway capture` that may write files of so many KiB at most, as with a full disk: the system
/// refuses to write in the middle of a batch.
fn limited(home: &Home, kib: u32, out: &Path) -> (i32, String) {
    let mut command = Command::new("sh");
    // The shell counts in 512 bytes.
    command.arg("-c").arg(format!("ulimit -f {}; exec \"$@\"", kib * 2)).arg("sh");
    command.arg(env!("CARGO_BIN_EXE_gateway")).args(["capture", "--device", "*", "--since", "1h"]);
    command.arg("--out").arg(out).env("GATEWAY__DATA_DIR", home.data());
    run_to_end(command)
}

fn capture(home: &Home, out: &Path) -> (i32, String) {
    let out = out.to_str().unwrap();
    home.gateway("capture", &["--device", "*", "--since", "1h", "--out", out])
}

fn out(home: &Home, name: &str) -> PathBuf {
    home.path().join(name)
}

#[test]
fn what_fits_on_a_disk_that_fills_up_is_a_whole_capture() {
    let home = filled(2_000);
    let path = out(&home, "whole.capture");
    let (code, said) = capture(&home, &path);
    assert_eq!(code, 0, "{said}");
    let (_, whole) = read(&path);
    assert_eq!((whole.batches, whole.ended_by), (2_000, EndedBy::CaughtUp));
    let size = std::fs::metadata(&path).unwrap().len();

    for kib in [64, 100, 333] {
        let limit = u64::from(kib) * 1024;
        assert!(limit < size, "{size}");
        let path = out(&home, &format!("{kib}.capture"));
        let (code, said) = limited(&home, kib, &path);
        assert!(code == 0 && said.contains("a quota is used up"), "{code} {said}");
        let (batches, end) = read(&path);
        assert_eq!(end.ended_by, EndedBy::Disk);
        assert_eq!((batches.len(), batches.values().sum::<u64>()), (3, end.batches));
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size <= limit && size > limit - 48 * 1024, "{size} of {limit}");
    }

    // Too little to be a sample leaves nothing, and says so.
    for kib in [0, 1, 8] {
        let path = out(&home, "little.capture");
        let (code, said) = limited(&home, kib, &path);
        assert!(code == 1 && said.contains("no room for") && said.contains("removed"), "{said}");
        assert!(said.contains("File too large") && !path.exists(), "{kib}: {said}");
    }
}

#[test]
fn records_that_cannot_be_read_are_passed_over_and_counted() {
    let home = Home::new();
    let mut writer = open(&home);
    // The payload of the first one of a device is none; neither is one in the middle.
    let (first, _) = record("broken", 1);
    let mut records = vec![bytes(&(first, b"\x81\xa5bogus\x80".to_vec()))];
    records.extend((2..=4).map(|seq| bytes(&record("fine", seq))));
    records.push(b"\x01 no envelope".to_vec());
    let (fifth, mut payload) = record("fine", 5);
    payload.truncate(payload.len() - 3);
    records.push(bytes(&(fifth, payload)));
    records.extend((6..=7).map(|seq| bytes(&record("fine", seq))));
    append(&mut writer, &records);
    let path = out(&home, "past.capture");
    let (code, said) = capture(&home, &path);
    assert!(code == 0 && said.contains("3 records of the log were damaged"), "{code} {said}");
    let (batches, end) = read(&path);
    assert_eq!(batches, BTreeMap::from([(0, 5)]), "no device without a batch");
    assert_eq!((end.missing_records, end.batches, end.skipped), (3, 5, 0));

    // What a bit has changed on the disk is passed over just so.
    let segment = std::fs::read_dir(home.data().join("log")).unwrap().map(|of| of.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|of| of == "seg")).min();
    let segment = segment.unwrap();
    let mut log = std::fs::read(&segment).unwrap();
    let place = log.windows(4).position(|window| window == b"fine").unwrap();
    log[place] ^= 1;
    std::fs::write(&segment, log).unwrap();
    let path = out(&home, "rotten.capture");
    let (code, said) = capture(&home, &path);
    assert!(code == 0 && said.contains("4 records of the log were damaged"), "{code} {said}");
    assert_eq!(read(&path).0, BTreeMap::from([(0, 4)]));

    // What a newer gateway wrote is not damaged.
    let mut newer = bytes(&record("fine", 8));
    newer[0] = 9;
    append(&mut writer, &[newer]);
    let path = out(&home, "newer.capture");
    let (code, said) = capture(&home, &path);
    assert!(code == 1 && said.contains("a newer one") && !path.exists(), "{code} {said}");
}

#[test]
fn a_file_that_cannot_be_made_is_named() {
    let home = filled(10);
    let folder = out(&home, "folder");
    std::fs::create_dir(&folder).unwrap();
    let pipe = out(&home, "pipe");
    let kind = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
    let dangling = out(&home, "dangling");
    std::os::unix::fs::symlink("/nowhere/at/all", &dangling).unwrap();
    for (path, sentence) in [
        (&folder, "exists, and a capture never overwrites"),
        (&pipe, "exists, and a capture never overwrites"),
        (&dangling, "exists, and a capture never overwrites"),
        (&PathBuf::from("/dev/full"), "exists, and a capture never overwrites"),
        (&out(&home, "nowhere/file.capture"), "No such file or directory"),
        (&folder.join("x".repeat(300)), "File name too long"),
    ] {
        let (code, said) = capture(&home, path);
        assert!(code == 1 && said.contains(sentence), "{path:?}: {code} {said}");
        assert!(said.contains(&*path.to_string_lossy()), "{said}");
    }
    let left = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(left, 0, "nothing was left behind");
}
