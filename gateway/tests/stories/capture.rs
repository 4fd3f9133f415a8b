//! `gateway capture`: a sample of what was accepted, in which nobody is named.

use super::support::{
    Home, PATIENCE,
    device::{Device, now_ms},
    eventually,
};
use capture_file::{BatchHead, End, EndedBy, Reader, Record};
use proto::{Batch, BatchEncoder, Limits, RawReading, RawTime, RawValue};
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

/// What must not be in a file, whole.
const SECRETS: [&str; 5] = ["pump-secret", "SN-4711", "Mill Lane 9", "backyard-wifi", "51.5007"];

/// Readings of a device; `extra` is a third one.
fn batch(seq: u64, number: u32, extra: RawValue<'_>) -> Vec<u8> {
    let (serial, own) = (format!("SN-4711-{number}"), format!("room of pump-secret-{number}"));
    let tags = [("serial", serial.as_str()), ("site", "north")];
    let time = now_ms() - 60_000 + 3 * i64::try_from(seq).unwrap();
    let fields = [
        ("temperature", RawValue::Float(20.25 + f64::from(number))),
        ("count", RawValue::Int(7)),
        ("ssid", RawValue::Str("backyard-wifi")),
        ("state", RawValue::Str("open")),
        ("Latitude", RawValue::Float(51.5007)),
    ];
    let mut encoder = BatchEncoder::new();
    encoder.readings(seq, 3).reading(Some("room"), Some(time), &tags, &fields);
    encoder.reading(Some(&own), Some(time + 1), &[], &[("address", RawValue::Str("Mill Lane 9"))]);
    encoder.reading(Some("room"), Some(time + 2), &tags, &[("temperature", extra)]);
    encoder.finish().to_vec()
}

struct Found {
    end: End,
    /// Device, stream, skipped, readings, left out.
    batches: Vec<(u32, u16, u32, u32, u32)>,
    bodies: Vec<Vec<u8>>,
    names: Vec<String>,
}

fn read(path: &Path) -> Found {
    let mut reader = Reader::open(std::fs::File::open(path).unwrap()).unwrap();
    let (mut batches, mut bodies, mut names) = (vec![], vec![], vec![]);
    loop {
        match reader.next().unwrap() {
            Record::Device(device) => names.push(device.name),
            Record::Batch(head, body) => {
                let BatchHead { device, stream, skipped, readings, left_out, .. } = head;
                batches.push((device, stream, skipped, readings, left_out));
                bodies.push(body.to_vec());
            }
            Record::End(end) => return Found { end, batches, bodies, names },
        }
    }
}

fn assert_nobody_is_named(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    let exact = 51.5007_f64.to_be_bytes();
    for secret in SECRETS.map(str::as_bytes).into_iter().chain([&exact[..]]) {
        let found = bytes.windows(secret.len()).any(|window| window == secret);
        assert!(!found, "{}", String::from_utf8_lossy(secret));
    }
}

