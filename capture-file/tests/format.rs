//! The format is a promise: a golden file, and every way in which a file may be no capture.
#![allow(clippy::unwrap_used)]

use capture_file::{
    BatchHead, CaptureError, End, EndedBy, Header, Reader, Record, Writer, batch_in, transcode,
};
use proto::{BatchEncoder, RawTime, RawValue};

const GOLDEN: &str = include_str!("golden/capture-v1.hex");

fn header() -> Header {
    Header {
        tool: "gateway 0.1.0".into(),
        from_ns: 1_800_000_000_000_000_000,
        share: [1, 2],
        kept_tags: vec!["site".into()],
        kept_fields: vec![],
        blanked_fields: vec!["lat".into(), "lon".into()],
    }
}

fn head(arrival_us: u64, readings: u32, measurement: &str) -> BatchHead<'_> {
    let (stream, skipped, left_out) = (0, u32::from(arrival_us > 1_000), 2);
    BatchHead { device: 0, arrival_us, stream, skipped, readings, left_out, measurement }
}

/// One batch of readings and one of columns.
fn written() -> (Vec<u8>, End) {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    let device = writer.device("k3jw2mzq9d4x7vbn", "p0c8s2h5t6y1r4aa").unwrap();
    assert_eq!(device.number, 0);
    let mut encoder = BatchEncoder::new();
    let fields = [("temperature", RawValue::Float(21.5)), ("door", RawValue::Bool(true))];
    encoder.readings(1, 2).reading(None, Some(-250_000_000), &[("site", "north")], &fields);
    encoder.reading(Some("room"), None, &[], &fields[..1]);
    writer.batch(&head(1_000, 2, "environment"), encoder.body()).unwrap();
    let times = proto::encode::ColumnTimes::of(&[0, 1_000_000, 2_000_000]);
    encoder.columns(2, Some("vibration"), &[], times, 2);
    encoder.column("x", [Some(RawValue::Float(0.5)), None, Some(RawValue::Int(-3))]);
    encoder.column("on", [true, true, false].map(|on| Some(RawValue::Bool(on))));
    writer.batch(&head(70_000_000_000, 3, ""), encoder.body()).unwrap();
    writer.missing(7);
    assert_eq!(writer.counts().batches, 2);
    writer.finish(1_800_000_090_000_000_000, EndedBy::Limit).unwrap()
}

/// Name of the device, arrival, body.
type Batches = Vec<(String, u64, Vec<u8>)>;

