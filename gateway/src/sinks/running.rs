//! Sinks that are rewound while the gateway runs.

use super::{Opened, Rewound, Sinks, standing::accepted_up_to};
use crate::{
    admin::{RewindTo, Rewinder},
    config::Config,
    forward::Handle,
    log,
    record::Position,
};
use proto::message::AckMode;
use std::{sync::Arc, time::Duration};

/// After a sink was told to hold on to records, what retention has decided before is carried out
/// within this: two of its rounds.
const RETENTION_SETTLES: Duration = Duration::from_secs(1);

impl Sinks {
    /// What the local socket calls.
    pub(crate) fn rewinder(&self, config: &Config, log: &log::Shared) -> Rewinder {
        let mode = config.ack;
        let of = |of: &Opened| (of.handle.clone(), mode == AckMode::Stored && of.required);
        let sinks: Arc<[(Handle, bool)]> = self.opened.iter().map(of).collect();
        let log = log.clone();
        Arc::new(move |name, RewindTo { to }| {
            let (sinks, log) = (Arc::clone(&sinks), log.clone());
            Box::pin(async move {
                let Some((handle, acks)) = sinks.iter().find(|(of, _)| *of.name == *name) else {
                    return Err(format!("the running gateway has no sink {name:?}"));
                };
                if *acks {
                    return Err(
                        "acknowledgements wait for this sink (ack = \"stored\"): stop the \
                                gateway first"
                            .to_owned(),
                    );
                }
                let done = rewind(handle, &log, to.map(Position)).await;
                handle.release();
                done.and_then(|done| serde_json::to_value(done).map_err(|error| error.to_string()))
            })
        })
    }
}

async fn rewind(
    handle: &Handle,
    log: &log::Shared,
    to: Option<Position>,
) -> Result<Rewound, String> {
    let wanted = to.unwrap_or(log.oldest());
    handle.hold(Position(wanted.0.saturating_sub(1)));
    tokio::time::sleep(RETENTION_SETTLES).await;
    let next = to.unwrap_or(log.oldest());
    if !(log.oldest()..=log.durable().next()).contains(&next) {
        let (oldest, last) = (log.oldest(), log.durable());
        return Err(format!("the log has the records {oldest} to {last}, not {next}"));
    }
    let position = Position(next.0.saturating_sub(1));
    let of_log = log.clone();
    let accepted = tokio::task::spawn_blocking(move || accepted_up_to(&of_log, position));
    let accepted = accepted.await.map_err(|error| error.to_string())?;
    let (from, epoch) = handle.rewind(position, accepted).await.map_err(|why| why.to_string())?;
    Ok(Rewound { from: Some(from), next, epoch })
}
