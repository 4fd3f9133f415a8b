//! What a nack says, cut to what the device can take.

use super::Facts;
use crate::record::Refusal;
use proto::{ErrorCode, GatewayMessage, Nack, limits::MAX_NACK_READINGS, message::RefusedReading};

/// What is wrong with a batch that was taken all the same: its sequence number is consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Complaint {
    /// These readings are refused for good.
    Readings {
        /// The first of them.
        listed: Vec<RefusedReading>,
        /// How many there are.
        total: u32,
    },
    /// The whole batch is refused for good.
    Whole {
        /// Why.
        code: ErrorCode,
        /// For a person.
        detail: Option<String>,
    },
}

impl Complaint {
    /// What is wrong with a batch that has just been checked.
    pub(super) fn of(facts: &Facts) -> Option<Box<Self>> {
        if let Some((code, detail)) = &facts.refused_whole {
            return Some(Box::new(Self::Whole { code: *code, detail: Some(detail.clone()) }));
        }
        let total = u32::try_from(facts.refused.len()).unwrap_or(u32::MAX);
        Self::readings(&facts.refused, total, |refusal| {
            facts.details.iter().find(|detail| detail.index == refusal.index)
        })
        .map(Box::new)
    }

    /// What was wrong with a batch when it was logged; the words come from its repetition, where
    /// that fails in the same way.
    pub(super) fn repeated(
        refused: &[Refusal],
        refused_total: u32,
        refused_whole: Option<ErrorCode>,
        fresh: Option<&Complaint>,
    ) -> Option<Self> {
        if let Some(code) = refused_whole {
            let detail = match fresh {
                Some(Self::Whole { code: same, detail }) if *same == code => detail.clone(),
                _ => None,
            };
            return Some(Self::Whole { code, detail });
        }
        let words: &[RefusedReading] = match fresh {
            Some(Self::Readings { listed, .. }) => listed,
            _ => &[],
        };
        Self::readings(refused, refused_total, |refusal| {
            words.iter().find(|word| word.index == refusal.index && word.code == refusal.code)
        })
    }

    fn readings<'a>(
        refused: &[Refusal],
        total: u32,
        words: impl Fn(&Refusal) -> Option<&'a RefusedReading>,
    ) -> Option<Self> {
        if refused.is_empty() {
            return None;
        }
        let listed = refused
            .iter()
            .take(MAX_NACK_READINGS)
            .map(|refusal| {
                let bare = RefusedReading {
                    index: refusal.index,
                    code: refusal.code,
                    field: None,
                    detail: None,
                };
                words(refusal).cloned().unwrap_or(bare)
            })
            .collect();
        Some(Self::Readings { listed, total })
    }
}

/// The nack of a batch that was taken, at most `max_bytes` long as a message.
pub(super) fn refusal(seq: u64, complaint: &Complaint, max_bytes: u32) -> Nack {
    match complaint {
        Complaint::Whole { code, detail } => {
            let mut nack = Nack { refused: Some(true), ..bare(seq, *code) };
            nack.detail.clone_from(detail);
            if message_bytes(&nack) > max_bytes as usize {
                nack.detail = None;
            }
            nack
        }
        Complaint::Readings { listed, total } => {
            let code = listed.first().map_or(ErrorCode::BadBatch, |first| first.code);
            let mut nack = Nack { readings: listed.clone(), ..bare(seq, code) };
            count_the_rest(&mut nack, *total);
            cut(&mut nack, *total, max_bytes as usize);
            nack
        }
    }
}

/// The nack of a batch that was checked and taken, if anything of it was refused; at most
/// `max_bytes` long as a message.
pub fn nack_of(facts: &Facts, max_bytes: u32) -> Option<Nack> {
    Complaint::of(facts).map(|complaint| refusal(facts.seq, &complaint, max_bytes))
}

/// The same for a batch that had been taken before, from what was refused of it then.
pub fn nack_again(
    facts: &Facts,
    refused: &[Refusal],
    refused_total: u32,
    refused_whole: Option<ErrorCode>,
    max_bytes: u32,
) -> Option<Nack> {
    let fresh = Complaint::of(facts);
    Complaint::repeated(refused, refused_total, refused_whole, fresh.as_deref())
        .map(|complaint| refusal(facts.seq, &complaint, max_bytes))
}

