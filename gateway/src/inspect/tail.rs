//! `gateway log tail`: records as people read them.

use super::{InspectError, no_log, text};
use crate::{
    log::{RealFiles, Tail, Tailed},
    record::{Codec, Envelope, Kind, Point, Points, Position, Source, Value},
};
use serde_json::{Map, json};
use std::{collections::VecDeque, io::Write, path::Path, sync::Arc, thread, time::Duration};

/// Most records that are shown of what is there already.
pub const MAX_RECORDS: usize = 100_000;
/// How often it is looked for new records.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

/// What is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// So many of the newest records, at most [`MAX_RECORDS`].
    pub records: usize,
    /// Only of this device: its id, or realm/id.
    pub device: Option<String>,
    /// Go on with what comes.
    pub follow: bool,
    /// One JSON object a line.
    pub json: bool,
}

/// Writes the newest records of the log in `dir`, oldest first. With `follow` it ends only when the
/// output does.
///
/// # Errors
/// There is no log, it cannot be read, or the output cannot be written.
pub fn tail(dir: &Path, options: &Options, out: &mut dyn Write) -> Result<(), InspectError> {
    let mut shown = Shown { options, points: Points::default() };
    let mut next = Position::ZERO;
    for line in newest(dir, &mut shown, &mut next)? {
        out.write_all(line.as_bytes())?;
    }
    out.flush()?;
    if !options.follow {
        return Ok(());
    }
    let mut tail = Tail::open(dir, Arc::new(RealFiles), next)?.ok_or_else(|| no_log(dir))?;
    loop {
        match tail.next()? {
            Some(found) => {
                if let Some(line) = shown.line(found)? {
                    out.write_all(line.as_bytes())?;
                }
            }
            None => {
                out.flush()?;
                thread::sleep(FOLLOW_INTERVAL);
            }
        }
    }
}

/// The lines of the newest records; segments are read from the last one back until there are
/// enough. `next` becomes the position behind them.
fn newest(
    dir: &Path,
    shown: &mut Shown<'_>,
    next: &mut Position,
) -> Result<VecDeque<String>, InspectError> {
    let wanted = shown.options.records.min(MAX_RECORDS);
    let mut lines = VecDeque::new();
    if !dir.is_dir() {
        return Err(no_log(dir));
    }
    let mut end = Position(u64::MAX);
    for base in Tail::bases(dir, &RealFiles)?.into_iter().rev() {
        let mut tail = Tail::open(dir, Arc::new(RealFiles), base)?.ok_or_else(|| no_log(dir))?;
        let mut of_segment = VecDeque::new();
        while let Some(found) = tail.next()? {
            let (first, last) = match found {
                Tailed::Record(position, _) => (position, position),
                Tailed::Missing(from, to) => (from, to),
            };
            if first >= end {
                break;
            }
            *next = (*next).max(last.next());
            of_segment.extend(shown.line(found)?);
            if of_segment.len() > wanted.saturating_sub(lines.len()) {
                of_segment.pop_front();
            }
        }
        of_segment.append(&mut lines);
        lines = of_segment;
        if lines.len() >= wanted {
            break;
        }
        end = base;
    }
    if lines.is_empty() && Tail::open(dir, Arc::new(RealFiles), Position::ZERO)?.is_none() {
        return Err(no_log(dir));
    }
    Ok(lines)
}

struct Shown<'a> {
    options: &'a Options,
    points: Points,
}

