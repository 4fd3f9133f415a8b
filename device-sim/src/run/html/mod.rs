//! The report as one page: figures, the ledger, and plots over time. Nothing is loaded from
//! elsewhere and no script runs, so it can be kept, mailed and opened anywhere.

mod plot;
mod settings;

use super::latency::Latency;
use super::report::{CLOSED_LOOP_WARNING, LoadMode, Report};
use super::series::{Sample, per_second};
use plot::{Line, Plot};
use std::fmt::Write;

const STYLE: &str = "\
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; --ink: #222; --thin: #8885; \
--c0: #1f6fb4; --c1: #d1701f; --c2: #2a9d4a; --c3: #b03060; --c4: #7a5cc0; --c5: #777; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --c0: #6db3f2; --c1: #f0a35e; \
--c2: #6fd08c; --c3: #f08aa8; --c4: #b9a3f2; --c5: #aaa; } }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin: 2rem 0 .25rem; font-size: 1.1rem; }
p { margin: .25rem 0 .75rem; }
table { border-collapse: collapse; } th, td { padding: .2rem 1rem .2rem 0; text-align: right; \
border-bottom: 1px solid var(--thin); font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; font-weight: inherit; }
.wide { overflow-wrap: anywhere; text-align: left; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--thin); stroke-width: 1; } .line { fill: none; stroke-width: 1.8; \
stroke-linejoin: round; } .good { color: var(--c2); } .bad { color: var(--c3); }
.k0 { stroke: var(--c0); } .k1 { stroke: var(--c1); } .k2 { stroke: var(--c2); } \
.k3 { stroke: var(--c3); } .k4 { stroke: var(--c4); } .k5 { stroke: var(--c5); }
.f0 { fill: var(--c0); } .f1 { fill: var(--c1); } .f2 { fill: var(--c2); } .f3 { fill: var(--c3); } \
.f4 { fill: var(--c4); } .f5 { fill: var(--c5); }
";

/// A rate over less time than this, in seconds, would show chance: the last sample comes soon after
/// the one before.
const SHORTEST_S: f64 = 0.5;

/// The page.
pub fn page(report: &Report) -> String {
    let plan = &report.settings.plan;
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>device-sim: {} devices</title>\n<style>\n{STYLE}</style>\n\
         <h1>{} devices, {:.0} s</h1>\n<p>{} · device-sim {}</p>\n",
        plan.own_count(),
        grouped(u64::from(plan.own_count())),
        report.duration_s,
        escape(&report.settings.url),
        escape(&report.version),
    );
    match &report.problem {
        None => page.push_str("<p class=\"good\">Everything due was sent and answered.</p>\n"),
        Some(problem) => {
            let _ = writeln!(page, "<p class=\"bad\">{}</p>", escape(problem));
        }
    }
    page.push_str(&ledger(report));
    page.push_str(&latencies(report));
    for plot in plots(&report.samples) {
        page.push_str(&plot.section());
    }
    page.push_str(&faults(report));
    page.push_str(&troubles(report));
    page.push_str(&settings::section(report));
    page.push_str("</html>\n");
    page
}

/// Where every reading that was due has ended.
fn ledger(report: &Report) -> String {
    let unsent = report.not_sent.saturating_sub(report.outbox_full + report.dropped);
    let parts = [
        ("acknowledged", report.acked),
        ("refused, as the plan foresees", report.refused_planned),
        ("refused", report.refused_unplanned),
        ("sent and not acknowledged", report.unacknowledged),
        ("found no room in the outbox", report.outbox_full),
        ("lost by the device, as the plan wants it", report.dropped),
        ("not sent in time", unsent),
    ];
    let sum: u64 = parts.iter().map(|(_, count)| count).sum();
    let mut out = format!(
        "<h2>Ledger</h2>\n<p>{} readings were due; each is in one line.{}</p>\n<table>\n",
        grouped(report.scheduled),
        if sum == report.scheduled {
            ""
        } else {
            " <span class=\"bad\">The lines do not add up: report this.</span>"
        },
    );
    for (name, count) in parts {
        let share = per_second(count, 0, 1.0) * 100.0 / per_second(report.scheduled.max(1), 0, 1.0);
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{share:.2} %</td></tr>",
            escape(name),
            grouped(count),
        );
    }
    out.push_str("</table>\n");
    out
}

