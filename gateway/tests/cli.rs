//! The command line as a person meets it: output, messages, exit codes.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

/// Runs the binary in `directory` with a clean environment.
fn gateway(directory: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gateway"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn golden(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn check_prints_the_effective_configuration() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("gateway.toml"), golden("check.toml")).unwrap();
    let environment = [("GATEWAY__SERVER__MAX_CONNECTIONS", "21000")];
    let arguments = ["check", "--config", "gateway.toml"];
    let said = said(gateway(scratch.path(), &arguments, &environment));
    assert_eq!(said.code, 0, "{}", said.err);
    assert_eq!(said.out, golden("check.effective.toml"), "the effective form has changed");
    assert_eq!(said.err, "");
    let made: Vec<_> = fs::read_dir(scratch.path()).unwrap().collect();
    assert_eq!(made.len(), 1, "check made files: {made:?}");
}

#[test]
fn a_wrong_configuration_is_one_line_and_code_2() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("bad.toml"), "# a comment\n[server]\nlissten = \"x\"\n").unwrap();
    let mistyped = "gateway: bad.toml:3: unknown key \"server.lissten\", did you mean \
                    \"server.listen\"?\n";
    for command in ["check", "run"] {
        let said = said(gateway(scratch.path(), &[command, "--config", "bad.toml"], &[]));
        assert_eq!((said.code, said.err.as_str()), (2, mistyped), "{command}");
        assert_eq!(said.out, "");
    }
    let missing = said(gateway(scratch.path(), &["check", "--config", "none.toml"], &[]));
    assert_eq!(missing.code, 2);
    let expected = "gateway: cannot read the configuration file none.toml: No such file";
    assert!(missing.err.starts_with(expected), "{}", missing.err);
    let variable = [("GATEWAY__SERVER__LISSTEN", "x")];
    let said = said(gateway(scratch.path(), &["run"], &variable));
    assert_eq!(said.code, 2);
    assert!(said.err.contains("environment variable GATEWAY__SERVER__LISSTEN"), "{}", said.err);
    assert!(!scratch.path().join("data").exists(), "a refused start touched the disk");
}

#[test]
fn wrong_usage_is_code_2_and_names_the_flag() {
    let table: [(&[&str], &str); 8] = [
        (&[], "Usage: gateway"),
        (&["rum"], "'run'"),
        (&["check"], "--config <FILE>"),
        (&["run", "--hots", "a"], "'--host'"),
        (&["run", "--host", "a:1"], "a host name or an address without a port is needed"),
        (&["token"], "--device <ID>"),
        (&["token", "--device", "a b"], "a device id has 1 to 128 of"),
        (&["token", "--device", "a", "--ttl", "soon"], "must be a duration such as"),
    ];
    let scratch = tempfile::tempdir().unwrap();
    for (arguments, expected) in table {
        let said = said(gateway(scratch.path(), arguments, &[]));
        assert_eq!(said.code, 2, "{arguments:?}");
        assert!(said.err.contains(expected), "{arguments:?}: {}", said.err);
    }
}

#[test]
fn version_and_help_are_on_standard_output() {
    let scratch = tempfile::tempdir().unwrap();
    let version = said(gateway(scratch.path(), &["--version"], &[]));
    assert_eq!((version.code, version.out.as_str()), (0, "gateway 0.1.0\n"));
    let help = said(gateway(scratch.path(), &["--help"], &[]));
    assert_eq!(help.code, 0);
    for command in ["run", "check", "token"] {
        assert!(help.out.contains(command), "{}", help.out);
    }
}

#[test]
fn token_prints_the_token_alone() {
    let scratch = tempfile::tempdir().unwrap();
    gateway::data_dir::prepare(&scratch.path().join("data"), None).unwrap();
    fs::write(scratch.path().join("gateway.toml"), "data_dir = \"data\"\n").unwrap();
    let ways: [&[&str]; 3] =
        [&[], &["--data-dir", "data", "--ttl", "1h"], &["--config", "gateway.toml"]];
    for way in ways {
        let arguments = [&["token", "--device", "line-1:press/7"], way].concat();
        let said = said(gateway(scratch.path(), &arguments, &[]));
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{way:?}");
        let token = said.out.strip_suffix('\n').unwrap();
        assert_eq!(token.split('.').count(), 3, "{token}");
        assert!(!token.contains(char::is_whitespace), "{token}");
    }
}

#[test]
fn token_says_where_it_looked_and_makes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let none = said(gateway(scratch.path(), &["token", "--device", "a"], &[]));
    assert_eq!(none.code, 1);
    let expected = "gateway: data/keys/token.pem does not exist; start the gateway once, which \
                    makes it, or name the gateway's data directory with --data-dir\n";
    assert_eq!(none.err, expected);
    assert!(!scratch.path().join("data").exists());

    gateway::data_dir::prepare(&scratch.path().join("data"), None).unwrap();
    let key = scratch.path().join("data/keys/token.pem");
    fs::write(&key, "scribble").unwrap();
    let wrong = said(gateway(scratch.path(), &["token", "--device", "a"], &[]));
    assert_eq!((wrong.code, wrong.out.as_str()), (1, ""));
    assert!(wrong.err.contains("data/keys/token.pem does not hold the token key"), "{}", wrong.err);
    assert!(!wrong.err.contains("scribble") && wrong.err.lines().count() == 1, "{}", wrong.err);
}

#[test]
fn a_key_that_may_not_be_read_is_named_with_what_to_do() {
    let scratch = tempfile::tempdir().unwrap();
    gateway::data_dir::prepare(&scratch.path().join("data"), None).unwrap();
    let key = scratch.path().join("data/keys/token.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&key).is_ok() {
        // Root reads everything: a directory in its place is as unreadable.
        fs::remove_file(&key).unwrap();
        fs::create_dir(&key).unwrap();
    }
    let said = said(gateway(scratch.path(), &["token", "--device", "a"], &[]));
    assert_eq!(said.code, 1);
    assert!(said.err.starts_with("gateway: cannot read data/keys/token.pem: "), "{}", said.err);
    assert!(said.err.contains("; "), "no remedy in {}", said.err);
}

#[test]
fn token_is_refused_where_the_gateway_would_not_take_it() {
    let scratch = tempfile::tempdir().unwrap();
    gateway::data_dir::prepare(&scratch.path().join("data"), None).unwrap();
    fs::write(scratch.path().join("key.pem"), "-----BEGIN PUBLIC KEY-----\n").unwrap();
    let text = "[auth]\nown_key = false\n[[auth.jwt]]\nkey_file = \"key.pem\"\n";
    fs::write(scratch.path().join("gateway.toml"), text).unwrap();
    let arguments = ["token", "--device", "a", "--config", "gateway.toml"];
    let said = said(gateway(scratch.path(), &arguments, &[]));
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("takes no tokens of its own key"), "{}", said.err);
}
