//! The page at `/`: state and ledger at a glance, without scripts.

use super::{LedgerSnapshot, NotReady};
use std::fmt::Write;

/// Served at `/style.css`.
pub(super) const STYLE: &str = "\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .75rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
td { font-variant-numeric: tabular-nums; }
.good::before { content: '\\25CF\\00A0'; color: #2a9d4a; }
.bad::before { content: '\\25CF\\00A0'; color: #d1342f; }
nav a { margin-right: 1rem; }
";

/// The whole page.
pub(super) fn render(reasons: &[NotReady], ledger: &LedgerSnapshot) -> String {
    let mut state = String::new();
    if reasons.is_empty() {
        state.push_str("<p class=\"good\">Ready: batches are taken.</p>\n");
    }
    for reason in reasons {
        let _ = writeln!(state, "<p class=\"bad\">Not ready: {}.</p>", escape(reason.detail()));
    }
    let mut rows = String::new();
    for sink in &ledger.sinks {
        let (class, verdict) = match sink.difference() {
            0 => ("good", "balanced".to_owned()),
            n => ("bad", format!("{n} unaccounted for")),
        };
        let dropped: u64 = sink.dropped.values().sum();
        let reasons: Vec<String> = sink
            .dropped
            .iter()
            .filter(|(_, readings)| **readings > 0)
            .map(|(reason, readings)| format!("{} {}", grouped(*readings), escape(reason)))
            .collect();
        // What was dropped by a policy was chosen; what was damaged was not.
        let alarm = match sink.dropped.get("damaged") {
            Some(1..) => " class=\"bad\"",
            _ => "",
        };
        let _ = writeln!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td{alarm} title=\"{}\">{}</td>\
             <td class=\"{class}\">{verdict}</td></tr>",
            escape(&sink.name),
            grouped(sink.accepted),
            grouped(sink.stored),
            grouped(sink.quarantined),
            grouped(sink.pending),
            reasons.join(", "),
            grouped(dropped),
        );
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"refresh\" content=\"5\">\n\
         <title>Telemetry gateway</title>\n<link rel=\"stylesheet\" href=\"/style.css\">\n\
         <h1>Telemetry gateway</h1>\n{state}<h2>Ledger</h2>\n\
         <p>{} readings accepted. Each is stored, quarantined with the reason, still pending in \
         the log, or dropped: by a policy that was chosen, or because the log was damaged.</p>\n\
         <table>\n<tr><th>sink</th><th>accepted</th><th>stored</th><th>quarantined</th>\
         <th>pending</th><th>dropped</th><th></th></tr>\n{rows}</table>\n\
         <nav><p><a href=\"/metrics\">metrics</a> <a href=\"/readyz\">readiness</a> \
         <a href=\"/api/v1/ledger\">ledger (JSON)</a></p></nav>\n</html>\n",
        grouped(ledger.accepted),
    )
}

fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::SinkLedger;

    #[test]
    fn shows_state_and_ledger() {
        let ledger = LedgerSnapshot {
            accepted: 1_234_567,
            sinks: vec![SinkLedger {
                name: "<b>".to_owned(),
                accepted: 12,
                stored: 11,
                dropped: [("damaged", 3), ("skipped", 0)].into(),
                ..SinkLedger::default()
            }],
        };
        let page = render(&[NotReady::DiskFull], &ledger);
        let shown = [
            "1\u{202f}234\u{202f}567 readings accepted",
            "&lt;b&gt;",
            "unaccounted for",
            "<td class=\"bad\" title=\"3 damaged\">3</td>",
            "Not ready: the disk or the log is full",
        ];
        for text in shown {
            assert!(page.contains(text), "{text} is missing in {page}");
        }
        assert!(render(&[], &ledger).contains("Ready: batches are taken"));
    }
}
