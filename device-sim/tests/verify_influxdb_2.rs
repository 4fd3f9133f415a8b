//! Which InfluxDB is asked how, and what is made of the odd things that version 2 may answer.
#![allow(clippy::unwrap_used)]

mod common;

use common::http_store::HttpStore;
use common::readings::{Value, journal, readings};
use device_sim::plan::Plan;
use device_sim::verify::{Credential, Endpoint, InfluxDb2, Report, influx, verify};
use std::time::Duration;

const BATCHES: u64 = 4;

/// At a time that a store can have, at an odd nanosecond.
fn plan() -> Plan {
    Plan { base_ns: 1_800_000_000_123_456_789, ..common::plan(3, 2) }
}

fn endpoint(store: &HttpStore) -> Endpoint {
    Endpoint { url: store.url.clone(), ca: None, credential: Credential::None }
}

/// The version that it says it has decides; `None` says nothing.
#[test]
fn each_version_is_asked_in_its_own_language() {
    let (plan, folder) = (plan(), tempfile::tempdir().unwrap());
    let journal = journal(folder.path(), &plan, BATCHES);
    let check = |store: &HttpStore, endpoint: &Endpoint, org| -> anyhow::Result<Report> {
        store.set(|state| state.questions.clear());
        verify(&mut *influx(endpoint, "fleet", org, &plan, None)?, &journal, Duration::ZERO)
    };
    let is_in_flux = |store: &HttpStore| {
        let questions = store.state.lock().unwrap().questions.clone();
        let questions: Vec<_> = questions.into_iter().filter(|q| !q.is_empty()).collect();
        let in_flux = questions.iter().filter(|q| q.starts_with("from(bucket:")).count();
        assert!(!questions.is_empty() && (in_flux == 0 || in_flux == questions.len()));
        in_flux > 0
    };
    let org = Some("our org");
    let (tls, certificate) = HttpStore::start_tls(readings(&plan, BATCHES));
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate).unwrap();
    let over_tls = Endpoint { ca: Some(ca), ..endpoint(&tls) };
    let plain = HttpStore::start(readings(&plan, BATCHES));
    for (store, endpoint) in [(&plain, endpoint(&plain)), (&tls, over_tls)] {
        for (version, flux) in [
            (Some("v2.7.4"), true),
            (Some("2.0.1"), true),
            (Some("1.8.10"), false),
            (Some("3.0.0"), false),
            (None, false),
        ] {
            store.set(|state| state.version = version);
            let report = check(store, &endpoint, org).unwrap();
            assert!(report.passed, "{version:?} {}", report.table());
            assert_eq!(is_in_flux(store), flux, "{version:?}");
        }
    }
    plain.set(|state| state.version = Some("v2.7.4"));
    let error = check(&plain, &endpoint(&plain), None).unwrap_err();
    assert!(error.to_string().contains("name the organisation with --org"), "{error}");
    // A user has a password in version 1 only.
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s\n").unwrap();
    plain.set(|state| state.authorization = Some("Basic dTpz"));
    let user = Credential::User("u".to_owned(), secret);
    let as_user = Endpoint { credential: user, ..endpoint(&plain) };
    assert!(check(&plain, &as_user, None).unwrap().passed);
    assert!(!is_in_flux(&plain));
    let nobody = Endpoint { url: "http://127.0.0.1:1".to_owned(), ..endpoint(&plain) };
    let error = format!("{:#}", check(&plain, &nobody, org).unwrap_err());
    assert!(error.contains("127.0.0.1:1 does not answer") && error.contains("refused"), "{error}");
}

#[test]
fn devices_of_two_realms_are_told_apart_in_flux() {
    let (plan, folder) = (plan(), tempfile::tempdir().unwrap());
    let journal = journal(folder.path(), &plan, BATCHES);
    let sent = readings(&plan, BATCHES);
    let acked = sent.len() as u64;
    let mut both = sent.clone();
    for reading in sent {
        let mut other = reading;
        other.tags.insert("realm".to_owned(), "plant".to_owned());
        other.fields = [("pressure".to_owned(), Value::Float(-1.5))].into();
        both.push(other);
    }
    let store = HttpStore::start(both);
    store.set(|state| state.version = Some("v2.7.4"));
    let verdict = |realm| {
        let mut store = influx(&endpoint(&store), "fleet", Some("our org"), &plan, realm).unwrap();
        verify(&mut *store, &journal, Duration::ZERO)
    };
    assert!(verdict(Some("default")).unwrap().passed);
    assert_eq!(verdict(Some("plant")).unwrap().altered, acked);
    assert_eq!(verdict(Some("nowhere")).unwrap().lost, acked);
    let message = format!("{:#}", verdict(None).unwrap_err());
    assert!(message.contains("plant") && message.contains("--realm"), "{message}");
}

