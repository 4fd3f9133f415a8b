//! Order and dedupe: which batch may be logged next.
//!
//! A table of streams, changed only by the committer. It compares with the last *admitted*
//! sequence number; what a failed append admitted is rolled back. The hashes of the last
//! [`WINDOW`] batches of a stream are kept, so that a batch that comes again is recognised by its
//! content. Batches without an order ([`StreamId::Content`]) are recognised by it alone: for them it
//! asks [`Contents`]. No I/O and no clock: the state is rebuilt from checkpoints and records of the
//! log.

use super::{
    StreamId, StreamKey,
    contents::{Contents, Known},
    counts::Counts,
};
use crate::record::{Envelope, Identity, Position, Refusal, Source};
use foldhash::fast::RandomState;
use proto::{ErrorCode, limits::MAX_NACK_READINGS};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// How many batches of a stream are remembered. Not less than the window of a connection.
pub const WINDOW: usize = 64;
/// Streams kept per device; the least recently used is forgotten.
pub const MAX_STREAMS_PER_DEVICE: usize = 8;
/// Named streams kept in all; beyond it the least recently used quarter is forgotten.
pub const MAX_STREAMS: usize = 1_000_000;

/// A batch that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Sequence number.
    pub seq: u64,
    /// XXH3-64 of the batch body.
    pub hash: u64,
    /// Its record.
    pub position: Position,
    /// What was refused of it, to be said again when it comes again; mostly nothing.
    pub refusals: Option<Box<Refusals>>,
}

/// What was refused of a batch: as much as a nack says, so that a device whose readings are all
/// bad takes no more memory than another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals {
    /// The code of a whole refusal.
    pub whole: Option<ErrorCode>,
    /// The first refused readings, at most [`MAX_NACK_READINGS`].
    pub readings: Arc<[Refusal]>,
    /// How many there are in all.
    pub total: u32,
}

impl Refusals {
    /// `None` if nothing was refused.
    pub fn of(whole: Option<ErrorCode>, readings: &[Refusal]) -> Option<Box<Self>> {
        let total = u32::try_from(readings.len()).unwrap_or(u32::MAX);
        let readings = &readings[..readings.len().min(MAX_NACK_READINGS)];
        (whole.is_some() || total > 0)
            .then(|| Box::new(Self { whole, readings: readings.into(), total }))
    }
}

/// Where a stream stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// The admitted batches that are remembered, ascending; never empty once admitted.
    pub window: VecDeque<Seen>,
    /// When it was last used, in ticks of the table.
    pub used: u64,
}

impl Stream {
    /// The last admitted sequence number.
    pub fn last_seq(&self) -> Option<u64> {
        self.window.back().map(|seen| seen.seq)
    }
}

/// What may happen to a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be appended; `gap` says how many sequence numbers were left out before it.
    Admit {
        /// Sequence numbers that the device left out.
        gap: u64,
    },
    /// It was admitted before, at this position.
    Duplicate {
        /// Its record.
        position: Position,
        /// What was refused of it.
        refusals: Option<Box<Refusals>>,
    },
    /// Another batch was admitted under this number, or so long ago that nobody can tell.
    Reused,
    /// Not the number that comes next.
    OutOfOrder {
        /// The number that comes next.
        expected: u64,
    },
}

/// The table of streams.
#[derive(Debug, Default)]
pub struct Admission {
    streams: HashMap<StreamKey, Stream, RandomState>,
    named_of_device: HashMap<Identity, Vec<u64>, RandomState>,
    contents: Contents,
    counts: Counts,
    tick: u64,
    undo: Vec<Undo>,
}

#[derive(Debug)]
struct Undo {
    key: StreamKey,
    pushed_out: Option<Seen>,
}

impl Admission {
    /// What may happen to a batch now. Changes nothing.
    pub fn decide(&self, key: &StreamKey, seq: u64, hash: u64, may_skip: bool) -> Decision {
        if key.stream == StreamId::Content {
            return match self.contents.find(&key.identity, hash) {
                None => Decision::Admit { gap: 0 },
                Some(Known { position, refusals, .. }) => {
                    Decision::Duplicate { position, refusals }
                }
            };
        }
        let Some(last) = self.streams.get(key).and_then(|stream| stream.window.back()) else {
            // A stream that nobody has seen begins where the device says: it may have been
            // forgotten, and the device cannot know.
            return if may_skip || seq == 1 {
                Decision::Admit { gap: 0 }
            } else {
                Decision::OutOfOrder { expected: 1 }
            };
        };
        if seq > last.seq {
            let gap = seq - last.seq - 1;
            return if gap == 0 || may_skip {
                Decision::Admit { gap }
            } else {
                Decision::OutOfOrder { expected: last.seq + 1 }
            };
        }
        let window = &self.streams[key].window;
        match window.binary_search_by_key(&seq, |seen| seen.seq) {
            Ok(at) if window[at].hash == hash => Decision::Duplicate {
                position: window[at].position,
                refusals: window[at].refusals.clone(),
            },
            _ => Decision::Reused,
        }
    }

