//! Where a gateway's ledger does not agree, the devices that it is about are named, and few are
//! asked for.
#![allow(clippy::unwrap_used)]

mod common;

use common::http_store::HttpStore;
use common::readings::{journal, readings};
use device_sim::plan::Plan;
use device_sim::verify::{
    Credential, Endpoint, LedgerSource, Reconciled, Report, VictoriaMetrics, verify_with,
};
use serde_json::{Value as Json, json};
use std::time::Duration;

const BATCHES: u64 = 2;
const DEVICES: u32 = 250;
/// Two batches of five.
const OF_ONE: u64 = 10;

fn sink(accepted: u64, stored: u64) -> Json {
    json!({ "name": "metrics", "epoch": 0, "accepted": accepted, "stored": stored,
            "quarantined": accepted - stored, "pending": 0, "dropped": {} })
}

/// A gateway that says so in all, and of each device what `of_device` says.
fn gateway(accepted: u64, stored: u64, of_device: Option<fn(&str, &str) -> Json>) -> HttpStore {
    let gateway = HttpStore::start(Vec::new());
    gateway.set(|state| {
        state.ledger = Some(json!({ "accepted": accepted, "sinks": [sink(accepted, stored)] }));
        state.of_device = of_device;
    });
    gateway
}

/// The verdict where the store has lost the first reading of these devices.
fn verdict(gateway: &HttpStore, lost_of: &[&str], realm: Option<&str>) -> Report {
    let plan = Plan { base_ns: 1_800_000_000_123_456_789, ..common::plan(DEVICES, 2) };
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path(), &plan, BATCHES);
    let mut held = readings(&plan, BATCHES);
    for device in lost_of {
        held.remove(held.iter().position(|reading| reading.device == *device).unwrap());
    }
    let store = HttpStore::start(held);
    let endpoint = |store: &HttpStore| Endpoint {
        url: store.url.clone(),
        ca: None,
        credential: Credential::None,
    };
    let mut victoria = VictoriaMetrics::open(&endpoint(&store), &plan).unwrap();
    let ledger = LedgerSource::open(&endpoint(gateway), None, None).unwrap();
    let mut ledger = ledger.of_realm(realm.map(str::to_owned));
    verify_with(&mut victoria, &journal, Duration::ZERO, Some(&mut ledger)).unwrap()
}

/// Device; accepted and stored by the gateway; acknowledged and present.
type Account<'a> = (&'a str, Option<u64>, Option<u64>, u64, u64);

fn named(ledger: &Reconciled) -> Vec<Account<'_>> {
    let of = ledger.devices.iter();
    of.map(|of| (&*of.device, of.accepted, of.stored, of.acked, of.present)).collect()
}

#[test]
fn the_devices_with_which_something_is_wrong_are_asked_for() {
    let all = OF_ONE * u64::from(DEVICES);
    // Of one of the two it knows itself that something is missing.
    let of_device = |_: &str, device: &str| {
        let stored = if device == "sim-00007" { OF_ONE - 1 } else { OF_ONE };
        json!({ "sinks": [sink(OF_ONE, stored)] })
    };
    let gateway = gateway(all, all - 1, Some(of_device));
    let report = verdict(&gateway, &["sim-00007", "sim-00200"], None);
    let ledger = report.ledger.as_ref().unwrap();
    assert!(!report.passed && !ledger.holds(), "{ledger:?}");
    let asked = gateway.state.lock().unwrap().devices_asked.clone();
    assert_eq!(asked, ["sim-00007", "sim-00200"]);
    assert_eq!(named(ledger), [("sim-00200", Some(OF_ONE), Some(OF_ONE), OF_ONE, OF_ONE - 1)]);
    let said = "sim-00200 (realm default): the gateway says 10 accepted and 10 stored; 10 were \
                acknowledged, 9 are in the store";
    assert!(report.table().contains(said), "{}", report.table());
}

#[test]
fn without_a_suspect_the_first_are_asked_for_and_ten_are_named_at_most() {
    let all = OF_ONE * u64::from(DEVICES);
    let one_more = |realm: &str, device: &str| {
        assert_eq!(realm, "plant");
        let more = u64::from(device == "sim-00042");
        json!({ "sinks": [sink(OF_ONE + more, OF_ONE)] })
    };
    let of_one = gateway(all + 1, all, Some(one_more));
    let report = verdict(&of_one, &[], Some("plant"));
    let ledger = report.ledger.as_ref().unwrap();
    assert_eq!(named(ledger), [("sim-00042", Some(OF_ONE + 1), Some(OF_ONE), OF_ONE, OF_ONE)]);
    assert_eq!(
        (ledger.devices_asked, of_one.state.lock().unwrap().devices_asked.len()),
        (100, 100)
    );

    let all_wrong = |_: &str, _: &str| json!({ "sinks": [sink(OF_ONE + 1, OF_ONE)] });
    let of_all = gateway(all + 1, all, Some(all_wrong));
    let report = verdict(&of_all, &[], None);
    let ledger = report.ledger.as_ref().unwrap();
    assert_eq!((ledger.devices.len(), ledger.devices_asked), (10, 10));

    // What it does not know of a device is no difference.
    let unknown = |_: &str, _: &str| json!({ "sinks": [{ "name": "metrics", "accepted": null, "stored": null }] });
    let report = verdict(&gateway(all + 1, all, Some(unknown)), &[], None);
    assert_eq!(named(report.ledger.as_ref().unwrap()), []);
    assert!(
        report.table().contains("of the 100 devices asked for it agrees"),
        "{}",
        report.table()
    );
}

#[test]
fn a_gateway_that_has_no_such_page_costs_no_verdict_and_one_that_agrees_is_not_asked() {
    let all = OF_ONE * u64::from(DEVICES);
    let report = verdict(&gateway(all + 1, all, None), &[], None);
    let ledger = report.ledger.as_ref().unwrap();
    assert_eq!((ledger.devices_asked, ledger.devices.len()), (0, 0));
    assert!(ledger.devices_untold.as_ref().unwrap().contains("404"), "{ledger:?}");

    let agrees = gateway(all, all, Some(|_, _| panic!("nobody has to ask")));
    let report = verdict(&agrees, &[], None);
    assert!(report.passed && report.ledger.unwrap().holds());
    assert!(agrees.state.lock().unwrap().devices_asked.is_empty());
}