fn latencies(report: &Report) -> String {
    let due = match report.mode {
        LoadMode::OpenLoop => {
            "from the moment at which a batch was due; a stall shows in all that it held up"
        }
        LoadMode::ClosedLoop => CLOSED_LOOP_WARNING,
    };
    let mut out = format!(
        "<h2>Latency, ms</h2>\n<p>Ack: {due}. Lag: the simulator's own lateness; \
                   where it is not small beside the ack, the simulator was the limit. Steady: of what was due \
                   after the ramp, by devices that the plan did not keep away.</p>\n<table>\n\
                   <tr><th></th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>max</th>\
                   <th>batches</th></tr>\n"
    );
    let steady = &report.steady;
    for (name, latency) in [
        ("ack", &report.ack_latency_ms),
        ("ack, steady", &steady.ack_latency_ms),
        ("lag", &report.schedule_lag_ms),
        ("lag, steady", &steady.schedule_lag_ms),
    ] {
        let Latency { p50, p90, p99, p999, max, count } = latency;
        let _ = write!(out, "<tr><td>{name}</td>");
        for value in [p50, p90, p99, p999, max] {
            let _ = match value {
                Some(value) => write!(out, "<td>{value:.2}</td>"),
                None => write!(out, "<td>–</td>"),
            };
        }
        let _ = writeln!(out, "<td>{}</td></tr>", grouped(*count));
    }
    out.push_str("</table>\n");
    out
}

fn plots(samples: &[Sample]) -> Vec<Plot<'_>> {
    let times: Vec<f64> = samples.iter().map(|sample| sample.t_s).collect();
    let rate = |of: fn(&Sample) -> u64| -> Vec<Option<f64>> {
        let zero = Sample::default();
        let before = std::iter::once(&zero).chain(samples);
        let pairs = before.zip(samples);
        let rates = pairs.map(|(a, b)| (b.t_s - a.t_s, of(a), of(b)));
        rates.map(|(s, a, b)| (s >= SHORTEST_S).then(|| per_second(b, a, s))).collect()
    };
    let level = |of: fn(&Sample) -> u64| -> Vec<Option<f64>> {
        samples.iter().map(|sample| Some(per_second(of(sample), 0, 1.0))).collect()
    };
    let plot = |title, log, lines| Plot { title, times: times.clone(), log, lines };
    let line = |name, values| Line { name, values };
    let quantiles = |of: fn(&Sample) -> &Latency| -> Vec<Line<'_>> {
        let values = |quantile: fn(&Latency) -> Option<f64>| {
            samples.iter().map(|sample| quantile(of(sample))).collect()
        };
        vec![
            line("p50", values(|latency| latency.p50)),
            line("p99", values(|latency| latency.p99)),
            line("p99.9", values(|latency| latency.p999)),
            line("max", values(|latency| latency.max)),
        ]
    };
    let mut plots = vec![
        plot(
            "Readings a second",
            false,
            vec![
                line("due", rate(|sample| sample.scheduled)),
                line("acknowledged", rate(|sample| sample.acked)),
            ],
        ),
        plot("Ack latency over time, ms", true, quantiles(|sample| &sample.ack_latency_ms)),
        plot("Schedule lag over time, ms", true, quantiles(|sample| &sample.schedule_lag_ms)),
        plot(
            "Devices connected",
            false,
            vec![
                line("connected", level(|sample| sample.connected)),
                line("reconnects so far", level(|sample| sample.reconnects)),
            ],
        ),
        plot(
            "Readings waiting in the devices",
            false,
            vec![line("waiting", level(Sample::waiting))],
        ),
    ];
    let codes: std::collections::BTreeSet<&str> = samples
        .iter()
        .flat_map(|sample| sample.refused_by_code.keys().map(String::as_str))
        .collect();
    if !codes.is_empty() {
        let of = |code: &str| {
            let counts = samples.iter().map(|sample| sample.refused_by_code.get(code).copied());
            counts.map(|count| Some(per_second(count.unwrap_or(0), 0, 1.0))).collect()
        };
        let lines = codes.into_iter().map(|code| line(code, of(code))).collect();
        plots.push(plot("Readings refused so far", false, lines));
    }
    plots
}

fn faults(report: &Report) -> String {
    if report.faults.is_empty() {
        return String::new();
    }
    let mut out =
        "<h2>Faults of the plan</h2>\n<table>\n<tr><th>kind</th><th>times</th></tr>\n".to_owned();
    for (kind, times) in &report.faults {
        let _ = writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(kind), grouped(*times));
    }
    out.push_str("</table>\n");
    out
}

fn troubles(report: &Report) -> String {
    if report.errors.is_empty() {
        return String::new();
    }
    let mut out = "<h2>Connections that failed</h2>\n<table>\n<tr><th>kind</th><th>times</th>\
                   <th class=\"wide\">the first</th></tr>\n"
        .to_owned();
    for (kind, errors) in &report.errors {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"wide\">{}</td></tr>",
            escape(kind),
            grouped(errors.count),
            escape(&errors.first)
        );
    }
    out.push_str("</table>\n");
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// 1234567 → `1 234 567`, with spaces that do not break.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}
