//! What a run remembers for `verify`.
//!
//! A file of JSON lines: a header with the plan, one line for each device, and an end line. It is
//! written while the run goes on, each time to a temporary file that then takes the name, so that
//! a killed run leaves a usable journal. Such a journal is not `complete`: devices may have sent
//! more than it says.

use crate::plan::{Plan, PlanVersion1, Replay, whole_run};
use anyhow::{Context, Result, bail, ensure};
use proto::ErrorCode;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Version of the format that this build writes of a run of profiles.
pub const FORMAT: u32 = 2;
/// …and of a replay, which older builds cannot verify.
pub const FORMAT_OF_REPLAY: u32 = 3;
/// The oldest format that this build reads: a plan of one profile, without faults.
const OLDEST: u32 = 1;

/// First line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header<P = Plan> {
    /// [`FORMAT`].
    pub journal: u32,
    /// Version of the tool that wrote it.
    pub version: String,
    /// What was to be sent.
    pub plan: P,
}

/// Readings of one batch that were refused for good.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RefusedBatch {
    /// The batch.
    pub seq: u64,
    /// The code, if the whole batch was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<ErrorCode>,
    /// Index and code of the readings that the gateway named, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readings: Vec<(u32, ErrorCode)>,
    /// How many more it refused without naming them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unnamed: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl RefusedBatch {
    /// Whether the gateway named a reading as refused.
    pub fn names(&self, index: u32) -> bool {
        self.whole.is_some() || self.readings.binary_search_by_key(&index, |&(at, _)| at).is_ok()
    }

    /// How many readings of a batch of `batch` it names.
    pub fn named(&self, batch: u32) -> u32 {
        match self.whole {
            Some(_) => batch,
            None => u32::try_from(self.readings.len()).unwrap_or(u32::MAX),
        }
    }

    /// How many readings of a batch of `batch` were refused.
    pub fn count(&self, batch: u32) -> u32 {
        if self.whole.is_some() { batch } else { self.named(batch).saturating_add(self.unnamed) }
    }
}

/// What is known of one device's batches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Index of the device.
    pub device: u32,
    /// Its stream.
    pub stream: u64,
    /// Everything from the plan's `start_seq` up to here is acknowledged.
    pub acked: u64,
    /// Everything up to here was sent at least once.
    pub sent: u64,
    /// Batches that found the outbox full and never got a number: from this sequence number on,
    /// so many batches of the schedule are missing in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shed: Vec<(u64, u32)>,
    /// What was refused for good, ascending by sequence number; what the plan makes the gateway
    /// refuse is not listed once it is acknowledged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedBatch>,
    /// First and last of the sequence numbers that were never sent, because the device lost them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<(u64, u64)>,
}

impl Ledger {
    /// Nothing sent yet.
    pub fn new(plan: &Plan, device: u32) -> Self {
        let before = plan.start_seq - 1;
        let stream = plan.stream_of(device);
        let (shed, refused, dropped) = (vec![], vec![], vec![]);
        Self { device, stream, acked: before, sent: before, shed, refused, dropped }
    }

    /// A batch of the schedule found no room; the next one that does will be `seq`.
    pub fn shed_before(&mut self, seq: u64) {
        let total = self.shed.last().map_or(0, |last| last.1) + 1;
        match self.shed.last_mut() {
            Some(last) if last.0 == seq => last.1 = total,
            _ => self.shed.push((seq, total)),
        }
    }

    /// The place in the schedule of a sequence number.
    pub fn tick_of(&self, plan: &Plan, seq: u64) -> u32 {
        let after = self.shed.partition_point(|&(from, _)| from <= seq);
        let shed = after.checked_sub(1).map_or(0, |last| self.shed[last].1);
        u32::try_from(seq - plan.start_seq).unwrap_or(u32::MAX).saturating_add(shed)
    }

