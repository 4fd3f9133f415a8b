//! Whether a plan can be played.

use super::{MAX_DEVICES, MAX_DURATION_NS, MAX_FAULTS, MAX_IN_FLIGHT, MAX_KINDS, Plan, load};
use proto::MAX_SEQ;

impl Plan {
    /// Says what is wrong with the numbers, for a person.
    ///
    /// # Errors
    /// A number is outside its limits, or readings would not have distinct times.
    pub fn check(&self) -> Result<(), String> {
        let longest = proto::limits::MAX_DEVICE_ID_BYTES;
        if !(1..=MAX_DEVICES).contains(&self.devices) {
            return Err(format!("--devices must be 1 to {MAX_DEVICES}"));
        }
        if !(1..=MAX_DURATION_NS).contains(&self.duration_ns) || self.ramp_ns > MAX_DURATION_NS {
            return Err("--duration and --ramp must be at most a year".to_owned());
        }
        if let Some(shard) = self.shard
            && (!shard.is_valid() || self.own_count() == 0)
        {
            let devices = self.devices;
            return Err(format!("--shard {shard} has no device: there are {devices}"));
        }
        self.check_closed_loop()?;
        self.check_load()?;
        if !(1..=MAX_SEQ / 2).contains(&self.start_seq)
            || self.stream.is_some_and(|stream| !(1..=MAX_SEQ).contains(&stream))
        {
            return Err("--start-seq and --stream must be 1 to 2^53-1".to_owned());
        }
        if self.prefix.is_empty() || self.device_id(self.devices - 1).len() > longest {
            return Err(format!("--prefix must not be empty, a device id at most {longest} bytes"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:@%/=+-".contains(c);
        if !self.prefix.chars().all(allowed) {
            return Err("--prefix may hold A-Z a-z 0-9 _ . : @ % / = + - only".to_owned());
        }
        if self.faults.len() > MAX_FAULTS {
            return Err(format!("at most {MAX_FAULTS} faults in a run"));
        }
        self.check_replay()?;
        self.faults.iter().try_for_each(|fault| fault.check(self.duration_ns))
    }

    fn check_replay(&self) -> Result<(), String> {
        let altering = || self.faults.iter().find(|fault| fault.trouble.is_in_the_data());
        if self.replay.is_some()
            && let Some(fault) = altering()
        {
            return Err(format!(
                "fault {} alters what is sent, and a replay sends what its capture holds: it goes \
                 with `run` only",
                fault.trouble.name()
            ));
        }
        Ok(())
    }

    fn check_closed_loop(&self) -> Result<(), String> {
        let Some(in_flight) = self.closed_loop else { return Ok(()) };
        if !(1..=MAX_IN_FLIGHT).contains(&in_flight) {
            return Err(format!("--closed-loop must be 1 to {MAX_IN_FLIGHT} batches"));
        }
        let visits = self.kinds.iter().any(|kind| kind.connect_every_ns.is_some());
        if visits || !self.load.is_empty() || !self.faults.is_empty() {
            return Err(
                "--closed-loop has no schedule: neither load, faults nor connect_every go \
                        with it"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn check_load(&self) -> Result<(), String> {
        if !(1..=MAX_KINDS).contains(&self.kinds.len()) {
            return Err(format!("a fleet has 1 to {MAX_KINDS} profiles"));
        }
        load::check(&self.load)?;
        let highest = u128::from(load::highest(&self.load));
        for kind in &self.kinds {
            kind.check()?;
            let step = u128::from(kind.step_ns()) * u128::from(load::NORMAL) / highest;
            if step / (self.clock_numbers().len() as u128) == 0 {
                return Err("--interval is too short for that many readings at that rate".into());
            }
            let batches = u128::from(self.duration_ns) * highest
                / (u128::from(kind.interval_ns) * u128::from(load::NORMAL));
            if u32::try_from(batches + 1).is_err() {
                let cause = match self.closed_loop {
                    Some(_) => {
                        "--duration is too long for --closed-loop: an hour and 11 minutes \
                                for each reading of a batch are the most"
                    }
                    None => "--interval is too short for that --duration",
                };
                return Err(cause.to_owned());
            }
        }
        Ok(())
    }
}
