//! The null sinks: they take everything, keep nothing, and count what they confirmed.
//!
//! Driven as the generator is: every line of standard input is answered by one line of JSON with
//! the counts, and the end of the input ends the process.

mod http;
mod mqtt;

use crate::input;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// What kind of sink.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Instead of serving HTTP, subscribe at the MQTT broker on this port of 127.0.0.1
    #[arg(long)]
    pub mqtt: Option<u16>,
    /// Readings in an MQTT message
    #[arg(long, default_value_t = 1)]
    pub readings: u32,
}

/// What a sink says: first where it is, then its counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Said {
    /// It is there.
    Ready {
        /// Its port, or the broker's.
        port: u16,
    },
    /// What was confirmed so far.
    Counts {
        /// Readings: lines of line protocol, or what MQTT messages hold.
        readings: u64,
        /// Requests, or messages.
        requests: u64,
    },
}

#[derive(Debug, Default)]
struct Counters {
    readings: AtomicU64,
    requests: AtomicU64,
}

impl Counters {
    fn add(&self, readings: u64) {
        self.readings.fetch_add(readings, Relaxed);
        self.requests.fetch_add(1, Relaxed);
    }
}

/// Runs until the end of the input.
///
/// # Errors
/// No port, no broker, or a broken connection to it.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let counters = Arc::new(Counters::default());
        let (port, served) = match options.mqtt {
            None => {
                let (port, served) = http::serve(Arc::clone(&counters)).await?;
                (port, tokio::spawn(served))
            }
            Some(port) => {
                let readings = u64::from(options.readings);
                let served = mqtt::subscribe(port, readings, Arc::clone(&counters)).await?;
                (port, tokio::spawn(served))
            }
        };
        say(Said::Ready { port });
        tokio::select! {
            ended = served => ended?.context("the sink has ended"),
            () = answer(&counters) => Ok(()),
        }
    })
}

async fn answer(counters: &Counters) {
    let mut lines = input::lines();
    while lines.recv().await.is_some() {
        let readings = counters.readings.load(Relaxed);
        say(Said::Counts { readings, requests: counters.requests.load(Relaxed) });
    }
}

fn say(said: Said) {
    println!("{}", serde_json::to_string(&said).expect("plain data is always JSON"));
}
