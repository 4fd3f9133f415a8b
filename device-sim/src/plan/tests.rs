#![allow(clippy::unwrap_used)]

use super::*;
use crate::profile::Profile;

pub(crate) fn plan() -> Plan {
    Plan {
        run: 7,
        seed: 1,
        prefix: "sim-".to_owned(),
        kinds: vec![Kind::of(Profile::Environment)],
        devices: 4,
        stream: None,
        start_seq: 1,
        base_ns: 1_800_000_000_123_456_789,
        ramp_ns: 2_000_000_000,
        duration_ns: 10_000_000_000,
        load: vec![],
        faults: vec![],
        expect: vec![],
        shard: None,
        closed_loop: None,
        replay: None,
    }
}

#[test]
fn batches_are_due_at_fixed_times() {
    let plan = plan();
    assert_eq!(
        (0..4).map(|device| plan.connect_ns(device)).collect::<Vec<_>>(),
        [0, 500_000_000, 1_000_000_000, 1_500_000_000]
    );
    for device in 0..4 {
        let (first, interval_ns) = (plan.due_ns(device, 0), 1_000_000_000);
        assert!(first > plan.connect_ns(device));
        assert!(first <= plan.connect_ns(device) + interval_ns);
        assert_eq!(plan.due_ns(device, 5), first + 5 * interval_ns);
        let ticks = plan.ticks(device);
        assert!(plan.due_ns(device, ticks - 1) <= plan.duration_ns);
        assert!(plan.due_ns(device, ticks) > plan.duration_ns);
    }
}

#[test]
fn every_reading_of_a_device_has_a_time_of_its_own() {
    for (interval_ns, batch, unit) in [
        (1_000_000_000, 10, TimeUnit::Ms),
        (10_000_000, 10, TimeUnit::Ms),
        (10_000_000, 11, TimeUnit::Us),
        (333_333_333, 7, TimeUnit::Ms),
        (3_000_000, 5_000, TimeUnit::Ns),
    ] {
        let plan = paced(interval_ns, batch);
        assert_eq!(plan.time_unit(3), unit);
        let times: Vec<i64> = (0..20)
            .flat_map(|tick| (0..batch).map(move |index| (tick, index)))
            .map(|(tick, index)| plan.time_ns(3, tick, index))
            .collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{interval_ns} {batch}");
        let due = plan.base_ns + i64::try_from(plan.due_ns(3, 19)).expect("small");
        assert!(*times.last().expect("some") <= due, "never ahead of its own sending");
        let (first, last) = plan.time_range_ns();
        assert!(first <= times[0] && *times.last().expect("some") <= last + due);
    }
}

#[test]
fn streams_differ_between_devices_and_runs() {
    let (one, other) = (plan(), Plan { run: 8, ..plan() });
    assert_ne!(one.stream_of(0), one.stream_of(1));
    assert_ne!(one.stream_of(0), other.stream_of(0));
    assert_eq!(Plan { stream: Some(5), ..plan() }.stream_of(3), 5);
    assert!((0..100).all(|device| (1..=MAX_SEQ).contains(&one.stream_of(device))));
}

#[test]
fn impossible_plans_are_named() {
    assert_eq!(plan().check(), Ok(()));
    for (bad, word) in [
        (Plan { devices: 0, ..plan() }, "--devices"),
        (paced(1_000_000_000, 0), "--batch"),
        (paced(1_000_000_000, 5_001), "--batch"),
        (paced(5, 10), "--interval"),
        (Plan { duration_ns: 0, ..plan() }, "--duration"),
        (Plan { start_seq: 0, ..plan() }, "--start-seq"),
        (Plan { stream: Some(0), ..plan() }, "--stream"),
        (Plan { prefix: String::new(), ..plan() }, "--prefix"),
        (Plan { prefix: "a b".to_owned(), ..plan() }, "--prefix"),
        (Plan { prefix: "x".repeat(124), ..plan() }, "--prefix"),
    ] {
        let message = bad.check().expect_err(word);
        assert!(message.contains(word), "{message}");
    }
}

/// Another pace.
fn paced(interval_ns: u64, batch: u32) -> Plan {
    let kind = Kind { interval_ns, batch, ..Kind::of(Profile::Environment) };
    Plan { kinds: vec![kind], ..plan() }
}

fn stretch(trouble: Trouble, from_s: u64, lasts_s: u64, share: f64) -> Fault {
    let (from_ns, lasts_ns) = (from_s * 1_000_000_000, lasts_s * 1_000_000_000);
    Fault { trouble, from_ns, lasts_ns, share, spread_ns: 0, every_ns: None }
}