/// Another sequence number comes next.
pub(super) fn out_of_order(seq: u64, expected: u64) -> Nack {
    Nack { expected: Some(expected), ..bare(seq, ErrorCode::OutOfOrder) }
}

/// Send it again later.
pub(super) fn retry(seq: u64, code: ErrorCode, after_ms: u32) -> Nack {
    Nack { retry_after_ms: Some(after_ms), ..bare(seq, code) }
}

fn bare(seq: u64, code: ErrorCode) -> Nack {
    Nack {
        seq,
        code,
        readings: Vec::new(),
        more: None,
        refused: None,
        retry_after_ms: None,
        expected: None,
        detail: None,
    }
}

fn count_the_rest(nack: &mut Nack, total: u32) {
    let rest = total.saturating_sub(u32::try_from(nack.readings.len()).unwrap_or(u32::MAX));
    nack.more = (rest > 0).then_some(rest);
}

/// First the words go, then the last readings, then the field of the only one that is left.
fn cut(nack: &mut Nack, total: u32, max_bytes: usize) {
    if message_bytes(nack) <= max_bytes {
        return;
    }
    for reading in &mut nack.readings {
        reading.detail = None;
    }
    while message_bytes(nack) > max_bytes && nack.readings.len() > 1 {
        nack.readings.pop();
        count_the_rest(nack, total);
    }
    if message_bytes(nack) > max_bytes
        && let Some(reading) = nack.readings.first_mut()
    {
        reading.field = None;
    }
}

fn message_bytes(nack: &Nack) -> usize {
    let mut message = Vec::new();
    GatewayMessage::Nack(nack.clone()).encode(&mut message);
    message.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(n: u32) -> Vec<Refusal> {
        (0..n).map(|index| Refusal { index, code: ErrorCode::BadName }).collect()
    }

    fn facts(n: u32, text: &str) -> Facts {
        let details = (0..n.min(16))
            .map(|index| RefusedReading {
                index,
                code: ErrorCode::BadName,
                field: Some(text.to_owned()),
                detail: Some(text.to_owned()),
            })
            .collect();
        Facts { seq: 9, refused: refused(n).into(), details, ..Facts::default() }
    }

    #[test]
    fn lists_at_most_sixteen_and_counts_the_rest() {
        for (total, listed, more) in [(1, 1, None), (16, 16, None), (17, 16, Some(1))] {
            let complaint = Complaint::of(&facts(total, "x"));
            let nack = refusal(9, complaint.as_deref().expect("refusals"), 4096);
            assert_eq!((nack.readings.len(), nack.more), (listed, more));
            assert_eq!(nack.code, ErrorCode::BadName);
        }
    }

    #[test]
    fn fits_what_the_device_can_take() {
        let long = "n".repeat(128);
        let complaint = Complaint::of(&facts(20, &long)).expect("refusals");
        for max_bytes in [512, 1024, 2048, 4096, 65536] {
            let nack = refusal(u64::MAX >> 11, &complaint, max_bytes);
            assert!(message_bytes(&nack) <= max_bytes as usize, "{max_bytes}");
            assert!(!nack.readings.is_empty());
            assert_eq!(nack.readings.len() as u32 + nack.more.unwrap_or(0), 20);
        }
    }

    #[test]
    fn a_repetition_says_what_was_refused_then() {
        let fresh = Complaint::of(&facts(3, "field"));
        let then = [Refusal { index: 1, code: ErrorCode::BadName }];
        let was = Complaint::repeated(&then, 1, None, fresh.as_deref()).expect("refusals");
        let Complaint::Readings { listed, total } = was else { panic!("readings") };
        assert_eq!((listed.len(), total), (1, 1));
        assert_eq!(listed[0].field.as_deref(), Some("field"));
        assert_eq!(Complaint::repeated(&[], 0, None, fresh.as_deref()), None);
    }
}
