//! Metrics of the quarantine as a whole; those of a sink are with its ledger.

use super::Registry;
use metrics::Gauge;

/// How full it is.
#[derive(Clone)]
pub struct QuarantineMetrics {
    /// What its readings take.
    pub bytes: Gauge,
    /// What they may take.
    pub limit_bytes: Gauge,
}

impl std::fmt::Debug for QuarantineMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuarantineMetrics")
    }
}

impl QuarantineMetrics {
    /// Handles in this registry.
    pub fn new(registry: &Registry) -> Self {
        Self {
            bytes: registry.gauge(
                "gateway_quarantine_bytes",
                "What the readings in the quarantine count towards its limit, in bytes.",
                &[],
            ),
            limit_bytes: registry.gauge(
                "gateway_quarantine_limit_bytes",
                "The limit of the quarantine (quarantine.max_bytes), in bytes.",
                &[],
            ),
        }
    }
}
