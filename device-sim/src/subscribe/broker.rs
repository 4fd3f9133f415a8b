//! Where the broker is, and the way to it. `rumqttc` speaks MQTT; it is built without TLS, since its
//! own would bring a second one with known faults: over TLS it speaks to a pipe on loopback, which
//! carries what it says.

use crate::dial::{connector, dial, read_secret};
use anyhow::{Context, Result, anyhow, ensure};
use hyper::Uri;
use rumqttc::v5::MqttOptions;
use rumqttc::v5::mqttbytes::v5::ConnectProperties;
use rustls::pki_types::ServerName;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long the broker keeps our session while nobody is there: a day, in seconds.
const SESSION_S: u32 = 86_400;
/// Silence after which the broker is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Largest packet that is taken, in bytes.
const MAX_PACKET_BYTES: u32 = 16 << 20;
/// Connecting must be done within this.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// An MQTT 5 broker, and as whom it is asked.
#[derive(Debug, Clone)]
pub struct Broker {
    /// `mqtt://host:port` or `mqtts://host`.
    pub url: String,
    /// Certificates of the CA that vouches for it (PEM); without it those of the system.
    pub ca: Option<PathBuf>,
    /// The user, and the file with the password.
    pub login: Option<(String, PathBuf)>,
    /// Names our session: one subscriber at a time may have it.
    pub client_id: String,
}

impl fmt::Display for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the broker at {}", self.url)
    }
}

/// Host and port to speak to.
pub(super) struct Address {
    host: String,
    port: u16,
}

/// What carries bytes to a broker behind TLS.
pub(super) struct Pipe(Option<(TcpListener, Address, TlsConnector, ServerName<'static>)>);

impl Broker {
    /// Where MQTT is spoken, and the pipe that is behind it.
    pub(super) async fn pipe(&self) -> Result<(Address, Pipe)> {
        let wrong = || anyhow!("{:?} is not mqtt://host:port or mqtts://host", self.url);
        let uri: Uri = self.url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|name| !name.as_str().contains('@'));
        let authority = authority.ok_or_else(wrong)?;
        ensure!(matches!(uri.path(), "" | "/") && uri.query().is_none(), wrong());
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let address = |port| Address { host: host.clone(), port };
        match uri.scheme_str() {
            Some("mqtt") => Ok((address(authority.port_u16().unwrap_or(1883)), Pipe(None))),
            Some("mqtts") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
                let tls = connector(self.ca.as_deref())?;
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                let near = Address {
                    host: Ipv4Addr::LOCALHOST.to_string(),
                    port: listener.local_addr()?.port(),
                };
                let far = address(authority.port_u16().unwrap_or(8883));
                Ok((near, Pipe(Some((listener, far, tls, name)))))
            }
            _ => Err(wrong()),
        }
    }

    /// What a connection is opened with.
    pub(super) fn connection(&self, to: &Address, receive_maximum: u16) -> Result<MqttOptions> {
        let host = if to.host.contains(':') { format!("[{}]", to.host) } else { to.host.clone() };
        let mut options = MqttOptions::new(&self.client_id, host, to.port);
        options.set_keep_alive(KEEP_ALIVE).set_connection_timeout(CONNECT_WITHIN.as_secs());
        // Never a clean start: mosquitto writes down no session that began with one.
        options.set_clean_start(false).set_manual_acks(true);
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(SESSION_S);
        properties.receive_maximum = Some(receive_maximum);
        properties.max_packet_size = Some(MAX_PACKET_BYTES);
        options.set_connect_properties(properties);
        if let Some((user, password)) = &self.login {
            let password = read_secret(password)?;
            options.set_credentials(user, password.trim_end_matches(['\r', '\n']));
        }
        Ok(options)
    }
}

impl Pipe {
    /// Carries connections, one after another, as long as there is something to say. Ends when
    /// the certificate of the broker is not the right one.
    pub(super) async fn carry(self) -> anyhow::Error {
        let Some((listener, far, tls, name)) = self.0 else {
            return std::future::pending().await;
        };
        let far = (far.host.as_str(), far.port);
        loop {
            let carried = async {
                let (mut near, _) = listener.accept().await?;
                let tls = Some(&(tls.clone(), name.clone()));
                let far = timeout(CONNECT_WITHIN, dial(far.0, far.1, tls)).await??;
                carry_both_ways(&mut near, far).await
            };
            // Whoever spoke to the pipe sees that it has ended, and tries again.
            if let Err(error) = carried.await
                && is_about_the_certificate(&error)
            {
                return error.context("the broker is not who it should be");
            }
        }
    }
}

async fn carry_both_ways(near: &mut TcpStream, far: Box<dyn crate::dial::Stream>) -> Result<()> {
    near.set_nodelay(true)?;
    let (mut from_far, mut to_far) = tokio::io::split(far);
    let (mut from_near, mut to_near) = near.split();
    tokio::select! {
        end = tokio::io::copy(&mut from_near, &mut to_far) => end,
        end = tokio::io::copy(&mut from_far, &mut to_near) => end,
    }
    .context("the connection to the broker has ended")?;
    Ok(())
}

fn is_about_the_certificate(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let tls = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = tls.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
    })
}
