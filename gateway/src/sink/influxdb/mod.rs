//! InfluxDB and what speaks its line protocol: VictoriaMetrics, InfluxDB 1 behind a rewriting
//! proxy. Writes go to `/api/v2/write`; a repeated point overwrites itself, so repeats are safe.
//!
//! ```text
//! batch → window (lines, bounded memory) → lanes, by device → chunks → POST, one after another
//! ```
//!
//! A write is done when every lane is: the forwarder's cursor only ever passes what is confirmed.
//! Lanes keep the order of a device's points, so that the newer of two equal points wins.
//!
//! What a store holds, and what becomes of the rest:
//!
//! | | InfluxDB | VictoriaMetrics |
//! |---|---|---|
//! | float | as it is | as it is |
//! | integer | as it is | as a float: exact up to ±2⁵³ |
//! | boolean | as it is | as 0 or 1 |
//! | string | as it is | left out; a reading of nothing else is dropped as unsupported |
//! | time | nanoseconds | milliseconds |
//! | names | see [`line_protocol`](super::line_protocol) | series are `measurement_field` |

mod answer;
mod buckets;
mod client;
mod held;
mod isolate;
mod window;

use super::{Batch, KindWitness, RejectedPoint, Sink, SinkError, line_protocol::Dialect};
use crate::record::{PointId, Position};
use answer::Verdict;
use buckets::Buckets;

use bytes::Bytes;
use client::Client;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task;
use window::{Chunk, Encoder, Window};

/// What the operator may choose.
#[derive(Clone)]
pub struct Options {
    /// Name of the sink, for messages.
    pub name: String,
    /// `http://host:port` or `https://…`, with the path before `/api/v2` if there is one.
    pub url: String,
    /// The organisation.
    pub org: String,
    /// The bucket; `{realm}` stands for the realm of the device.
    pub bucket: String,
    /// Where the token is.
    pub token: Token,
    /// CA certificates that vouch for the store, PEM; without them those of the system.
    pub ca_file: Option<PathBuf>,
    /// Compresses what is sent.
    pub gzip: bool,
    /// An answer must be complete within this.
    pub timeout: Duration,
    /// Most requests under way at once.
    pub in_flight: usize,
    /// Whose line protocol.
    pub dialect: Dialect,
    /// Makes a bucket that is missing, to be kept so long.
    pub create_bucket: Option<Keep>,
}

/// How long a bucket that is made keeps its points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Until they are deleted.
    Forever,
    /// In whole seconds.
    For(Duration),
}

/// Where the token of a store is.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// It asks for none.
    None,
    /// In this file; read again when the store refuses it.
    File(PathBuf),
    /// This one.
    Text(String),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(…)"),
        }
    }
}

