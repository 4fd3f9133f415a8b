//! Keys from the environment.

use super::*;

#[test]
fn the_environment_overrides_the_file() {
    let file = "[server]\nlisten = \"0.0.0.0:1\"\nallowed_origins = [\"https://a\"]\n";
    let environment = [
        ("GATEWAY__SERVER__LISTEN", "127.0.0.1:2"),
        ("GATEWAY__SERVER__MAX_CONNECTIONS", "77"),
        ("GATEWAY__SERVER__ALLOWED_ORIGINS", "https://b, https://C:1"),
        ("GATEWAY__SERVER__PING_AFTER", "45"),
        ("GATEWAY__LOG__SEGMENT_BYTES", "1MiB"),
        ("GATEWAY__SINKS__STORE__REQUIRED", "false"),
        ("GATEWAY__ACK", "durable"),
        ("GATEWAY__DATA_DIR", "/srv/data"),
        // Of somebody else: Kubernetes makes such names for a service called "gateway".
        ("GATEWAY_PORT", "tcp://10.0.0.1:80"),
        ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
    ];
    let config = read_with(file, &environment).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.server.max_connections, 77);
    assert_eq!(config.server.allowed_origins, ["https://b", "https://c:1"]);
    assert_eq!(config.server.ping_after, Duration::from_secs(45));
    assert_eq!(config.log.segment_bytes, 1 << 20);
    assert!(!config.sinks[0].required);
    assert_eq!(config.sinks[0].when_full, valid::WhenFull::Skip);
    assert_eq!(config.data_dir, Path::new("/srv/data"));
}

#[test]
fn the_environment_reaches_into_lists() {
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key.pem");
    fs::write(&key, "-----BEGIN PUBLIC KEY-----\n").unwrap();
    let key = key.display().to_string();
    let file = format!("[[auth.jwt]]\nrealm = \"a\"\nkey_file = {key:?}\n");
    let environment =
        [("GATEWAY__AUTH__JWT__1__REALM", "b"), ("GATEWAY__AUTH__JWT__1__KEY_FILE", key.as_str())];
    let config = read_with(&file, &environment).unwrap();
    let realms: Vec<&str> = config.auth.jwt.iter().map(|root| root.realm.as_str()).collect();
    assert_eq!(realms, ["a", "b"]);
}

#[test]
fn a_wrong_environment_variable_is_named() {
    let table = [
        (
            ("GATEWAY__SERVER__LISSTEN", "x"),
            "environment variable GATEWAY__SERVER__LISSTEN: unknown key \"server.lissten\", did \
             you mean \"server.listen\" (GATEWAY__SERVER__LISTEN)?",
        ),
        (
            ("GATEWAY__SERVER__MAX_CONNECTIONS", "many"),
            "environment variable GATEWAY__SERVER__MAX_CONNECTIONS: \"server.max_connections\" \
             must be a whole number from 0 to 4294967295, not \"many\"",
        ),
        (("GATEWAY__SERVER", "x"), "GATEWAY__SERVER: \"server\" must be a table, not \"x\""),
        (("GATEWAY__ADMIN__LISTEN", "0.0.0.0:1"), "GATEWAY__ADMIN__LISTEN: \"admin.listen\" is 0"),
        (("GATEWAY__", "x"), "environment variable GATEWAY__: unknown key \"\""),
    ];
    for ((name, value), expected) in table {
        let message = complaint("", &[(name, value)]);
        assert!(message.contains(expected), "{message}\n  instead of {expected}");
    }
}