    /// The sequence number of a place in the schedule; `None` if that found no room.
    pub fn seq_of(&self, plan: &Plan, tick: u32) -> Option<u64> {
        let begins =
            |&(from, shed): &(u64, u32)| from.saturating_sub(plan.start_seq) + u64::from(shed);
        let after = self.shed.partition_point(|entry| begins(entry) <= u64::from(tick));
        let shed = after.checked_sub(1).map_or(0, |last| self.shed[last].1);
        let seq = plan.start_seq + u64::from(tick) - u64::from(shed);
        self.shed.get(after).is_none_or(|&(from, _)| seq < from).then_some(seq)
    }

    /// Whether the device has lost a batch before it was sent.
    pub fn has_dropped(&self, seq: u64) -> bool {
        let after = self.dropped.partition_point(|&(first, _)| first <= seq);
        after.checked_sub(1).is_some_and(|at| seq <= self.dropped[at].1)
    }

    /// Forgets a refusal that the plan explains.
    pub fn forget_refusal(&mut self, seq: u64) {
        self.refused.retain(|refused| refused.seq != seq);
    }

    /// What was refused of a batch.
    pub fn refused_of(&self, seq: u64) -> Option<&RefusedBatch> {
        let place = self.refused.binary_search_by_key(&seq, |refused| refused.seq).ok()?;
        self.refused.get(place)
    }

    /// Remembers a refusal; false if the gateway only repeats itself.
    pub fn refuse(&mut self, refused: RefusedBatch) -> bool {
        match self.refused.binary_search_by_key(&refused.seq, |known| known.seq) {
            Ok(_) => false,
            Err(place) => {
                self.refused.insert(place, refused);
                true
            }
        }
    }
}

/// Last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    /// Number of device lines.
    end: u32,
    /// False while the run was going on.
    complete: bool,
}

/// Writes the whole journal and puts it in the place of an older one.
///
/// # Errors
/// The file cannot be written.
pub fn write(
    path: &Path,
    plan: &Plan,
    ledgers: impl Iterator<Item = Ledger>,
    complete: bool,
) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || -> Result<()> {
        let mut out = BufWriter::new(File::create(&temporary)?);
        let version = crate::VERSION.to_owned();
        let journal = if plan.replay.is_some() { FORMAT_OF_REPLAY } else { FORMAT };
        line(&mut out, &Header { journal, version, plan: plan.clone() })?;
        let mut count = 0;
        for ledger in ledgers {
            line(&mut out, &ledger)?;
            count += 1;
        }
        line(&mut out, &End { end: count, complete })?;
        let file = out.into_inner()?;
        // While the run goes on it is written again before long, and a killed process loses nothing
        // of it: a sync would only stand in the way of a gateway on the same disk.
        if complete {
            file.sync_data()?;
        }
        Ok(std::fs::rename(&temporary, path)?)
    };
    write().with_context(|| format!("cannot write the journal {}", path.display()))
}

fn line<T: Serialize>(out: &mut impl Write, value: &T) -> Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    Ok(out.write_all(b"\n")?)
}

/// A journal that is being read, device by device.
#[derive(Debug)]
pub struct Journal {
    /// The plan of the run.
    pub plan: Plan,
    /// False if the run was killed: more may have been sent than the journal says.
    pub complete: bool,
    paths: Vec<PathBuf>,
}

