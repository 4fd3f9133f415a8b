//! The lines by which a process of the benchmark is driven.

use std::io::BufRead;
use tokio::sync::mpsc;

/// Lines that wait to be taken.
const QUEUE_LINES: usize = 16;

/// The lines of standard input; nothing more comes after its end.
pub(crate) fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(QUEUE_LINES);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}
