//! The gateway's own ledger, held against the journal and the store.
//!
//! The ledger says of each sink: accepted = stored + quarantined + pending + dropped. All of it is
//! the word of the gateway; the journal knows what was acknowledged, and the walk through the store
//! what is there. Three accounts of one run that must agree to the reading.
//!
//! The ledger counts all that the gateway has taken since its log was made. So it has to have served
//! nothing but this run, or its ledger from before the run is taken off.

use super::accounts::DeviceAccount;
use super::counts::Counts;
use super::http::{Client, Endpoint};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Where the gateway shows its ledger.
const PAGE: &str = "/api/v1/ledger";
/// The name of the embedded store among the sinks.
const EMBEDDED: &str = "store";

/// A gateway whose ledger is held against a run.
#[derive(Debug)]
pub struct LedgerSource {
    pub(super) client: Client,
    sink: Option<String>,
    pub(super) before: Option<Snapshot>,
    /// The realm of the run's devices.
    pub(super) realm: Option<String>,
}

/// The ledger at one moment; counts are readings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Snapshot {
    accepted: u64,
    sinks: Vec<Sink>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Sink {
    name: String,
    epoch: u64,
    accepted: u64,
    stored: u64,
    quarantined: u64,
    pending: u64,
    dropped: BTreeMap<String, u64>,
}

/// What the gateway says of the run, and whether it is so. Counts are readings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reconciled {
    /// The sink that writes to the store that was walked.
    pub sink: String,
    /// Accepted by the gateway for this sink.
    pub accepted: u64,
    /// Confirmed by the store.
    pub stored: u64,
    /// Refused by the store and set aside.
    pub quarantined: u64,
    /// Still in the gateway's log.
    pub pending: u64,
    /// Given up, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Acknowledged to the devices, from the journal.
    pub acked: u64,
    /// In the store, from the walk.
    pub present: u64,
    /// What does not agree; empty if all does.
    pub problems: Vec<String>,
    /// If not all does: of how many devices the gateway was asked.
    pub devices_asked: usize,
    /// Those of which it says something else than journal or store; at most ten.
    pub devices: Vec<DeviceAccount>,
    /// Why it could not be asked of more.
    pub devices_untold: Option<String>,
}

impl LedgerSource {
    /// The gateway whose listener for operators is at this address. `sink` is the one that writes
    /// to the store; `before` holds what the page showed before the run.
    ///
    /// # Errors
    /// The address is none, or a file cannot be read.
    pub fn open(endpoint: &Endpoint, sink: Option<&str>, before: Option<&Path>) -> Result<Self> {
        let read = |path: &Path| -> Result<Snapshot> {
            let unreadable = || format!("cannot read the ledger {}", path.display());
            let text = std::fs::read(path).with_context(unreadable)?;
            serde_json::from_slice(&text).with_context(unreadable)
        };
        Ok(Self {
            client: Client::new(endpoint, "Bearer")?,
            sink: sink.map(str::to_owned),
            before: before.map(read).transpose()?,
            realm: None,
        })
    }

    /// The devices of the run are of this realm.
    #[must_use]
    pub fn of_realm(self, realm: Option<String>) -> Self {
        Self { realm, ..self }
    }

    pub(super) fn snapshot(&mut self) -> Result<Snapshot> {
        let answer = self.client.get(PAGE, &[]).context("cannot read the gateway's ledger")?;
        serde_json::from_slice(&answer).context("cannot read the gateway's ledger")
    }

    /// Whether everything that was accepted has come to its end in the sink of this kind of store.
    pub(super) fn is_done(&self, snapshot: &Snapshot, kind: &str) -> Result<bool> {
        Ok(snapshot.sink(self.name(snapshot, kind)?)?.pending == 0)
    }

    /// Holds a ledger against what is known of the run.
    pub(super) fn reconcile(
        &self,
        snapshot: &Snapshot,
        counts: &Counts,
        kind: &str,
    ) -> Result<Reconciled> {
        let name = self.name(snapshot, kind)?;
        let mut problems: Vec<String> = snapshot.sinks.iter().filter_map(Sink::imbalance).collect();
        let mut sink = snapshot.sink(name)?.clone();
        if let Some(before) = &self.before {
            let before = before.sink(name).context("the ledger from before the run")?;
            problems.extend(sink.take_off(before));
        }
        problems.extend(sink.disagreements(counts));
        let Sink { name, accepted, stored, quarantined, pending, dropped, .. } = sink;
        let (acked, present) = (counts.acked, counts.sent_and_present());
        Ok(Reconciled {
            sink: name,
            accepted,
            stored,
            quarantined,
            pending,
            dropped,
            acked,
            present,
            problems,
            ..Reconciled::default()
        })
    }

