//! Where the sinks stand: shown, taken back, forgotten.
//!
//! Whoever changes something holds the log's lock meanwhile, so that no gateway starts. While one
//! runs it is asked to rewind, through its local socket.

use super::{cursor_file, state};
use crate::{
    admin::{self, RewindTo},
    config::{
        Config,
        valid::{From, Sink, SinkKind},
    },
    data_dir::DataDir,
    forward::{Cursor, CursorFile},
    log::{self, LogError},
    metrics::Registry,
    quarantine,
    record::{Envelope, Ledger, Position},
    sink::{LogRange, store},
    wire,
};
use anyhow::{Context, bail, ensure};
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

/// How far a sink has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Its type; `None` if it is not configured any more.
    pub kind: Option<&'static str>,
    /// Its cursor and ledger; `None` if it has none yet.
    pub cursor: Option<Cursor>,
}

/// What a rewind has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Rewound {
    /// Where the sink stood, if it had begun.
    pub from: Option<Position>,
    /// The first record that it gets now.
    pub next: Position,
    /// The epoch of its ledger that begins.
    pub epoch: u64,
}

/// The configured sinks, and those that are not configured any more and have left a cursor.
/// Changes nothing; a gateway may run.
///
/// # Errors
/// A cursor cannot be read.
pub fn list(config: &Config) -> anyhow::Result<Vec<Standing>> {
    let dir = DataDir::new(&config.data_dir);
    let state = state(&dir);
    let mut found = Vec::new();
    for sink in &config.sinks {
        let cursor = cursor(sink, &state)?.map(|(_, cursor)| cursor);
        found.push(Standing { name: sink.name.clone(), kind: Some(kind(sink)), cursor });
    }
    let entries = match fs::read_dir(&state) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error).with_context(|| format!("cannot read {state:?}")),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        let Some(name) = name.filter(|_| path.extension().is_some_and(|of| of == "cursor")) else {
            continue;
        };
        if !config.sinks.iter().any(|sink| sink.name == name) {
            let cursor = CursorFile::peek(&path)?.map(|(_, cursor)| cursor);
            found.push(Standing { name: name.to_owned(), kind: None, cursor });
        }
    }
    for Standing { name, cursor, .. } in &mut found {
        if let Some(cursor) = cursor {
            let moves =
                quarantine::moves(&super::quarantine_file(&dir), name, cursor.ledger.epoch)?;
            cursor.ledger = moves.applied(cursor.ledger);
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Lets a sink get everything again from record `to` on, or from the oldest that the log has. All
/// counts of its ledger begin anew, in its next epoch. A gateway that runs does it itself.
///
/// # Errors
/// There is no such sink, or the log does not have the record.
pub fn rewind(config: &Config, name: &str, to: Option<Position>) -> anyhow::Result<Rewound> {
    let Some(sink) = config.sinks.iter().find(|sink| sink.name == name) else {
        let known: Vec<_> = config.sinks.iter().map(|sink| sink.name.as_str()).collect();
        bail!("there is no sink {name:?}: the enabled ones are {}", known.join(", "));
    };
    let dir = DataDir::new(&config.data_dir);
    let state = state(&dir);
    if let Some(done) = ask(&dir, name, to)? {
        return Ok(done);
    }
    let (_writer, log) = open_log(config, &dir)?;
    let next = to.unwrap_or(log.oldest());
    ensure!(
        (log.oldest()..=log.durable().next()).contains(&next),
        "the log has the records {} to {}, not {next}",
        log.oldest(),
        log.durable()
    );
    let position = Position(next.0.saturating_sub(1));
    let before = cursor(sink, &state)?;
    let epoch = before.map_or(0, |(_, cursor)| cursor.ledger.epoch) + 1;
    let ledger = Ledger { epoch, ..Ledger::beginning(accepted_up_to(&log, position)) };
    put(sink, &state, &log, Cursor { position, ledger })?;
    Ok(Rewound { from: before.map(|(_, cursor)| cursor.position), next, epoch })
}

/// What the running gateway has done; `None` if none listens.
fn ask(dir: &DataDir, name: &str, to: Option<Position>) -> anyhow::Result<Option<Rewound>> {
    let body = serde_json::to_string(&RewindTo { to: to.map(|to| to.0) })?;
    let path = format!("/v1/sinks/{name}/rewind");
    let answer = admin::call(&control_socket(dir), &path, &body);
    match answer.context("cannot ask the running gateway")? {
        Some(Ok(done)) => Ok(Some(serde_json::from_str(&done)?)),
        Some(Err(why)) => bail!(why),
        None => Ok(None),
    }
}

/// Where the running gateway listens for the command line.
pub(crate) fn control_socket(dir: &DataDir) -> PathBuf {
    dir.path.join("control.sock")
}

/// Forgets where a sink stood that is not configured any more; gives the files that are gone. What
/// it has stored, and what it refused, stays.
///
/// # Errors
/// A gateway runs, the sink is configured, or there is nothing of it.
pub fn remove(config: &Config, name: &str) -> anyhow::Result<PathBuf> {
    ensure!(
        !config.sinks.iter().any(|sink| sink.name == name),
        "the sink {name:?} is configured: take [sinks.{name}] out of the configuration, or set \
         enabled = false there, and restart the gateway first"
    );
    let dir = DataDir::new(&config.data_dir);
    let _opened = open_log(config, &dir)?;
    let known = list(config)?.into_iter().find(|of| of.name == name);
    ensure!(known.is_some(), "nothing is left of a sink {name:?}");
    let path = cursor_file(&state(&dir), name);
    fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    fs::File::open(state(&dir))?.sync_all()?;
    Ok(path)
}

/// A sink that has never run on this log and begins now: its cursor is put there.
pub(super) fn begin(sink: &Sink, state: &Path, log: &log::Shared) -> anyhow::Result<()> {
    let is_new = match &sink.kind {
        SinkKind::Store { path, .. } => !path.exists(),
        SinkKind::InfluxDb(_) | SinkKind::Mqtt(_) => !cursor_file(state, &sink.name).exists(),
    };
    if sink.from == From::Oldest || !is_new {
        return Ok(());
    }
    let position = log.durable();
    let ledger = Ledger::beginning(accepted_up_to(log, position));
    tracing::info!(sink = sink.name, %position, "a new sink begins with what comes from now on");
    put(sink, state, log, Cursor { position, ledger })
}

fn kind(sink: &Sink) -> &'static str {
    match sink.kind {
        SinkKind::Store { .. } => "store",
        SinkKind::InfluxDb(_) => "influxdb",
        SinkKind::Mqtt(_) => "mqtt",
    }
}

/// Where a sink stands, and in which log.
fn cursor(sink: &Sink, state: &Path) -> anyhow::Result<Option<(uuid::Uuid, Cursor)>> {
    Ok(match &sink.kind {
        SinkKind::Store { path, .. } => store::standing(path)?
            .map(|(of, ledger)| (of.log, Cursor { position: of.position, ledger })),
        SinkKind::InfluxDb(_) | SinkKind::Mqtt(_) => {
            CursorFile::peek(&cursor_file(state, &sink.name))?
        }
    })
}

fn put(sink: &Sink, state: &Path, log: &log::Shared, cursor: Cursor) -> anyhow::Result<()> {
    let Cursor { position, ledger } = cursor;
    match &sink.kind {
        SinkKind::Store { path, .. } => {
            let range = LogRange { uuid: log.uuid(), oldest: log.oldest(), end: log.durable() };
            store::place(path, range, position, ledger)?;
        }
        SinkKind::InfluxDb(_) | SinkKind::Mqtt(_) => {
            fs::create_dir_all(state).with_context(|| format!("cannot make {state:?}"))?;
            let path = cursor_file(state, &sink.name);
            let saved = CursorFile::anew(&path, log.uuid()).save(&cursor);
            saved.with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    Ok(())
}

/// The log, as a gateway would open it.
pub(crate) fn open_log(
    config: &Config,
    dir: &DataDir,
) -> anyhow::Result<(log::Writer, log::Shared)> {
    let options = wire::log(config, dir, &Registry::new());
    let files = Arc::new(log::RealFiles);
    let identity = log::identity(&options.dir, &*files)?;
    ensure!(identity.is_some(), "there is no log in {}", options.dir.display());
    let stored = super::stored_position(config, dir, identity)?;
    match log::open(options, files, stored) {
        Ok((writer, log, _)) => Ok((writer, log)),
        Err(LogError::InUse { pid, .. }) => {
            let pid = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
            bail!("a gateway runs on {}{pid}: stop it first", config.data_dir.display())
        }
        Err(error) => Err(error.into()),
    }
}

/// Accepted readings in the log up to and with `position`; `None` if no record around tells.
pub(super) fn accepted_up_to(log: &log::Shared, position: Position) -> Option<u64> {
    if position == Position::ZERO {
        return Some(0);
    }
    let envelope = |at: Position| {
        let (found, bytes) = log.reader_at(at).next().ok()??;
        let (envelope, _) = Envelope::decode(found, &bytes).ok().filter(|_| found == at)?;
        Some((envelope.accepted_total, u64::from(envelope.accepted)))
    };
    let at = (position >= log.oldest()).then(|| envelope(position)).flatten();
    at.map(|(total, _)| total)
        .or_else(|| envelope(position.next()).map(|(total, accepted)| total - accepted))
}