#[test]
fn kinds_have_their_shares_however_small_the_fleet() {
    let kind = |profile, weight| Kind { weight, ..Kind::of(profile) };
    let kinds = vec![kind(Profile::Environment, 3), kind(Profile::Vehicle, 1)];
    let plan = Plan { kinds, devices: 1_000, ..plan() };
    for (devices, least, most) in [(8, 1, 3), (100, 24, 26), (1_000, 249, 251)] {
        let is_vehicle = |device: &u32| plan.kind_of(*device).profile == Profile::Vehicle;
        let vehicles = (0..devices).filter(is_vehicle).count();
        assert!((least..=most).contains(&vehicles), "{vehicles} of {devices}");
    }
}

#[test]
fn faults_strike_their_share_at_their_time() {
    let plan = Plan {
        devices: 1_000,
        faults: vec![
            stretch(Trouble::Deaf, 2, 3, 0.25),
            Fault { every_ns: Some(2_000_000_000), ..stretch(Trouble::Drop, 1, 6, 0.5) },
        ],
        ..plan()
    };
    let deaf = |at_ns| (0..1_000).filter(|&d| plan.in_force(d, at_ns).count() == 1).count();
    assert_eq!([1_999_999_999, 5_000_000_000].map(deaf), [0, 0]);
    assert!([2_000_000_000, 4_999_999_999].map(deaf).iter().all(|n| n.abs_diff(250) <= 2));
    let mut struck = 0;
    for device in 0..1_000 {
        let mut moments = Vec::new();
        let mut last = None;
        while let Some(next) = plan.next_moment(device, last) {
            moments.push(next);
            last = Some(next);
        }
        if !moments.is_empty() {
            struck += 1;
            let at = [1, 3, 5, 7].map(|s| (s * 1_000_000_000, 1));
            assert_eq!(moments, at);
        }
    }
    assert!(i32::abs_diff(struck, 500) <= 2, "{struck}");
}

#[test]
fn the_turns_of_a_device_are_where_something_changes() {
    let zones = Some(DeadZones { every_ns: 1_500_000_000, lasts_ns: 700_000_000 });
    let kinds = vec![Kind { dead_zones: zones, ..Kind::of(Profile::Vehicle) }];
    let faults = vec![stretch(Trouble::Slow { bytes_per_s: 9 }, 3, 2, 1.0)];
    let plan = Plan { kinds, faults, ..plan() };
    for device in 0..4 {
        let state = |at_ns| (plan.absent(device, at_ns), plan.in_force(device, at_ns).count());
        let (mut at_ns, mut turns, mut dark_ns) = (0, 0, 0);
        while let Some(turn) = plan.next_turn(device, at_ns) {
            assert!(turn > at_ns);
            let middle = at_ns + (turn - at_ns) / 2;
            assert_eq!(state(at_ns), state(middle), "nothing changes between turns");
            assert_eq!(state(at_ns), state(turn - 1));
            dark_ns += if state(at_ns).0.is_some() { turn - at_ns } else { 0 };
            (at_ns, turns) = (turn, turns + 1);
        }
        assert_eq!(at_ns, plan.duration_ns);
        assert!(turns >= 12, "{turns}");
        assert!((2_000_000_000..5_000_000_000).contains(&dark_ns), "{dark_ns}");
    }
}

#[test]
fn wrong_clocks_never_show_the_time_of_another_reading() {
    let skew = |offset_s: i64| Trouble::ClockSkew { offset_ns: offset_s * 1_000_000_000 };
    let faults = vec![stretch(skew(-2), 2, 3, 1.0), stretch(skew(3), 6, 2, 1.0)];
    let plan = Plan { faults, ..plan() };
    assert_eq!(plan.check(), Ok(()));
    for device in 0..4 {
        let ticks = plan.ticks(device);
        let all = |clock: usize| {
            let mut times = Vec::new();
            for tick in (0..ticks).filter(|&tick| plan.clock_of(device, tick) == clock) {
                times.extend((0..10).map(|index| plan.time_ns(device, tick, index)));
            }
            times
        };
        let mut together = Vec::new();
        for clock in plan.clock_numbers() {
            let times = all(clock);
            assert!(!times.is_empty() && times.is_sorted_by(|a, b| a < b), "clock {clock}");
            together.extend(times);
        }
        let (first, last) = plan.time_range_ns();
        assert!(together.iter().all(|time| (first..=last).contains(time)));
        let count = together.len();
        together.sort_unstable();
        together.dedup();
        assert_eq!((together.len(), count), (count, ticks as usize * 10));
    }
}