    /// The sink that writes to a store of this kind.
    fn name<'a>(&'a self, snapshot: &'a Snapshot, kind: &str) -> Result<&'a str> {
        if let Some(name) = &self.sink {
            return Ok(name);
        }
        if kind == "sqlite" {
            return Ok(EMBEDDED);
        }
        let others: Vec<&str> = snapshot
            .sinks
            .iter()
            .map(|sink| &*sink.name)
            .filter(|&name| name != EMBEDDED)
            .collect();
        match others[..] {
            [only] => Ok(only),
            _ => bail!("which sink is it? Give --ledger-sink with one of: {}", others.join(", ")),
        }
    }
}

impl Snapshot {
    fn sink(&self, name: &str) -> Result<&Sink> {
        let found = self.sinks.iter().find(|sink| sink.name == name);
        found.with_context(|| format!("the ledger has no sink {name:?}"))
    }
}

impl Sink {
    fn accounted(&self) -> u64 {
        self.stored + self.quarantined + self.pending + self.dropped.values().sum::<u64>()
    }

    fn imbalance(&self) -> Option<String> {
        let (name, accepted, accounted) = (&self.name, self.accepted, self.accounted());
        (accepted != accounted).then(|| {
            format!("the sink {name} does not balance: {accepted} accepted, {accounted} accounted")
        })
    }

    /// Takes off what the ledger showed before the run.
    fn take_off(&mut self, before: &Self) -> Option<String> {
        let less = |now: &mut u64, before: u64| match now.checked_sub(before) {
            Some(grown) => {
                *now = grown;
                true
            }
            None => false,
        };
        // What was pending then has become something else since.
        let pending = self.pending;
        let fits = self.epoch == before.epoch
            && less(&mut self.accepted, before.accepted)
            && before.pending == 0
            && less(&mut self.stored, before.stored)
            && less(&mut self.quarantined, before.quarantined)
            && before.dropped.iter().all(|(reason, &count)| {
                self.dropped.get_mut(reason).is_some_and(|now| less(now, count))
            });
        self.pending = pending;
        (!fits).then(|| {
            format!(
                "the ledger from before the run is not one of this sink {} at rest: it was rewound, \
                 had readings pending, or is of another gateway",
                self.name
            )
        })
    }

    /// Where the ledger contradicts the journal or the store.
    fn disagreements(&self, counts: &Counts) -> Vec<String> {
        let Self { name, accepted, stored, .. } = self;
        let mut found = Vec::new();
        let least = counts.acked + counts.unacknowledged_present;
        let most = counts.acked + counts.unanswered;
        if *accepted < least {
            found.push(format!(
                "the gateway says that it accepted {accepted} readings for the sink {name}, and \
                 {least} were acknowledged or are in the store"
            ));
        }
        if *accepted > most {
            found.push(format!(
                "the gateway says that it accepted {accepted} readings for the sink {name}, and \
                 the run sent it {most} at most; if it has served others, too, give its ledger from \
                 before the run (--ledger-before)"
            ));
        }
        let least = counts.sent_and_present();
        let most = least + counts.unexpected + counts.not_shown;
        if *stored < least {
            found.push(format!(
                "the gateway says that the sink {name} has stored {stored} readings, and {least} \
                 are in the store"
            ));
        }
        if *stored > most {
            let nowhere = stored - most;
            found.push(format!(
                "the gateway says that the sink {name} has stored {stored} readings, and {most} are \
                 in the store: {nowhere} are nowhere"
            ));
        }
        found
    }
}

impl Reconciled {
    /// Whether all accounts agree.
    pub fn holds(&self) -> bool {
        self.problems.is_empty()
    }

