//! Our side of TLS towards a server: who is trusted, and who we say we are.

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{path::Path, path::PathBuf, sync::Arc};

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct BadFile {
    /// The file; empty if it is about none.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A certificate for ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The chain, leaf first, PEM.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

/// Trusts the CA in `ca_file`, or those of the system without one.
///
/// # Errors
/// A file cannot be used.
pub fn client_config(
    ca_file: Option<&Path>,
    own: Option<&OwnCertificate>,
) -> Result<Arc<ClientConfig>, BadFile> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            for certificate in chain(path)? {
                roots.add(certificate).map_err(|error| bad(path, &error))?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "a CA certificate of the system cannot be read");
            }
            roots.add_parsable_certificates(found.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(ca_file.unwrap_or(Path::new("")), &error))?
        .with_root_certificates(roots);
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_file(&own.key_file)
                .map_err(|error| bad(&own.key_file, &error))?;
            builder
                .with_client_auth_cert(chain(&own.cert_file)?, key)
                .map_err(|error| bad(&own.cert_file, &error))?
        }
    };
    Ok(Arc::new(config))
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, BadFile> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| bad(path, &error))?;
    let certificates: Result<Vec<_>, _> = certificates.collect();
    let certificates = certificates.map_err(|error| bad(path, &error))?;
    if certificates.is_empty() {
        return Err(bad(path, &"there are no certificates in it"));
    }
    Ok(certificates)
}

fn bad(path: &Path, why: &dyn std::fmt::Display) -> BadFile {
    BadFile { path: path.to_owned(), why: why.to_string() }
}
