//! What was said to be kept is there after the next start, and the table of kinds has one order.

use super::*;
use crate::record::{FieldKind, Identity};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A state file, its keeper at work.
struct Kept {
    state: State,
    ended: tokio::sync::oneshot::Receiver<()>,
}

impl Kept {
    fn open(path: &Path) -> Self {
        let (state, keeper) = open(path, 4, StateMetrics::default()).unwrap();
        Self { ended: keeper.spawn().unwrap(), state }
    }

    async fn close(self) {
        self.state.changes.stop();
        self.ended.await.unwrap();
    }
}

fn identity(device: &str) -> Identity {
    Identity::new("default", device)
}

fn kinds(types: &Types, fields: &[&str]) -> Vec<Option<FieldKind>> {
    let mut kinds = Vec::new();
    types.look_up("default", "m", fields.iter().copied(), &mut kinds);
    kinds
}

#[tokio::test]
async fn what_is_settled_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let kept = Kept::open(&path);
    let State { types, revocations, changes, .. } = &kept.state;
    let new = [("a", FieldKind::Number), ("b", FieldKind::Text)];
    let number = types.learn(&identity("d"), "m", &new, 7).unwrap();
    assert!(number > 0);
    changes.settled(number, SOON).await.unwrap();
    let number = revocations.revoke(&identity("bad"), 8).unwrap();
    changes.settled(number, SOON).await.unwrap();
    let number = types.forget("default", "m", Some("b")).1;
    changes.settled(number, SOON).await.unwrap();

    // A copy of the files as they are now is what a crash leaves.
    let crashed = dir.path().join("crashed.db");
    for suffix in ["", "-wal"] {
        let with = |path: &Path| format!("{}{suffix}", path.display());
        std::fs::copy(with(&path), with(&crashed)).unwrap();
    }
    let again = Kept::open(&crashed);
    assert_eq!(kinds(&again.state.types, &["a", "b"]), [Some(FieldKind::Number), None]);
    assert_eq!(again.state.revocations.since(&identity("bad")), Some(8));
    let known = again.state.types.list(None, None, None, 10);
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].origin, &*known[0].from, known[0].at_ms), (Origin::Use, "d", 7));
    again.close().await;
    kept.close().await;
}

#[tokio::test]
async fn the_first_decides_and_a_reading_teaches_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(&dir.path().join("state.db"));
    let types = &kept.state.types;
    types.learn(&identity("d"), "m", &[("a", FieldKind::Number)], 0).unwrap();
    let second = [("new", FieldKind::Bool), ("a", FieldKind::Text)];
    let conflict = types.learn(&identity("e"), "m", &second, 0);
    assert_eq!(conflict, Err(Conflict::Kind(1, FieldKind::Number)));
    assert_eq!(kinds(types, &["new"]), [None], "a refused reading has taught nothing");
    // Another realm, another measurement: another field.
    let other = Identity::new("other", "d");
    assert!(types.learn(&other, "m", &[("a", FieldKind::Text)], 0).is_ok());
    assert!(types.learn(&identity("d"), "n", &[("a", FieldKind::Bool)], 0).is_ok());
    kept.close().await;
}

#[tokio::test]
async fn a_realm_has_a_limit_and_others_do_not_feel_it() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(&dir.path().join("state.db"));
    let types = &kept.state.types;
    for name in ["a", "b", "c", "d"] {
        types.learn(&identity("d"), "m", &[(name, FieldKind::Number)], 0).unwrap();
    }
    let more = [("a", FieldKind::Number), ("e", FieldKind::Number)];
    assert_eq!(types.learn(&identity("d"), "m", &more, 0), Err(Conflict::Limit(1)));
    assert!(types.learn(&identity("d"), "m", &more[..1], 0).is_ok(), "what is known goes on");
    assert!(types.learn(&Identity::new("other", "d"), "m", &more, 0).is_ok());
    assert_eq!(types.set(("default", "m", "e"), FieldKind::Bool, 0), Err(Conflict::Limit(0)));
    assert!(!types.teach(("default", "m", "e"), FieldKind::Bool, "s", 0));
    assert_eq!(types.forget("default", "m", None).0, 4);
    assert!(types.learn(&identity("d"), "m", &more, 0).is_ok(), "there is room again");
    assert_eq!(types.len(), 4);
    kept.close().await;
}

