//! TLS 1.2 and 1.3: the certificate, session tickets, and optional client certificates.

use crate::{
    auth::{self, CertificateError, Verified, device_of_certificate},
    record::Identity,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// The stream of a device.
pub(super) type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM file with the server's certificate, followed by the intermediate ones.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
    /// Authorities whose client certificates are taken; none: clients are not asked for one.
    pub client_cas: Vec<ClientCa>,
}

/// An authority that vouches for the devices of a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCa {
    /// The realm.
    pub realm: String,
    /// PEM file with the authority's certificates.
    pub file: PathBuf,
}

/// Why TLS cannot be set up. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or parsed.
    #[error("cannot read {what} from {}: {source}", path.display())]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A file has no certificate.
    #[error(
        "{} has no certificate: it must be PEM with `-----BEGIN CERTIFICATE-----`", path.display()
    )]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// Key and certificate do not belong together.
    #[error(
        "the key {} does not belong to the certificate {}: replace both together", key.display(),
        certificate.display()
    )]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
    /// Key or certificate are of a kind that cannot be used.
    #[error("cannot use {} with {}: {source}", certificate.display(), key.display())]
    Unusable {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// An authority cannot be used.
    #[error("cannot use {} as an authority for client certificates: {why}", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The system has failed.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// What TLS proved of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientProof {
    /// It showed no certificate.
    None,
    /// A certificate of a device.
    Device(Verified),
    /// A certificate that names no device.
    Unusable(CertificateError),
}

/// TLS of the devices' listener.
pub struct Tls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    realms: Vec<Realm>,
}

struct Realm {
    name: String,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

/// The certificate in force.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl Tls {
    /// Reads the files and sets everything up.
    ///
    /// # Errors
    /// A file is missing, is not what it should be, or two do not belong together.
    pub fn load(options: &TlsOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = Arc::new(Current(RwLock::new(Arc::new(certified_key(options, &provider)?))));
        let (verifier, realms) = client_verifier(&options.client_cas, &provider)?;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier);
        let mut config = builder.with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Tickets keep what a returning device needs: nothing is stored per device.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // A device has one connection: a second ticket would only cost bytes.
        config.send_tls13_tickets = 1;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current, realms })
    }

    /// Takes a renewed certificate for new connections.
    ///
    /// # Errors
    /// As for [`Tls::load`]; then the old one stays in force.
    pub fn reload(&self, options: &TlsOptions) -> Result<(), TlsError> {
        let renewed = Arc::new(certified_key(options, &aws_lc_rs::default_provider())?);
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// What the handshake proved of the client. A resumed session is checked again: its
    /// certificate may have expired in between.
    pub(super) fn proof(&self, stream: &TlsStream) -> ClientProof {
        match stream.get_ref().1.peer_certificates() {
            Some([leaf, intermediates @ ..]) => self.prove(leaf, intermediates),
            _ => ClientProof::None,
        }
    }

    fn prove(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> ClientProof {
        let now = UnixTime::now();
        let Some(realm) = self
            .realms
            .iter()
            .find(|realm| realm.verifier.verify_client_cert(leaf, chain, now).is_ok())
        else {
            return ClientProof::Unusable(CertificateError::Malformed);
        };
        match device_of_certificate(leaf) {
            Ok((device, expires_unix_s)) => ClientProof::Device(Verified {
                identity: Identity::new(&realm.name, &device),
                expires_unix_s: Some(expires_unix_s),
            }),
            Err(error) => ClientProof::Unusable(error),
        }
    }
}

fn certified_key(
    options: &TlsOptions,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("the certificate", &options.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|source| TlsError::Pem {
        what: "the private key",
        path: options.key.clone(),
        source,
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| match source {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
            key: options.key.clone(),
            certificate: options.certificate.clone(),
        },
        source => TlsError::Unusable {
            certificate: options.certificate.clone(),
            key: options.key.clone(),
            source,
        },
    })
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |source| TlsError::Pem { what, path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

fn client_verifier(
    cas: &[ClientCa],
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<Realm>), TlsError> {
    if cas.is_empty() {
        return Ok((WebPkiClientVerifier::no_client_auth(), Vec::new()));
    }
    let mut all = RootCertStore::empty();
    let mut seen: Vec<CertificateDer<'static>> = Vec::new();
    let mut realms = Vec::new();
    for ca in cas {
        let unusable = |why: String| TlsError::Authority { path: ca.file.clone(), why };
        let mut own = RootCertStore::empty();
        for certificate in certificates("an authority for client certificates", &ca.file)? {
            if seen.contains(&certificate) {
                return Err(unusable("another realm has the same authority".to_owned()));
            }
            own.add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
            all.add(certificate.clone()).map_err(|error| unusable(error.to_string()))?;
            seen.push(certificate);
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(own), provider.clone())
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        let name =
            if ca.realm.is_empty() { auth::DEFAULT_REALM.to_owned() } else { ca.realm.clone() };
        realms.push(Realm { name, verifier });
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(all), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Authority {
            path: cas[0].file.clone(),
            why: error.to_string(),
        })?;
    Ok((verifier, realms))
}
