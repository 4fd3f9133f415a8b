//! `device-sim subscribe`: what an MQTT broker passes on, recorded.

use super::duration;
use crate::subscribe::{self, Broker, Options, Payload};
use anyhow::Result;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct SubscribeArgs {
    /// The broker: mqtt://host:port, or mqtts://host over TLS.
    #[arg(long)]
    url: String,
    /// Certificate of the CA that vouches for the broker (PEM) [default: those of the system].
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A user that may subscribe.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// What to subscribe to.
    #[arg(long, value_name = "FILTER", default_value = "readings/#")]
    topic: String,
    /// What the messages hold, as the gateway's sink has it.
    #[arg(long, value_enum, default_value = "json")]
    payload: Payload,
    /// Names the session that the broker keeps while nobody is there, for a day.
    #[arg(long, value_name = "NAME", default_value = "device-sim-subscriber")]
    client_id: String,
    /// The file; what it holds stays, and the session goes on.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// Ends when nothing has come for so long [default: at SIGINT or SIGTERM].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    idle: Option<Duration>,
}

pub(super) fn execute(args: SubscribeArgs) -> Result<bool> {
    let options = Options {
        broker: Broker {
            url: args.url,
            ca: args.ca,
            login: args.user.zip(args.password_file),
            client_id: args.client_id,
        },
        topic: args.topic,
        payload: args.payload,
        recording: args.record,
        idle: args.idle,
    };
    let say = |sentence: &str| {
        println!("{sentence}");
        // Whoever waits for it may read from a pipe.
        let _ = std::io::stdout().flush();
    };
    let totals = subscribe::subscribe(&options, &say)?;
    say(&format!(
        "recorded: {} readings in {} messages, {} that cannot be read, {} sessions lost",
        totals.readings, totals.messages, totals.unreadable, totals.sessions_lost
    ));
    Ok(totals.unreadable == 0 && totals.sessions_lost == 0)
}
