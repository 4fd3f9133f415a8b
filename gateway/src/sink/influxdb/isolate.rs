//! Which points of a request the store does not take.
//!
//! InfluxDB 1 and 2 store the rest of a request with bad points and say how many they dropped, and
//! of one of them why; InfluxDB 3 names the lines; other stores may store nothing and say less. So
//! nothing is believed but this: a request that was confirmed is stored; points of which the store
//! says that all were dropped are refused. Everything between is divided, first along the store's
//! words, then in halves.

use super::{
    InfluxDb,
    answer::{Refusal, Verdict},
    window::Chunk,
};
use crate::{
    record::PointId,
    sink::{RejectedPoint, SinkError},
};
use bytes::{Bytes, BytesMut};
use std::{collections::HashMap, sync::atomic::Ordering};

/// So many points refused one by one, with words that are not about points, by a store that has
/// taken nothing yet: it is not about the points.
const SUSPICIOUS: usize = 8;

/// Indices of a chunk's points.
type Part = Vec<usize>;

impl InfluxDb {
    /// Stores what can be stored of a chunk that was not taken as a whole; names the rest. `first`
    /// is what the store said of the whole, if it was asked.
    pub(super) async fn isolate(
        &self,
        chunk: &Chunk,
        first: Option<Verdict>,
    ) -> Result<Vec<RejectedPoint>, SinkError> {
        let mut work = Work::default();
        let mut parts: Vec<Part> = Vec::new();
        let unknown = work.recall(chunk, &self.refused());
        let mut next = (!unknown.is_empty()).then_some((unknown, first));
        while let Some((part, verdict)) = next.take() {
            let verdict = match verdict {
                Some(verdict) => verdict,
                None => self.post(&chunk.bucket, body(chunk, &part)).await,
            };
            match verdict {
                Verdict::Stored => work.confirmed_parts += 1,
                Verdict::Refused(refusal) => {
                    if refusal.is_of_all(part.len()) {
                        work.refuse(&part, &refusal);
                        self.suspect(&work, &refusal)?;
                        self.remember(chunk, &part, &refusal);
                    } else {
                        work.divide(chunk, part, &refusal, &mut parts);
                    }
                }
                Verdict::TooLarge(words) => {
                    work.no_larger = true;
                    let refusal = Refusal::of_points(words);
                    if part.len() == 1 {
                        work.refuse(&part, &refusal);
                    } else {
                        halve(part, &mut parts);
                    }
                }
                Verdict::Blocked(why) | Verdict::Missing(why) => {
                    return Err(SinkError::Blocked { why });
                }
                Verdict::Again { after, why } => return Err(SinkError::Retry { after, why }),
            }
            next = parts.pop().map(|part| (part, None));
        }
        if !work.accepted_any(chunk)
            && let Some(refusal) = work.suspicion.take()
            && !self.accepts.load(Ordering::Relaxed)
        {
            return Err(blocked(&refusal));
        }
        self.restore_order(chunk, &work).await?;
        Ok(work.rejected(chunk))
    }

    /// Not while the store may be the wrong one.
    fn remember(&self, chunk: &Chunk, part: &[usize], refusal: &Refusal) {
        if refusal.about_points || self.accepts.load(Ordering::Relaxed) {
            let words = |line: usize| refusal.words_of(line).to_owned();
            let lines = part.iter().enumerate();
            let found = lines.map(|(line, &at)| (chunk.points[at].0, words(line)));
            self.refused().extend(found);
        }
    }

    /// A store that refuses everything, and not because of the points, must not empty the log
    /// into the file of refused readings.
    fn suspect(&self, work: &Work, refusal: &Refusal) -> Result<(), SinkError> {
        let mistrusted = work.suspicion.is_some() && work.refused.len() >= SUSPICIOUS;
        if mistrusted && !self.accepts.load(Ordering::Relaxed) {
            return Err(blocked(&refusal.words));
        }
        Ok(())
    }

    /// Points that were divided along the store's words went out of order, and the newer of two
    /// equal ones must win: what is good goes once more, in order.
    async fn restore_order(&self, chunk: &Chunk, work: &Work) -> Result<(), SinkError> {
        // All in one request, in their order, is as good as never divided.
        let in_one = work.confirmed_parts == 1 && !work.sorted;
        if !work.out_of_order || in_one || work.no_larger {
            return Ok(());
        }
        let good: Part =
            (0..chunk.points.len()).filter(|index| !work.refused.contains_key(index)).collect();
        if good.is_empty() {
            return Ok(());
        }
        match self.post(&chunk.bucket, body(chunk, &good)).await {
            Verdict::Stored => Ok(()),
            Verdict::Blocked(why) | Verdict::Missing(why) => Err(SinkError::Blocked { why }),
            Verdict::Again { after, why } => Err(SinkError::Retry { after, why }),
            Verdict::Refused(Refusal { words: why, .. }) | Verdict::TooLarge(why) => {
                Err(SinkError::Retry { after: None, why })
            }
        }
    }
}

fn blocked(words: &str) -> SinkError {
    SinkError::Blocked {
        why: format!(
            "the store has taken nothing yet and refuses everything: {words}; correct the sink's \
             url, org and bucket"
        ),
    }
}

#[derive(Default)]
struct Work {
    /// With the store's words.
    refused: HashMap<usize, String>,
    /// The words of a refusal that was not about points.
    suspicion: Option<String>,
    out_of_order: bool,
    /// By time.
    sorted: bool,
    no_larger: bool,
    confirmed_parts: usize,
}

