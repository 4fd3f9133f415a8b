//! Back-off for guessing, per address. It only ever turns one refusal into another: a valid
//! credential does not come here.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Failures of one address within [`TRIES_WINDOW`] that are still answered with 401.
pub const MAX_TRIES: u32 = 10;
/// The window in which failures are counted.
pub const TRIES_WINDOW: Duration = Duration::from_secs(60);
/// Most addresses that are remembered.
const MAX_ADDRESSES: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    addresses: Mutex<HashMap<IpAddr, Failures>>,
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Throttle {
    /// An address has failed. Returns when it may try again, if it has failed too often.
    pub(super) fn failed(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let from = network(from);
        if addresses.len() >= MAX_ADDRESSES && !addresses.contains_key(&from) {
            addresses.retain(|_, failures| !over(failures, now));
            // So many that fail at once: forgetting them costs less than the memory would.
            if addresses.len() >= MAX_ADDRESSES {
                addresses.clear();
            }
        }
        let failures = addresses.entry(from).or_insert(Failures { since: now, count: 0 });
        if over(failures, now) {
            *failures = Failures { since: now, count: 0 };
        }
        failures.count = failures.count.saturating_add(1);
        (failures.count > MAX_TRIES)
            .then(|| TRIES_WINDOW.saturating_sub(now.duration_since(failures.since)))
            .map(|left| left.max(Duration::from_secs(1)))
    }
}

fn over(failures: &Failures, now: Instant) -> bool {
    now.duration_since(failures.since) >= TRIES_WINDOW
}

/// An IPv6 host owns at least a /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn backs_off_after_so_many_and_forgets() {
        let throttle = Throttle::default();
        let start = Instant::now();
        let from: IpAddr = "192.0.2.7".parse().unwrap();
        for _ in 0..MAX_TRIES {
            assert_eq!(throttle.failed(from, start), None);
        }
        let wait = throttle.failed(from, start + Duration::from_secs(10)).unwrap();
        assert_eq!(wait, Duration::from_secs(50));
        assert_eq!(throttle.failed("192.0.2.8".parse().unwrap(), start), None);
        assert_eq!(throttle.failed(from, start + TRIES_WINDOW), None);
    }

    #[test]
    fn an_ipv6_network_counts_as_one() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for host in 0..MAX_TRIES {
            let from = format!("2001:db8::{host:x}").parse().unwrap();
            assert_eq!(throttle.failed(from, now), None);
        }
        assert!(throttle.failed("2001:db8::ffff".parse().unwrap(), now).is_some());
    }

    #[test]
    fn remembers_a_bounded_number() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for n in 0..(MAX_ADDRESSES as u32 + 10) {
            throttle.failed(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(throttle.addresses.lock().unwrap().len() <= MAX_ADDRESSES);
    }
}