impl Shown<'_> {
    /// What is written of it; `None` if it is not asked for.
    fn line(&mut self, found: Tailed) -> Result<Option<String>, InspectError> {
        let (position, bytes) = match found {
            Tailed::Record(position, bytes) => (position, bytes),
            Tailed::Missing(from, to) if self.options.json => {
                let line = json!({ "missing": { "from": from.0, "to": to.0 } });
                return Ok(Some(text::json(&line) + "\n"));
            }
            Tailed::Missing(from, to) => {
                return Ok(Some(format!("-- records {from} to {to} are damaged or deleted --\n")));
            }
        };
        let (envelope, payload) = Envelope::decode(position, &bytes)?;
        let of_device = |wanted: &String| {
            let identity = &envelope.identity;
            **wanted == *identity.device
                || *wanted == format!("{}/{}", identity.realm, identity.device)
        };
        if !self.options.device.as_ref().is_none_or(of_device) {
            return Ok(None);
        }
        let line = match self.options.json {
            true => self.json(position, &envelope, payload)? + "\n",
            false => self.text(position, &envelope, payload)?,
        };
        Ok(Some(line))
    }

    fn text(
        &mut self,
        position: Position,
        envelope: &Envelope,
        payload: &[u8],
    ) -> Result<String, InspectError> {
        let mut line = format!("{position}  {}", text::time(envelope.receive_ns));
        if envelope.kind == Kind::Checkpoint {
            return Ok(line + "  checkpoint of order and dedupe\n");
        }
        let identity = &envelope.identity;
        line += &format!("  {}/{}", text::name(&identity.realm), text::name(&identity.device));
        match envelope.stream {
            0 => line += "  private stream",
            stream => line += &format!("  stream {stream}"),
        }
        line += &format!("  seq {}  {} readings", envelope.seq, envelope.accepted);
        if let Some(code) = envelope.refused_whole {
            line += &format!("  refused: {code}");
        }
        for refusal in &envelope.refused {
            line += &format!("  #{} {}", refusal.index, refusal.code);
        }
        line.push('\n');
        self.points.for_each(position, envelope, payload, |point| {
            line += &format!("    {}", text::name(point.measurement));
            for (tag, value) in point.tags {
                line += &format!(",{}={}", text::name(tag), text::name(value));
            }
            for (field, value) in point.fields {
                line += &format!(" {}={}", text::name(field), shown_value(value));
            }
            line += &format!(" {}\n", text::time(point.time_ns));
        })?;
        Ok(line)
    }

    fn json(
        &mut self,
        position: Position,
        envelope: &Envelope,
        payload: &[u8],
    ) -> Result<String, InspectError> {
        let mut readings = Vec::new();
        let each = |point: &Point<'_>| readings.push(point_value(point));
        self.points.for_each(position, envelope, payload, each)?;
        let refused: Vec<_> = (envelope.refused.iter())
            .map(|refusal| json!({ "index": refusal.index, "code": refusal.code.as_str() }))
            .collect();
        let source = match envelope.source {
            Source::Device => "device",
            Source::Gateway => "gateway",
            Source::Mqtt => "mqtt",
        };
        Ok(text::json(&json!({
            "position": position.0,
            "time_ns": envelope.receive_ns,
            "kind": if envelope.codec == Codec::Checkpoint { "checkpoint" } else { "batch" },
            "source": source,
            "realm": &*envelope.identity.realm,
            "device": &*envelope.identity.device,
            "stream": envelope.stream,
            "seq": envelope.seq,
            "accepted": envelope.accepted,
            "accepted_total": envelope.accepted_total,
            "refused_whole": envelope.refused_whole.map(|code| code.as_str()),
            "refused": refused,
            "readings": readings,
        })))
    }
}

fn shown_value(value: &Value<'_>) -> String {
    match value {
        Value::Float(x) => format!("{x}"),
        Value::Int(n) => format!("{n}i"),
        Value::Bool(b) => format!("{b}"),
        Value::Str(s) => text::quoted(s),
    }
}

fn point_value(point: &Point<'_>) -> serde_json::Value {
    let tags: Map<String, serde_json::Value> =
        point.tags.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let fields: Map<String, serde_json::Value> = (point.fields.iter())
        .map(|(name, value)| {
            let value = match value {
                Value::Float(x) => json!(x),
                Value::Int(n) => json!(n),
                Value::Bool(b) => json!(b),
                Value::Str(s) => json!(s),
            };
            ((*name).to_owned(), value)
        })
        .collect();
    json!({
        "index": point.id.index,
        "measurement": point.measurement,
        "tags": tags,
        "fields": fields,
        "time_ns": point.time_ns,
    })
}
