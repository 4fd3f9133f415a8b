//! `gateway log verify`: reads every byte of the log, and says what is damaged, where, and what to
//! do about it.

use super::{InspectError, no_log, text};
use crate::log::{self, Damaged, Report};
use serde_json::json;
use std::{io::Write, path::Path};

const WHAT_TO_DO: &str = "\
What to do:
  - Leave the files as they are: everything else in the log is used, and what is unreadable is passed
    over and counted as dropped, damaged, in the ledger of every sink that had not stored it.
  - A sink whose cursor is behind the last damaged record had stored it before: take it from there.
  - The disk has returned what was not written: look at its health (smartctl, the kernel's log) and
    move the data directory to another one with the gateway stopped.
";

/// Checks the log in `dir`; true if no acknowledged record is damaged or missing.
///
/// # Errors
/// There is no log, it cannot be read, or the output cannot be written.
pub fn verify(dir: &Path, as_json: bool, out: &mut dyn Write) -> Result<bool, InspectError> {
    if !dir.is_dir() {
        return Err(no_log(dir));
    }
    let report = log::verify(dir)?;
    if report.uuid.is_none() && report.segments.is_empty() {
        return Err(no_log(dir));
    }
    let whole = report.damaged.is_empty();
    if as_json {
        writeln!(out, "{}", text::json(&as_value(&report)))?;
        return Ok(whole);
    }
    let bytes: u64 = report.segments.iter().map(|segment| segment.bytes).sum();
    writeln!(
        out,
        "{} records in {} segments, {}, were read and checked",
        report.records(),
        report.segments.len(),
        text::bytes(bytes)
    )?;
    if report.unfinished_bytes > 0 {
        writeln!(
            out,
            "{} bytes at the end are unfinished: a write in progress, or what a crash left; not \
             acknowledged, and cut at the next start",
            report.unfinished_bytes
        )?;
    }
    for damaged in &report.damaged {
        writeln!(out, "DAMAGED: {}", sentence(damaged))?;
    }
    if whole {
        writeln!(out, "the log is whole")?;
    } else {
        writeln!(out, "\n{} acknowledged records are lost from the log\n", report.lost())?;
        out.write_all(WHAT_TO_DO.as_bytes())?;
    }
    Ok(whole)
}

fn sentence(damaged: &Damaged) -> String {
    let what = match damaged.records() {
        0 => "no record, but a header or a seal".to_owned(),
        1 => format!("record {}", damaged.from),
        n => format!("records {} to {} ({n})", damaged.from, damaged.to),
    };
    let segment = damaged.segment.display();
    match damaged.bytes {
        0 => format!(
            "{what}: not there where {segment} should have it, from byte {} on",
            damaged.offset
        ),
        bytes => format!("{what}: {bytes} bytes of {segment} from byte {} on", damaged.offset),
    }
}

fn as_value(report: &Report) -> serde_json::Value {
    let damaged: Vec<_> = (report.damaged.iter())
        .map(|damaged| {
            json!({
                "from": damaged.from.0,
                "to": damaged.to.0,
                "records": damaged.records(),
                "segment": damaged.segment.to_string_lossy(),
                "offset": damaged.offset,
                "bytes": damaged.bytes,
            })
        })
        .collect();
    json!({
        "uuid": report.uuid.map(|uuid| uuid.to_string()),
        "low_mark": report.low.map(|low| low.0),
        "durable_upto": report.durable_upto.0,
        "segments": report.segments.len(),
        "records": report.records(),
        "lost": report.lost(),
        "unfinished_bytes": report.unfinished_bytes,
        "damaged": damaged,
    })
}
