//! Metrics of what speaks MQTT.

use super::Registry;
use metrics::{Counter, Gauge, SharedString};

/// A sink that publishes.
#[derive(Clone)]
pub struct MqttSinkMetrics {
    /// 1 while there is a connection.
    pub connected: Gauge,
    /// Connections that were made.
    pub connections: Counter,
    /// Messages that the broker has acknowledged.
    pub published: Counter,
    /// Messages that were under way when a connection ended: subscribers may get them twice.
    pub repeated: Counter,
    /// Messages that the broker refused because of access rules.
    pub refused_access: Counter,
    /// Messages that the broker refused for another reason.
    pub refused_other: Counter,
}

impl std::fmt::Debug for MqttSinkMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MqttSinkMetrics")
    }
}

impl MqttSinkMetrics {
    /// Handles in this registry, for the sink of this name.
    pub fn new(registry: &Registry, sink: &str) -> Self {
        let sink = SharedString::from(sink.to_owned());
        let labels = [("sink", sink.clone())];
        let refused = |reason: &'static str| {
            registry.counter(
                "gateway_mqtt_sink_refused_messages_total",
                "Messages that the broker refused, by reason.",
                &[("sink", sink.clone()), ("reason", reason.into())],
            )
        };
        Self {
            connected: registry.gauge(
                "gateway_mqtt_sink_connected",
                "1 while the sink is connected to its broker.",
                &labels,
            ),
            connections: registry.counter(
                "gateway_mqtt_sink_connections_total",
                "Connections that the sink has made to its broker.",
                &labels,
            ),
            published: registry.counter(
                "gateway_mqtt_sink_published_messages_total",
                "Messages that the broker has acknowledged.",
                &labels,
            ),
            repeated: registry.counter(
                "gateway_mqtt_sink_repeated_messages_total",
                "Messages that were under way when a connection ended: they are published again, \
                 and subscribers may get them twice.",
                &labels,
            ),
            refused_access: refused("access"),
            refused_other: refused("other"),
        }
    }
}
