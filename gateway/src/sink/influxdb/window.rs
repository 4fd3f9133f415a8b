//! Records into the bodies of requests: by device into lanes, by bucket and size into chunks.

use crate::{
    record::{EnvelopeError, PointId, Points, Position},
    sink::{
        Batch,
        line_protocol::{Dialect, Encoded, LineEncoder},
    },
};
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};
use xxhash_rust::xxh3::xxh3_64;

/// A window ends at so many bytes of lines; one more record may come on top.
const WINDOW_BYTES: usize = 16 << 20;
/// Most lines of a request. InfluxDB's own advice is 5,000 to 10,000.
const CHUNK_LINES: usize = 10_000;
/// A request ends at so many bytes; one more line may come on top. Far below what stores refuse.
const CHUNK_BYTES: usize = 4 << 20;
/// Readings for which another lane is worth a request.
const LANE_READINGS: u64 = 1_000;

/// The body of a request.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bucket: Arc<str>,
    pub(super) body: Bytes,
    /// The points in the order of the lines, and where each line ends.
    pub(super) points: Vec<(PointId, usize)>,
}

impl Chunk {
    /// The line of a point.
    pub(super) fn line(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.points[before].1);
        &self.body[start..self.points[index].1]
    }
}

/// What is sent at once.
#[derive(Debug)]
pub(super) struct Window {
    /// Requests that may be under way at once; each has its chunks in order.
    pub(super) lanes: Vec<Vec<Chunk>>,
    /// Readings of which the store can hold nothing.
    pub(super) unsupported: Vec<(Position, u64)>,
    /// The first record behind it.
    pub(super) next: usize,
}

/// Makes windows; keeps what is remembered from one to the next.
#[derive(Debug)]
pub(super) struct Encoder {
    lines: LineEncoder,
    points: Points,
    bucket: Arc<str>,
    by_realm: bool,
    /// By realm; realms come from the configuration, so there are few.
    buckets: HashMap<Arc<str>, Arc<str>>,
}

impl Encoder {
    pub(super) fn new(dialect: Dialect, bucket: &str) -> Self {
        Self {
            lines: LineEncoder::new(dialect),
            points: Points::default(),
            bucket: bucket.into(),
            by_realm: bucket.contains("{realm}"),
            buckets: HashMap::new(),
        }
    }

    /// The lines of the records from `from` on, in at most `lanes` lanes.
    pub(super) fn window(
        &mut self,
        batch: &Batch,
        from: usize,
        lanes: usize,
    ) -> Result<Window, EnvelopeError> {
        let worth = usize::try_from(batch.readings / LANE_READINGS).unwrap_or(lanes);
        let count = worth.clamp(1, lanes);
        let mut lanes: Vec<Lane> = (0..count).map(|_| Lane::default()).collect();
        let (mut bytes, mut unsupported, mut next) = (0, Vec::new(), from);
        for record in &batch.records[from..] {
            let identity = &record.envelope.identity;
            let bucket = self.bucket(&identity.realm);
            let at = xxh3_64(identity.device.as_bytes()) % count as u64;
            let lane = &mut lanes[usize::try_from(at).unwrap_or(0)];
            let encoder = &mut self.lines;
            let (position, envelope) = (record.position, &record.envelope);
            let mut of_record = 0;
            self.points.for_each(position, envelope, &record.payload, |point| {
                let open = lane.chunk(&bucket);
                let before = open.body.len();
                match encoder.encode(point, &mut open.body) {
                    Encoded::Line { .. } => {
                        bytes += open.body.len() - before;
                        open.points.push((point.id, open.body.len()));
                    }
                    Encoded::Unsupported => of_record += 1,
                }
            })?;
            if of_record > 0 {
                unsupported.push((position, of_record));
            }
            next += 1;
            if bytes >= WINDOW_BYTES {
                break;
            }
        }
        let lanes = lanes.into_iter().map(Lane::finish).filter(|lane| !lane.is_empty()).collect();
        Ok(Window { lanes, unsupported, next })
    }

    fn bucket(&mut self, realm: &Arc<str>) -> Arc<str> {
        if !self.by_realm {
            return Arc::clone(&self.bucket);
        }
        let named = || self.bucket.replace("{realm}", realm).into();
        Arc::clone(self.buckets.entry(Arc::clone(realm)).or_insert_with(named))
    }
}

struct Open {
    bucket: Arc<str>,
    body: Vec<u8>,
    points: Vec<(PointId, usize)>,
}

impl Open {
    fn is_full(&self) -> bool {
        self.points.len() >= CHUNK_LINES || self.body.len() >= CHUNK_BYTES
    }
}

/// One chunk of each bucket is open at a time: a device has one bucket, so its order holds.
#[derive(Default)]
struct Lane {
    open: Vec<Open>,
    full: Vec<Chunk>,
}

impl Lane {
    fn chunk(&mut self, bucket: &Arc<str>) -> &mut Open {
        let at = match self.open.iter().position(|open| open.bucket == *bucket) {
            Some(at) => {
                if self.open[at].is_full() {
                    let full = std::mem::replace(&mut self.open[at], Self::empty(bucket));
                    self.full.push(closed(full));
                }
                at
            }
            None => {
                self.open.push(Self::empty(bucket));
                self.open.len() - 1
            }
        };
        &mut self.open[at]
    }

    fn empty(bucket: &Arc<str>) -> Open {
        Open { bucket: Arc::clone(bucket), body: Vec::new(), points: Vec::new() }
    }

    fn finish(mut self) -> Vec<Chunk> {
        let open = self.open.into_iter().filter(|open| !open.points.is_empty());
        self.full.extend(open.map(closed));
        self.full
    }
}

fn closed(open: Open) -> Chunk {
    Chunk { bucket: open.bucket, body: open.body.into(), points: open.points }
}