impl Journal {
    /// Opens a journal and checks that it is whole.
    ///
    /// # Errors
    /// It cannot be read, is not a journal, is cut off, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_beside(path, None)
    }

    /// …of a replay whose capture may have been read.
    fn open_beside(path: &Path, known: Option<&Plan>) -> Result<Self> {
        let known = known.and_then(|plan| plan.replay.as_ref());
        let plan = read_header(path, known)?;
        let mut journal = Self { plan, complete: false, paths: vec![path.into()] };
        let mut devices = 0;
        let mut end = None;
        for line in lines(path)? {
            let line = line?;
            match serde_json::from_str::<Ledger>(&line) {
                Ok(ledger) => {
                    ensure!(
                        end.is_none() && journal.plan.plays(ledger.device),
                        "{} is damaged: device {}",
                        path.display(),
                        ledger.device
                    );
                    devices += 1;
                }
                Err(_) => {
                    end = Some(serde_json::from_str::<End>(&line).with_context(|| {
                        format!("{} is damaged: cannot read {line:.80?}", path.display())
                    })?);
                }
            }
        }
        match end {
            Some(End { end, complete }) if end == devices => journal.complete = complete,
            _ => bail!("{} is cut off: it has no end line", path.display()),
        }
        Ok(journal)
    }

    /// Opens the journals of all shards of a run as the one of the whole run; one alone as it is.
    ///
    /// # Errors
    /// As for [`open`](Self::open), or they are not all the shards of one run, each once.
    pub fn open_all(paths: &[PathBuf]) -> Result<Self> {
        if let [path] = paths {
            return Self::open(path);
        }
        let mut journals: Vec<Self> = Vec::new();
        for path in paths {
            let known = journals.first().map(|first| &first.plan);
            journals.push(Self::open_beside(path, known)?);
        }
        let plans: Vec<(&Path, &Plan)> = (paths.iter().map(PathBuf::as_path))
            .zip(journals.iter().map(|journal| &journal.plan))
            .collect();
        let plan = whole_run(&plans).map_err(anyhow::Error::msg)?;
        let complete = journals.iter().all(|journal| journal.complete);
        Ok(Self { plan, complete, paths: paths.to_vec() })
    }

    /// Walks the devices, one in memory at a time.
    ///
    /// # Errors
    /// A file cannot be opened any more.
    pub fn ledgers(&self) -> Result<impl Iterator<Item = Result<Ledger>> + use<>> {
        let files = self.paths.iter().map(|path| lines(path)).collect::<Result<Vec<_>>>()?;
        Ok((files.into_iter().flatten())
            .filter(|line| line.as_ref().map_or(true, |line| !line.starts_with("{\"end\"")))
            .map(|line| Ok(serde_json::from_str(&line?)?)))
    }
}

fn lines(path: &Path) -> Result<impl Iterator<Item = std::io::Result<String>> + use<>> {
    let file =
        File::open(path).with_context(|| format!("cannot read the journal {}", path.display()))?;
    Ok(BufReader::new(file).lines().skip(1))
}

