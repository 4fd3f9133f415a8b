//! Metrics of the guard over readings, and of `state.db`.

use super::Registry;
use metrics::{Counter, Gauge};

/// What readings are held against.
#[derive(Clone)]
pub struct GuardMetrics {
    /// Series that count towards the limits.
    pub series: Gauge,
    /// Values that were converted to the kind of their field.
    pub coerced: Counter,
}

impl std::fmt::Debug for GuardMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("GuardMetrics")
    }
}

impl Default for GuardMetrics {
    /// Counts nothing.
    fn default() -> Self {
        Self { series: Gauge::noop(), coerced: Counter::noop() }
    }
}

impl GuardMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            series: registry.gauge(
                "gateway_series",
                "Series (device, measurement, tags, field) that count towards the limits",
                &[],
            ),
            coerced: registry.counter(
                "gateway_coerced_values_total",
                "Values that were converted to the kind of their field without loss",
                &[],
            ),
        }
    }
}

/// `state.db`.
#[derive(Clone)]
pub struct StateMetrics {
    /// Fields whose kind is known.
    pub fields: Gauge,
    /// 1 while the file cannot be written.
    pub trouble: Gauge,
}

impl std::fmt::Debug for StateMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateMetrics")
    }
}

impl Default for StateMetrics {
    /// Counts nothing.
    fn default() -> Self {
        Self { fields: Gauge::noop(), trouble: Gauge::noop() }
    }
}

impl StateMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        Self {
            fields: registry.gauge(
                "gateway_learned_fields",
                "Fields (realm, measurement, field) whose kind is known",
                &[],
            ),
            trouble: registry.gauge(
                "gateway_state_trouble",
                "1 while state.db cannot be written: readings with new fields have to wait",
                &[],
            ),
        }
    }
}