#[tokio::test]
async fn a_store_knows_better_than_use_and_an_operator_better_than_both() {
    let dir = tempfile::tempdir().unwrap();
    let kept = Kept::open(&dir.path().join("state.db"));
    let types = &kept.state.types;
    let key = ("default", "m", "a");
    types.learn(&identity("d"), "m", &[("a", FieldKind::Text)], 0).unwrap();
    let version = types.version();
    assert!(types.teach(key, FieldKind::Number, "influx", 1));
    assert_ne!(types.version(), version, "what was looked up before has to be looked up again");
    assert_eq!(kinds(types, &["a"]), [Some(FieldKind::Number)]);
    assert!(!types.teach(key, FieldKind::Text, "other", 2), "the first store's word stands");
    types.set(key, FieldKind::Bool, 3).unwrap();
    assert!(!types.teach(key, FieldKind::Number, "influx", 4));
    assert_eq!(kinds(types, &["a"]), [Some(FieldKind::Bool)]);
    assert_eq!(types.list(None, None, None, 9)[0].origin, Origin::Operator);
    kept.close().await;
}

#[tokio::test]
async fn devices_are_counted_across_restarts_and_listed_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    let kept = Kept::open(&path);
    for name in ["b", "a", "c"] {
        let device = kept.state.devices.enter(&identity(name), 1_000);
        device.sent(2_000, 5, 1, Some(1_500));
        device.logged(1, 0);
        device.logged(5, 3);
        device.left(3_000);
    }
    kept.close().await;

    let kept = Kept::open(&path);
    let devices = &kept.state.devices;
    devices.enter(&identity("a"), 9_000);
    let facts = devices.get(&identity("a")).unwrap().facts();
    assert!(facts.connected);
    assert_eq!(
        (facts.first_seen_ms, facts.last_seen_ms, facts.connected_ms),
        (1_000, 9_000, 9_000)
    );
    assert_eq!((facts.connections, facts.batches, facts.accepted), (2, 1, 5));
    assert_eq!((facts.refused, facts.gaps), (1, 3));
    let names = |page: Vec<DeviceFacts>| -> Vec<String> {
        page.iter().map(|facts| facts.identity.device.to_string()).collect()
    };
    assert_eq!(names(devices.list(None, None, 2)), ["a", "b"]);
    assert_eq!(names(devices.list(Some("default"), Some(&identity("b")), 2)), ["c"]);
    assert_eq!(names(devices.list(Some("other"), None, 2)), [""; 0]);
    kept.close().await;
}

#[test]
fn the_table_of_devices_is_bounded_and_forgets_the_oldest() {
    let devices = Devices::default();
    devices.enter(&identity("connected"), 0);
    for n in 0..MAX_DEVICES + 10 {
        devices.enter(&identity(&n.to_string()), 1 + i64::try_from(n).unwrap()).left(1);
    }
    assert!(devices.len() <= MAX_DEVICES, "{}", devices.len());
    assert!(devices.get(&identity("connected")).is_some());
    assert!(devices.get(&identity(&(MAX_DEVICES + 9).to_string())).is_some());
}

#[tokio::test]
async fn a_foreign_a_damaged_and_a_newer_file_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let error = open(path, 1, StateMetrics::default()).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        error
    };
    let foreign = dir.path().join("foreign.db");
    let connection = rusqlite::Connection::open(&foreign).unwrap();
    connection.execute_batch("CREATE TABLE x (y)").unwrap();
    assert!(refused(&foreign).contains("move it away"));

    let damaged = dir.path().join("damaged.db");
    std::fs::write(&damaged, "this is no database, but long enough to look like one ".repeat(99))
        .unwrap();
    assert!(refused(&damaged).contains("damaged"));

    let newer = dir.path().join("newer.db");
    Kept::open(&newer).close().await;
    rusqlite::Connection::open(&newer).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert!(refused(&newer).contains("version 2"));
}
