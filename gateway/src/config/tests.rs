#![allow(clippy::unwrap_used)]

mod environment;

use super::*;
use proptest::strategy::Strategy;
use std::{collections::BTreeSet, fs, time::Duration};

fn read(text: &str) -> Result<Config, ConfigError> {
    read_with(text, &[])
}

fn read_with(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    parse(text, Path::new("gateway.toml"), environment, Overrides::default())
        .map(|(_, config)| config)
}

fn complaint(text: &str, environment: &[(&str, &str)]) -> String {
    match read_with(text, environment) {
        Ok(_) => panic!("was taken: {text} {environment:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_documented_configuration_is_the_default_one() {
    let documented = parse(DOCUMENTED, Path::new(""), [], Overrides::default()).unwrap();
    let nothing = parse("", Path::new(""), [], Overrides::default()).unwrap();
    assert_eq!(documented.0, nothing.0);
    assert_eq!(documented.1, nothing.1);
}

/// The document with its examples taken in is the only place that `known_keys` learns names from:
/// so each struct's fields must stand in it, and nothing else.
#[test]
fn the_documented_configuration_names_every_key() {
    let tree = tree::from_toml(&with_examples(DOCUMENTED), Path::new("deploy/gateway.toml"));
    let tree = tree.unwrap();
    let raw: Result<raw::Raw, _> = de::from_tree(&tree);
    raw.expect("the examples read without an error");
    let written = written(&tree, "");
    // Sinks share one struct: a key of theirs is documented where it means something.
    let of_sink = |path: &str| match path.split('.').collect::<Vec<_>>()[..] {
        ["sinks", _, key] => Some(key.to_owned()),
        _ => None,
    };
    let of_sinks: BTreeSet<String> = written.iter().filter_map(|path| of_sink(path)).collect();
    for key in de::keys_seen::<raw::Raw>(&tree) {
        let documented = match of_sink(&key) {
            Some(key) => of_sinks.contains(&key),
            None => written.contains(&key),
        };
        assert!(documented, "{key} is not documented in deploy/gateway.toml");
    }
    // The tables that are lists were looked into.
    let table = [
        "auth.jwt.0.key_file",
        "auth.client_ca.0.ca_file",
        "sinks.store.batch_delay",
        "sinks.influx.bucket",
    ];
    for key in table {
        assert!(known_keys().contains(key), "{key} was not seen");
    }
    assert!(!known_keys().contains("sinks.store.bucket"));
}

fn written(node: &tree::Node, path: &str) -> BTreeSet<String> {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    };
    let children: Vec<(String, &tree::Node)> = match &node.value {
        tree::Value::Table(table) => table.iter().map(|(k, v)| (below(k), v)).collect(),
        tree::Value::Array(items) => {
            items.iter().enumerate().map(|(i, item)| (below(&i.to_string()), item)).collect()
        }
        _ => Vec::new(),
    };
    children
        .into_iter()
        .flat_map(|(path, node)| {
            let mut paths = written(node, &path);
            paths.insert(path);
            paths
        })
        .collect()
}

/// The commented sinks of the page, taken in, say what the defaults are.
#[test]
fn the_documented_sinks_have_the_default_values() {
    let page = with_examples(DOCUMENTED);
    let influx: &[&str] = &["token_", "ca_file", "org"];
    let broker: &[&str] =
        &["client_id", "user", "password_", "ca_file", "cert_file", "key_file", "#"];
    for (name, next, own, url) in [
        ("influx", "\n[sinks.broker]", influx, "http://localhost:8086"),
        ("broker", "\n[admin]", broker, "mqtts://localhost:8883"),
    ] {
        let begin = page.find(&format!("[sinks.{name}]")).unwrap();
        let end = begin + page[begin..].find(next).unwrap();
        let without = |line: &&str| !own.iter().any(|key| line.starts_with(key));
        let documented: Vec<&str> = page[begin..end].lines().filter(without).collect();
        let kind = if name == "influx" { "influxdb" } else { "mqtt" };
        let short = format!("[sinks.{name}]\ntype = \"{kind}\"\nurl = \"{url}\"\n");
        assert_eq!(read(&documented.join("\n")).unwrap(), read(&short).unwrap());
    }
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("gateway.toml");
    fs::write(&file, "ack = \"stored\"\n[limits]\nmax_age = \"40d\"\n[tls]\nhosts = [\"a\"]\n")
        .unwrap();
    let printed = effective(Some(&file), [], Overrides::default()).unwrap();
    assert!(printed.contains("max_age = \"40d\""), "{printed}");
    let again = scratch.path().join("again.toml");
    fs::write(&again, &printed).unwrap();
    assert_eq!(effective(Some(&again), [], Overrides::default()).unwrap(), printed);
    let load = |file: &Path| load(Some(file), [], Overrides::default()).unwrap();
    assert_eq!(load(&file), load(&again));
}

#[test]
fn unknown_keys_name_the_nearest_right_one_and_the_line() {
    let table = [
        (
            "\n[server]\nlissten = \"0.0.0.0:1\"\n",
            r#"gateway.toml:3: unknown key "server.lissten", did you mean "server.listen"?"#,
        ),
        ("[servr]\n", r#"gateway.toml:1: unknown key "servr", did you mean "server"?"#),
        (
            "listen = \"0.0.0.0:1\"",
            "gateway.toml:1: unknown key \"listen\", did you mean \"admin.listen\" or \
             \"server.listen\"?",
        ),
        (
            "[server]\nping-after = 3",
            r#"gateway.toml:2: unknown key "server.ping-after", did you mean "server.ping_after"?"#,
        ),
        (
            "[log]\nmessage_bytes = 3",
            "gateway.toml:2: unknown key \"log.message_bytes\", did you mean \
             \"limits.message_bytes\"?",
        ),
        (
            "[sinks.store]\nbatch_reading = 3",
            "unknown key \"sinks.store.batch_reading\", did you mean \
             \"sinks.store.batch_readings\"?",
        ),
        (
            "[[auth.jwt]]\nkeyfile = \"x\"",
            r#"unknown key "auth.jwt.0.keyfile", did you mean "auth.jwt.0.key_file"?"#,
        ),
        ("[shutdown]\nqqqqqq = 3", r#"unknown key "shutdown.qqqqqq"; known here are deadline"#),
        // Two wrong keys: the first line is named.
        ("zz = 1\naa = 1", "gateway.toml:1: unknown key \"zz\""),
    ];
    for (text, expected) in table {
        let message = complaint(text, &[]);
        assert!(message.contains(expected), "{message}\n  instead of {expected}");
    }
}

#[test]
fn wrong_values_are_sentences_with_the_line() {
    let table = [
        ("ack = \"maybe\"", r#"toml:1: "ack" must be "durable" or "stored", not "maybe""#),
        ("ack = 3", r#""ack" must be "durable" or "stored", not 3"#),
        ("data_dir = 3", r#""data_dir" must be a text in quotes, not 3"#),
        ("data_dir = \"\"", r#""data_dir" must name a directory"#),
        ("server = 3", r#""server" must be a table, not 3"#),
        ("\n[server]\nlisten = \"8443\"", "toml:3: \"server.listen\" must be an address and port"),
        ("[server]\nlisten = [1]", "\"server.listen\" must be an address and port"),
        (
            "[server]\nping_after = \"soon\"",
            r#""server.ping_after" must be a duration such as "30s""#,
        ),
        ("[server]\nping_after = \"0s\"", r#""server.ping_after" must be from 1s to 1h, not 0s"#),
        (
            "[server]\nmax_connections = 0",
            "\"server.max_connections\" must be from 1 to 1000000, not 0",
        ),
        ("[server]\nmax_connections = -1", "must be a whole number from 0 to 4294967295, not -1"),
        ("[server]\nmax_connections = 1.5", "must be a whole number from 0 to 4294967295, not 1.5"),
        (
            "[server]\nmax_connections = \"5\"",
            "must be a whole number from 0 to 4294967295, not \"5\"",
        ),
        (
            "[server]\nallowed_origins = \"a\"",
            "\"server.allowed_origins\" must be a list, not \"a\"",
        ),
        (
            "[server]\nallowed_origins = [\n\"https://a\",\n\"b\"]",
            "toml:4: \"server.allowed_origins.1\" must be of the form \"https://host\"",
        ),
        ("[limits]\nmessage_bytes = \"64M\"", "\"limits.message_bytes\" must be a size such as"),
        ("[limits]\nmessage_bytes = \"8MiB\"", "must be from 1024 to 983040, not 8388608"),
        ("[limits]\nreadings = 10001", "\"limits.readings\" must be from 1 to 10000, not 10001"),
        ("[limits]\nwindow_batches = 65", "\"limits.window_batches\" must be from 1 to 64, not 65"),
        ("[limits]\nwindow_bytes = 2000", "less than the 262144 of \"limits.message_bytes\""),
        ("[limits]\nmax_age = \"0s\"", "\"limits.max_age\" must be at least 1s, or \"off\""),
        ("[limits]\nmax_age = \"of\"", "\"limits.max_age\" must be a duration such as \"30d\", or"),
        ("[log]\nsegment_bytes = \"100KiB\"", "must be at least twice \"limits.message_bytes\""),
        ("[log]\nmax_bytes = \"100MiB\"", "must be at least four times \"log.segment_bytes\""),
        ("[log]\nkeep_bytes = \"9GiB\"", "must be at most half of \"log.max_bytes\""),
        ("[auth]\nown_key = \"no\"", "\"auth.own_key\" must be true or false, not \"no\""),
        ("[auth]\nown_key = false", "no device could connect"),
        ("[[auth.jwt]]\nrealm = \"a\"", "\"auth.jwt.0.key_file\" is missing"),
        ("[[auth.jwt]]", "\"auth.jwt.0.realm\" is \"default\", which the data directory's own key"),
        ("[[auth.client_ca]]\nrealm = \"A b\"", "\"auth.client_ca.0.realm\" must be named with"),
        ("[tls]\ncert_file = \"a\"", "toml:2: \"tls.cert_file\" is set without \"tls.key_file\""),
        ("[tls]\nkey_file = \"a\"", "\"tls.key_file\" is set without \"tls.cert_file\""),
        ("[tls]\nhosts = [\"a:1\"]", "\"tls.hosts.0\" must be a host name or an address without"),
        (
            "[tls]\ncert_file = \"/no/cert.pem\"\nkey_file = \"/no/key.pem\"",
            "\"tls.cert_file\" names /no/cert.pem, which cannot be read: No such file",
        ),
        ("[admin]\nlisten = \"0.0.0.0:1\"", "toml:2: \"admin.listen\" is 0.0.0.0:1, which others"),
        ("[admin]\ntoken_file = \"/no\"", "\"admin.token_file\" names /no, which cannot be read"),
        (
            "[server]\nlisten = \"127.0.0.1:8080\"",
            "\"admin.listen\" is 127.0.0.1:8080, which is \"server.listen\" too",
        ),
        ("[sinks.influx]", "\"sinks.influx.type\" is missing"),
        (
            "[sinks.x]\ntype = \"y\"",
            "\"sinks.x.type\" must be \"store\" or \"influxdb\" or \"mqtt\", not \"y\"",
        ),
        ("[sinks.\"Ä\"]\ntype = \"store\"", "must be named with 1 to 64 of a-z"),
        (
            "[sinks.a]\ntype = \"store\"",
            "\"sinks.store.path\" is the file of the sink \"a\", too: name another",
        ),
        ("[sinks.x]\ntype = \"influxdb\"", "\"sinks.x.url\" is missing: say where the store is"),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"localhost:8086\"",
            "toml:3: \"sinks.x.url\" must be of the form \"http://host:port\"",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1\"\nbucket = \"a{device}\"",
            "toml:4: \"sinks.x.bucket\" must name a bucket, with {realm} as its only variable",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1\"\npath = \"x\"",
            "toml:4: \"sinks.x.path\" is a key of sinks of type \"store\": remove it",
        ),
        (
            "[sinks.store]\ngzip = true",
            "\"sinks.store.gzip\" is a key of sinks of type \"influxdb\"",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1\"\ntoken_env = \"NO_SUCH_TOKEN\"",
            "names the environment variable \"NO_SUCH_TOKEN\", which holds no token",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1\"\ntoken_file = \"/no\"",
            "\"sinks.x.token_file\" names /no, which cannot be read",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1\"\nin_flight = 0",
            "\"sinks.x.in_flight\" must be from 1 to 64, not 0",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1\"\ncreate_bucket = true",
            "\"sinks.x.create_bucket\" is true, but a bucket belongs to an organisation: set \"org\"",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1/b\"\norg = \"o\"\ncreate_bucket = true",
            "is true, but it works only where InfluxDB 2 stands at the root of its address",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1\"\nbucket_keep_for = \"1min\"",
            "\"sinks.x.bucket_keep_for\" must be from 1h to 24855",
        ),
        (
            "[sinks.x]\ntype = \"influxdb\"\nurl = \"http://a:1\"\n[sinks.y]\ntype = \"influxdb\"\n\
             url = \"http://a:1\"",
            "\"sinks.y.bucket\" is the destination of the sink \"x\", too: name another",
        ),
        ("[sinks.store]\nenabled = false", "has no enabled sink"),
        (
            "ack = \"stored\"\n[sinks.store]\nwhen_full = \"skip\"",
            "toml:3: \"sinks.store.when_full\" is \"skip\" while the sink is required and ack =",
        ),
        ("ack = \"stored\"\n[sinks.store]\nrequired = false", "\"ack\" is \"stored\", but no"),
        ("[shutdown]\ndeadline = \"1h\"", "\"shutdown.deadline\" must be from 1s to 10min, not 1h"),
        (
            "[logging]\nlevel = \"loud\"",
            "\"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\"",
        ),
        ("ack = 1979-05-27", "\"ack\" must be \"durable\" or \"stored\", not a date"),
        ("ack = \n", "gateway.toml:1: not TOML"),
        ("ack = \"durable\"\nack = \"durable\"", "gateway.toml:2: not TOML: duplicate key"),
    ];
    for (text, expected) in table {
        let message = complaint(text, &[]);
        assert!(message.contains(expected), "{message}\n  instead of {expected}");
        assert!(!message.contains('\n'), "more than one line: {message}");
    }
}

#[test]
fn files_must_hold_what_their_key_says() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("file");
    fs::write(&path, "short").unwrap();
    let name = path.display().to_string();
    let table = [
        (format!("[admin]\ntoken_file = {name:?}"), "at least 16 visible ASCII characters"),
        (
            format!("[[auth.jwt]]\nrealm = \"a\"\nkey_file = {name:?}"),
            "which holds no PEM block \"BEGIN PUBLIC KEY\"",
        ),
        (
            format!("[tls]\ncert_file = {name:?}\nkey_file = {name:?}"),
            "which holds no PEM block \"BEGIN CERTIFICATE\"",
        ),
    ];
    for (text, expected) in table {
        let message = complaint(&text, &[]);
        assert!(message.contains(expected), "{message}\n  instead of {expected}");
    }
}

#[test]
fn an_admin_token_allows_other_addresses_and_is_never_shown() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("token");
    fs::write(&path, "correct-horse-battery\n").unwrap();
    let text = format!("[admin]\nlisten = \"0.0.0.0:9\"\ntoken_file = {:?}\n", path.display());
    let config = read(&text).unwrap();
    assert_eq!(config.admin.token.as_ref().unwrap().expose(), b"correct-horse-battery");
    assert!(!format!("{config:?}").contains("horse"));
    let file = scratch.path().join("gateway.toml");
    fs::write(&file, text).unwrap();
    let printed = effective(Some(&file), [], Overrides::default()).unwrap();
    assert!(printed.contains("token_file") && !printed.contains("horse"), "{printed}");
}

#[test]
fn the_command_line_is_stronger_than_file_and_environment() {
    let overrides = Overrides { data_dir: Some("flag".into()), hosts: vec!["b".to_owned()] };
    let environment = [("GATEWAY__DATA_DIR".to_owned(), "variable".to_owned())];
    let text = "data_dir = \"file\"\n[tls]\nhosts = [\"a\"]\n";
    let (_, config) = parse(text, Path::new(""), environment, overrides).unwrap();
    assert_eq!(config.data_dir, Path::new("flag"));
    assert_eq!(config.tls, valid::Tls::Own { hosts: vec!["a".to_owned(), "b".to_owned()] });
    let valid::SinkKind::Store { path, .. } = &config.sinks[0].kind else { panic!() };
    assert_eq!(path, Path::new("flag/telemetry.db"));
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Some(Path::new("/no/such.toml")), [], Overrides::default()).unwrap_err();
    let expected = "cannot read the configuration file /no/such.toml: No such file or directory";
    assert!(error.to_string().starts_with(expected), "{error}");
}

proptest::proptest! {
    /// Whatever a file or variable says: no panic, and a refusal is one line. The pieces make
    /// near misses, which random text alone would not.
    #[test]
    fn any_text_is_read_or_refused_in_one_line(
        pieces in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::sample::select(vec![
                    "[", "]", "[[", "]]", "=", "\"", ".", "\n", "server", "auth.jwt", "sinks",
                    "store", "listen", "log", "keep_for", "\"30s\"", "[]", "{}", "-1", "1e9",
                    "true", "type", "key_file", "limits", "message_bytes", "\"64MiB\"", "ack",
                ]).prop_map(str::to_owned),
                "\\PC{0,8}",
            ],
            0..24,
        ),
        variable in "GATEWAY__[A-Z_]{0,24}",
        value in "\\PC{0,12}",
    ) {
        let text = pieces.concat();
        for environment in [vec![], vec![(variable.as_str(), value.as_str())]] {
            if let Err(error) = read_with(&text, &environment) {
                let message = error.to_string();
                proptest::prop_assert!(!message.is_empty() && !message.contains('\n'), "{message}");
            }
        }
    }
}