fn read(bytes: &[u8]) -> Result<(Header, Batches, End), CaptureError> {
    let mut reader = Reader::open(bytes)?;
    let (header, mut batches, mut name) = (reader.header().clone(), vec![], String::new());
    loop {
        match reader.next()? {
            Record::Device(device) => name = device.name,
            Record::Batch(head, body) => batches.push((name.clone(), head.arrival_us, body.into())),
            Record::End(end) => return Ok((header, batches, end)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect());
    lines.collect::<Vec<String>>().join("\n") + "\n"
}

#[test]
fn the_golden_file_is_read_and_written() {
    let (bytes, end) = written();
    assert_eq!(hex(&bytes), GOLDEN);
    let (found, batches, found_end) = read(&bytes).unwrap();
    assert_eq!((found, found_end), (header(), end));
    let arrivals: Vec<_> = batches.iter().map(|(name, at, _)| (name.as_str(), *at)).collect();
    assert_eq!(arrivals, [("k3jw2mzq9d4x7vbn", 1_000), ("k3jw2mzq9d4x7vbn", 70_000_000_000)]);
    assert_eq!((end.readings, end.left_out, end.skipped, end.missing_records), (5, 4, 1, 7));
}

#[test]
fn a_file_that_is_cut_off_is_never_taken_for_a_whole_one() {
    let (bytes, _) = written();
    for length in 0..bytes.len() {
        let error = read(&bytes[..length]).unwrap_err();
        let expected = match length {
            0..8 => matches!(error, CaptureError::Foreign),
            _ => matches!(error, CaptureError::CutOff { .. }),
        };
        assert!(expected, "{length}: {error}");
    }
}

#[test]
fn each_flipped_bit_is_seen() {
    let (bytes, _) = written();
    for at in 0..bytes.len() * 8 {
        // Two bytes of the head are reserved.
        if (80..96).contains(&at) {
            continue;
        }
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert!(read(&flipped).is_err(), "bit {at}");
    }
}

#[test]
fn what_is_no_capture_of_this_version_is_named() {
    let (bytes, _) = written();
    let newer = [&bytes[..8], &[2, 0], &bytes[10..]].concat();
    let twice = [&bytes[..], &[0]].concat();
    // The frame of the first batch is left out: the checksums are right, the counts are not.
    let frames = |bytes: &[u8]| -> Vec<usize> {
        let mut starts = vec![12];
        while *starts.last().unwrap() < bytes.len() {
            let at = *starts.last().unwrap();
            let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            starts.push(at + 9 + length as usize);
        }
        starts
    };
    let starts = frames(&bytes);
    let fewer = [&bytes[..starts[2]], &bytes[starts[3]..]].concat();
    let no_device = [&bytes[..starts[1]], &bytes[starts[2]..]].concat();
    for (bytes, word) in [
        (&b"GWLOGSEG and so on"[..], "no capture"),
        (&newer, "format 2"),
        (&twice, "after its end"),
        (&fewer, "counts other batches"),
        (&no_device, "does not fit"),
        (&bytes[..starts[3]], "cut off after 1 batches"),
    ] {
        let said = read(bytes).unwrap_err().to_string();
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn a_batch_keeps_its_shape_when_it_is_written_again() {
    let (bytes, _) = written();
    let (_, batches, _) = read(&bytes).unwrap();
    let mut encoder = BatchEncoder::new();
    for (_, _, body) in &batches {
        let batch = proto::Batch::open(body, &proto::Limits::unbounded()).unwrap();
        let same = transcode(body, batch.seq(), &mut encoder, |_, _| true);
        assert_eq!((encoder.body(), same), (&body[..], Ok(batch.len())));
        // One left out, the others a second later.
        let count = transcode(body, 9, &mut encoder, |index, reading| {
            if let Some(RawTime::Units(time)) = &mut reading.time {
                *time += 1_000_000_000;
            }
            index != 1
        });
        let again = proto::Batch::open(encoder.body(), &proto::Limits::unbounded()).unwrap();
        assert_eq!((Ok(again.len()), again.seq()), (count, 9));
    }
    assert!(transcode(b"\x80", 1, &mut encoder, |_, _| true).is_err());
}

#[test]
fn a_batch_is_found_again_at_its_place() {
    let (bytes, _) = written();
    let mut reader = Reader::open(&bytes[..]).unwrap();
    let (mut from, mut found) = (reader.offset(), 0);
    loop {
        let (arrival, body) = match reader.next().unwrap() {
            Record::Batch(head, body) => (head.arrival_us, body.to_vec()),
            Record::Device(_) => (0, vec![]),
            Record::End(_) => break,
        };
        let frame =
            &bytes[usize::try_from(from).unwrap()..usize::try_from(reader.offset()).unwrap()];
        from = reader.offset();
        if body.is_empty() {
            assert_eq!(batch_in(frame), None, "a device is no batch");
            continue;
        }
        let again = batch_in(frame).unwrap();
        assert_eq!((again.0.arrival_us, again.1), (arrival, &body[..]));
        for place in 0..frame.len() {
            let mut damaged = frame.to_vec();
            damaged[place] ^= 0x10;
            assert_eq!(batch_in(&damaged), None, "byte {place}");
            assert_eq!(batch_in(&frame[..place]), None);
        }
        found += 1;
    }
    assert_eq!(found, 2);
}
