//! A part of a fleet: several processes or hosts play one plan, each every N-th device of it.
//!
//! A device is the same in whichever process it runs: name, stream, schedule and values come from
//! the plan alone. So the journals and the reports of all shards together are those of one run.

use super::Plan;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Most shards of a run.
pub const MAX_SHARDS: u32 = 1_000;

/// Which part of the devices a process plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 1 to `of`.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl std::str::FromStr for Shard {
    type Err = String;

    /// `2/8`
    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || {
            format!(
                "{text:?} is not NUMBER/OF such as 2/8, from 1/8 to 8/8, of {MAX_SHARDS} at most"
            )
        };
        let (number, of) = text.split_once('/').ok_or_else(usage)?;
        let read = |text: &str| text.trim().parse::<u32>().map_err(|_| usage());
        let shard = Self { number: read(number)?, of: read(of)? };
        if shard.is_valid() { Ok(shard) } else { Err(usage()) }
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl Shard {
    pub(super) fn is_valid(self) -> bool {
        (1..=MAX_SHARDS).contains(&self.of) && (1..=self.of).contains(&self.number)
    }
}

impl Plan {
    fn part(&self) -> (u32, u32) {
        self.shard.map_or((0, 1), |Shard { number, of }| (number - 1, of))
    }

    /// The devices that this process plays.
    pub fn own_devices(&self) -> impl ExactSizeIterator<Item = u32> + use<> {
        let (first, of) = self.part();
        (first..self.devices.max(first)).step_by(of as usize)
    }

    /// How many devices this process plays.
    pub fn own_count(&self) -> u32 {
        u32::try_from(self.own_devices().len()).unwrap_or(u32::MAX)
    }

    /// Whether this process plays a device.
    pub fn plays(&self, device: u32) -> bool {
        let (first, of) = self.part();
        device < self.devices && device % of == first
    }

    /// The place of a device among those that this process plays.
    pub(crate) fn place_of(&self, device: u32) -> usize {
        (device / self.part().1) as usize
    }
}

/// The whole run that these shards are, with the files that their plans were read from.
///
/// # Errors
/// They are not all the shards of one run, each once; the sentence names the files.
pub fn whole_run(parts: &[(&Path, &Plan)]) -> Result<Plan, String> {
    let Some(&(first_path, first)) = parts.first() else { return Err("no shards".to_owned()) };
    let whole = Plan { shard: None, ..first.clone() };
    let mut seen: Vec<Option<&Path>> = Vec::new();
    for &(path, plan) in parts {
        let name = path.display();
        let Some(shard) = plan.shard else {
            return Err(format!("{name} is of a whole run, not of a shard"));
        };
        if let Some(difference) = difference(&whole, plan) {
            let first = first_path.display();
            return Err(format!("{name} belongs to another run than {first}: {difference}"));
        }
        if seen.is_empty() {
            seen.resize(shard.of as usize, None);
        } else if seen.len() != shard.of as usize {
            let (first, of) = (first_path.display(), seen.len());
            return Err(format!("{name} is shard {shard}, and {first} is one of {of}"));
        }
        if let Some(other) = seen[shard.number as usize - 1].replace(path) {
            return Err(format!("{} and {name} are both shard {shard}", other.display()));
        }
    }
    let missing: Vec<String> = (1..)
        .zip(&seen)
        .filter(|(_, path)| path.is_none())
        .map(|(number, _)| format!("{number}/{}", seen.len()))
        .collect();
    match missing.is_empty() {
        true => Ok(whole),
        false => Err(format!("shard {} is missing", missing.join(", "))),
    }
}

/// In what a shard's plan differs from that of another, apart from being another shard.
fn difference(whole: &Plan, plan: &Plan) -> Option<String> {
    let differ = |what: &str, a: &dyn std::fmt::Display, b: &dyn std::fmt::Display| {
        Some(format!("{what} {b}, not {a}"))
    };
    if plan.seed != whole.seed {
        return differ("--seed", &whole.seed, &plan.seed);
    }
    if plan.prefix != whole.prefix {
        return differ("--prefix", &whole.prefix, &plan.prefix);
    }
    if plan.devices != whole.devices {
        return differ("--devices", &whole.devices, &plan.devices);
    }
    if (plan.run, plan.base_ns) != (whole.run, whole.base_ns) {
        return Some("they have not the same --start".to_owned());
    }
    if let (Some(one), Some(other)) = (&whole.replay, &plan.replay)
        && one.fingerprint != other.fingerprint
    {
        return Some("they play different captures".to_owned());
    }
    let same = Plan { shard: None, ..plan.clone() } == *whole;
    (!same).then(|| "the profiles, the times, the load or the faults are others".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    fn shard(number: u32, of: u32) -> Plan {
        Plan { shard: Some(Shard { number, of }), devices: 10, ..plan() }
    }

    #[test]
    fn each_device_is_in_one_shard() {
        for of in [1, 2, 3, 7, 10] {
            let mut all: Vec<u32> = Vec::new();
            for number in 1..=of {
                let plan = shard(number, of);
                let own: Vec<u32> = plan.own_devices().collect();
                assert_eq!(own.len(), plan.own_count() as usize);
                assert!((0..11).all(|device| plan.plays(device) == own.contains(&device)));
                for (place, &device) in own.iter().enumerate() {
                    assert_eq!(plan.place_of(device), place);
                }
                all.extend(own);
            }
            all.sort_unstable();
            assert_eq!(all, (0..10).collect::<Vec<_>>());
        }
        assert_eq!(shard(12, 12).own_count(), 0);
        assert_eq!(plan().own_count(), 4);
    }

    #[test]
    fn a_shard_is_read_as_it_is_shown() {
        for text in ["1/1", "2/8", "1000/1000"] {
            assert_eq!(text.parse::<Shard>().unwrap().to_string(), text);
        }
        for text in ["", "2", "0/2", "3/2", "1/0", "1/1001", "a/2", "-1/2", "1/2/3"] {
            assert!(text.parse::<Shard>().unwrap_err().contains("such as 2/8"), "{text}");
        }
    }

    #[test]
    fn shards_that_do_not_belong_together_are_refused() {
        let (a, b) = (Path::new("a"), Path::new("b"));
        let refused = |first: Plan, second: Plan| {
            whole_run(&[(a, &first), (b, &second)]).expect_err("they do not belong together")
        };
        for (second, sentence) in [
            (shard(1, 2), "a and b are both shard 1/2"),
            (shard(2, 3), "b is shard 2/3, and a is one of 2"),
            (Plan { seed: 9, ..shard(2, 2) }, "b belongs to another run than a: --seed 9, not 1"),
            (Plan { run: 9, ..shard(2, 2) }, "not the same --start"),
            (Plan { base_ns: 9, ..shard(2, 2) }, "not the same --start"),
            (Plan { devices: 9, ..shard(2, 2) }, "--devices 9, not 10"),
            (Plan { prefix: "x".into(), ..shard(2, 2) }, "--prefix x, not sim-"),
            (Plan { ramp_ns: 9, ..shard(2, 2) }, "the times"),
            (plan(), "b is of a whole run"),
        ] {
            let said = refused(shard(1, 2), second);
            assert!(said.contains(sentence), "{said}");
        }
        assert_eq!(refused(shard(3, 4), shard(1, 4)), "shard 2/4, 4/4 is missing");
        let whole = whole_run(&[(a, &shard(2, 2)), (b, &shard(1, 2))]).unwrap();
        assert_eq!(whole, Plan { shard: None, ..shard(1, 2) });
    }
}