/// A store that cannot be used as it is configured. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address makes no sense.
    #[error("the sink {sink}: {url} is no address of the form http://host:port")]
    Url {
        /// The sink.
        sink: String,
        /// What is configured.
        url: String,
    },
    /// The CA certificates cannot be used.
    #[error("the sink {sink}: the CA certificates {}: {why}", path.display())]
    Ca {
        /// The sink.
        sink: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The token cannot be used.
    #[error("the sink {sink}: the token cannot be used: {why}")]
    Token {
        /// The sink.
        sink: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The sink.
#[derive(Debug)]
pub struct InfluxDb {
    client: Client,
    /// If missing ones are made.
    buckets: Option<Buckets>,
    in_flight: usize,
    encoder: Arc<Mutex<Encoder>>,
    /// The store has taken something since the start: it is what it should be.
    accepts: AtomicBool,
    /// Points of the batch under way that were found to be refused, with the store's words: what
    /// was found is not searched for again after an interruption.
    refused: Mutex<HashMap<PointId, String>>,
    /// Who listens to what the store says of kinds, and under which name it knows this sink.
    witness: Option<(String, Arc<dyn KindWitness>)>,
}

impl InfluxDb {
    /// A sink that has not connected yet.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let encoder = Encoder::new(options.dialect, &options.bucket);
        let in_flight = options.in_flight.max(1);
        let buckets = options.create_bucket.map(|keep| Buckets::new(&options.org, keep));
        let client = Client::new(options)?;
        let encoder = Arc::new(Mutex::new(encoder));
        Ok(Self {
            client,
            buckets,
            in_flight,
            encoder,
            accepts: AtomicBool::new(false),
            refused: Mutex::default(),
            witness: None,
        })
    }

    /// Tells `witness` in which kind the store holds a field, when it says so.
    pub fn with_witness(mut self, sink: &str, witness: Arc<dyn KindWitness>) -> Self {
        self.witness = Some((sink.to_owned(), witness));
        self
    }

    /// Encodes the records from `from` on, as many as a window holds.
    async fn window(&self, batch: &Batch, from: usize) -> Result<Window, SinkError> {
        let (encoder, batch) = (Arc::clone(&self.encoder), batch.clone());
        let lanes = self.in_flight;
        let encoded = task::spawn_blocking(move || {
            encoder.lock().unwrap_or_else(PoisonError::into_inner).window(&batch, from, lanes)
        });
        match encoded.await {
            Ok(window) => window.map_err(SinkError::Undecodable),
            Err(error) => Err(SinkError::Retry {
                after: None,
                why: format!("encoding has failed ({error}): report this"),
            }),
        }
    }

    /// Sends the chunks of a lane one after another.
    async fn lane(&self, chunks: Vec<Chunk>) -> Result<Vec<RejectedPoint>, SinkError> {
        let mut rejected = Vec::new();
        for chunk in chunks {
            let some_are_known = !self.refused().is_empty();
            let first = match some_are_known {
                true => None,
                false => Some(self.post(&chunk.bucket, chunk.body.clone()).await),
            };
            if first != Some(Verdict::Stored) {
                rejected.extend(self.isolate(&chunk, first).await?);
            }
        }
        Ok(rejected)
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<PointId, String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn post(&self, bucket: &str, body: Bytes) -> Verdict {
        let mut verdict = self.client.write(bucket, body.clone()).await;
        if let (Verdict::Missing(_), Some(buckets)) = (&verdict, &self.buckets) {
            verdict = match buckets.make(&self.client, bucket).await {
                Ok(()) => self.client.write(bucket, body).await,
                Err(verdict) => verdict,
            };
        }
        if let Verdict::Missing(said) = verdict {
            let why = format!("{said}; make the bucket, or correct url, org and bucket");
            return Verdict::Blocked(why);
        }
        if matches!(verdict, Verdict::Stored) {
            self.accepts.store(true, Ordering::Relaxed);
        }
        verdict
    }
}

impl Sink for InfluxDb {
    async fn write(&self, batch: Batch) -> Result<(), SinkError> {
        let (mut points, mut unsupported) = (Vec::new(), Vec::new());
        self.refused().retain(|id, _| (batch.first..=batch.last).contains(&id.position));
        let mut from = 0;
        while from < batch.records.len() {
            let window = self.window(&batch, from).await?;
            from = window.next;
            unsupported.extend(window.unsupported);
            let lanes = window.lanes.into_iter().map(|chunks| self.lane(chunks));
            // All of them to their end: what is under way is not cut off because another failed.
            let mut failed = None;
            for result in futures_util::future::join_all(lanes).await {
                match result {
                    Ok(rejected) => points.extend(rejected),
                    Err(error) => failed = Some(worse(failed, error)),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        if points.is_empty() && unsupported.is_empty() {
            return Ok(());
        }
        self.tell_kinds(&batch, &points);
        Err(SinkError::Reject { points, unsupported })
    }

    fn committed(&self) -> Option<Position> {
        None
    }
}

/// The error that is told: what a person has to do, else the longest wish for a pause.
fn worse(before: Option<SinkError>, error: SinkError) -> SinkError {
    let rank = |error: &SinkError| match error {
        SinkError::Retry { after, .. } => (0, after.unwrap_or_default()),
        _ => (1, Duration::ZERO),
    };
    match before {
        Some(before) if rank(&before) >= rank(&error) => before,
        _ => error,
    }
}
