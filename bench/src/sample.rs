//! One measurement of one server.
//!
//! Warm-up, until everything of it is confirmed; then the clock starts, the generator sends for so
//! many seconds, and the clock of the CPU stops when the sink has confirmed the last reading. So
//! every reading of the measurement, and nothing else, is paid for within it.

use crate::{
    load, machine,
    process::Process,
    servers::{Kind, Place, Server},
    sink,
};
use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Without any progress of the sink for this long, the rest is lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the sink is asked whether it has everything.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// Time in which a sink that was given a reading twice would show it.
const AFTERTHOUGHT: Duration = Duration::from_millis(100);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Readings in a message.
    pub readings: u32,
    /// Connections.
    pub connections: u32,
    /// Messages under way on each.
    pub window: u32,
    /// Messages per second of all together; absent: as answers come.
    pub rate: Option<f64>,
    /// Warm-up, in seconds.
    pub warm_s: f64,
    /// Measured, in seconds.
    pub seconds: f64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Messages sent, acknowledged, and confirmed by the sink.
    pub messages: u64,
    /// Readings in them.
    pub readings: u64,
    /// Seconds in which the generator sent.
    pub seconds: f64,
    /// Messages acknowledged in this time, a second.
    pub messages_per_s: f64,
    /// Readings acknowledged in this time, a second.
    pub readings_per_s: f64,
    /// Readings a second until the sink had confirmed the last one.
    pub confirmed_readings_per_s: f64,
    /// Readings that were acknowledged and not yet confirmed when the generator stopped.
    pub backlog_readings: u64,
    /// Frames that acknowledged the messages.
    pub answers: u64,
    /// CPU time of the server until the sink had confirmed the last reading, a message.
    pub cpu_us_per_message: f64,
    /// The same, a reading.
    pub cpu_us_per_reading: f64,
    /// CPU time of the server, the generator and the sink, in seconds.
    pub cpu_s: Cpu,
    /// How many times the generator's CPU time the server's was.
    pub headroom: f64,
    /// Cores that the generator kept busy; it has one thread.
    pub generator_cores: f64,
    /// Part of the machine that others used meanwhile, 0 to 1.
    pub others: f64,
    /// In the open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<load::Latency>,
}

/// CPU times, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// The server's.
    pub server: f64,
    /// The generator's.
    pub generator: f64,
    /// The sink's.
    pub sink: f64,
}

impl Plan {
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--readings={}", self.readings),
            format!("--connections={}", self.connections),
            format!("--window={}", self.window),
        ];
        arguments.extend(self.rate.map(|rate| format!("--rate={rate}")));
        arguments
    }
}

/// Starts a server, measures, stops it.
///
/// # Errors
/// Something did not start, an answer was wrong, or the counts differ.
pub fn measure(place: &Place, kind: Kind, plan: &Plan) -> Result<Sample> {
    let mut server = place.start(kind, plan.readings)?;
    let mut load = server.load(place, &plan.arguments())?;
    let readings = u64::from(plan.readings);
    let warm = send(&mut load, plan.warm_s, plan.rate.is_some())?;
    confirmed(&mut server.sink, warm.acked * readings, PATIENCE)?;
    let (cpu, busy) = (cpu(&server, &load)?, machine::busy_s()?);

    let begun = Instant::now();
    let sent = send(&mut load, plan.seconds, plan.rate.is_some())?;
    let backlog = (sent.at_stop.acked * readings)
        .saturating_sub(sink_readings(&mut server.sink)?.unwrap_or(sent.at_stop.acked * readings));
    let confirmed_s =
        confirmed(&mut server.sink, sent.acked * readings, PATIENCE)?.duration_since(begun);
    let confirmed_s = confirmed_s.as_secs_f64();
    let cpu = self::cpu(&server, &load)? - cpu;
    let busy = machine::busy_s()? - busy;
    let others = busy - cpu.server - cpu.generator - cpu.sink;
    load.send("quit")?;
    load.close()?;
    server.stop()?;
    let messages = sent.acked - warm.acked;
    ensure!(messages > 0, "not one message was acknowledged");
    let total = messages * readings;
    let acked = (sent.at_stop.acked - warm.acked) as f64;
    Ok(Sample {
        messages,
        readings: total,
        seconds: sent.seconds,
        messages_per_s: acked / sent.seconds,
        readings_per_s: acked * readings as f64 / sent.seconds,
        confirmed_readings_per_s: total as f64 / confirmed_s,
        backlog_readings: backlog,
        answers: sent.answers - warm.answers,
        cpu_us_per_message: cpu.server * 1e6 / messages as f64,
        cpu_us_per_reading: cpu.server * 1e6 / total as f64,
        headroom: cpu.server / cpu.generator.max(0.01),
        generator_cores: cpu.generator / sent.seconds,
        others: (others / (confirmed_s * machine::cores() as f64)).max(0.0),
        cpu_s: cpu,
        latency: sent.latency,
    })
}

