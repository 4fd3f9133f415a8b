//! `gateway capture …`

use crate::{Failure, Place, print, running};
use anyhow::Context;
use clap::{ArgGroup, Args};
use gateway::{
    capture::{self, Live, MIN_LIMIT_BYTES, Options, Pattern, Policy, Span},
    config,
    inspect::text,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Args)]
#[command(group(ArgGroup::new("when").required(true).multiple(true).args(["since", "duration", "follow"])))]
#[command(after_help = "\
Kept: times and their distances, the shape of each batch, numbers, booleans, and the names of
measurements, tags and fields. Replaced by keyed hashes whose key is random and never stored: device
ids, realms, values of tags, texts of fields, and names that hold the id of their device. Blanked: the
fields lat, lon, lng, long, latitude, longitude, altitude, location, position and geohash. Not there:
stream numbers, firmware and model, readings that were refused.")]
pub(crate) struct CaptureArgs {
    /// Devices whose id is like this, * and ? stand for any characters; may be repeated
    #[arg(long, value_name = "PATTERN", required = true)]
    device: Vec<Pattern>,
    /// Only of this realm
    #[arg(long, value_name = "NAME")]
    realm: Option<String>,
    /// Share of these devices, such as 1/10: all batches of a device, or none
    #[arg(long, value_name = "N/OF", default_value = "1/1", value_parser = share)]
    share: [u32; 2],
    /// What came since so long ago
    #[arg(long, value_name = "DURATION", value_parser = config::parse_duration)]
    since: Option<Duration>,
    /// What comes from now on, for so long
    #[arg(long, value_name = "DURATION", value_parser = config::parse_duration)]
    duration: Option<Duration>,
    /// What comes from now on, until Ctrl-C
    #[arg(long, conflicts_with = "duration")]
    follow: bool,
    /// Largest file; the capture ends there
    #[arg(long, value_name = "SIZE", default_value = "100MiB", value_parser = limit)]
    limit: u64,
    /// A tag whose values are kept as they are; may be repeated
    #[arg(long, value_name = "NAME")]
    keep_tag: Vec<String>,
    /// A field whose texts, or whose position, is kept as it is; may be repeated
    #[arg(long, value_name = "NAME")]
    keep_field: Vec<String>,
    /// A field whose values are blanked: 0, false, xxxxxxxxxxxx; may be repeated
    #[arg(long, value_name = "NAME")]
    blank_field: Vec<String>,
    /// The file, which must not exist; only its owner can read it
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn execute(args: CaptureArgs) -> Result<(), Failure> {
    let log = args.place.load(Vec::new())?.data_dir.join("log");
    let live = match (args.duration, args.follow) {
        (Some(duration), _) => Live::For(duration),
        (None, true) => Live::On,
        (None, false) => Live::No,
    };
    let options = Options {
        devices: args.device,
        realm: args.realm,
        share: args.share,
        span: Span { since: args.since.unwrap_or_default(), live },
        limit_bytes: args.limit,
        policy: Policy::new(args.keep_tag, args.keep_field, args.blank_field),
    };
    let out = args.out;
    let stop = Arc::new(AtomicBool::new(false));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(running)?;
    let end = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot take signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot take signals")?;
        // A limit of the size of files (`ulimit -f`) is an error of a write then, and not the end of
        // the process in the middle of a file.
        let too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        let _too_large = signal(too_large).context("cannot take signals")?;
        let mut work = tokio::task::spawn_blocking({
            let (stop, out) = (Arc::clone(&stop), out.clone());
            move || capture::capture(&log, &out, &options, &stop)
        });
        loop {
            tokio::select! {
                end = &mut work => return Ok::<_, anyhow::Error>(end??),
                _ = interrupt.recv() => stop.store(true, Ordering::Relaxed),
                _ = terminate.recv() => stop.store(true, Ordering::Relaxed),
            }
        }
    });
    let end = end.map_err(Failure::Running)?;
    let why = match end.ended_by {
        capture_file::EndedBy::Limit => "; ended by --limit",
        capture_file::EndedBy::Disk => {
            "; ended because the disk is nearly full or a quota is used up"
        }
        _ => "",
    };
    let missing = match end.missing_records {
        0 => String::new(),
        records => {
            format!("; {records} records of the log were damaged or deleted, and are not in it")
        }
    };
    let size = text::bytes(std::fs::metadata(&out).map_or(0, |file| file.len()));
    print(&format!(
        "{}: {} devices, {} batches, {} readings, {size}{why}{missing}\n",
        out.display(),
        end.devices,
        end.batches,
        end.readings,
    ))
}

fn share(text: &str) -> Result<[u32; 2], String> {
    let read = || {
        let (taken, of) = text.split_once('/')?;
        let share = [taken.trim().parse().ok()?, of.trim().parse().ok()?];
        (1..=share[1]).contains(&share[0]).then_some(share)
    };
    read().ok_or_else(|| "a share such as 1/10 is needed, of 1/1 at most".to_owned())
}

fn limit(text: &str) -> Result<u64, String> {
    match config::parse_size(text) {
        Some(bytes) if bytes >= MIN_LIMIT_BYTES => Ok(bytes),
        _ => Err("a size such as 100MiB is needed, of 64KiB at least".to_owned()),
    }
}