fn out(home: &Home, name: &str) -> (PathBuf, String) {
    let path = home.path().join(name);
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

#[tokio::test]
async fn a_sample_holds_what_was_accepted_and_names_nobody() {
    let home = Home::new();
    let gateway = home.start();
    for number in 0..4 {
        for (seq, extra) in
            [(1, RawValue::Float(f64::NAN)), (2, RawValue::Float(1.5)), (5, RawValue::Float(2.5))]
        {
            // The first batch of a connection may skip numbers.
            let id = format!("pump-secret-{number}");
            let mut device = Device::connect(&home, &gateway, &id).await;
            device.hello_stream(7).await;
            device.send(&batch(seq, number, extra)).await;
            if seq == 1 {
                device.nack().await;
            }
            device.acked(seq).await;
        }
    }
    let mut other = Device::connect(&home, &gateway, "valve-1").await;
    other.hello_stream(7).await;
    other.send(&batch(1, 9, RawValue::Float(1.5))).await;
    other.acked(1).await;

    let (path, file) = out(&home, "half.capture");
    let half = ["--device", "pump-*", "--share", "1/2", "--since", "1h", "--out", &file];
    let (code, said) = home.gateway("capture", &half);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("2 devices, 6 batches, 16 readings"), "{said}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_nobody_is_named(&path);
    let found = read(&path);
    assert_eq!((found.end.left_out, found.end.skipped), (2, 4));
    assert_eq!(found.end.ended_by, EndedBy::CaughtUp);
    let of_each = [(0, 0, 2, 1), (0, 0, 3, 0), (0, 2, 3, 0)];
    let of_both = [0, 1].map(|device| of_each.map(|(s, k, r, l)| (device, s, k, r, l)));
    assert_eq!(found.batches, of_both.concat());
    assert_ne!(found.names[0], found.names[1]);
    assert_readings(&found.bodies);

    // What is there is not overwritten; what finds nothing leaves nothing.
    let before = std::fs::read(&path).unwrap();
    let (code, said) = home.gateway("capture", &half);
    assert!(code == 1 && said.contains("exists"), "{code} {said}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let (path, file) = out(&home, "none.capture");
    let none = ["--device", "nobody-*", "--since", "1h", "--out", &file];
    let (code, said) = home.gateway("capture", &none);
    assert!(code == 1 && said.contains("no batch of such a device"), "{code} {said}");
    assert!(!path.exists());

    // Another key, all pumps, and what the operator wants to be kept.
    let (path, file) = out(&home, "all.capture");
    let mut all = vec!["--device", "pump-*", "--since", "1h", "--out", &file, "--keep-tag", "site"];
    all.extend(["--keep-field", "state", "--keep-field", "Latitude", "--blank-field", "count"]);
    let (code, said) = home.gateway("capture", &all);
    assert!(code == 0 && said.contains("4 devices, 12 batches"), "{said}");
    let again = read(&path);
    assert!(again.names.iter().all(|name| !found.names.contains(name)));
    let bytes = std::fs::read(&path).unwrap();
    let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(has(b"north") && has(b"open") && has(&51.5007_f64.to_be_bytes()));
    assert!(!has(b"SN-4711") && !has(b"pump-secret"));
}

/// Numbers, distances and names are as they were; texts, tags and positions are not.
fn assert_readings(bodies: &[Vec<u8>]) {
    let (mut serials, mut texts) = (std::collections::BTreeSet::new(), vec![]);
    for body in bodies {
        let batch = Batch::open(body, &Limits::unbounded()).unwrap();
        let (mut readings, mut reading) = (batch.readings(), RawReading::default());
        readings.next(&mut reading).unwrap().unwrap().unwrap();
        assert_eq!(reading.measurement, Some("room"));
        let RawReading { tags, fields, time, .. } = &reading;
        assert_eq!(tags.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["serial", "site"]);
        serials.insert(tags[0].1.to_owned());
        assert!(matches!(fields[0].1, RawValue::Float(x) if x >= 20.25 && x.fract() == 0.25));
        assert_eq!(fields[1], ("count", RawValue::Int(7)));
        let RawValue::Str(state) = fields[3].1 else { panic!("{fields:?}") };
        texts.push(state.to_owned());
        assert_eq!(fields[4], ("Latitude", RawValue::Float(0.0)));
        let Some(RawTime::Units(first)) = *time else { panic!("{time:?}") };
        readings.next(&mut reading).unwrap().unwrap().unwrap();
        assert_eq!(reading.time, Some(RawTime::Units(first + 1_000_000)));
        assert!(reading.measurement.is_some_and(|name| !name.contains("room")));
    }
    assert_eq!(serials.len(), 2, "one for each device");
    assert!(texts.iter().all(|text| text == &texts[0] && text.len() == 12), "{texts:?}");
}

fn following(home: &Home, file: &str, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command.args(["capture", "--device", "*", "--out", file]).args(more);
    command.env("GATEWAY__DATA_DIR", home.data()).stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

fn ends(mut child: Child) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "the capture does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn a_capture_goes_on_when_the_gateway_is_killed() {
    let home = Home::new();
    let gateway = home.start();
    let (path, file) = out(&home, "live.capture");
    let capture = following(&home, &file, &["--follow", "--since", "1h"]);
    for seq in 1..=2 {
        let mut device = Device::connect(&home, &gateway, "pump-secret-1").await;
        device.hello_stream(7).await;
        device.send(&batch(seq, 1, RawValue::Float(1.5))).await;
        device.acked(seq).await;
    }
    let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    eventually("both are in the file", || bytes(&path) > 1_000);
    gateway.kill();
    let before = bytes(&path);
    let gateway = home.start();
    let mut device = Device::connect(&home, &gateway, "pump-secret-1").await;
    device.hello_stream(7).await;
    device.send(&batch(3, 1, RawValue::Float(1.5))).await;
    device.acked(3).await;
    eventually("the third is in the file", || bytes(&path) > before);
    let pid = i32::try_from(capture.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    ends(capture);
    let found = read(&path);
    assert_eq!(found.batches, [(0, 0, 0, 3, 0); 3]);
    assert_eq!((found.end.ended_by, found.end.missing_records), (EndedBy::Interrupted, 0));
    assert_nobody_is_named(&path);

    // Its size has a limit, which ends it in good order, too.
    let (path, file) = out(&home, "small.capture");
    let capture = following(&home, &file, &["--follow", "--since", "1h", "--limit", "64KiB"]);
    for seq in 4..=300 {
        device.send(&batch(seq, 1, RawValue::Float(1.5))).await;
        device.acked(seq).await;
    }
    ends(capture);
    assert!(bytes(&path) <= 64 * 1024, "{}", bytes(&path));
    let found = read(&path);
    assert_eq!(found.end.ended_by, EndedBy::Limit);
    assert!(found.batches.len() > 50, "{}", found.batches.len());
}
