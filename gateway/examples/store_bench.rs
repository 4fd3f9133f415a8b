//! Ingest and queries of the embedded store at the size of a fleet.
//!
//! 60,000 series, one point each per transaction, through the same door as the forwarder's
//! batches: decoding, cursor, sync and roll-ups are part of the time. Prints points/s for every
//! million (or `--every`) points and the latency of queries; with `--year` also writes one series
//! of a year at one point in ten seconds, and reads it back from roll-ups.
//!
//! `cargo run --release -p gateway --example store_bench -- --points 100000000 --year`

use anyhow::{Context, Result};
use clap::Parser;
use gateway::{
    metrics::{Registry, StoreMetrics},
    record::{Codec, Dropped, Envelope, Identity, Kind, Position, Source},
    sink::{
        Batch, Record, Sink,
        store::{LogRange, Options, Store, query},
    },
};
use proto::{BatchEncoder, DeviceMessage, RawValue, TimeUnit};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const HOUR_NS: i64 = 3_600_000_000_000;

#[derive(Parser)]
struct Arguments {
    /// Points to write.
    #[arg(long, default_value_t = 10_000_000)]
    points: u64,
    /// Devices; each has `--fields` series.
    #[arg(long, default_value_t = 600)]
    devices: u32,
    /// Series of a device, each a reading of its own.
    #[arg(long, default_value_t = 100)]
    series: u32,
    /// Time between two points of a series, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    interval_ms: i64,
    /// Points between two lines of output.
    #[arg(long, default_value_t = 1_000_000)]
    every: u64,
    /// Write one series of a year too, and read it from roll-ups.
    #[arg(long)]
    year: bool,
    /// The file; it is made, and deleted at the end.
    #[arg(long, default_value = "target/store_bench.db")]
    file: PathBuf,
    /// Leave the file.
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    remove(&arguments.file);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(run(&arguments));
    if !arguments.keep {
        remove(&arguments.file);
    }
    result
}

fn remove(file: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut path = file.as_os_str().to_owned();
        path.push(suffix);
        let _ = std::fs::remove_file(path);
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let registry = Registry::new();
    let log = LogRange { uuid: uuid::Uuid::new_v4(), oldest: Position(1), end: Position(0) };
    let store = Store::open(Options::new(&arguments.file), log, StoreMetrics::new(&registry))?;
    let template = template(arguments);
    let per_batch = u64::from(arguments.devices * arguments.series);
    let batches = arguments.points.div_ceil(per_batch);
    let step_ns = arguments.interval_ms * 1_000_000;
    let now_ns = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let first_ns = now_ns - i64::try_from(batches)? * step_ns;
    let mut writer = Writes { store: &store, next: Position(1), total: 0 };

    println!("{batches} transactions of {per_batch} points, {} ms apart", arguments.interval_ms);
    let begun = Instant::now();
    let mut mark = (0, begun, Duration::ZERO);
    let mut mark_cpu = cpu_seconds()?;
    for n in 0..batches {
        let receive_ns = first_ns + i64::try_from(n)? * step_ns;
        let sent = Instant::now();
        writer.write(&template, receive_ns).await?;
        mark.2 = mark.2.max(sent.elapsed());
        let points = (n + 1) * per_batch;
        if points - mark.0 >= arguments.every || n + 1 == batches {
            let rate = (points - mark.0) as f64 / mark.1.elapsed().as_secs_f64();
            let slowest = mark.2.as_millis();
            let cpu = cpu_seconds()?;
            let cpu_us = (cpu - mark_cpu) * 1e6 / (points - mark.0) as f64;
            let bytes = std::fs::metadata(&arguments.file)?.len();
            println!(
                "{points:>12} points  {rate:>9.0} points/s  {cpu_us:.2} µs CPU a point  \
                 slowest {slowest:>5} ms  {:>6} MB",
                bytes / 1_000_000
            );
            mark = (points, Instant::now(), Duration::ZERO);
            mark_cpu = cpu;
        }
    }
    let rate = (batches * per_batch) as f64 / begun.elapsed().as_secs_f64();
    println!("mean {rate:.0} points/s, {:.2} µs CPU a point", {
        cpu_seconds()? * 1e6 / (batches * per_batch) as f64
    });
    last_hour(&arguments.file, per_batch, first_ns + i64::try_from(batches)? * step_ns)?;
    if arguments.year {
        year(arguments, &mut writer, now_ns).await?;
    }
    Ok(())
}

/// CPU time of this process, so that a machine with other work can be judged too. The kernel
/// counts it in hundredths of a second (proc_pid_stat(5), fields 14 and 15).
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(')').context("a name in brackets")?;
    let ticks: Vec<f64> =
        after_name.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Sends batches with rising positions.
struct Writes<'a> {
    store: &'a Store,
    next: Position,
    total: u64,
}

