//! Whose readings it is about when the gateway's ledger does not agree.
//!
//! The gateway has a ledger for each device, too, and each answer may cost it a walk through its
//! log. So it is asked only when the totals do not agree: of the devices with which something is
//! wrong in the store or, failing them, of the first ones of the run.

use super::counts::Counts;
use super::ledger::{LedgerSource, Reconciled};
use super::realm::DEFAULT;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Where the gateway shows it.
const PAGE: &str = "/api/v1/ledger/device";
/// Most devices of which the gateway is asked.
const MAX_ASKED: usize = 100;
/// Most devices that are named.
const MAX_NAMED: usize = 10;

/// What is known of a device, in readings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    acked: u64,
    unanswered: u64,
    unacknowledged_present: u64,
    present: u64,
    not_shown: u64,
    unexpected: u64,
    /// Lost, altered or written more than once.
    wrong: u64,
}

/// The devices of which the gateway is asked if it has to be.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    suspects: Vec<(String, Known)>,
    /// The first ones of the run, whatever they are like.
    first: Vec<(String, Known)>,
}

/// What was known before the walk through a device.
pub(super) struct Before(Known);

/// A device of which the gateway says something else than journal or store. Counts are readings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceAccount {
    /// The device.
    pub device: String,
    /// Its realm, as the gateway was asked.
    pub realm: String,
    /// Accepted of it, as the gateway says; null if it does not know.
    pub accepted: Option<u64>,
    /// Stored of it by the sink, as the gateway says; null if it does not know.
    pub stored: Option<u64>,
    /// Acknowledged to it, from the journal.
    pub acked: u64,
    /// Those that it sent and that are in the store, from the walk.
    pub present: u64,
}

#[derive(Debug, Deserialize)]
struct Answer {
    sinks: Vec<OfSink>,
}

#[derive(Debug, Deserialize)]
struct OfSink {
    name: String,
    accepted: Option<u64>,
    stored: Option<u64>,
}

impl Known {
    fn of(counts: &Counts) -> Self {
        Self {
            acked: counts.acked,
            unanswered: counts.unanswered,
            unacknowledged_present: counts.unacknowledged_present,
            present: counts.sent_and_present(),
            not_shown: counts.not_shown,
            unexpected: counts.unexpected,
            wrong: counts.lost + counts.altered + counts.duplicated,
        }
    }

    fn less(self, before: Self) -> Self {
        Self {
            acked: self.acked - before.acked,
            unanswered: self.unanswered - before.unanswered,
            unacknowledged_present: self.unacknowledged_present - before.unacknowledged_present,
            present: self.present - before.present,
            not_shown: self.not_shown - before.not_shown,
            unexpected: self.unexpected - before.unexpected,
            wrong: self.wrong - before.wrong,
        }
    }

    /// Whether the gateway may say this of the device.
    fn allows(self, of: &OfSink) -> bool {
        let accepted = self.acked + self.unacknowledged_present..=self.acked + self.unanswered;
        let stored = self.present..=self.present + self.unexpected + self.not_shown;
        of.accepted.is_none_or(|of| accepted.contains(&of))
            && of.stored.is_none_or(|of| stored.contains(&of))
    }
}

impl Counts {
    /// The walk through a device begins.
    pub(super) fn begin_account(&self) -> Before {
        Before(Known::of(self))
    }

    /// …and has ended.
    pub(super) fn end_account(&mut self, device: &str, before: &Before) {
        let known = Known::of(self).less(before.0);
        let Accounts { suspects, first } = &mut self.accounts;
        if first.len() < MAX_ASKED {
            first.push((device.to_owned(), known));
        }
        if known.wrong + known.unexpected > 0 && suspects.len() < MAX_ASKED {
            suspects.push((device.to_owned(), known));
        }
    }
}

impl LedgerSource {
    /// Names the devices of which the gateway says something else than is known of them.
    pub(super) fn name_devices(&mut self, accounts: &Accounts, found: &mut Reconciled) {
        // From before the run there are no figures by device to take off.
        if found.holds() || self.before.is_some() {
            return;
        }
        let Accounts { suspects, first } = accounts;
        let realm = self.realm.clone().unwrap_or_else(|| DEFAULT.to_owned());
        for (device, known) in if suspects.is_empty() { first } else { suspects } {
            if found.devices.len() == MAX_NAMED {
                break;
            }
            let of = match self.of_device(&realm, device, &found.sink) {
                Ok(of) => of,
                Err(error) => {
                    found.devices_untold = Some(format!("{error:#}"));
                    break;
                }
            };
            found.devices_asked += 1;
            if !known.allows(&of) {
                found.devices.push(DeviceAccount {
                    device: device.clone(),
                    realm: realm.clone(),
                    accepted: of.accepted,
                    stored: of.stored,
                    acked: known.acked,
                    present: known.present,
                });
            }
        }
    }

    fn of_device(&mut self, realm: &str, device: &str, sink: &str) -> Result<OfSink> {
        let unread = || format!("cannot read the gateway's ledger of {device}");
        let answer = self.client.get(PAGE, &[("id", device), ("realm", realm)]);
        let answer: Answer =
            serde_json::from_slice(&answer.with_context(unread)?).with_context(unread)?;
        let of = answer.sinks.into_iter().find(|of| of.name == sink);
        of.with_context(|| format!("the gateway's ledger of {device} has no sink {sink:?}"))
    }
}

impl DeviceAccount {
    /// One line for a person.
    pub(super) fn line(&self) -> String {
        let Self { device, realm, accepted, stored, acked, present } = self;
        let said = |count: &Option<u64>| count.map_or("?".to_owned(), |count| count.to_string());
        format!(
            "{device} (realm {realm}): the gateway says {} accepted and {} stored; {acked} were \
             acknowledged, {present} are in the store",
            said(accepted),
            said(stored)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_answered_or_shown_is_given_leeway() {
        let known = Known { acked: 10, unanswered: 3, present: 11, not_shown: 1, ..known_of_one() };
        let of = |accepted, stored| OfSink { name: String::new(), accepted, stored };
        for (accepted, stored, allowed) in [
            (Some(11), Some(11), true),
            (Some(13), Some(12), true),
            (None, None, true),
            (Some(10), None, false),
            (Some(14), None, false),
            (None, Some(10), false),
            (None, Some(13), false),
        ] {
            assert_eq!(known.allows(&of(accepted, stored)), allowed, "{accepted:?} {stored:?}");
        }
    }

    /// One that was not acknowledged, and came.
    fn known_of_one() -> Known {
        Known { unacknowledged_present: 1, ..Known::default() }
    }

    #[test]
    fn few_of_a_large_fleet_are_kept() {
        let mut counts = Counts::default();
        for n in 0..20_000_u64 {
            let before = counts.begin_account();
            counts.acked += 5;
            counts.stored += 4;
            *(if n % 150 == 7 { &mut counts.lost } else { &mut counts.stored }) += 1;
            counts.end_account(&format!("d-{n}"), &before);
        }
        let Accounts { suspects, first } = &counts.accounts;
        assert_eq!((suspects.len(), first.len()), (MAX_ASKED, MAX_ASKED));
        assert_eq!((&*suspects[1].0, suspects[1].1.wrong), ("d-157", 1));
        assert_eq!((first[99].1.acked, first[99].1.present), (5, 5));
    }
}
