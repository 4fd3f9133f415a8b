//! Which batch of a capture is due when, and which times its readings have.

use super::*;
use crate::plan::tests::plan;
use capture_file::{BatchHead, EndedBy, Header, Writer};

const S: u64 = 1_000_000_000;

/// Two devices: batches at 10 s and 12.5 s, and at 11 s; readings from half a second before.
fn of_a_file(copies: u32, speed: f64) -> (tempfile::NamedTempFile, Replay) {
    let header = Header {
        tool: "test".into(),
        from_ns: 0,
        share: [1, 1],
        kept_tags: vec![],
        kept_fields: vec![],
        blanked_fields: vec![],
    };
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    let mut encoder = BatchEncoder::new();
    for (device, arrival_ms) in [(0, 10_000), (1, 11_000), (0, 12_500)] {
        if writer.counts().devices == device {
            writer.device(["one", "two"][device as usize], "realm").unwrap();
        }
        let time = arrival_ms * 1_000_000 - 500_000_000;
        let (stream, skipped, left_out, measurement) = (0, 0, 0, "");
        let arrival_us = u64::try_from(arrival_ms).unwrap() * 1_000;
        let readings = 2;
        let head =
            BatchHead { device, arrival_us, stream, skipped, readings, left_out, measurement };
        encoder.readings(1, 2);
        let fields = [("x", proto::RawValue::Float(1.5))];
        encoder.reading(Some("m"), Some(time), &[], &fields);
        encoder.reading(Some("m"), None, &[], &fields);
        writer.batch(&head, encoder.body()).unwrap();
    }
    let (bytes, _) = writer.finish(0, EndedBy::CaughtUp).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let replay = Replay::open(file.path(), copies, speed, 6 * S).unwrap();
    (file, replay)
}

fn replay(copies: u32, speed: f64) -> Replay {
    of_a_file(copies, speed).1
}

fn played(replay: Replay) -> Plan {
    let (devices, duration_ns) = (replay.devices(), S + replay.duration_ns(false));
    Plan { devices, duration_ns, ramp_ns: S, replay: Some(replay), ..plan() }
}

#[test]
fn batches_are_due_as_they_came_each_copy_a_phase_later() {
    let plan = played(replay(3, 2.0));
    assert_eq!((plan.devices, plan.check()), (6, Ok(())));
    let ids: Vec<String> = (0..6).map(|device| plan.device_id(device)).collect();
    assert_eq!(ids[0..3], ["sim-one-1", "sim-two-1", "sim-one-2"]);
    assert!(ids.iter().all(|id| plan.has_device(id)));
    for other in ["sim-one-4", "sim-one-0", "sim-one-01", "sim-six-1", "one-1", "sim-one"] {
        assert!(!plan.has_device(other), "{other}");
    }
    // After the ramp; half of the distances; copies 3 s apart.
    let due = |device| -> Vec<u64> {
        let all = 0..plan.ticks(device);
        all.map(|tick| plan.due_ns(device, tick) * 1_000 / S).collect()
    };
    assert_eq!(due(0), [1_000, 2_250]);
    assert_eq!(due(1), [1_500]);
    assert_eq!(due(2), [4_000, 5_250]);
    assert_eq!(due(4), [7_000, 8_250]);
}

#[test]
fn times_keep_their_distances_and_laps_do_not_meet() {
    let mut replay = replay(1, 1.0);
    assert_eq!(replay.tape().length_ns, 3 * S);
    replay.loop_ns = Some(4 * S);
    let plan = played(replay);
    let replay = plan.replay.as_ref().unwrap();
    assert_eq!(plan.ticks(0), 3, "the second lap begins after 3 s, and ends after 4 s");
    let times = |tick| -> Vec<i64> {
        let (mut frame, mut times) = (vec![], vec![]);
        let played = replay.played((0, tick), &mut frame).unwrap();
        let mut each = |index, reading: &RawReading<'_>| {
            times.push(plan.replayed_ns(replay, 0, tick, index, reading) - plan.base_ns);
        };
        played.for_each(&mut each).unwrap();
        assert_eq!(plan.first_replayed_ns(replay, 0, tick) - plan.base_ns, times[0]);
        times
    };
    assert_eq!(times(0), [500_000_000, 1_000_000_001]);
    assert_eq!(times(1), [3_000_000_000, 3_500_000_001]);
    assert_eq!(times(2), [3_500_000_001, 4_000_000_002], "a lap, and a nanosecond");
    let (first, last) = plan.time_range_ns();
    assert!((0..3).flat_map(times).all(|t| (first..=last).contains(&(t + plan.base_ns))));
}

#[test]
fn in_a_closed_loop_times_end_before_the_start_and_laps_lie_beside_each_other() {
    let mut replay = replay(1, 1.0);
    let plan = Plan { closed_loop: Some(2), ..played(replay.clone()) };
    assert_eq!((plan.ticks(0), plan.ticks(1)), (2, 1), "once");
    replay.loop_ns = Some(S);
    let plan = Plan { closed_loop: Some(2), ..played(replay) };
    let replay = plan.replay.as_ref().unwrap();
    let second = RawReading::default();
    let first = RawReading { time: Some(RawTime::Units(-500_000_000)), ..RawReading::default() };
    let times = |tick| {
        [(0, &first), (1, &second)]
            .map(|(index, of)| plan.replayed_ns(replay, 0, tick, index, of) - plan.base_ns)
    };
    assert_eq!(times(0), [-3_500_000_000, -2_999_999_999]);
    assert_eq!(times(2), [-3_499_999_999, -2_999_999_997], "one later, two later");
    let (from, to) = plan.time_range_ns();
    for tick in [0, 2, plan.ticks(0) - 2] {
        let within = |time: &i64| (from..=to).contains(&(time + plan.base_ns));
        assert!(times(tick).iter().all(within), "{tick}");
    }
}

#[test]
fn a_journal_of_another_capture_is_refused() {
    let mut of_a_run = replay(1, 1.0);
    let path = std::env::temp_dir().join("run.journal");
    assert!(of_a_run.reopen(&path, None).is_err(), "it is gone");
}

#[test]
fn a_file_that_changes_while_it_is_played_is_noticed() {
    let (file, replay) = of_a_file(1, 1.0);
    let mut frame = vec![];
    assert!(replay.played((0, 1), &mut frame).is_ok());
    let whole = std::fs::read(file.path()).unwrap();
    let mut bytes = whole.clone();
    let place = bytes.windows(8).rposition(|bytes| bytes == 1.5_f64.to_be_bytes()).unwrap();
    bytes[place] ^= 1;
    std::fs::write(file.path(), &bytes).unwrap();
    let said = |frame: &mut Vec<u8>| replay.played((0, 1), frame).err().map(|e| format!("{e:#}"));
    assert!(said(&mut frame).is_some_and(|said| said.contains("has changed since")));
    std::fs::write(file.path(), &whole[..place]).unwrap();
    assert!(said(&mut frame).is_some_and(|said| said.contains("cannot read the capture any more")));
}
