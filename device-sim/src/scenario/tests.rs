#![allow(clippy::unwrap_used)]

use super::*;
use crate::plan::Trouble;
use crate::profile::Profile;

const STORM: &str = r#"
shows = "What happens."
devices = 400
duration = "2m"
ramp = "10s"
profile = { environment = 3, vehicle = 1 }
outbox = 50
load = [{ at = "1m", rate = 2.5 }]
fault = [
    { kind = "drop", at = "30s", share = 0.5, every = "20s" },
    { kind = "slow", at = "40s", bytes_per_s = 1000 },
    { kind = "clock_skew", offset = "-3h", lasts = "30s" },
]
expect = ["acked_ratio==1", "lost==0"]
short = { scale = 0.1, speed = 10 }
"#;

fn prepare(text: &str, pace: Pace) -> Result<Playable> {
    toml::from_str::<Scenario>(text)?.prepare(pace, Path::new(""))
}

#[test]
fn a_file_becomes_a_plan() {
    let Playable { plan, of_the_run, drain_timeout } = prepare(STORM, Pace::default()).unwrap();
    assert_eq!(plan.check(), Ok(()));
    assert_eq!((plan.devices, plan.duration_ns, plan.ramp_ns), (400, 120 * S, 10 * S));
    assert_eq!(plan.kinds.len(), 2);
    assert_eq!((plan.kinds[0].weight, plan.kinds[0].outbox), (3, 50));
    assert_eq!(plan.kinds[1].interval_ns, 5 * S);
    assert_eq!(plan.load, [Phase { from_ns: 60 * S, rate_milli: 2_500 }]);
    let times = |fault: &Fault| (fault.from_ns, fault.lasts_ns, fault.spread_ns, fault.every_ns);
    assert_eq!(
        plan.faults.iter().map(times).collect::<Vec<_>>(),
        [(30 * S, 90 * S, 20 * S, Some(20 * S)), (40 * S, 80 * S, 0, None), (0, 30 * S, 0, None)]
    );
    assert_eq!(plan.expect, ["lost==0"], "verify judges it");
    assert_eq!(of_the_run.iter().map(ToString::to_string).collect::<Vec<_>>(), ["acked_ratio==1"]);
    assert_eq!(drain_timeout, Duration::from_secs(30));
}

#[test]
fn scale_and_speed_shorten_it() {
    let scenario: Scenario = toml::from_str(STORM).unwrap();
    let Playable { plan, .. } = scenario.prepare(scenario.short.unwrap(), Path::new("")).unwrap();
    assert_eq!((plan.devices, plan.duration_ns, plan.ramp_ns), (40, 12 * S, S));
    assert_eq!((plan.kinds[1].interval_ns, plan.load[0].from_ns), (S / 2, 6 * S));
    assert_eq!(plan.faults[1].trouble, Trouble::Slow { bytes_per_s: 10_000 });
    let Trouble::ClockSkew { offset_ns } = plan.faults[2].trouble else { panic!("another fault") };
    assert_eq!(offset_ns, -10_800_000_000_000, "the world's time goes on as it does");
}

#[test]
fn flags_say_the_same_as_a_file() {
    let flag: RawFault = "drop at=30s share=0.5 every=20s".parse().unwrap();
    let file: Scenario = toml::from_str(STORM).unwrap();
    let of_the_file = file.fault[0].prepare(Pace::default(), 120 * S).unwrap();
    assert_eq!(flag.prepare(Pace::default(), 120 * S).unwrap(), of_the_file);
    let skew: RawFault = "clock_skew offset=-3h share=1".parse().unwrap();
    assert!(skew.prepare(Pace::default(), S).is_ok());
    let phase: RawPhase = "1m=2.5".parse().unwrap();
    assert_eq!(phase.prepare(Pace::default()).unwrap().rate_milli, 2_500);
    let kinds = fleet("environment=3,vehicle").unwrap().kinds(Path::new("")).unwrap();
    assert_eq!(kinds[1].profile, Profile::Vehicle);
    assert_eq!(kinds.iter().map(|kind| kind.weight).collect::<Vec<_>>(), [3, 1]);
}

#[test]
fn every_mistake_is_named() {
    for (text, words) in [
        ("devises = 3", &["devises", "devices"][..]),
        ("duration = 20", &["duration = 20"]),
        ("duration = '20 parsecs'", &["duration", "parsecs"]),
        ("profile = 'weather'", &["weather", "environment, vehicle, vibration, meter"]),
        ("profile = { vehicle = 0 }", &["vehicle", "weight"]),
        ("profile = 'gone.toml'", &["cannot read the profile gone.toml"]),
        ("fault = [{ kind = 'fire' }]", &["fire", "half_open"]),
        ("fault = [{ kind = 'slow' }]", &["Slow", "bytes_per_s: is missing"]),
        ("fault = [{ kind = 'drop', ratio = 1 }]", &["Drop", "ratio: this fault has no such key"]),
        ("fault = [{ kind = 'drop', when = '1s' }]", &["when"]),
        ("fault = [{ kind = 'clock_skew', offset = 'late' }]", &["ClockSkew", "offset", "late"]),
        ("load = [{ at = '1s', rate = -1 }]", &["load", "rate"]),
        ("expect = ['lost']", &["expect", "lost"]),
        ("short = { pace = 2 }", &["pace"]),
    ] {
        let message = format!("{:#}", prepare(text, Pace::default()).unwrap_err());
        for word in words {
            assert!(message.contains(word), "{text}: {word:?} is not in {message}");
        }
    }
    for flag in ["", "fire", "drop at", "drop when=1s", "slow bytes_per_s=x"] {
        let read = flag.parse::<RawFault>().map(|fault| fault.prepare(Pace::default(), S));
        assert!(!matches!(read, Ok(Ok(_))), "{flag}");
    }
}

/// The files that come with the tool are well: what each shows stands in its first line, too.
#[test]
fn the_files_that_come_along_are_whole() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let (text, scenario) = (std::fs::read_to_string(&path).unwrap(), Scenario::read(&path));
        let scenario = scenario.unwrap();
        let shows = scenario.shows.as_deref().unwrap();
        assert_eq!(text.lines().next(), Some(format!("# {shows}").as_str()), "{path:?}");
        for pace in [Pace::default(), scenario.short.unwrap()] {
            let playable = scenario.prepare(pace, &folder).unwrap();
            assert_eq!(playable.plan.check(), Ok(()), "{path:?}");
            assert!(playable.plan.expect.contains(&"lost==0".to_owned()), "{path:?}");
            assert!(!playable.of_the_run.is_empty(), "{path:?}");
        }
        count += 1;
    }
    assert!(count >= 15, "{count}");
}
