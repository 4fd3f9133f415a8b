//! Which names and addresses the gateway's own certificate covers.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

/// Most names and addresses of one certificate; a machine with many container networks has more
/// addresses than any device uses.
const MAX_HOSTS: usize = 100;

/// A DNS name (a leading `*.` is allowed) or an address, without a port.
pub fn is_host(host: &str) -> bool {
    if host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // All digits and dots is a mistyped address, not a name.
    host.len() <= 253
        && name.split('.').all(label)
        && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// `localhost`, the machine's name, its addresses, and `extra`; without duplicates, at most 100,
/// those that were asked for first.
pub fn wanted(extra: &[String]) -> BTreeSet<String> {
    let mut hosts = BTreeSet::new();
    let always = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let candidates = always
        .into_iter()
        .chain(extra.iter().filter(|host| is_host(host)).map(|host| normal(host)))
        .chain(machine_name().map(|name| normal(&name)))
        .chain(addresses().into_iter().map(|address| address.to_string()));
    for host in candidates {
        if hosts.len() < MAX_HOSTS {
            hosts.insert(host);
        }
    }
    hosts
}

/// The form in which two spellings of one host are equal.
fn normal(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => host.to_ascii_lowercase(),
    }
}

fn machine_name() -> Option<String> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let from_file = files.iter().find_map(|file| fs::read_to_string(file).ok());
    let name = from_file.or_else(|| std::env::var("HOSTNAME").ok())?.trim().to_owned();
    is_host(&name).then_some(name)
}

/// Addresses of the interfaces, without loopback and link-local ones.
fn addresses() -> BTreeSet<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut addresses: BTreeSet<IpAddr> =
        local_v4(&v4).into_iter().map(IpAddr::V4).chain(local_v6(&v6).map(IpAddr::V6)).collect();
    addresses.extend(towards(Ipv4Addr::new(192, 0, 2, 1).into()));
    addresses.extend(towards(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()));
    addresses.retain(|address| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    });
    addresses
}

/// The address from which packets to `remote` would leave. Connecting a UDP socket sends nothing.
fn towards(remote: IpAddr) -> Option<IpAddr> {
    let local: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).ok()?;
    socket.connect((remote, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// The kernel's table of routes: an address, and on the next line `/32 host LOCAL` if it is ours.
fn local_v4(table: &str) -> Vec<Ipv4Addr> {
    let mut last: Option<Ipv4Addr> = None;
    let mut ours = Vec::new();
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line == "/32 host LOCAL" {
            ours.extend(last.take());
        }
    }
    ours
}

/// One address a line: 32 hexadecimal digits first.
fn local_v6(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    table
        .lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_hosts_from_other_texts() {
        let good =
            ["localhost", "a", "gw-1.example.com", "*.example.com", "10.0.0.1", "::1", "my_host"];
        for host in good {
            assert!(is_host(host), "{host} was refused");
        }
        let bad = [
            "",
            ".",
            "a..b",
            "a.b.",
            "-a",
            "a-",
            "host:8443",
            "10.0.0.256",
            "[::1]",
            "https://a",
            "a b",
            "ü.de",
            "*",
            "a.*.b",
        ];
        for host in bad {
            assert!(!is_host(host), "{host} was taken");
        }
    }

    #[test]
    fn reads_the_kernels_tables() {
        let v4 = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.1.0.0\n        /16 link UNICAST\n     \
                  |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.1.255.255\n        /32 link \
                  BROADCAST\n";
        assert_eq!(local_v4(v4), [Ipv4Addr::new(10, 1, 2, 3)]);
        let v6 = "fd000000000000000000000000000002 04 40 00 82     eth0\ngarbage\n";
        let expected: Vec<Ipv6Addr> = ["fd00::2".parse().unwrap_or(Ipv6Addr::LOCALHOST)].into();
        assert_eq!(local_v6(v6).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_was_asked_for_is_always_covered() {
        let extra: Vec<String> = (0..90).map(|i| format!("Host-{i}.example.com")).collect();
        let hosts = wanted(&extra);
        assert!(hosts.len() <= MAX_HOSTS);
        for host in ["localhost", "127.0.0.1", "::1", "host-0.example.com", "host-89.example.com"] {
            assert!(hosts.contains(host), "{host} is missing");
        }
    }
}
