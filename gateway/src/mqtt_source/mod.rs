//! Devices that speak MQTT only: their batches come by way of a broker.
//!
//! Owns one subscription to `telemetry/+` and what is answered on it. The broker's access rules
//! bind the topic to the device, and a realm of its own keeps these devices apart from those that
//! the gateway knows itself. Promises that the broker gets its acknowledgement only after the
//! batch is as safe as an ack to a device says, that every batch passes the same checks and goes
//! the same way as one over wss, and that a message which is none holds up nobody.
//!
//! ```text
//! PUBLISH → topic → device → check → committer → (stored) → nack, if any → PUBACK
//! ```
//!
//! Batches of a device may come in any order, and those of one device to different gateways: a
//! shared subscription divides them. So nothing follows from sequence numbers; a batch that comes
//! again is recognised by its content ([`contents`] says among which). The broker has at most
//! [`MAX_IN_FLIGHT`] under way to us. While the log is full nothing is acknowledged, and the broker
//! keeps the rest.

mod batch;
mod heard;
mod serve;

use crate::{
    ingest::{CommitterHandle, Guards, Rules, clock::WallClock, contents},
    metrics::MqttSourceMetrics,
    mqtt::{Broker, FailureKind},
    record::Position,
    state::State,
};
use proto::TimeUnit;
use serve::{End, Past};
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

/// What devices publish below.
const TOPIC: &str = "telemetry/";
/// Most messages that may be under way from the broker: all of them are recognised when they come
/// again, even if they are of one device.
pub const MAX_IN_FLIGHT: u16 = 64;
const _: () = assert!(MAX_IN_FLIGHT as usize <= contents::PER_DEVICE);

/// The first pause before the broker is tried again; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a broker is tried that waits for a person.
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// What the operator may choose.
#[derive(Debug, Clone)]
pub struct Options {
    /// The broker.
    pub broker: Broker,
    /// The realm of the devices.
    pub realm: String,
    /// Gateways of this group divide the messages among each other.
    pub share: Option<String>,
    /// Devices are told of what was taken, too.
    pub acks: bool,
    /// Most messages under way; at most [`MAX_IN_FLIGHT`].
    pub in_flight: u16,
    /// How long the broker keeps messages for us while we are away.
    pub session: Duration,
    /// Unit of integer times.
    pub time_unit: TimeUnit,
    /// Measurement of the readings that name none.
    pub measurement: Option<Box<str>>,
}

/// What it needs of the gateway.
#[derive(Debug)]
pub struct Context {
    /// The committer.
    pub committer: CommitterHandle,
    /// Up to here batches may be acknowledged.
    pub ack_position: watch::Receiver<Position>,
    /// What batches are checked by.
    pub rules: Arc<Rules>,
    /// What was learned, to be held against batches.
    pub guards: Arc<Guards>,
    /// The devices, and what has to be kept before a batch is submitted.
    pub state: State,
    /// The gateway's clock.
    pub clock: WallClock,
    /// The metrics.
    pub metrics: MqttSourceMetrics,
}

/// The source.
#[derive(Debug)]
pub struct MqttSource {
    options: Options,
    context: Context,
}

impl MqttSource {
    /// A source that has not connected yet.
    pub fn new(options: Options, context: Context) -> Self {
        Self { options, context }
    }

    /// Takes batches until `stop` is cancelled; then what is under way is answered.
    pub async fn run(self, stop: CancellationToken) {
        let mut past = Past::default();
        let mut said = String::new();
        loop {
            let end = serve::serve(&self.options, &self.context, &stop, &mut past).await;
            self.context.metrics.connected.set(0.0);
            let failure = match end {
                End::Stopped => return,
                End::Lost(failure) => failure,
            };
            if past.failures == 0 {
                said.clear();
            }
            let doubled = FIRST_PAUSE.saturating_mul(1 << past.failures.min(10));
            past.failures = past.failures.saturating_add(1);
            let mut pause = doubled.min(LONGEST_PAUSE).mul_f64(1.0 - fastrand::f64() / 2.0);
            if failure.kind == FailureKind::Blocked {
                pause = PROBE_EVERY;
            }
            // Once, and not at every attempt.
            if failure.why == said {
                tracing::debug!(why = %failure, ?pause, "the broker is still away");
            } else if failure.kind == FailureKind::Blocked {
                tracing::error!(
                    why = %failure,
                    "devices over MQTT wait for a person; the broker is tried every minute"
                );
            } else {
                tracing::warn!(why = %failure, "devices over MQTT are not heard, it is tried again");
            }
            said = failure.why;
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(pause) => {}
            }
        }
    }
}