    /// One line for a person.
    pub(super) fn line(&self) -> String {
        let Self { sink, accepted, stored, quarantined, pending, dropped, .. } = self;
        let dropped: u64 = dropped.values().sum();
        format!(
            "{sink}: {accepted} accepted = {stored} stored + {quarantined} quarantined + {pending} \
             pending + {dropped} dropped"
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sink(name: &str, [accepted, stored, quarantined, pending, skipped]: [u64; 5]) -> Sink {
        let dropped = [("skipped".to_owned(), skipped)].into();
        Sink { name: name.to_owned(), epoch: 0, accepted, stored, quarantined, pending, dropped }
    }

    fn source(sink: Option<&str>, before: Option<Snapshot>) -> LedgerSource {
        let credential = super::super::Credential::None;
        let endpoint = Endpoint { url: "http://127.0.0.1:1".to_owned(), ca: None, credential };
        LedgerSource { before, ..LedgerSource::open(&endpoint, sink, None).unwrap() }
    }

    /// 1,000 acknowledged, of which 3 are not in the store; 20 more were sent, 5 of them are there.
    fn counts() -> Counts {
        Counts {
            acked: 1_000,
            stored: 996,
            altered: 1,
            lost: 3,
            unacknowledged_present: 5,
            unanswered: 20,
            ..Counts::default()
        }
    }

    #[test]
    fn accounts_agree_or_a_sentence_says_where_not() {
        let whole: [(&str, [u64; 5]); 12] = [
            ("", [1_005, 1_002, 3, 0, 0]),
            ("", [1_005, 1_002, 1, 1, 1]),
            // It may have taken more of what it has not acknowledged.
            ("", [1_020, 1_002, 3, 15, 0]),
            ("does not balance: 1005 accepted, 1004 accounted", [1_005, 1_002, 2, 0, 0]),
            ("does not balance: 1005 accepted, 1006 accounted", [1_005, 1_002, 3, 1, 0]),
            ("accepted 1004 readings for the sink store, and 1005", [1_004, 1_002, 2, 0, 0]),
            ("accepted 1021 readings", [1_021, 1_002, 3, 16, 0]),
            ("--ledger-before", [2_005, 1_002, 3, 1_000, 0]),
            (
                "stored 1005 readings, and 1002 are in the store: 3 are nowhere",
                [1_005, 1_005, 0, 0, 0],
            ),
            (
                "stored 1003 readings, and 1002 are in the store: 1 are nowhere",
                [1_005, 1_003, 2, 0, 0],
            ),
            ("stored 1001 readings, and 1002 are", [1_005, 1_001, 4, 0, 0]),
            ("stored 0 readings, and 1002 are", [1_005, 0, 0, 1_005, 0]),
        ];
        for (word, ledger) in whole {
            let snapshot = Snapshot { accepted: ledger[0], sinks: vec![sink("store", ledger)] };
            let found = source(None, None).reconcile(&snapshot, &counts(), "sqlite").unwrap();
            match word {
                "" => assert!(found.holds(), "{ledger:?}: {:?}", found.problems),
                word => {
                    assert!(found.problems.iter().any(|said| said.contains(word)), "{found:?}");
                }
            }
            assert_eq!((found.acked, found.present), (1_000, 1_002));
        }
    }

    #[test]
    fn what_a_store_cannot_show_and_what_nobody_sent_is_given_leeway() {
        for (unexpected, not_shown) in [(2, 0), (0, 2), (1, 1)] {
            let counts = Counts { unexpected, not_shown, ..counts() };
            for (stored, holds) in [(1_002, true), (1_004, true), (1_005, false)] {
                let ledger = sink("store", [1_010, stored, 1_010 - stored, 0, 0]);
                let snapshot = Snapshot { accepted: 1_010, sinks: vec![ledger] };
                let found = source(None, None).reconcile(&snapshot, &counts, "sqlite").unwrap();
                assert_eq!(found.holds(), holds, "{stored}: {:?}", found.problems);
            }
        }
    }

    #[test]
    fn the_ledger_from_before_the_run_is_taken_off() {
        let now = sink("store", [1_505, 1_402, 53, 0, 50]);
        let snapshot = Snapshot { accepted: 1_505, sinks: vec![now] };
        let reconcile = |before: Sink| {
            let before = Some(Snapshot { accepted: 0, sinks: vec![before] });
            source(None, before).reconcile(&snapshot, &counts(), "sqlite").unwrap()
        };
        let found = reconcile(sink("store", [500, 400, 50, 0, 50]));
        assert!(found.holds(), "{:?}", found.problems);
        assert_eq!((found.accepted, found.stored, found.quarantined), (1_005, 1_002, 3));
        let rewound = Sink { epoch: 1, ..sink("store", [500, 400, 50, 0, 50]) };
        let pending = sink("store", [500, 399, 50, 1, 50]);
        let other = sink("store", [5_000, 4_900, 50, 0, 50]);
        for before in [rewound, pending, other] {
            let found = reconcile(before);
            assert!(found.problems[0].contains("is not one of this sink"), "{:?}", found.problems);
        }
    }

    #[test]
    fn the_sink_of_a_store_is_found_or_asked_for() {
        let sinks = ["store", "influx", "broker"].map(|name| sink(name, [0; 5]));
        let many = Snapshot { accepted: 0, sinks: sinks.to_vec() };
        let two = Snapshot { accepted: 0, sinks: sinks[..2].to_vec() };
        let own = source(Some("broker"), None);
        let any = source(None, None);
        assert_eq!(any.name(&many, "sqlite").unwrap(), "store");
        assert_eq!(any.name(&two, "influxdb").unwrap(), "influx");
        assert_eq!(own.name(&many, "influxdb").unwrap(), "broker");
        let asked = any.name(&many, "influxdb").unwrap_err().to_string();
        assert!(asked.contains("--ledger-sink with one of: influx, broker"), "{asked}");
        let missing = own.is_done(&two, "influxdb").unwrap_err().to_string();
        assert!(missing.contains("no sink \"broker\""), "{missing}");
    }
}
