//! The generator's TLS configuration and the tokens of its devices.

use anyhow::{Context, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proto::token::{AUDIENCE, Claims};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// How long a token is good, in seconds.
const TTL_S: u64 = 3_600;

/// TLS 1.3 with full handshakes, towards whoever `ca` vouches for.
pub(super) fn config(ca: &Path) -> Result<Arc<ClientConfig>> {
    let unreadable = || format!("cannot read the CA {}", ca.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(unreadable)? {
        roots.add(certificate.with_context(unreadable)?)?;
    }
    ensure!(!roots.is_empty(), "{} holds no certificate", ca.display());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Mints tokens.
pub(super) struct Tokens {
    key: EncodingKey,
    now_s: u64,
}

impl Tokens {
    /// Reads the private key.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let unreadable = || format!("cannot read the token key {}", path.display());
        let pem = std::fs::read(path).with_context(unreadable)?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok(Self { key: EncodingKey::from_ec_pem(&pem).with_context(unreadable)?, now_s })
    }

    /// A token of a device.
    pub(super) fn mint(&self, device: &str) -> Result<String> {
        let claims = Claims {
            sub: device.to_owned(),
            aud: AUDIENCE.to_owned(),
            iat: self.now_s,
            exp: self.now_s + TTL_S,
        };
        Ok(jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.key)?)
    }
}