    /// Takes note that a batch goes into the log; [`Admission::roll_back`] takes it back.
    pub fn admit(&mut self, key: &StreamKey, seen: Seen) {
        if key.stream == StreamId::Content {
            let Seen { hash, position, refusals, .. } = seen;
            return self.contents.admit(&key.identity, Known { hash, position, refusals });
        }
        self.tick += 1;
        let stream = match self.streams.get_mut(key) {
            Some(stream) => stream,
            None => {
                if let StreamId::Named(stream) = key.stream {
                    self.named_of_device.entry(key.identity.clone()).or_default().push(stream);
                }
                self.streams.entry(key.clone()).or_default()
            }
        };
        stream.used = self.tick;
        // Before the push: the memory of a full window must not double.
        let pushed_out =
            if stream.window.len() >= WINDOW { stream.window.pop_front() } else { None };
        stream.window.push_back(seen);
        self.undo.push(Undo { key: key.clone(), pushed_out });
    }

    /// The group that was admitted since the last call is durable. Forgets the least recently
    /// used streams of devices that have too many.
    pub fn confirm(&mut self) {
        self.contents.confirm();
        for undo in std::mem::take(&mut self.undo) {
            if matches!(undo.key.stream, StreamId::Named(_)) {
                self.trim_device(&undo.key.identity);
            }
        }
        if self.streams.len() > MAX_STREAMS {
            self.trim_all();
        }
    }

    /// The group that was admitted since the last [`Admission::confirm`] was not logged.
    pub fn roll_back(&mut self) {
        self.contents.roll_back();
        for undo in std::mem::take(&mut self.undo).into_iter().rev() {
            let Some(stream) = self.streams.get_mut(&undo.key) else { continue };
            stream.window.pop_back();
            if let Some(seen) = undo.pushed_out {
                stream.window.push_front(seen);
            }
            if stream.window.is_empty() {
                self.remove(&undo.key);
            }
        }
    }

    /// A stream, if it is known.
    pub fn stream(&self, key: &StreamKey) -> Option<&Stream> {
        self.streams.get(key)
    }

    /// Forgets a stream.
    pub fn forget(&mut self, key: &StreamKey) {
        self.remove(key);
    }

    /// The named streams, for a checkpoint.
    pub fn named(&self) -> impl Iterator<Item = (&StreamKey, u64, &Stream)> {
        self.streams.iter().filter_map(|(key, stream)| match key.stream {
            StreamId::Named(id) => Some((key, id, stream)),
            StreamId::Private(_) | StreamId::Content => None,
        })
    }

    /// What is remembered of the batches without an order.
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The same, for what puts a checkpoint back.
    pub fn contents_mut(&mut self) -> &mut Contents {
        &mut self.contents
    }

    /// What the log has of each device. Changed with what is durable, so that nothing of it is
    /// ever rolled back.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The same, to change it.
    pub fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    /// Puts back a stream from a checkpoint.
    pub fn restore(&mut self, identity: Identity, stream: u64, window: VecDeque<Seen>) {
        if window.is_empty() {
            return;
        }
        self.tick += 1;
        let key = StreamKey { identity, stream: StreamId::Named(stream) };
        let restored = Stream { window, used: self.tick };
        if self.streams.insert(key.clone(), restored).is_none() {
            self.named_of_device.entry(key.identity).or_default().push(stream);
        }
    }

    /// Takes note of a record of the log, after the checkpoint.
    pub fn replay(&mut self, position: Position, envelope: &Envelope) {
        let stream = match (envelope.source, envelope.stream) {
            (Source::Mqtt, _) => StreamId::Content,
            (_, 0) => return,
            (_, stream) => StreamId::Named(stream),
        };
        let key = StreamKey { identity: envelope.identity.clone(), stream };
        let last = self.streams.get(&key).and_then(Stream::last_seq).unwrap_or(0);
        if stream == StreamId::Content || envelope.seq > last {
            self.admit(
                &key,
                Seen {
                    seq: envelope.seq,
                    hash: envelope.payload_hash,
                    position,
                    refusals: Refusals::of(envelope.refused_whole, &envelope.refused),
                },
            );
            self.confirm();
        }
    }

