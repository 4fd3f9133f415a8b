//! What a run is expected to show: `--expect 'acked_ratio>=0.99'`.
//!
//! An expectation is a figure, a comparison and a number. Figures are the numbers of the report by
//! their names (`scheduled`, `acked`, `refused`, `reconnects`, …), `ack_p50_ms` to `ack_max_ms` and
//! `lag_p50_ms` to `lag_max_ms`, both also with `steady_` before them (of what was due after the
//! ramp by devices that the plan did not keep away), `fault_KIND` (how often a fault came about), and ratios:
//! `sent_ratio` (sent of scheduled), `acked_ratio` (acknowledged of sent) and `answered_ratio`
//! (acknowledged or refused of sent).
//! What only the store shows (`lost`, `altered`, …) is left to `verify`.

use serde_json::Value;
use std::{fmt, str::FromStr};

/// One expectation.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    figure: String,
    comparison: Comparison,
    number: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Less,
    AtMost,
    Equal,
    NotEqual,
    AtLeast,
    More,
}

/// Longer signs first: `<=` begins with `<`.
const SIGNS: &[(&str, Comparison)] = &[
    ("<=", Comparison::AtMost),
    (">=", Comparison::AtLeast),
    ("==", Comparison::Equal),
    ("!=", Comparison::NotEqual),
    ("<", Comparison::Less),
    (">", Comparison::More),
];

/// Figures that a run cannot know: those of the report of `verify` alone.
const OF_THE_STORE: [&str; 8] = [
    "lost",
    "duplicated",
    "altered",
    "unexpected",
    "stored",
    "late",
    "not_shown",
    "unacknowledged_present",
];

impl FromStr for Expectation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = || format!("{text:?} is not FIGURE, one of < <= == != >= >, NUMBER");
        let at = text.find(['<', '>', '=', '!']).ok_or_else(usage)?;
        let (figure, rest) = text.split_at(at);
        let (number, comparison) = SIGNS
            .iter()
            .find_map(|&(sign, comparison)| Some((rest.strip_prefix(sign)?, comparison)))
            .ok_or_else(usage)?;
        let number: f64 = number.trim().parse().map_err(|_| usage())?;
        let figure = figure.trim().to_owned();
        if figure.is_empty() || number.is_nan() {
            return Err(usage());
        }
        Ok(Self { figure, comparison, number })
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = SIGNS.iter().find(|(_, comparison)| *comparison == self.comparison);
        write!(f, "{}{}{}", self.figure, sign.map_or("", |(sign, _)| sign), self.number)
    }
}

impl Expectation {
    /// Holds the expectation against a report; the sentence says what was found instead.
    ///
    /// # Errors
    /// It does not hold, or the report has no such figure.
    pub fn check(&self, report: &Value) -> Result<(), String> {
        let Some(found) = figure(report, &self.figure) else {
            return Err(format!("{self}: the report has no figure {:?}", self.figure));
        };
        #[expect(clippy::float_cmp, reason = "counts are exact, and who asks for == means it")]
        let holds = match self.comparison {
            Comparison::Less => found < self.number,
            Comparison::AtMost => found <= self.number,
            Comparison::Equal => found == self.number,
            Comparison::NotEqual => found != self.number,
            Comparison::AtLeast => found >= self.number,
            Comparison::More => found > self.number,
        };
        if holds { Ok(()) } else { Err(format!("expected {self}, found {found}")) }
    }
}

impl Expectation {
    /// Whether only `verify` can judge it.
    pub fn is_of_the_store(&self) -> bool {
        OF_THE_STORE.contains(&self.figure.as_str())
    }
}

fn figure(report: &Value, name: &str) -> Option<f64> {
    let count = |name: &str| report.get(name)?.as_f64();
    // Nothing of nothing is all of it only for what was sent: a run that sent nothing has failed.
    let ratio = |part: f64, of: f64| if of > 0.0 { part / of } else { 0.0 };
    match name {
        "sent_ratio" => Some(ratio(count("sent")?, count("scheduled")?)),
        "acked_ratio" => Some(ratio(count("acked")?, count("sent")?)),
        "answered_ratio" => Some(ratio(count("acked")? + count("refused")?, count("sent")?)),
        _ if name.starts_with("fault_") => {
            // One that has never come about is not listed.
            let times = report.get("faults")?.get(&name["fault_".len()..]);
            Some(times.map_or(Some(0.0), Value::as_f64)?)
        }
        _ => {
            let (report, name) = match name.strip_prefix("steady_") {
                Some(name) => (report.get("steady")?, name),
                None => (report, name),
            };
            let of = |group: &str, prefix: &str| {
                let quantile = name.strip_prefix(prefix)?.strip_suffix("_ms")?;
                report.get(group)?.get(quantile)?.as_f64()
            };
            let count = |name: &str| report.get(name)?.as_f64();
            count(name)
                .or_else(|| of("ack_latency_ms", "ack_"))
                .or_else(|| of("schedule_lag_ms", "lag_"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Value {
        json!({
            "scheduled": 1000, "sent": 995, "acked": 980, "refused": 10, "reconnects": 0,
            "faults": { "drop": 7 },
            "ack_latency_ms": { "p99": 12.5, "max": null }, "schedule_lag_ms": { "p999": 3.0 },
            "steady": { "ack_latency_ms": { "p99": 8.5 }, "schedule_lag_ms": { "p999": 2.0 } },
        })
    }

    #[test]
    fn figures_are_compared() {
        for (text, holds) in [
            ("scheduled==1000", true),
            ("scheduled!=1000", false),
            ("sent>=995", true),
            ("sent > 995", false),
            ("refused<11", true),
            ("refused<=9", false),
            ("reconnects==0", true),
            ("sent_ratio>=0.99", true),
            ("sent_ratio>0.995", false),
            ("answered_ratio>=0.995", false),
            ("answered_ratio>=0.99", true),
            ("fault_drop==7", true),
            ("fault_slow>0", false),
            ("acked_ratio>=0.98", true),
            ("acked_ratio>=0.99", false),
            ("ack_p99_ms<250", true),
            ("ack_p99_ms<12.5", false),
            ("lag_p999_ms<5", true),
            ("steady_ack_p99_ms<=8.5", true),
            ("steady_ack_p99_ms<8.5", false),
            ("steady_lag_p999_ms==2", true),
        ] {
            let expectation: Expectation = text.parse().unwrap();
            assert_eq!(expectation.check(&report()).is_ok(), holds, "{text}");
        }
    }

    #[test]
    fn a_figure_that_is_not_there_is_never_as_expected() {
        for text in [
            "lots==0",
            "ack_max_ms>=0",
            "ack_p42_ms<1",
            "steady_acked>0",
            "steady_p99_ms<1",
            "outcome==0",
        ] {
            let expectation: Expectation = text.parse().unwrap();
            assert!(expectation.check(&report()).unwrap_err().contains("no figure"), "{text}");
        }
        let nothing = json!({ "scheduled": 0, "sent": 0, "acked": 0, "refused": 0 });
        assert!("sent_ratio>=0.99".parse::<Expectation>().unwrap().check(&nothing).is_err());
    }

    #[test]
    fn what_is_no_expectation_is_refused() {
        for text in ["", "acked", "acked=", "acked=3", "acked>=", "acked>=x", ">=3", "acked==NaN"] {
            assert!(text.parse::<Expectation>().is_err(), "{text}");
        }
    }
}
