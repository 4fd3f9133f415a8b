//! The registry, and counters by error code.

use metrics::{
    Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit,
};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use proto::ErrorCode;
use std::{collections::BTreeMap, sync::Arc};

/// Latencies in seconds: from a sync of a fast disk (0.1 ms) to the deadline of a device (60 s),
/// about three per decade.
const SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];
/// Counts of things that are taken together: powers of four up to the largest group.
const COUNTS: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0];

const METADATA: Metadata<'static> = Metadata::new("gateway", Level::INFO, None);

/// The registry that every room gets its handles from.
#[derive(Clone)]
pub struct Registry {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for (suffix, buckets) in
            [("_seconds", SECONDS), ("_batches", COUNTS), ("_readings", COUNTS)]
        {
            builder =
                match builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), buckets) {
                    Ok(builder) => builder,
                    Err(_) => unreachable!("the bucket lists are not empty"),
                };
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Self { recorder: Arc::new(recorder), handle }
    }

    /// The exposition in the Prometheus text format.
    pub fn render(&self) -> String {
        self.handle.run_upkeep();
        self.handle.render()
    }

    fn key(&self, name: &'static str, labels: &[(&'static str, SharedString)]) -> Key {
        let labels: Vec<Label> =
            labels.iter().map(|(name, value)| Label::new(*name, value.clone())).collect();
        Key::from_parts(name, labels)
    }

    /// A counter.
    pub fn counter(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, SharedString)],
    ) -> Counter {
        self.recorder.describe_counter(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_counter(&self.key(name, labels), &METADATA)
    }

    /// A gauge.
    pub fn gauge(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&'static str, SharedString)],
    ) -> Gauge {
        self.recorder.describe_gauge(KeyName::from_const_str(name), None, help.into());
        self.recorder.register_gauge(&self.key(name, labels), &METADATA)
    }

    /// A histogram; its buckets follow from the suffix of its name.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        unit: Option<Unit>,
        labels: &[(&'static str, SharedString)],
    ) -> Histogram {
        self.recorder.describe_histogram(KeyName::from_const_str(name), unit, help.into());
        self.recorder.register_histogram(&self.key(name, labels), &METADATA)
    }

    /// One counter per error code, under the label `code`.
    pub fn by_code(&self, name: &'static str, help: &'static str) -> ByCode {
        ByCode(Arc::new(
            ErrorCode::ALL
                .iter()
                .map(|&code| (code, self.counter(name, help, &[("code", code.as_str().into())])))
                .collect(),
        ))
    }
}

/// Counters by error code.
#[derive(Clone)]
pub struct ByCode(Arc<BTreeMap<ErrorCode, Counter>>);

impl std::fmt::Debug for ByCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByCode")
    }
}

impl ByCode {
    /// Adds `n` under `code`.
    pub fn add(&self, code: ErrorCode, n: u64) {
        if let Some(counter) = self.0.get(&code) {
            counter.increment(n);
        }
    }
}
