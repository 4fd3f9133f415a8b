//! The gateway's ledger is read with a CA and a token of its own, whatever those of the store are.
#![allow(clippy::unwrap_used)]

mod common;

use common::http_store::HttpStore;
use common::readings::{journal, readings};
use device_sim::plan::Plan;
use serde_json::json;
use std::process::{Command, Output};

const BATCHES: u64 = 2;
const STORE_TOKEN: &str = "for-the-store";
const LEDGER_TOKEN: &str = "for-the-ledger";

/// A store and a ledger, each behind its own TLS with its own token, and the files to reach them.
struct Places {
    folder: tempfile::TempDir,
    store: HttpStore,
    gateway: HttpStore,
}

impl Places {
    fn new() -> Self {
        let plan = Plan { base_ns: 1_800_000_000_123_456_789, ..common::plan(3, 2) };
        let folder = tempfile::tempdir().unwrap();
        journal(folder.path(), &plan, BATCHES);
        let (store, store_ca) = HttpStore::start_tls(readings(&plan, BATCHES));
        let (gateway, gateway_ca) = HttpStore::start_tls(Vec::new());
        for (name, text) in [
            ("store.pem", &*store_ca),
            ("ledger.pem", &*gateway_ca),
            ("store.token", STORE_TOKEN),
            ("ledger.token", LEDGER_TOKEN),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let acked = u64::from(plan.devices * plan.kinds[0].batch) * BATCHES;
        store.set(|state| state.authorization = Some("Bearer for-the-store"));
        gateway.set(|state| {
            state.authorization = Some("Bearer for-the-ledger");
            state.ledger = Some(json!({ "accepted": acked, "sinks": [{
                "name": "metrics", "epoch": 0, "accepted": acked, "stored": acked,
                "quarantined": 0, "pending": 0, "dropped": {} }] }));
        });
        Self { folder, store, gateway }
    }

    /// `verify` with these files for the ledger; without a name none is given.
    fn verify(&self, ca: Option<&str>, token: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_device-sim"));
        command.args(["verify", "--settle", "0s", "--victoriametrics", &self.store.url]);
        command.args(["--ledger", &self.gateway.url]);
        let files = [
            ("--ca", Some("store.pem")),
            ("--token-file", Some("store.token")),
            ("--journal", Some("run.journal")),
            ("--ledger-ca", ca),
            ("--ledger-token-file", token),
        ];
        for (option, name) in files {
            name.into_iter().for_each(|name| {
                command.arg(option).arg(self.folder.path().join(name));
            });
        }
        command.output().unwrap()
    }
}

#[test]
fn the_ledger_has_its_own_ca_and_token() {
    let places = Places::new();
    let good = places.verify(Some("ledger.pem"), Some("ledger.token"));
    assert!(good.status.success(), "{good:?}");

    for (ca, token, word) in [
        (None, Some("ledger.token"), "certificate"),
        (Some("store.pem"), Some("ledger.token"), "certificate"),
        (Some("ledger.pem"), None, "401"),
        (Some("ledger.pem"), Some("store.token"), "401"),
    ] {
        let bad = places.verify(ca, token);
        let said = String::from_utf8(bad.stderr).unwrap();
        assert_eq!(bad.status.code(), Some(1), "{ca:?} {token:?}: {said}");
        assert!(said.contains("ledger") && said.contains(word), "{ca:?} {token:?}: {said}");
        assert!(!said.contains(STORE_TOKEN) && !said.contains(LEDGER_TOKEN), "{said}");
    }
}
