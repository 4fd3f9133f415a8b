//! What a person needs right after the start.

use crate::{
    config::valid::{Config, SinkKind, Tls},
    data_dir::DataDir,
};
use std::{fmt::Write, net::SocketAddr, path::Path};

/// The lines that `gateway run` prints once it takes connections: where operators look, where
/// devices connect, and the commands for a token, a simulated fleet and a look into the store.
/// The addresses are the bound ones.
pub fn startup_banner(
    config: &Config,
    dir: &DataDir,
    devices: SocketAddr,
    operators: SocketAddr,
) -> String {
    let url = format!("wss://{}/v1/telemetry", reachable(devices));
    let ca = match &config.tls {
        Tls::Own { .. } => Some(dir.ca_file()),
        Tls::Files { .. } => None,
    };
    let mut lines =
        vec![("console", format!("http://{}/", reachable(operators))), ("devices", url.clone())];
    if let Some(ca) = &ca {
        lines.push(("CA", format!("{} (devices trust this file)", shown(ca))));
    }
    if config.auth.own_key {
        let mut token = "gateway token --device my-device".to_owned();
        if dir.path != Path::new("data") {
            let _ = write!(token, " --data-dir {}", quoted(&dir.path));
        }
        lines.push(("token", token));
        let mut simulator = format!("device-sim run --url {url}");
        if let Some(ca) = &ca {
            let _ = write!(simulator, " --ca {}", quoted(ca));
        }
        let _ = write!(simulator, " --token-key {} --devices 200", quoted(&dir.token_key_file()));
        lines.push(("fleet", simulator));
    }
    for sink in &config.sinks {
        let line = match &sink.kind {
            SinkKind::Store { path, .. } => {
                format!("sqlite3 -readonly {} 'SELECT * FROM readings LIMIT 10'", quoted(path))
            }
            SinkKind::InfluxDb(of) => format!("{} (bucket {})", of.url, of.bucket),
            SinkKind::Mqtt(of) => {
                format!("the broker {}:{} (topic {})", of.broker.host, of.broker.port, of.topic)
            }
        };
        lines.push(("store", line));
    }
    lines.iter().fold(String::from("gateway is ready\n"), |mut text, (what, line)| {
        let _ = writeln!(text, "  {what:<8} {line}");
        text
    })
}

/// An address that works on this machine.
fn reachable(address: SocketAddr) -> String {
    if address.ip().is_unspecified() || address.ip().is_loopback() {
        format!("localhost:{}", address.port())
    } else {
        address.to_string()
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// As one word of a shell command.
fn quoted(path: &Path) -> String {
    let text = shown(path);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@%:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Overrides, load};

    fn banner(data_dir: &str, devices: &str) -> String {
        let overrides = Overrides { data_dir: Some(data_dir.into()), ..Overrides::default() };
        let config = load(None, [], overrides).unwrap();
        let operators = config.admin.listen;
        startup_banner(&config, &DataDir::new(data_dir), devices.parse().unwrap(), operators)
    }

    #[test]
    fn says_what_a_person_needs_next() {
        assert_eq!(
            banner("data", "0.0.0.0:8443"),
            "gateway is ready\n\
             \x20 console  http://localhost:8080/\n\
             \x20 devices  wss://localhost:8443/v1/telemetry\n\
             \x20 CA       data/ca.pem (devices trust this file)\n\
             \x20 token    gateway token --device my-device\n\
             \x20 fleet    device-sim run --url wss://localhost:8443/v1/telemetry --ca data/ca.pem \
             --token-key data/keys/token.pem --devices 200\n\
             \x20 store    sqlite3 -readonly data/telemetry.db 'SELECT * FROM readings LIMIT 10'\n"
        );
    }

    #[test]
    fn paths_and_addresses_can_be_pasted_into_a_shell() {
        let text = banner("/srv/it's data", "10.0.0.1:9000");
        assert!(text.contains("wss://10.0.0.1:9000/v1/telemetry"), "{text}");
        assert!(text.contains(r"--ca '/srv/it'\''s data/ca.pem'"), "{text}");
        assert!(text.contains(r"my-device --data-dir '/srv/it'\''s data'"), "{text}");
    }
}