#[test]
fn answers_that_break_off_or_make_no_sense_are_errors_and_not_losses() {
    let (plan, folder) = (plan(), tempfile::tempdir().unwrap());
    let journal = journal(folder.path(), &plan, BATCHES);
    let store = HttpStore::start(readings(&plan, BATCHES));
    let check = || {
        let mut of = InfluxDb2::open(&endpoint(&store), "fleet", "our org").unwrap();
        verify(&mut of, &journal, Duration::ZERO)
    };
    assert!(check().unwrap().passed);
    let head = "#datatype,string,long,dateTime:RFC3339,double,string,string\r\n\
                #group,false,false,false,false,true,true\r\n#default,_result,,,,,\r\n\
                ,result,table,_time,_value,_field,_measurement\r\n";
    let good = ",,0,2026-01-01T00:00:00Z,1.5,f,m\r\n";
    let wrong = "#datatype,string,string\r\n#group,true,true\r\n#default,,\r\n,error,reference\r\n\
                 ,query exceeded its memory,897\r\n";
    for (status, body, word) in [
        // In the middle of an answer whose head says 200.
        (200, format!("{head}{good}\r\n{wrong}"), "query exceeded its memory"),
        (200, wrong.to_owned(), "query exceeded its memory"),
        (200, format!("{head},,0,2026-01-01T00:00:00Z,much,f,m\r\n"), "not of the type"),
        (200, format!("{head},,0,yesterday,1.5,f,m\r\n"), "not of the type"),
        (200, format!("{head},,0,2026-01-01T00:00:00Z,1.5\r\n"), "number of columns"),
        (200, head.replace("double", "float") + good, "unknown datatype"),
        (400, r#"{"code":"invalid","message":"compilation failed"}"#.to_owned(), "compilation"),
        (401, r#"{"code":"unauthorized","message":"unauthorized access"}"#.to_owned(), "401"),
        (503, "busy".to_owned(), "busy"),
    ] {
        store.set(|state| state.refuses = Some((status, body.clone().leak())));
        let error = format!("{:#}", check().unwrap_err());
        assert!(error.contains(word), "{body}: {error}");
    }
}

/// What texts a device may choose: quotation marks, commas, ends of lines.
#[test]
fn texts_come_back_as_they_are() {
    let (plan, folder) = (plan(), tempfile::tempdir().unwrap());
    let journal = journal(folder.path(), &plan, BATCHES);
    let mut held = readings(&plan, BATCHES);
    for text in ["a,\"b\"", "two\r\nlines\n", "#datatype", "é\\n", ""] {
        let store = HttpStore::start(held.clone());
        let value = Value::Text(text.to_owned());
        let with_text = held.iter_mut().find(|r| r.fields.contains_key("status")).unwrap();
        with_text.fields.insert("status".to_owned(), value);
        store.set(|state| state.readings.clone_from(&held));
        let mut of = InfluxDb2::open(&endpoint(&store), "fleet", "our org").unwrap();
        let report = verify(&mut of, &journal, Duration::ZERO).unwrap();
        assert_eq!((report.lost, report.altered), (0, 1), "{text:?} {}", report.table());
        let detail = &report.examples["altered"][0].detail;
        assert!(detail.contains(&format!("{text:?}")), "{text:?}: {detail}");
    }
}

#[test]
fn a_long_run_comes_in_pieces() {
    let plan = Plan { devices: 1, duration_ns: 1_000_000_000_000, ..plan() };
    let plan = common::paced(plan, 60_000_000_000, 3_000);
    let folder = tempfile::tempdir().unwrap();
    let journal = journal(folder.path(), &plan, 2);
    let store = HttpStore::start(readings(&plan, 2));
    let check = || {
        let mut of = InfluxDb2::open(&endpoint(&store), "fleet", "our org").unwrap();
        verify(&mut of, &journal, Duration::ZERO).unwrap()
    };
    let report = check();
    assert!(report.passed && report.stored == 6_000, "{}", report.table());
    let pieces = store.state.lock().unwrap().questions.len();
    assert!((4..16).contains(&pieces), "{pieces}");
    store.set(|state| drop(state.readings.remove(3_999)));
    assert_eq!(check().lost, 1);
}
