//! Processes of a measurement: started with pipes, asked by lines, and what the kernel counts of
//! them.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Longest wait for a line, or for an end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Ticks of `utime` and `stime` in a second; Linux has had no other number for user space since
/// version 2.6 (`sysconf(_SC_CLK_TCK)`).
const TICKS_PER_S: f64 = 100.0;

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    errors: std::path::PathBuf,
}

impl Process {
    /// Starts it; what it says on standard error goes to a file in `dir`.
    ///
    /// # Errors
    /// It is not there, or cannot be started.
    pub fn start(name: &str, command: &mut Command, dir: &Path) -> Result<Self> {
        let errors = dir.join(format!("{name}.err"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {name} ({:?}); `make bench` installs it",
                    command.get_program()
                )
            })?;
        let output = child.stdout.take().context("a pipe")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let input = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, input, lines, errors })
    }

    /// Sends a line.
    ///
    /// # Errors
    /// It has ended.
    pub fn send(&mut self, line: &str) -> Result<()> {
        // In one piece: it may end at the word, before the end of the line.
        let line = format!("{line}\n");
        let sent = self.input.as_mut().map(|input| input.write_all(line.as_bytes()));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(self.ended()),
        }
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// It has ended, or says nothing for long.
    pub fn line(&mut self) -> Result<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(line),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("{} says nothing", self.name),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(self.ended()),
        }
    }

    /// The next line, as JSON.
    ///
    /// # Errors
    /// As [`Process::line`], or it is something else.
    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", self.name))
    }

    /// Sends a line and reads the answer.
    ///
    /// # Errors
    /// As [`Process::send`] and [`Process::json`].
    pub fn ask<T: DeserializeOwned>(&mut self, line: &str) -> Result<T> {
        self.send(line)?;
        self.json()
    }

    /// CPU time, user and system, of all its threads so far, in seconds.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_s(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat =
            std::fs::read_to_string(&path).with_context(|| format!("{} ended", self.name))?;
        ticks(&stat).map(|ticks| ticks / TICKS_PER_S).with_context(|| format!("{path}: {stat}"))
    }

    /// Resident memory that belongs to it alone (`RssAnon`), in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.with_context(|| format!("{path} has no RssAnon"))?.parse()?)
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// It does not end, or not in order.
    pub fn terminate(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process has a number")?, Signal::TERM)?;
        self.wait()
    }

    /// Closes its input and waits for the end.
    ///
    /// # Errors
    /// It does not end, or not in order.
    pub fn close(mut self) -> Result<()> {
        self.input = None;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "{} ended with {status}{}", self.name, self.last_words());
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "{} does not end", self.name);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn ended(&mut self) -> anyhow::Error {
        // The last line of the output may say why.
        let said: Vec<String> = self.lines.try_iter().collect();
        let status = match self.child.try_wait() {
            Ok(Some(status)) => format!(" with {status}"),
            _ => String::new(),
        };
        let (said, last) = (said.join(" "), self.last_words());
        anyhow::anyhow!("{} has ended{status}: {said}{last}", self.name)
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(3)..];
        last.iter().map(|line| format!("\n  {line}")).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted from the name in brackets (proc_pid_stat(5)).
fn ticks(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &Path) -> Process {
        Process::start("shell", Command::new("sh").args(["-c", script]), dir).unwrap()
    }

    #[test]
    fn a_process_is_asked_by_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("while read x; do echo \"[$x]\"; done", dir.path());
        assert_eq!(process.ask::<Vec<u32>>("7").unwrap(), [7]);
        assert!(process.cpu_s().unwrap() >= 0.0 && process.resident_kib().unwrap() > 0);
        process.close().unwrap();
    }

    #[test]
    fn the_end_of_a_process_is_told_with_its_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = shell("echo out of luck >&2; exit 3", dir.path());
        let error = process.line().unwrap_err().to_string();
        assert!(error.contains("out of luck"), "{error}");
        assert!(process.close().unwrap_err().to_string().contains("exit status: 3"));
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "1 (a) b) S 2 3 4 5 6 7 8 9 10 11 120 30 0 0 20";
        assert_eq!(ticks(stat), Some(150.0));
    }
}
