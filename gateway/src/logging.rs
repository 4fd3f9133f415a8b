//! The process's own log: lines on standard error.

use crate::config::valid::{LogFormat, Logging};
use std::io::{self, IsTerminal};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts it; only the first call has an effect. `RUST_LOG` overrides the level of the
/// configuration, and may name modules: `info,gateway::forward=debug`.
pub fn start(config: &Logging) {
    let level = || EnvFilter::new(config.level.to_string());
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let filter = from_environment.filter(|directives| !directives.is_empty()).map_or_else(
        level,
        |directives| {
            EnvFilter::try_new(&directives).unwrap_or_else(|error| {
                eprintln!("RUST_LOG is ignored: {error}");
                level()
            })
        },
    );
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(io::stderr);
    // A second start happens in tests only, where the first one is as good.
    let _ = match config.format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Text => {
            registry.with(lines.with_ansi(io::stderr().is_terminal()).with_target(false)).try_init()
        }
    };
}
