//! What a person sees at the end.

use crate::{sample::Sample, stats::Spread};
use std::fmt::{self, Display, Formatter};

/// Lines, in the order of the cases.
#[derive(Debug, Default)]
pub struct Table {
    figures: Vec<[String; 5]>,
    ratios: Vec<[String; 4]>,
    notes: Vec<String>,
}

impl Table {
    /// The rounds of one server.
    pub fn throughput(&mut self, case: &str, server: &str, samples: &[Sample]) {
        let spread = |of: fn(&Sample) -> f64| Spread::of(samples.iter().map(of));
        self.figures.push([
            case.to_owned(),
            server.to_owned(),
            range(spread(|s| s.readings_per_s), 0),
            range(spread(|s| s.cpu_us_per_reading), 2),
            range(spread(|s| s.headroom), 1),
        ]);
    }

    /// How many times the gateway does better.
    pub fn versus(&mut self, case: &str, server: &str, rate: Option<Spread>, cpu: Option<Spread>) {
        self.ratios.push([case.to_owned(), server.to_owned(), range(rate, 2), range(cpu, 2)]);
    }

    /// Memory of idle connections.
    pub fn idle(&mut self, connections: u32, ours: Option<Spread>, bare: Option<Spread>) {
        let (ours, bare) = (range(ours, 1), range(bare, 1));
        self.notes
            .push(format!("{connections} idle connections: {ours} KiB each, bare loop {bare} KiB"));
    }

    /// p50, p99 and p99.9 of a server, in microseconds.
    pub fn latency(&mut self, server: &str, latency: &[Option<Spread>; 3]) {
        let [p50, p99, p999] = latency.map(|spread| range(spread, 0));
        self.notes.push(format!(
            "ack at half load, {server}: p50 {p50} µs, p99 {p99} µs, p99.9 {p999} µs"
        ));
    }

    /// A line of its own.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }
}

/// `median (min – max)`.
pub fn range(spread: Option<Spread>, digits: usize) -> String {
    spread.map_or_else(String::new, |Spread { median, min, max }| {
        format!("{median:.digits$} ({min:.digits$} – {max:.digits$})")
    })
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.figures.is_empty() {
            let [rate, cpu, headroom] = ["readings/s", "server CPU, µs a reading", "headroom"];
            writeln!(f, "{:<10} {:<18} {rate:<32} {cpu:<26} {headroom}", "case", "server")?;
            for [case, server, rate, cpu, headroom] in &self.figures {
                writeln!(f, "{case:<10} {server:<18} {rate:<32} {cpu:<26} {headroom}")?;
            }
            writeln!(f)?;
        }
        if !self.ratios.is_empty() {
            let (rate, cpu) = ("its rate, times", "its CPU, times less");
            writeln!(f, "{:<10} {:<18} {rate:<32} {cpu}", "case", "the gateway against")?;
            for [case, server, rate, cpu] in &self.ratios {
                writeln!(f, "{case:<10} {server:<19} {rate:<32} {cpu}")?;
            }
            writeln!(f)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}
