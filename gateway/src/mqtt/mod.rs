//! A connection to an MQTT 5 broker, for what publishes to one and what subscribes to one.
//!
//! Packets are read and written by `rumqttc`; its own event loop is not used. That one answers
//! `publish` when the message is queued, flushes after every message, keeps a message that met a
//! used packet identifier out of what it sends again, and its TLS brings a second TLS library with
//! known faults. Here the holder drives the connection, counts acknowledgements by the identifiers
//! that it gave out itself, and TLS is the one of the rest of the gateway.
//!
//! MQTT 5 and not 3.1.1: a refused message is answered with a reason for that message, where 3.1.1
//! can only close the connection or keep silent; and the broker says how many messages it takes at
//! once, how large, and for how long it keeps a session.

mod connection;
mod failure;
mod topic;

pub use connection::{Connection, Granted};
pub use failure::{Failure, FailureKind};
pub use rumqttc::v5::mqttbytes::{QoS, v5 as packet};
pub use topic::{escape_level, unescape_level};

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Where a broker is and how to speak with it.
#[derive(Clone)]
pub struct Broker {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Over TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Who we say we are; the same after every start.
    pub client_id: String,
    /// The user, if the broker asks for one.
    pub login: Option<Login>,
    /// Silence after which the broker is asked whether it is there, and once more so long until it
    /// is given up.
    pub keep_alive: Duration,
    /// Connecting, and every answer, must be done within this.
    pub timeout: Duration,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Broker({self})")
    }
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// A user and the password.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// Where the password is.
    pub password: Password,
}

/// Where a password is.
#[derive(Clone)]
pub enum Password {
    /// There is none.
    None,
    /// In this file; read again at every connection, and kept from the last time it could be.
    File {
        /// The file.
        path: PathBuf,
        /// What it held.
        last: Arc<Mutex<String>>,
    },
    /// This one.
    Text(String),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::File { path, .. } => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(…)"),
        }
    }
}

impl Password {
    /// The password in a file, without the end of its line.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), last: Arc::default() }
    }

    /// What is sent. Blocks for a small file.
    fn text(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Text(text) => text.clone(),
            Self::File { path, last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                match std::fs::read_to_string(path) {
                    Ok(text) => *last = text.trim_end_matches(['\r', '\n']).to_owned(),
                    Err(error) => {
                        tracing::warn!(file = %path.display(), %error, "a password cannot be read");
                    }
                }
                last.clone()
            }
        }
    }
}

/// What a session is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// How long the broker keeps our subscriptions and what they bring while we are away; `None`
    /// begins anew each time, for one that only publishes: at QoS 1 a broker keeps nothing for it.
    pub keep: Option<Duration>,
    /// Most messages that the broker may have under way to us.
    pub receive_maximum: u16,
    /// Largest packet that we take, in bytes.
    pub max_packet_bytes: u32,
}
