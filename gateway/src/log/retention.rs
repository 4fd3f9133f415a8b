//! What may be deleted: one pure function.

use super::SegmentInfo;
use crate::record::Position;
use std::time::Duration;

/// How much is kept although every sink has it, so that a sink that is added later can start from
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Records are kept for this long.
    pub age: Duration,
    /// The newest records are kept up to this many bytes. What is older than `age` or beyond
    /// `bytes` goes.
    pub bytes: u64,
}

impl Default for Keep {
    /// Nothing beyond what a sink still needs.
    fn default() -> Self {
        Self { age: Duration::ZERO, bytes: 0 }
    }
}

/// The position below which nothing is needed any more: the minimum over all cursors (each the
/// last position that its sink has stored, synced), the first record of the newest valid
/// checkpoint, and what the configured age and size keep.
///
/// `segments` are all segments, ascending, the last one active. Deletion takes whole segments, so
/// more may stay.
pub fn low_water(
    cursors: impl IntoIterator<Item = Position>,
    newest_checkpoint: Option<Position>,
    segments: &[SegmentInfo],
    keep: &Keep,
    now_ns: i64,
) -> Position {
    // Without a checkpoint the whole log is needed to rebuild the state of order and dedupe.
    let needed = cursors
        .into_iter()
        .map(Position::next)
        .chain([newest_checkpoint.unwrap_or(Position::ZERO)])
        .min()
        .unwrap_or(Position::ZERO);
    needed.min(kept(segments, keep, now_ns))
}

/// The first position that age and size keep. A segment is as old as the beginning of the next.
fn kept(segments: &[SegmentInfo], keep: &Keep, now_ns: i64) -> Position {
    let mut first = segments.last().map_or(Position::ZERO, |active| active.base);
    let mut bytes = segments.last().map_or(0, |active| active.bytes);
    let oldest_ns =
        i64::try_from(keep.age.as_nanos()).map_or(i64::MIN, |age_ns| now_ns.saturating_sub(age_ns));
    for pair in segments.windows(2).rev() {
        let [segment, following] = pair else { break };
        bytes = bytes.saturating_add(segment.bytes);
        if following.created_at_ns <= oldest_ns || bytes > keep.bytes {
            break;
        }
        first = segment.base;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Four segments of 10 records and 100 bytes, begun at 0, 10, 20 and 30 seconds.
    fn segments() -> Vec<SegmentInfo> {
        (0..4)
            .map(|n: u32| SegmentInfo {
                base: Position(u64::from(n) * 10 + 1),
                last: Position(u64::from(n) * 10 + 10),
                bytes: 100,
                created_at_ns: i64::from(n) * 10_000_000_000,
                path: PathBuf::new(),
            })
            .collect()
    }

    fn low(cursors: &[u64], checkpoint: Option<u64>, age_s: u64, bytes: u64) -> u64 {
        let keep = Keep { age: Duration::from_secs(age_s), bytes };
        let cursors = cursors.iter().copied().map(Position);
        let checkpoint = checkpoint.map(Position);
        low_water(cursors, checkpoint, &segments(), &keep, 35_000_000_000).0
    }

    #[test]
    fn the_minimum_of_everything_that_needs_a_record() {
        let forever = u64::MAX;
        for (cursors, checkpoint, age_s, bytes, expected, why) in [
            (&[40, 40][..], Some(31), 0, 0, 31, "everybody is done: the checkpoint stays"),
            (&[40, 12][..], Some(31), 0, 0, 13, "the slowest cursor"),
            (&[40, 0][..], Some(31), 0, 0, 1, "a sink that has nothing yet"),
            (&[40][..], Some(15), 0, 0, 15, "the checkpoint"),
            (&[40][..], None, 0, 0, 0, "no checkpoint: nothing goes"),
            (&[][..], Some(40), 0, 0, 31, "no sink: the active segment stays"),
            (&[40][..], Some(31), forever, forever, 1, "everything is kept"),
            (&[40][..], Some(31), 6, forever, 21, "the third was closed 5 s ago"),
            (&[40][..], Some(31), 16, forever, 11, "the second was closed 15 s ago"),
            (&[40][..], Some(31), forever, 300, 11, "300 bytes hold three segments"),
            (&[40][..], Some(31), forever, 299, 21, "299 bytes hold two"),
            (&[40][..], Some(31), 6, 300, 21, "either limit is enough to go"),
        ] {
            assert_eq!(low(cursors, checkpoint, age_s, bytes), expected, "{why}");
        }
        let none = low_water([Position(5)], Some(Position(3)), &[], &Keep::default(), 0);
        assert_eq!(none, Position::ZERO, "no segments");
    }
}