    fn remove(&mut self, key: &StreamKey) {
        self.streams.remove(key);
        if let StreamId::Named(id) = key.stream
            && let Some(named) = self.named_of_device.get_mut(&key.identity)
        {
            named.retain(|&other| other != id);
            if named.is_empty() {
                self.named_of_device.remove(&key.identity);
            }
        }
    }

    fn trim_device(&mut self, identity: &Identity) {
        while let Some(named) = self.named_of_device.get(identity) {
            if named.len() <= MAX_STREAMS_PER_DEVICE {
                return;
            }
            let key =
                |&id: &u64| StreamKey { identity: identity.clone(), stream: StreamId::Named(id) };
            let used = |id: &&u64| self.streams.get(&key(id)).map_or(0, |stream| stream.used);
            let Some(oldest) = named.iter().min_by_key(used).map(key) else { return };
            self.remove(&oldest);
        }
    }

    fn trim_all(&mut self) {
        let mut by_use: Vec<(u64, StreamKey)> =
            self.named().map(|(key, _, stream)| (stream.used, key.clone())).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        by_use.truncate(by_use.len() / 4);
        for (_, key) in by_use {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn key(stream: u64) -> StreamKey {
        StreamKey { identity: Identity::new("default", "d1"), stream: StreamId::Named(stream) }
    }

    fn seen(seq: u64, hash: u64) -> Seen {
        Seen { seq, hash, position: Position(seq * 10), refusals: None }
    }

    fn table_with(seqs: std::ops::RangeInclusive<u64>) -> Admission {
        let mut table = Admission::default();
        for seq in seqs {
            table.admit(&key(7), seen(seq, seq));
        }
        table.confirm();
        table
    }

    #[test]
    fn decides_by_the_last_admitted_number() {
        let table = table_with(1..=100);
        let duplicate = Decision::Duplicate { position: Position(1000), refusals: None };
        for (seq, hash, may_skip, expected) in [
            (101, 0, false, Decision::Admit { gap: 0 }),
            (102, 0, false, Decision::OutOfOrder { expected: 101 }),
            (110, 0, true, Decision::Admit { gap: 9 }),
            (100, 100, false, duplicate.clone()),
            (100, 100, true, duplicate),
            (100, 99, false, Decision::Reused),
            // Older than the window: nobody can tell whether it is the same.
            (36, 36, false, Decision::Reused),
        ] {
            assert_eq!(table.decide(&key(7), seq, hash, may_skip), expected, "seq {seq}");
        }
        let oldest = table.decide(&key(7), 37, 37, false);
        assert!(matches!(oldest, Decision::Duplicate { position: Position(370), .. }));
    }

    #[test]
    fn an_unknown_stream_begins_at_one_or_where_the_first_batch_says() {
        let table = Admission::default();
        assert_eq!(table.decide(&key(1), 1, 0, false), Decision::Admit { gap: 0 });
        assert_eq!(table.decide(&key(1), 5, 0, true), Decision::Admit { gap: 0 });
        assert_eq!(table.decide(&key(1), 5, 0, false), Decision::OutOfOrder { expected: 1 });
    }

    #[test]
    fn rolling_back_restores_the_window_to_the_letter() {
        let mut table = table_with(1..=70);
        let before = table.stream(&key(7)).unwrap().window.clone();
        for seq in 71..=90 {
            table.admit(&key(7), seen(seq, seq));
        }
        table.admit(&key(8), seen(1, 1));
        table.roll_back();
        assert_eq!(table.stream(&key(7)).unwrap().window, before);
        assert!(table.stream(&key(8)).is_none());
        assert_eq!(table.named_of_device[&key(7).identity], vec![7]);
    }

    #[test]
    fn keeps_the_eight_streams_of_a_device_that_were_used_last() {
        let mut table = Admission::default();
        for stream in 1..=8 {
            table.admit(&key(stream), seen(1, 1));
        }
        table.admit(&key(1), seen(2, 2));
        table.admit(&key(9), seen(1, 1));
        table.confirm();
        let mut kept: Vec<u64> = table.named().map(|(_, id, _)| id).collect();
        kept.sort_unstable();
        assert_eq!(kept, [1, 3, 4, 5, 6, 7, 8, 9]);
    }
}