/// Counts since the generator's start.
struct Sent {
    /// When it was told to stop.
    at_stop: Counts,
    acked: u64,
    answers: u64,
    seconds: f64,
    latency: Option<load::Latency>,
}

struct Counts {
    acked: u64,
}

/// Has the generator send for some time, and waits until all of it is acknowledged.
fn send(load: &mut Process, seconds: f64, is_open_loop: bool) -> Result<Sent> {
    let begun = Instant::now();
    load.send("go")?;
    if is_open_loop {
        counts(load, "mark")?;
    }
    std::thread::sleep(Duration::from_secs_f64(seconds).saturating_sub(begun.elapsed()));
    let (acked, ..) = counts(load, "mark")?;
    let seconds = begun.elapsed().as_secs_f64();
    let at_stop = Counts { acked };
    let (acked, answers, latency) = counts(load, "stop")?;
    Ok(Sent { at_stop, acked, answers, seconds, latency })
}

/// Asks the generator: acknowledged messages, frames, latencies.
fn counts(load: &mut Process, command: &str) -> Result<(u64, u64, Option<load::Latency>)> {
    match load.ask(command)? {
        load::Said::Counts { sent, acked, answers, latency, .. } => {
            ensure!(command != "stop" || sent == acked, "{sent} sent, {acked} acknowledged");
            Ok((acked, answers, latency))
        }
        load::Said::Failed { reason } => bail!("the generator: {reason}"),
        other => bail!("the generator says {other:?}"),
    }
}

/// Waits until the sink has confirmed exactly so many readings; says since when.
fn confirmed(sink: &mut Option<Process>, expected: u64, patience: Duration) -> Result<Instant> {
    let (mut last, mut progress) = (0, Instant::now());
    loop {
        let Some(readings) = sink_readings(sink)? else { return Ok(Instant::now()) };
        if readings != last {
            (last, progress) = (readings, Instant::now());
        }
        if readings >= expected {
            std::thread::sleep(AFTERTHOUGHT);
            let readings = sink_readings(sink)?.unwrap_or(expected);
            ensure!(
                readings == expected,
                "{expected} readings were acknowledged and the sink was given {readings}"
            );
            return Ok(progress);
        }
        ensure!(
            progress.elapsed() < patience,
            "{expected} readings were acknowledged and the sink has confirmed {readings}: \
             {} are missing",
            expected - readings
        );
        std::thread::sleep(ASK_EVERY);
    }
}

fn sink_readings(sink: &mut Option<Process>) -> Result<Option<u64>> {
    let Some(sink) = sink else { return Ok(None) };
    match sink.ask("")? {
        sink::Said::Counts { readings, .. } => Ok(Some(readings)),
        other => bail!("the sink says {other:?}"),
    }
}

fn cpu(server: &Server, load: &Process) -> Result<Cpu> {
    Ok(Cpu {
        server: server.process.cpu_s()?,
        generator: load.cpu_s()?,
        sink: server.sink.as_ref().map_or(Ok(0.0), Process::cpu_s)?,
    })
}

impl std::ops::Sub for Cpu {
    type Output = Cpu;

    fn sub(self, before: Cpu) -> Cpu {
        Cpu {
            server: self.server - before.server,
            generator: self.generator - before.generator,
            sink: self.sink - before.sink,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A sink that has confirmed so many readings, and never more.
    fn sink(readings: u64, dir: &std::path::Path) -> Option<Process> {
        let said = serde_json::to_string(&sink::Said::Counts { readings, requests: 1 }).unwrap();
        let script = format!("while read x; do echo '{said}'; done");
        Some(Process::start("sink", Command::new("sh").args(["-c", &script]), dir).unwrap())
    }

    #[test]
    fn counts_must_be_equal() {
        let dir = tempfile::tempdir().unwrap();
        let confirmed = |expected| {
            let result =
                super::confirmed(&mut sink(7, dir.path()), expected, Duration::from_millis(20));
            result.map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(confirmed(7), Ok(()));
        assert!(confirmed(8).unwrap_err().ends_with("confirmed 7: 1 are missing"));
        assert!(confirmed(6).unwrap_err().ends_with("was given 7"));
    }
}
