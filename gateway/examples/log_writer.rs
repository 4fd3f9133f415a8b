//! A process that writes the log and says on its standard output what it may acknowledge: the
//! trials of `tests/chaos` kill it, cut its power and take its disk away.
//!
//! `log_writer DIR GROUPS SEED [--without-sync]`; 0 groups: until it is killed. With
//! `--without-sync` nothing is ever synced: the negative control, which has to lose data, and which
//! exists nowhere but in this program.

use gateway::{
    log::{self, CommitError, File, Files, Locked, LogError, Open, Options, RealFiles},
    record::Position,
};
use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

const SEGMENT_BYTES: u64 = 3000;
/// Deletes after so many groups what is older than so many records.
const DELETE_AFTER: u64 = 5;
const KEEP_RECORDS: u64 = 40;
/// Exit codes: the log cannot be opened; it takes no more records.
const NOT_OPENED: u8 = 4;
const POISONED: u8 = 3;

/// Of different lengths, and never the same at two positions.
fn payload(position: u64) -> Vec<u8> {
    let length = usize::try_from(position * 37 % 701).unwrap_or_default();
    let mut bytes = position.to_le_bytes().to_vec();
    bytes.extend((0..length).map(|at| (position as usize * 31 + at * 7) as u8));
    bytes
}

/// One write for a line: whoever reads knows it as soon as it is said.
fn say(line: &str) {
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
    let _ = io::stdout().flush();
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, groups, seed, rest @ ..] = &arguments[..] else {
        eprintln!("log_writer DIR GROUPS SEED [--without-sync]");
        return ExitCode::from(2);
    };
    let (Ok(groups), Ok(seed)) = (groups.parse(), seed.parse()) else { return ExitCode::from(2) };
    let files: Arc<dyn Files> = match rest.first().map(String::as_str) {
        Some("--without-sync") => {
            eprintln!("UNSAFE: nothing is synced; what is acknowledged will be lost");
            Arc::new(WithoutSync)
        }
        _ => Arc::new(RealFiles),
    };
    match run(dir, groups, seed, files) {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => ExitCode::from(code),
    }
}

fn run(dir: &str, groups: u64, seed: u64, files: Arc<dyn Files>) -> Result<(), u8> {
    let options = Options {
        dir: dir.into(),
        segment_bytes: SEGMENT_BYTES,
        reserve_bytes: 0,
        ..Options::default()
    };
    let (mut writer, ..) = log::open(options, files, Position::ZERO).map_err(|error| {
        eprintln!("{error}");
        NOT_OPENED
    })?;
    say(&format!("open {}", writer.durable()));
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut done = 0;
    while groups == 0 || done < groups {
        done += 1;
        for _ in 0..rng.u64(1..6) {
            let next = writer.written().next();
            if let Err(LogError::Poisoned { .. }) = writer.append(&[&payload(next.0)]) {
                return Err(POISONED);
            }
        }
        match writer.commit() {
            Ok(durable) => say(&format!("acked {durable}")),
            Err(CommitError::Poisoned { reason }) => {
                eprintln!("{reason}");
                return Err(POISONED);
            }
            Err(error) => eprintln!("{error}"),
        }
        if writer.needs_roll()
            && let Err(CommitError::Poisoned { .. }) = writer.roll()
        {
            return Err(POISONED);
        }
        if done.is_multiple_of(DELETE_AFTER) {
            let low = Position(writer.durable().0.saturating_sub(KEEP_RECORDS).max(1));
            say(&format!("deleting {low}"));
            if let Err(error) = writer.delete_below(low) {
                eprintln!("{error}");
            }
        }
        if rng.u8(..6) == 0 && matches!(writer.vouch(), Err(CommitError::Poisoned { .. })) {
            return Err(POISONED);
        }
    }
    writer.close().map_err(|_| POISONED)
}

/// The real files, and not one sync.
struct WithoutSync;

struct Unsynced(Arc<dyn File>);

impl File for Unsynced {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn sync_all(&self) -> io::Result<()> {
        Ok(())
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}

impl Files for WithoutSync {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(Unsynced(RealFiles.open(path, how)?)))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealFiles.create_dir(path)
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn is_dir(&self, path: &Path) -> bool {
        RealFiles.is_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Locked> {
        RealFiles.lock(path)
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealFiles.free_bytes(path)
    }
    fn now_ns(&self) -> i64 {
        RealFiles.now_ns()
    }
}
