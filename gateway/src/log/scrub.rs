//! The scrub: reads the sealed segments again while there is little else to do, so that damage is
//! known while a sink, a device or a backup may still have what is damaged, and not only when
//! somebody needs it.
//!
//! Reads at a bounded rate and past the page cache, waits while batches come in numbers, changes
//! nothing. What it finds is an alert in the process's log and a metric; the gateway stays ready,
//! because everything else in the log is of use.

use super::{
    Damaged, ReadError, SegmentReport, Shared,
    files::Open,
    format::Salt,
    segment::before,
    survey::{Pace, Survey},
};
use crate::record::Position;
use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

/// Most bytes that the scrub reads in a second.
const BYTES_PER_SECOND: u64 = 8 * 1024 * 1024;
/// It sleeps after so many bytes.
const STRETCH_BYTES: u64 = 512 * 1024;
/// The log counts as busy while more records than this are written in [`LOOK`].
const BUSY_RECORDS: u64 = 200;
/// How often it looks whether the log is busy.
const LOOK: Duration = Duration::from_secs(1);
/// The first pass begins at most so long after the start.
const FIRST_AFTER: Duration = Duration::from_secs(600);

/// Reads all sealed segments once in `every`, until `stop`. A pass that a busy log has kept from
/// its end for that long goes on all the same, at its rate.
pub async fn scrub(log: Shared, every: Duration, stop: CancellationToken) {
    let mut lost = BTreeMap::new();
    let mut pause = every.min(FIRST_AFTER);
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let begun = Instant::now();
        let until = begun + every;
        for base in sealed(&log) {
            if stop.run_until_cancelled(quiet(&log, until)).await.is_none() {
                return;
            }
            let (of_segment, stopped) = (log.clone(), stop.clone());
            let read = move || of_segment.check_paced(base, &mut rate(&stopped));
            match tokio::task::spawn_blocking(read).await {
                Ok(checked) if !stop.is_cancelled() => note(&log, &mut lost, base, checked),
                _ => return,
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        log.0.metrics.scrub_completed.set(now.as_secs_f64());
        tracing::debug!(took = ?begun.elapsed(), "all sealed segments of the log were checked");
        pause = every.saturating_sub(begun.elapsed()).max(LOOK.min(every));
    }
}

/// The segments that are not written any more.
fn sealed(log: &Shared) -> Vec<Position> {
    let bases: Vec<Position> = log.0.list().iter().map(|segment| segment.base).collect();
    bases.split_last().map_or_else(Vec::new, |(_, sealed)| sealed.to_vec())
}

/// Waits until the log is quiet, or until then.
async fn quiet(log: &Shared, until: Instant) {
    let mut before = log.durable();
    while Instant::now() < until {
        tokio::time::sleep(LOOK.min(until - Instant::now())).await;
        let now = log.durable();
        if now.0 - before.0 <= BUSY_RECORDS {
            return;
        }
        before = now;
    }
}

/// Sleeps as the rate demands; an error when it is to stop.
fn rate(stop: &CancellationToken) -> impl FnMut(u64) -> io::Result<()> {
    let mut slept_at = 0;
    move |offset| {
        let stretch = offset.saturating_sub(slept_at);
        if stretch < STRETCH_BYTES {
            return Ok(());
        }
        slept_at = offset;
        if stop.is_cancelled() {
            return Err(ErrorKind::Interrupted.into());
        }
        thread::sleep(Duration::from_secs(1).mul_f64(stretch as f64 / BYTES_PER_SECOND as f64));
        Ok(())
    }
}

/// Tells people what was found, each damaged record once.
fn note(
    log: &Shared,
    lost: &mut BTreeMap<Position, u64>,
    base: Position,
    checked: Result<SegmentReport, ReadError>,
) {
    let metrics = &log.0.metrics;
    match checked {
        Ok(report) => {
            let records = report.damaged.iter().map(Damaged::records).sum();
            let known = lost.insert(base, records).unwrap_or(0);
            metrics.damaged_records.increment(u64::saturating_sub(records, known));
            if records != known {
                report.damaged.iter().for_each(alert);
            }
        }
        // Retention was quicker.
        Err(ReadError::Deleted { .. }) => {}
        Err(error) => tracing::error!(%error, "ALERT: a segment of the log cannot be checked"),
    }
    let kept = log.oldest();
    lost.retain(|base, _| *base >= kept);
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2⁵³")]
    metrics.scrub_damaged.set(lost.values().sum::<u64>() as f64);
}

fn alert(damaged: &Damaged) {
    tracing::error!(
        segment = %damaged.segment.display(),
        from = %damaged.from,
        to = %damaged.to,
        offset = damaged.offset,
        bytes = damaged.bytes,
        "ALERT: acknowledged records in the log have become unreadable: `gateway log verify` says \
         what to do"
    );
}

impl Shared {
    /// Reads and checks every frame of the segment that begins with `base`. Blocks for as long as
    /// reading a segment takes.
    ///
    /// # Errors
    /// There is no such segment (any more), or it cannot be read.
    pub fn check_segment(&self, base: Position) -> Result<SegmentReport, ReadError> {
        self.check_paced(base, &mut |_| Ok(()))
    }

    fn check_paced(&self, base: Position, pace: Pace<'_>) -> Result<SegmentReport, ReadError> {
        let segment = self
            .0
            .list()
            .iter()
            .find(|segment| segment.base == base)
            .cloned()
            .ok_or_else(|| ReadError::Deleted { wanted: base, oldest: self.oldest() })?;
        let following = self.0.after(base);
        let extent = segment.extent();
        let path = segment.path.clone();
        let mut read = || -> io::Result<SegmentReport> {
            let file = self.0.files.open(&path, Open::Read)?;
            file.forget_cached()?;
            let survey = Survey::paced(file, Salt::new(self.0.uuid, base), base, extent.end, pace)?;
            let end = following.as_ref().map_or(extent.last, |segment| before(segment.base));
            Ok(SegmentReport::new(path.clone(), base, extent.end, &survey, end, extent.end))
        };
        let report = match read() {
            Ok(report) => report,
            Err(_) if segment.is_deleted() => {
                return Err(ReadError::Deleted { wanted: base, oldest: self.oldest() });
            }
            Err(source) => {
                return Err(ReadError::Io { path: segment.path.clone(), offset: 0, source });
            }
        };
        self.0.metrics.scrubbed.increment(1);
        self.0.metrics.scrubbed_bytes.increment(report.bytes);
        Ok(report)
    }
}
