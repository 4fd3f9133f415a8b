//! `[sinks.NAME]`, and what `ack` promises about them.

use super::{Invalid, duration, name, within};
use crate::config::{
    raw,
    valid::{AckMode, Batch, Sink, SinkKind, WhenFull},
};
use std::time::Duration;

/// The enabled sinks.
pub(super) fn sinks(raw: &raw::Raw) -> Result<Vec<Sink>, Invalid> {
    let mut sinks: Vec<Sink> = Vec::new();
    for (sink_name, sink) in &raw.sinks {
        let at = format!("sinks.{sink_name}");
        name(at.clone(), sink_name)?;
        let Some(kind) = sink.kind else {
            return Err(Invalid::new(
                format!("{at}.type"),
                "is missing: say what this sink is, for example type = \"store\"",
            ));
        };
        if !sink.enabled {
            continue;
        }
        let sink = one(raw, sink_name, sink, kind)?;
        if let Some(other) = sinks.iter().find(|other| same_destination(&other.kind, &sink.kind)) {
            return Err(Invalid::new(
                format!("{at}.path"),
                format!("is the file of the sink \"{}\", too: name another", other.name),
            ));
        }
        sinks.push(sink);
    }
    if raw.ack == AckMode::Stored && !sinks.iter().any(|sink| sink.required) {
        return Err(Invalid::new(
            "ack",
            "is \"stored\", but no enabled sink is required, so that there is nothing to wait for: \
             set required = true on a sink, or ack = \"durable\"",
        ));
    }
    if sinks.is_empty() {
        return Err(Invalid::new(
            "sinks",
            "has no enabled sink, so that readings would only fill the log: enable one",
        ));
    }
    Ok(sinks)
}

fn same_destination(a: &SinkKind, b: &SinkKind) -> bool {
    let (SinkKind::Store { path: a, .. }, SinkKind::Store { path: b, .. }) = (a, b);
    a == b
}

fn one(
    raw: &raw::Raw,
    sink_name: &str,
    sink: &raw::Sink,
    kind: raw::SinkType,
) -> Result<Sink, Invalid> {
    let at = |key: &str| format!("sinks.{sink_name}.{key}");
    let when_full = match sink.when_full {
        Some(raw::WhenFull::Skip) => WhenFull::Skip,
        Some(raw::WhenFull::Hold) | None => WhenFull::Hold,
    };
    if raw.ack == AckMode::Stored && sink.required && when_full == WhenFull::Skip {
        return Err(Invalid::new(
            at("when_full"),
            "is \"skip\" while the sink is required and ack = \"stored\": an ack would promise \
             what may be skipped; set it to \"hold\", or required = false",
        ));
    }
    if sink.path.as_os_str().is_empty() {
        return Err(Invalid::new(at("path"), "must name a file"));
    }
    let batch = Batch {
        readings: within(&at("batch_readings"), sink.batch_readings.into(), 1..=10_000_000)?,
        bytes: within(&at("batch_bytes"), sink.batch_bytes.0, 1024..=1 << 30)?,
        delay: duration(
            &at("batch_delay"),
            sink.batch_delay,
            Duration::ZERO,
            Duration::from_secs(60),
        )?,
    };
    let kind = match kind {
        raw::SinkType::Store => {
            SinkKind::Store { path: raw.data_dir.join(&sink.path), keep_for: sink.keep_for.0 }
        }
    };
    Ok(Sink { name: sink_name.to_owned(), required: sink.required, when_full, batch, kind })
}
