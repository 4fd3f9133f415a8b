//! What an older release has set aside: `sinks/NAME.refused.jsonl`, a line of JSON for each reading.

use super::{Quarantine, QuarantineError, entry::checksum, file, of_sink::ENTRY_BYTES};
use crate::record::{Ledger, Position};
use proto::{BatchEncoder, RawValue};
use rusqlite::{Transaction, params};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufRead, BufReader, ErrorKind},
    path::Path,
    time::UNIX_EPOCH,
};
use uuid::Uuid;

#[derive(Debug, serde::Deserialize)]
struct Line {
    position: u64,
    index: u32,
    reason: String,
    realm: String,
    device: String,
    measurement: String,
    time_ns: i64,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, Value>,
}

/// Takes the lines of the file at `path` over, if there is one, and renames it to `.taken`; gives
/// how many. The newest are those that the ledger counts. A line that cannot be read is reported
/// and stays in the renamed file.
///
/// # Errors
/// The disk's. Once more does no harm.
pub fn take_over(
    quarantine: &Quarantine,
    path: &Path,
    (sink, log): (&str, Uuid),
    cursor: (Position, &Ledger),
) -> io::Result<u64> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let written = file.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let kept_ns = i64::try_from(written.as_nanos()).unwrap_or(i64::MAX);
    let (lines, unreadable) = read(file)?;
    let (passed, ledger) = cursor;
    let of_ledger = lines.iter().filter(|line| line.position <= passed.0).count() as u64;
    let mut before = of_ledger.saturating_sub(ledger.quarantined);
    let taken = quarantine.change(|tx| {
        let mut taken = 0;
        for line in &lines {
            let mut counted = line.position <= passed.0;
            if counted && before > 0 {
                before -= 1;
                counted = false;
            }
            taken += put(tx, line, (sink, log), kept_ns, counted.then_some(ledger.epoch))?;
        }
        Ok(taken)
    });
    let taken = taken.map_err(|error: QuarantineError| io::Error::other(error))?;
    let aside = path.with_extension("jsonl.taken");
    fs::rename(path, &aside)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    tracing::info!(sink, readings = taken, "took over what an older release had set aside");
    if unreadable > 0 {
        tracing::error!(
            sink, lines = unreadable, file = %aside.display(),
            "some of what an older release had set aside cannot be read, it is left"
        );
    }
    Ok(taken)
}

fn read(file: File) -> io::Result<(Vec<Line>, u64)> {
    let (mut lines, mut unreadable) = (Vec::new(), 0);
    for line in BufReader::new(file).split(b'\n') {
        match serde_json::from_slice(&line?) {
            Ok(line) => lines.push(line),
            Err(_) => unreadable += 1,
        }
    }
    Ok((lines, unreadable))
}

fn put(
    tx: &Transaction<'_>,
    line: &Line,
    (sink, log): (&str, Uuid),
    kept_ns: i64,
    epoch: Option<u64>,
) -> rusqlite::Result<u64> {
    let body = body(line);
    let texts = [sink.len(), line.realm.len(), line.device.len(), line.reason.len()];
    let bytes = ENTRY_BYTES + (texts.iter().sum::<usize>() + body.len()) as u64;
    let sql = "INSERT INTO entry (log, sink, position, reading, epoch, counted, realm, device,
                                  received_ns, kept_ns, reason, body, bytes, checksum)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, ?10, ?11, ?12, ?13)
               ON CONFLICT (log, sink, position, reading) DO NOTHING";
    let added = tx.prepare_cached(sql)?.execute(params![
        log.to_string(),
        sink,
        file::signed(line.position),
        line.index,
        file::signed(epoch.unwrap_or(0)),
        epoch.is_some(),
        line.realm,
        line.device,
        kept_ns,
        line.reason,
        body,
        file::signed(bytes),
        checksum(&line.realm, &line.device, &body),
    ])?;
    Ok(added as u64)
}

fn body(line: &Line) -> Vec<u8> {
    let tags: Vec<_> = line.tags.iter().map(|(name, of)| (&**name, &**of)).collect();
    let value = |value: &'_ Value| match value {
        Value::Bool(b) => RawValue::Bool(*b),
        Value::Number(n) => match n.as_i64() {
            Some(n) => RawValue::Int(n),
            None => RawValue::Float(n.as_f64().unwrap_or_default()),
        },
        _ => RawValue::Str(""),
    };
    let fields = line.fields.iter().map(|(name, of)| match of {
        Value::String(text) => (&**name, RawValue::Str(text)),
        other => (&**name, value(other)),
    });
    let fields: Vec<_> = fields.collect();
    let mut encoder = BatchEncoder::new();
    encoder.readings(1, 1).reading(Some(&line.measurement), Some(line.time_ns), &tags, &fields);
    encoder.body().to_vec()
}
