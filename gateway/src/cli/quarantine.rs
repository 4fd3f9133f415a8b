//! `gateway quarantine …`

use crate::{Failure, Place, print, running};
use anyhow::anyhow;
use clap::{Args, Subcommand};
use gateway::{
    config::{self, Config},
    inspect::text,
    quarantine::{Entry, Filter, MAX_PAGE},
    sinks::{self, Replayed},
};
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Shows what sinks refused, the oldest first
    List {
        /// One JSON object a line instead of a table
        #[arg(long)]
        json: bool,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        place: Place,
    },
    /// Shows one reading with the store's words
    Show {
        /// Its number in the list
        id: i64,
        #[command(flatten)]
        place: Place,
    },
    /// Prints all of it, one JSON object a line
    Export {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        place: Place,
    },
    /// Sends readings to their sink once more; what it stores leaves the quarantine. The gateway
    /// must run
    Replay {
        /// Only this one
        #[arg(long, value_name = "ID")]
        id: Option<i64>,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        place: Place,
    },
    /// Gives readings up for good, counted as dropped in the ledger
    Drop {
        /// Only this one
        #[arg(long, value_name = "ID")]
        id: Option<i64>,
        /// All that is there
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
pub(crate) struct Which {
    /// Only of this sink
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
    /// Only of this device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Only what was refused within this time, as 1h
    #[arg(long, value_name = "DURATION", value_parser = config::parse_duration)]
    since: Option<Duration>,
}

impl Which {
    fn filter(self, id: Option<i64>) -> Filter {
        let Self { sink, device, since } = self;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = since.map(|since| now.saturating_sub(since).as_nanos());
        let since_ns = since.map(|ns| i64::try_from(ns).unwrap_or(i64::MAX));
        Filter { id, sink, device, since_ns, after: None }
    }
}

pub(crate) fn execute(command: QuarantineCommand) -> Result<(), Failure> {
    match command {
        QuarantineCommand::List { json, limit, which, place } => {
            let config = place.load(Vec::new())?;
            let filter = which.filter(None);
            pages(&config, filter, limit, !json, if json { line } else { row })
        }
        QuarantineCommand::Show { id, place } => {
            let config = place.load(Vec::new())?;
            let filter = Filter { id: Some(id), ..Filter::default() };
            let entries = sinks::quarantined(&config, &filter, 1).map_err(running)?;
            match entries.first() {
                Some(entry) => print(&show(entry)),
                None => Err(running(anyhow!("there is no reading {id} in the quarantine"))),
            }
        }
        QuarantineCommand::Export { which, place } => {
            let config = place.load(Vec::new())?;
            pages(&config, which.filter(None), u32::MAX, false, line)
        }
        QuarantineCommand::Replay { id, which, place } => {
            let config = place.load(Vec::new())?;
            replay(&config, which.filter(id))
        }
        QuarantineCommand::Drop { id, all, which, place } => {
            let config = place.load(Vec::new())?;
            let filter = which.filter(id);
            if all == (filter != Filter::default()) {
                return Err(running(anyhow!(
                    "say which: --id, --sink, --device or --since, or --all for everything"
                )));
            }
            let dropped = sinks::give_up(&config, &filter).map_err(running)?;
            print(&format!("dropped {dropped} readings\n"))
        }
    }
}

/// Prints what is there, page by page, so that no more than one is in memory.
fn pages(
    config: &Config,
    mut filter: Filter,
    limit: u32,
    head: bool,
    text: fn(&Entry) -> String,
) -> Result<(), Failure> {
    if head {
        print(&format!("{:>8}  {:<30}  {:<12}  {:<20}  WHY\n", "ID", "SINCE", "SINK", "DEVICE"))?;
    }
    let mut left = limit;
    while left > 0 {
        let entries = sinks::quarantined(config, &filter, left.min(MAX_PAGE)).map_err(running)?;
        let Some(last) = entries.last() else { break };
        filter.after = Some(last.id);
        left -= u32::try_from(entries.len()).unwrap_or(left);
        print(&entries.iter().map(text).collect::<String>())?;
    }
    Ok(())
}

fn line(entry: &Entry) -> String {
    text::json(&entry.to_json()) + "\n"
}

fn row(entry: &Entry) -> String {
    let Entry { id, sink, device, reason, kept_ns, .. } = entry;
    let (since, device) = (text::time(*kept_ns), text::name(device));
    let damaged = if entry.is_readable() { "" } else { "(damaged) " };
    format!("{id:>8}  {since:<30}  {sink:<12}  {device:<20}  {damaged}{}\n", text::quoted(reason))
}

fn show(entry: &Entry) -> String {
    let Value::Object(all) = entry.to_json() else { return String::new() };
    let line = |(name, value): (&String, &Value)| match (name.as_str(), value.as_i64()) {
        ("received_ns" | "quarantined_ns" | "time_ns", Some(ns)) => {
            format!("{:<14}  {}\n", name.trim_end_matches("_ns"), text::time(ns))
        }
        _ => format!("{name:<14}  {}\n", text::json(value)),
    };
    all.iter().map(line).collect()
}

fn replay(config: &Config, mut filter: Filter) -> Result<(), Failure> {
    let mut done = Replayed::default();
    loop {
        let page = sinks::replay(config, &filter).map_err(|why| {
            let sum = done.stored + done.refused;
            let so_far =
                format!("{} were stored, {} refused again, then", done.stored, done.refused);
            running(if sum > 0 { why.context(so_far) } else { why })
        })?;
        done.stored += page.stored;
        done.refused += page.refused;
        done.unsupported += page.unsupported;
        done.damaged += page.damaged;
        match page.last {
            Some(_) => filter.after = page.last,
            None => break,
        }
    }
    let mut said = format!("{} readings stored, {} refused again", done.stored, done.refused);
    if done.unsupported > 0 {
        said += &format!(", {} dropped: the store cannot hold them", done.unsupported);
    }
    if done.damaged > 0 {
        said += &format!(", {} are damaged and stay", done.damaged);
    }
    print(&(said + "\n"))
}
