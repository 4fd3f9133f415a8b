//! The writer process of the trials, and what is asked of its log afterwards.

use gateway::{
    log::{self, Options, RealFiles},
    record::Position,
};
use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// `examples/log_writer.rs`, built beside the gateway.
pub fn program() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_gateway")).with_file_name("examples/log_writer");
    assert!(path.exists(), "log_writer is not built: run `cargo build -p gateway --examples`");
    path
}

/// As `examples/log_writer.rs` writes it.
fn payload(position: u64) -> Vec<u8> {
    let length = usize::try_from(position * 37 % 701).unwrap();
    let mut bytes = position.to_le_bytes().to_vec();
    bytes.extend((0..length).map(|at| (position as usize * 31 + at * 7) as u8));
    bytes
}

/// What the writer has said so far; kept in this process.
#[derive(Debug, Default)]
pub struct Said {
    /// Acknowledged up to here.
    pub acked: AtomicU64,
    /// Deletion was asked for below.
    pub low: AtomicU64,
}

/// A running writer.
pub struct Writer {
    child: Child,
    listener: JoinHandle<()>,
}

impl Writer {
    /// Starts a command that is, or runs, the writer.
    pub fn start(mut command: Command, said: Arc<Said>) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; ./scripts/test-tools.sh"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let heard = said;
        let listener = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                match line.split_once(' ').map(|(what, n)| (what, n.parse().unwrap_or(0))) {
                    Some(("acked", n)) => drop(heard.acked.fetch_max(n, Ordering::SeqCst)),
                    Some(("deleting", n)) => drop(heard.low.fetch_max(n, Ordering::SeqCst)),
                    _ => {}
                }
            }
        });
        Self { child, listener }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for its end, and until everything that it said is heard.
    pub fn wait(mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        self.listener.join().unwrap();
        status
    }
}

/// The command for a log.
pub fn command(dir: &Path, groups: u64, seed: u64) -> Command {
    let mut command = Command::new(program());
    command.arg(dir).arg(groups.to_string()).arg(seed.to_string());
    command
}

/// Opens the log as a gateway would after a crash, and says how many acknowledged records are
/// lost, altered ones included.
pub fn lost(dir: &Path, said: &Said) -> u64 {
    let acked = said.acked.load(Ordering::SeqCst);
    let low = said.low.load(Ordering::SeqCst).max(1);
    let options = Options { dir: dir.to_owned(), reserve_bytes: 0, ..Options::default() };
    let opened = log::open(options, Arc::new(RealFiles), Position::ZERO);
    let Ok((_writer, shared, recovery)) = opened else { return acked.max(1) };
    let oldest = shared.oldest().0;
    if oldest > low {
        return oldest - low;
    }
    let mut reader = shared.reader_at(Position(oldest));
    let mut good = oldest - 1;
    while let Ok(Some((position, bytes))) = reader.next() {
        if position.0 != good + 1 || bytes != payload(position.0) {
            break;
        }
        good = position.0;
    }
    let reported: u64 = recovery.damaged.iter().map(log::Damaged::records).sum();
    acked.saturating_sub(good).max(reported)
}