impl Writes<'_> {
    async fn write(&mut self, template: &[Record], receive_ns: i64) -> Result<()> {
        let first = self.next;
        let mut readings = 0;
        let records: Arc<[Record]> = template
            .iter()
            .map(|record| {
                let mut record = record.clone();
                record.position = self.next;
                self.next = self.next.next();
                record.envelope.receive_ns = receive_ns;
                readings += u64::from(record.envelope.accepted);
                record
            })
            .collect();
        self.total += readings;
        let batch = Batch {
            first,
            last: Position(self.next.0 - 1),
            records,
            readings,
            accepted_total: self.total,
            dropped: Dropped::default(),
            given_up: std::sync::Arc::default(),
        };
        Ok(self.store.write(batch).await?)
    }
}

/// One record of each device. Without times of their own the readings are stamped from the
/// envelope, so the same payload serves every transaction.
fn template(arguments: &Arguments) -> Vec<Record> {
    let mut encoder = BatchEncoder::new();
    let mut random = fastrand::Rng::with_seed(1);
    (0..arguments.devices)
        .map(|device| {
            encoder.readings(1, arguments.series);
            for n in 0..arguments.series {
                let value = RawValue::Float(random.f64() * 100.0);
                let tags = [("channel", &*format!("c{n}"))];
                encoder.reading(Some("environment"), None, &tags, &[("temperature", value)]);
            }
            record(&format!("device-{device:05}"), encoder.finish(), arguments.series)
        })
        .collect()
}

fn record(device: &str, message: &[u8], accepted: u32) -> Record {
    let body = match DeviceMessage::decode(message, &proto::Limits::unbounded()) {
        Ok(DeviceMessage::Batch(body)) => body.to_vec(),
        other => unreachable!("the encoder writes batches: {other:?}"),
    };
    Record {
        position: Position::ZERO,
        envelope: Envelope {
            kind: Kind::Batch,
            source: Source::Device,
            codec: Codec::BatchV1,
            time_unit: TimeUnit::Ms,
            refused_whole: None,
            receive_ns: 0,
            stream: 1,
            seq: 1,
            accepted,
            accepted_total: 0,
            payload_hash: 0,
            identity: Identity::new("default", device),
            measurement: None,
            refused: Vec::new(),
            adjustments: Vec::new(),
        },
        payload: body.into(),
    }
}

/// The last hour of some series: each reader is new, so that its own pages are cold.
fn last_hour(file: &Path, series: u64, end_ns: i64) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(2);
    let mut times = Vec::new();
    let mut points = 0;
    for _ in 0..50 {
        let id = random.i64(1..=i64::try_from(series)?);
        let reader = query::Reader::open(file)?;
        let begun = Instant::now();
        points = reader.points(id, end_ns - HOUR_NS..end_ns, 1_000_000)?.len();
        times.push(begun.elapsed());
    }
    print_latency(&format!("last hour of one series, {points} points"), &mut times)
}

async fn year(arguments: &Arguments, writer: &mut Writes<'_>, now_ns: i64) -> Result<()> {
    const ROWS: u32 = 5_000;
    let step_ns = 10_000_000_000;
    let from_ns = (now_ns - 366 * 24 * HOUR_NS).div_euclid(HOUR_NS) * HOUR_NS;
    let batches = 365 * 8640 / i64::from(ROWS) + 1;
    let begun = Instant::now();
    let mut encoder = BatchEncoder::new();
    for batch in 0..batches {
        encoder.readings(1, ROWS);
        for n in 0..i64::from(ROWS) {
            let ms = (from_ns + (batch * i64::from(ROWS) + n) * step_ns) / 1_000_000;
            let value = RawValue::Float(20.0 + (ms % 1_000_007) as f64 / 1e5);
            encoder.reading(Some("environment"), Some(ms), &[], &[("year", value)]);
        }
        let record = record("device-late", encoder.finish(), ROWS);
        writer.write(&[record], now_ns).await?;
    }
    let rate = (batches * i64::from(ROWS)) as f64 / begun.elapsed().as_secs_f64();
    println!("a year of one series, late: {rate:.0} points/s");
    let filter = query::Filter { device: Some("device-late"), ..query::Filter::default() };
    let series = query::Reader::open(&arguments.file)?
        .series(filter, 0, 1)?
        .first()
        .context("the series is in the list")?
        .id;
    let hours = from_ns / HOUR_NS..now_ns / HOUR_NS;
    let stale = |at: &str| -> Result<()> {
        let mut times = Vec::new();
        let mut count = 0;
        for _ in 0..if at == "roll-ups" { 20 } else { 1 } {
            let reader = query::Reader::open(&arguments.file)?;
            let begun = Instant::now();
            count = reader.hourly(series, hours.clone())?.len();
            times.push(begun.elapsed());
        }
        print_latency(&format!("a year by the hour from {at}, {count} hours"), &mut times)
    };
    stale("points")?;
    println!("waiting for the roll-ups");
    tokio::time::sleep(Duration::from_secs(100)).await;
    stale("roll-ups")
}

fn print_latency(what: &str, times: &mut [Duration]) -> Result<()> {
    times.sort();
    let last = times.last().context("at least one")?;
    println!("{what}: median {:?}, slowest {last:?}", times[times.len() / 2]);
    Ok(())
}