impl Work {
    /// Takes over what was found before; gives the points that are still to be tried.
    fn recall(&mut self, chunk: &Chunk, found: &HashMap<PointId, String>) -> Part {
        let (known, unknown): (Part, Part) =
            (0..chunk.points.len()).partition(|&at| found.contains_key(&chunk.points[at].0));
        let words = |at: usize| (at, found.get(&chunk.points[at].0).cloned().unwrap_or_default());
        self.refused.extend(known.into_iter().map(words));
        unknown
    }

    fn refuse(&mut self, part: &[usize], refusal: &Refusal) {
        if !refusal.about_points {
            self.suspicion = Some(refusal.words.clone());
        }
        let words = |line: usize| refusal.words_of(line).to_owned();
        let refused = part.iter().enumerate().map(|(line, &index)| (index, words(line)));
        self.refused.extend(refused);
    }

    fn accepted_any(&self, chunk: &Chunk) -> bool {
        self.refused.len() < chunk.points.len()
    }

    /// Along the store's words if they help, else in halves.
    fn divide(&mut self, chunk: &Chunk, part: Part, refusal: &Refusal, parts: &mut Vec<Part>) {
        let meant = Meant::by(&refusal.words);
        let (named, others): (Vec<_>, Vec<_>) = part.iter().enumerate().partition(|(line, at)| {
            let is_named = refusal.named.binary_search_by_key(line, |(line, _)| *line).is_ok();
            is_named || meant.as_ref().is_some_and(|meant| meant.is(chunk.line(**at)))
        });
        if !named.is_empty() && !others.is_empty() {
            self.out_of_order = true;
            let of = |lines: Vec<(usize, &usize)>| lines.into_iter().map(|(_, &at)| at).collect();
            parts.extend([of(others), of(named)]);
            return;
        }
        let mut part = part;
        if refusal.words.contains("beyond retention policy") {
            // What is too old lies together then.
            (self.out_of_order, self.sorted) = (true, true);
            part.sort_by_key(|&index| time(chunk.line(index)));
        }
        halve(part, parts);
    }

    fn rejected(self, chunk: &Chunk) -> Vec<RejectedPoint> {
        let mut refused: Vec<_> = self.refused.into_iter().collect();
        refused.sort_unstable_by_key(|(index, _)| *index);
        let point =
            |(index, reason): (usize, String)| RejectedPoint { id: chunk.points[index].0, reason };
        refused.into_iter().map(point).collect()
    }
}

/// The first half is tried first.
fn halve(mut part: Part, parts: &mut Vec<Part>) {
    let second = part.split_off(part.len() / 2);
    parts.extend([second, part]);
}

fn body(chunk: &Chunk, part: &[usize]) -> Bytes {
    let mut body = BytesMut::new();
    for &index in part {
        body.extend_from_slice(chunk.line(index));
    }
    body.freeze()
}

/// The last word of a line.
fn time(line: &[u8]) -> i64 {
    let word = line.trim_ascii_end().rsplit(|&byte| byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).unwrap_or(0)
}

/// The points that InfluxDB's words about a conflict seem to mean. A guess that saves requests;
/// nothing is refused because of it.
struct Meant {
    measurement: Vec<u8>,
    /// `name=` and the first character of a value of the type.
    values: Vec<Vec<u8>>,
}

impl Meant {
    /// `… input field "F" on measurement "M" is type T, already exists as …`
    fn by(words: &str) -> Option<Self> {
        let (_, rest) = words.split_once("input field \"")?;
        let (field, rest) = rest.split_once("\" on measurement \"")?;
        let (measurement, rest) = rest.split_once("\" is type ")?;
        let kind = rest.split([',', ' ']).next()?;
        let first: &[u8] = match kind {
            "string" => b"\"",
            "boolean" => b"tf",
            "float" | "integer" => b"-0123456789",
            _ => return None,
        };
        let escape = |text: &str, specials: &str| {
            let mut out = Vec::new();
            for c in text.chars() {
                if specials.contains(c) {
                    out.push(b'\\');
                }
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            out
        };
        let field = escape(field, ", =");
        let with = |&byte: &u8| [&field[..], &[b'=', byte]].concat();
        Some(Self {
            measurement: [&escape(measurement, ", ")[..], b","].concat(),
            values: first.iter().map(with).collect(),
        })
    }

    fn is(&self, line: &[u8]) -> bool {
        line.starts_with(&self.measurement)
            && self.values.iter().any(|value| {
                line.windows(value.len() + 1)
                    .any(|window| matches!(window[0], b' ' | b',') && window[1..] == **value)
            })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_words_about_a_conflict_name_lines() {
        let words = "partial write: field type conflict: input field \"a b\" on measurement \"m\" \
                     is type string, already exists as type float dropped=3";
        let meant = Meant::by(words).unwrap();
        assert!(meant.is(b"m,device=d x=1,a\\ b=\"t\" 1\n"));
        assert!(meant.is(b"m,device=d a\\ b=\"t\" 1\n"));
        assert!(!meant.is(b"m,device=d a\\ b=1 1\n"));
        assert!(!meant.is(b"mm,device=d a\\ b=\"t\" 1\n"));
        assert!(!meant.is(b"m,device=d aa\\ b=\"t\" 1\n"));
        assert!(Meant::by("unable to parse").is_none());
        assert_eq!(time(b"m,device=d x=\"a 5\" -17\n"), -17);
    }
}