fn read_header(path: &Path, known: Option<&Replay>) -> Result<Plan> {
    #[derive(Deserialize)]
    struct Format {
        journal: u32,
    }
    let file =
        File::open(path).with_context(|| format!("cannot read the journal {}", path.display()))?;
    let mut line = String::new();
    BufReader::new(file)
        .read_line(&mut line)
        .with_context(|| format!("cannot read the journal {}", path.display()))?;
    let not_one = || format!("{} is not a journal of device-sim", path.display());
    let format: Format = serde_json::from_str(&line).with_context(not_one)?;
    ensure!(
        (OLDEST..=FORMAT_OF_REPLAY).contains(&format.journal),
        "{} has format {}, this device-sim reads {OLDEST} to {FORMAT_OF_REPLAY}: verify with the version \
         that ran it",
        path.display(),
        format.journal
    );
    let mut plan: Plan = match format.journal {
        1 => serde_json::from_str::<Header<PlanVersion1>>(&line).with_context(not_one)?.plan.into(),
        _ => serde_json::from_str::<Header<Plan>>(&line).with_context(not_one)?.plan,
    };
    if let Some(replay) = &mut plan.replay {
        replay.reopen(path, known)?;
    }
    plan.check().map_err(anyhow::Error::msg).with_context(not_one)?;
    Ok(plan)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    fn ledgers() -> Vec<Ledger> {
        let mut busy = Ledger { acked: 3, sent: 5, ..Ledger::new(&plan(), 1) };
        busy.shed_before(2);
        busy.shed_before(2);
        busy.shed_before(4);
        let readings = vec![(0, ErrorCode::NotFinite), (7, ErrorCode::TimeInFuture)];
        busy.refuse(RefusedBatch { seq: 3, whole: None, readings, unnamed: 2 });
        let whole = Some(ErrorCode::SeqReused);
        busy.refuse(RefusedBatch { seq: 2, whole, ..RefusedBatch::default() });
        busy.dropped = vec![(2, 2), (7, 9)];
        vec![Ledger::new(&plan(), 0), busy]
    }

    #[test]
    fn comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.journal");
        for complete in [false, true] {
            write(&path, &plan(), ledgers().into_iter(), complete).unwrap();
            let journal = Journal::open(&path).unwrap();
            assert_eq!((&journal.plan, journal.complete), (&plan(), complete));
            let read: Vec<Ledger> = journal.ledgers().unwrap().map(Result::unwrap).collect();
            assert_eq!(read, ledgers());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file");
    }

    #[test]
    fn sequence_numbers_know_their_place_in_the_schedule() {
        let ledger = &ledgers()[1];
        let ticks: Vec<u32> = (1..=5).map(|seq| ledger.tick_of(&plan(), seq)).collect();
        assert_eq!(ticks, [0, 3, 4, 6, 7]);
    }

    /// A journal that was written before there were faults, as it is on somebody's disk.
    #[test]
    fn the_first_format_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.journal");
        let header = r#"{"journal":1,"version":"0.1.0","plan":{"run":7,"seed":1,"prefix":"sim-",
            "profile":"environment","devices":4,"stream":null,"start_seq":1,
            "base_ns":1800000000123456789,"interval_ns":1000000000,"batch":10,
            "ramp_ns":2000000000,"duration_ns":10000000000}}"#;
        let rest = r#"{"device":1,"stream":5,"acked":3,"sent":5}
{"end":1,"complete":true}"#;
        std::fs::write(&path, format!("{}\n{rest}\n", header.replace('\n', ""))).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.plan, plan());
        let ledger = journal.ledgers().unwrap().next().unwrap().unwrap();
        assert_eq!((ledger.acked, ledger.sent), (3, 5));
    }

    #[test]
    fn what_a_device_lost_is_known() {
        let ledger = &ledgers()[1];
        let lost: Vec<u64> = (1..12).filter(|&seq| ledger.has_dropped(seq)).collect();
        assert_eq!(lost, [2, 7, 8, 9]);
    }

    #[test]
    fn what_found_no_room_has_no_number() {
        let ledger = &ledgers()[1];
        let seqs = [0, 1, 2, 3, 4, 5, 6, 7].map(|tick| ledger.seq_of(&plan(), tick));
        let one = Some(1);
        assert_eq!(seqs, [one, None, None, Some(2), Some(3), None, Some(4), Some(5)]);
        for seq in seqs.into_iter().flatten() {
            assert_eq!(ledger.seq_of(&plan(), ledger.tick_of(&plan(), seq)), Some(seq));
        }
    }

    #[test]
    fn a_repeated_refusal_counts_once() {
        let mut ledger = ledgers().remove(1);
        assert!(!ledger.refuse(RefusedBatch { seq: 3, ..RefusedBatch::default() }));
        assert_eq!(ledger.refused_of(3).unwrap().count(10), 4);
        assert_eq!(ledger.refused_of(2).unwrap().count(10), 10);
        assert_eq!(ledger.refused_of(4), None);
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.journal");
        write(&path, &plan(), ledgers().into_iter(), true).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = whole.lines().collect();
        for (text, word) in [
            (String::new(), "not a journal"),
            ("{\"end\":0}\n".to_owned(), "not a journal"),
            (whole.replace("\"journal\":2", "\"journal\":4"), "format 4"),
            (whole.replace("\"journal\":2", "\"journal\":0"), "format 0"),
            (lines[..3].join("\n"), "cut off"),
            ([lines[0], lines[1], lines[3]].join("\n"), "cut off"),
            (whole[..whole.len() - 5].to_owned(), "damaged"),
            (whole.replace("\"device\":1", "\"device\":9"), "damaged"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = format!("{:#}", Journal::open(&path).unwrap_err());
            assert!(message.contains(word), "{message}");
        }
    }
}
