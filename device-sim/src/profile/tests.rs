#![allow(clippy::unwrap_used)]

use super::*;

const NOON_NS: i64 = 1_800_014_400_000_000_000;

fn reading(seed: u64, device: u32, seq: u64, index: u32) -> Fields {
    at(&Profile::Environment, ReadingId { seed, device, seq, index }, NOON_NS)
}

fn at(profile: &Profile, id: ReadingId, time_ns: i64) -> Fields {
    let mut fields = Fields::new();
    profile.fields(id, time_ns, &mut fields);
    fields
}

fn number(fields: &Fields, name: &str) -> f64 {
    match fields.iter().find(|(other, _)| *other == name) {
        Some((_, RawValue::Float(x))) => *x,
        Some((_, RawValue::Int(n))) => *n as f64,
        other => panic!("{name} is {other:?}"),
    }
}

fn id(device: u32, seq: u64) -> ReadingId {
    ReadingId { seed: 5, device, seq, index: 0 }
}

#[test]
fn a_reading_depends_on_each_of_its_names_and_on_nothing_else() {
    let one = reading(1, 2, 3, 4);
    assert_eq!(one, reading(1, 2, 3, 4));
    for other in [reading(9, 2, 3, 4), reading(1, 9, 3, 4), reading(1, 2, 9, 4)] {
        assert_ne!(one, other);
    }
    assert_ne!(one, reading(1, 2, 3, 9));
}

/// Recomputed years later, or by another build, a journal must give the same values.
#[test]
fn values_are_fixed_for_ever() {
    assert_eq!(
        reading(1, 2, 3, 4),
        [
            ("temperature", RawValue::Float(21.9)),
            ("humidity", RawValue::Float(47.6)),
            ("pressure", RawValue::Float(1006.86)),
            ("battery", RawValue::Int(66)),
        ]
    );
    assert_eq!(
        Profile::Environment.tags(1, 2),
        [("site", "site-11".to_owned()), ("room", "cellar".to_owned())]
    );
}

#[test]
fn values_look_like_a_room() {
    let (mut whole, mut doors, mut texts) = (0, 0, 0);
    for seq in 0..2_000 {
        for (name, value) in reading(5, 6, seq, 0) {
            let number = match value {
                RawValue::Float(x) => x,
                RawValue::Int(n) => n as f64,
                RawValue::Bool(_) => {
                    doors += 1;
                    continue;
                }
                RawValue::Str(_) => {
                    texts += 1;
                    continue;
                }
                RawValue::UInt(_) => unreachable!("no value is that large"),
            };
            let range = match name {
                "temperature" => 10.0..32.0,
                "humidity" => 5.0..99.0,
                "pressure" => 1000.0..1030.0,
                "battery" => 0.0..101.0,
                other => panic!("unknown field {other}"),
            };
            assert!(range.contains(&number), "{name} = {number}");
            whole += u32::from(name == "temperature" && matches!(value, RawValue::Int(_)));
        }
    }
    assert!((50..500).contains(&whole), "{whole} whole temperatures");
    assert!((100..400).contains(&doors), "{doors} door contacts");
    assert!((40..200).contains(&texts), "{texts} status texts");
}

/// The values of every profile, so that none changes unseen.
#[test]
fn values_of_the_other_profiles_are_fixed_for_ever() {
    let id = ReadingId { seed: 1, device: 2, seq: 3, index: 4 };
    for (profile, minutes, golden) in [
        (Profile::Vehicle, 0, "east line-1 52.58785 13.3432 0 87.6 false"),
        (Profile::Vehicle, 35, "east line-1 52.57953 13.35259 37.3 86.9 true"),
        (Profile::Vibration, 0, "press-38 L4 0.96 -0.924 8.881"),
        (Profile::Meter, 0, "d069 home 64923.028 572 229.5"),
    ] {
        let tags = profile.tags(1, 2).into_iter().map(|(_, value)| value);
        let time_ns = NOON_NS + minutes * 60_000_000_000;
        let values = at(&profile, id, time_ns).into_iter().map(|(_, value)| match value {
            RawValue::Float(x) => x.to_string(),
            RawValue::Int(n) => n.to_string(),
            RawValue::Bool(b) => b.to_string(),
            other => format!("{other:?}"),
        });
        let found: Vec<String> = tags.chain(values).collect();
        assert_eq!(found.join(" "), golden, "{profile:?}");
    }
}

#[test]
fn a_vehicle_drives_without_jumps_and_stands_still_without_its_engine() {
    const S: i64 = 1_000_000_000;
    let (mut moving, mut still, mut fastest) = (0, 0, 0.0_f64);
    for device in 0..20 {
        let mut before: Option<Fields> = None;
        for second in (0..10_800).step_by(5) {
            let now = at(&Profile::Vehicle, id(device, 1), NOON_NS + second * S);
            let (speed, fuel) = (number(&now, "speed"), number(&now, "fuel"));
            assert!((0.0..100.0).contains(&fuel) && (0.0..160.0).contains(&speed), "{now:?}");
            fastest = fastest.max(speed);
            if let Some(before) = before {
                let north = number(&now, "latitude") - number(&before, "latitude");
                let east = number(&now, "longitude") - number(&before, "longitude");
                let km = 111.2 * (north * north + (east * 0.63) * (east * 0.63)).sqrt();
                // In five seconds; positions are rounded to about a metre.
                assert!(km < 160.0 * 5.0 / 3600.0 + 0.003, "{km} km within five seconds");
                let used = number(&before, "fuel") - fuel;
                assert!(
                    !(-50.0..=-0.2).contains(&used),
                    "fuel only grows when it is filled up: {used}"
                );
                if now.contains(&("ignition", RawValue::Bool(false))) {
                    still += 1;
                    assert_eq!(speed, 0.0);
                    let before_too = before.contains(&("ignition", RawValue::Bool(false)));
                    assert!(!before_too || km == 0.0, "it does not drift");
                } else {
                    moving += 1;
                }
            }
            before = Some(now);
        }
    }
    assert!(moving > 5_000 && still > 5_000, "{moving} moving, {still} still");
    assert!(fastest > 50.0, "{fastest}");
}

#[test]
fn a_meter_only_counts_up() {
    for device in 0..10 {
        let mut before = 0.0;
        for minute in 0..3_000 {
            let time_ns = NOON_NS + minute * 60_000_000_000;
            let fields = at(&Profile::Meter, id(device, minute.unsigned_abs()), time_ns);
            let energy = number(&fields, "energy_kwh");
            assert!(energy >= before, "{before} {energy}");
            assert!(minute == 0 || energy - before < 0.1, "{before} {energy}");
            before = energy;
            assert!((220.0..240.0).contains(&number(&fields, "voltage")));
            assert!((0.0..4_000.0).contains(&number(&fields, "power_w")));
        }
    }
}

#[test]
fn a_machine_vibrates_and_a_worn_one_knocks() {
    let strongest = |device| {
        (0..1_000).fold(0.0_f64, |strongest, ms| {
            let fields = at(&Profile::Vibration, id(device, 1), NOON_NS + ms * 1_000_000);
            assert!((5.0..16.0).contains(&number(&fields, "z")), "{fields:?}");
            strongest.max(number(&fields, "x").abs())
        })
    };
    let all: Vec<f64> = (0..60).map(strongest).collect();
    assert!(all.iter().all(|x| (0.2..6.0).contains(x)), "{all:?}");
    let worn = all.iter().filter(|x| **x > 1.6).count();
    assert!((1..20).contains(&worn), "{worn} of 60 are worn");
}
