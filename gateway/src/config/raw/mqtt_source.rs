//! `[mqtt_source]` as it is written.

use super::seconds;
use crate::config::units::Span;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct MqttSource {
    pub(in crate::config) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) share: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) measurement: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) password_env: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::config) key_file: Option<PathBuf>,
    pub(in crate::config) realm: String,
    pub(in crate::config) acks: bool,
    pub(in crate::config) time_unit: proto::TimeUnit,
    pub(in crate::config) in_flight: u32,
    pub(in crate::config) keep_session: Span,
    pub(in crate::config) keep_alive: Span,
    pub(in crate::config) timeout: Span,
}

impl Default for MqttSource {
    fn default() -> Self {
        Self {
            enabled: false,
            url: None,
            share: None,
            measurement: None,
            client_id: None,
            user: None,
            password_file: None,
            password_env: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            realm: "mqtt".to_owned(),
            acks: false,
            time_unit: proto::TimeUnit::Ms,
            in_flight: 32,
            keep_session: seconds(7 * 24 * 3600),
            keep_alive: seconds(60),
            timeout: seconds(30),
        }
    }
}
