//! Metrics of the source that subscribes to a broker.

use super::{ByCode, Registry};
use metrics::{Counter, Gauge};

/// The source.
#[derive(Clone)]
pub struct MqttSourceMetrics {
    /// 1 while it is subscribed.
    pub connected: Gauge,
    /// Connections that were made.
    pub connections: Counter,
    /// Sessions that the broker had promised to keep and has not.
    pub sessions_lost: Counter,
    /// Messages that the broker marks as sent before.
    pub redelivered: Counter,
    /// Messages with this outcome.
    pub logged: Counter,
    /// Messages with this outcome.
    pub duplicate: Counter,
    /// Messages with this outcome.
    pub malformed: Counter,
    /// Messages with this outcome.
    pub wrong_topic: Counter,
    /// Messages with this outcome.
    pub overrun: Counter,
    /// Answers with this kind.
    pub nacks: Counter,
    /// Answers with this kind.
    pub acks: Counter,
    /// Answers that the broker did not take.
    pub unanswered: Counter,
    /// Refused readings and batches by code, with those of the devices over wss.
    pub refused: ByCode,
}

impl std::fmt::Debug for MqttSourceMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MqttSourceMetrics")
    }
}

impl MqttSourceMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let messages = |outcome: &'static str| {
            registry.counter(
                "gateway_mqtt_source_messages_total",
                "Messages from the broker by what became of them.",
                &[("outcome", outcome.into())],
            )
        };
        let answers = |kind: &'static str| {
            registry.counter(
                "gateway_mqtt_source_answers_total",
                "Answers to devices by kind; refused: the broker did not take one.",
                &[("kind", kind.into())],
            )
        };
        Self {
            connected: registry.gauge(
                "gateway_mqtt_source_connected",
                "1 while the gateway is subscribed to its broker.",
                &[],
            ),
            connections: registry.counter(
                "gateway_mqtt_source_connections_total",
                "Connections that were made to the broker of the devices.",
                &[],
            ),
            sessions_lost: registry.counter(
                "gateway_mqtt_source_sessions_lost_total",
                "Connections on which the broker had forgotten what it was to keep for us.",
                &[],
            ),
            redelivered: registry.counter(
                "gateway_mqtt_source_redelivered_messages_total",
                "Messages that the broker marks as sent before.",
                &[],
            ),
            logged: messages("logged"),
            duplicate: messages("duplicate"),
            malformed: messages("malformed"),
            wrong_topic: messages("wrong_topic"),
            overrun: messages("overrun"),
            nacks: answers("nack"),
            acks: answers("ack"),
            unanswered: answers("refused"),
            refused: registry.by_code(
                "gateway_refused_total",
                "Readings, and batches refused as a whole, by code",
            ),
        }
    }
}
