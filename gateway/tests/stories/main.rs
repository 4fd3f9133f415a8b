//! Stories: what the product promises, seen from outside, over real TLS with the real binary.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod ack_means_durable;
mod bad_input;
mod bad_inputs;
mod certify;
mod dashboards;
mod dedupe;
mod fleet;
mod foreign_clients;
mod full_log;
mod honest_latency;
mod influx_buckets;
mod influx_sink;
mod influx_trouble;
mod influxdb;
mod log_command;
mod mqtt_sink;
mod mqtt_source;
mod mqtt_subscriber;
mod oracle;
mod order_and_retry;
mod quarantine;
mod reconcile;
mod rooms;
mod scenarios;
mod series;
mod shards;
mod shutdown_drains;
mod sinks_come_and_go;
mod slow_store;
mod support;
mod takeover;
mod trouble_at_start;
mod types;
mod upgrade;
mod when_full;