#[test]
fn the_rate_changes_how_often_a_batch_is_due() {
    let phase = |from_s: u64, rate_milli| Phase { from_ns: from_s * 1_000_000_000, rate_milli };
    let load = vec![phase(4, 5_000), phase(6, 0), phase(8, 1_000)];
    let plan = Plan { load, ramp_ns: 0, ..plan() };
    assert_eq!(plan.check(), Ok(()));
    for device in 0..4 {
        let ticks = plan.ticks(device);
        let due: Vec<u64> = (0..ticks).map(|tick| plan.due_ns(device, tick)).collect();
        assert!(due.is_sorted_by(|a, b| a < b) && due.iter().all(|at| *at <= plan.duration_ns));
        assert!(plan.due_ns(device, ticks) > plan.duration_ns);
        let between = |from: u64, to: u64| {
            due.iter().filter(|at| (from * 1_000_000_000..to * 1_000_000_000).contains(*at)).count()
        };
        assert_eq!([between(0, 4), between(4, 6), between(8, 10)], [4, 10, 2], "{due:?}");
        assert!(between(6, 8) <= 1, "{due:?}");
        let times: Vec<i64> = (0..ticks)
            .flat_map(|tick| (0..10).map(move |index| (tick, index)))
            .map(|(tick, index)| plan.time_ns(device, tick, index))
            .collect();
        assert!(times.is_sorted_by(|a, b| a < b), "every reading has a time of its own");
    }
}

#[test]
fn impossible_faults_are_named() {
    let skew = |offset_s: i64| Trouble::ClockSkew { offset_ns: offset_s * 1_000_000_000 };
    let good = stretch(Trouble::Drop, 1, 2, 0.5);
    for (fault, word) in [
        (Fault { share: 1.5, ..good.clone() }, "share"),
        (Fault { from_ns: 10_000_000_000, ..good.clone() }, "at must be"),
        (Fault { spread_ns: 3_000_000_000, ..good.clone() }, "spread"),
        (Fault { every_ns: Some(0), ..good }, "every must be"),
        (Fault { every_ns: Some(9), ..stretch(Trouble::Deaf, 1, 2, 0.5) }, "every is for"),
        (stretch(Trouble::Poison { ratio: -0.1 }, 1, 2, 0.5), "ratio"),
        (stretch(Trouble::Slow { bytes_per_s: 0 }, 1, 2, 0.5), "bytes_per_s"),
        (stretch(skew(660), 1, 2, 0.5), "offset"),
        (stretch(skew(-400_000_000), 1, 2, 0.5), "offset"),
    ] {
        let bad = Plan { faults: vec![fault.clone()], ..plan() };
        let message = bad.check().expect_err(word);
        assert!(message.contains(word) && message.contains(fault.trouble.name()), "{message}");
    }
}

#[test]
fn what_the_gateway_must_refuse_is_known() {
    let skew = Trouble::ClockSkew { offset_ns: 86_400_000_000_000 };
    let faults = vec![
        stretch(Trouble::Poison { ratio: 0.2 }, 0, 4, 1.0),
        stretch(Trouble::BadBatch { ratio: 0.5 }, 4, 4, 1.0),
        stretch(skew, 8, 1, 1.0),
    ];
    let plan = Plan { faults, ramp_ns: 0, devices: 100, ..plan() };
    let (mut poison, mut bad, mut ahead) = (0, 0, 0);
    for device in 0..100 {
        for tick in 0..plan.ticks(device) {
            let seq = u64::from(tick) + 1;
            let (count, due_s) =
                (plan.refused_count(device, tick, seq), plan.due_ns(device, tick) / 1_000_000_000);
            let named = (0..10).filter(|&at| plan.refuses(device, tick, seq, at)).count();
            assert_eq!(named, count as usize);
            match due_s {
                0..4 => poison += count,
                4..8 => {
                    assert!(count == 0 || count == 10);
                    bad += count / 10;
                }
                8 => ahead += u32::from(count == 10),
                _ => assert_eq!(count, 0),
            }
        }
    }
    assert!(poison.abs_diff(800) < 100 && bad.abs_diff(200) < 40, "{poison} {bad}");
    assert_eq!(ahead, 100);
}

#[test]
fn what_is_due_while_the_plan_keeps_a_device_away_is_known() {
    const S: u64 = 1_000_000_000;
    let faults = vec![
        stretch(Trouble::Offline, 2, 1, 1.0),
        stretch(Trouble::BadCredential, 5, 1, 1.0),
        stretch(Trouble::Slow { bytes_per_s: 9 }, 7, 1, 1.0),
    ];
    let plan = Plan { faults, ramp_ns: 0, ..plan() };
    let away = |plan: &Plan| -> Vec<u64> {
        (0..plan.duration_ns / S).filter(|at| plan.is_kept_away(0, at * S + S / 2)).collect()
    };
    assert_eq!(away(&plan), [2, 5], "a link that is slow is one");
    let mut kinds = plan.kinds.clone();
    kinds[0].connect_every_ns = Some(4 * S);
    let visitors = Plan { kinds, faults: vec![], ..plan };
    assert_eq!(away(&visitors).len() as u64, visitors.duration_ns / S, "it waits for its visits");
}
