//! From a credential to (realm, device).
//!
//! Owns the trust roots, the check of tokens and of the names in client certificates, the set of
//! revoked identities, and the back-off for guessing. It promises that a
//! device id is what the credential says and nothing else, and that whoever fails learns nothing of
//! why. It refuses every algorithm but the one that the key fixes.

mod certificate;
mod key;
mod throttle;
mod token;

pub use certificate::{CertificateError, device_of_certificate};
pub use key::KeyError;
pub use throttle::{MAX_TRIES, TRIES_WINDOW};
pub use token::{LEEWAY_S, MAX_TOKEN_BYTES, TokenError, TrustRoot};

use crate::record::Identity;
use proto::limits::MAX_DEVICE_ID_BYTES;
use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};
use throttle::Throttle;
use token::Root;

/// The realm of a trust root that names none.
pub const DEFAULT_REALM: &str = "default";

/// What a valid credential proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Who.
    pub identity: Identity,
    /// Until when, in seconds since the Unix epoch.
    pub expires_unix_s: Option<i64>,
}

/// What a client has presented.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presented<'a> {
    /// A bearer token.
    pub token: Option<&'a str>,
    /// What the TLS layer proved by a client certificate.
    pub certificate: Option<&'a Verified>,
}

/// Why a client may not connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No credential, or one that proves nothing. One answer for all causes.
    Unauthenticated,
    /// The same, from an address that has failed too often of late.
    Throttled {
        /// When to come back.
        retry_after: Duration,
    },
    /// The credential is good, its owner is not welcome: revoked, or two credentials of two
    /// identities.
    Forbidden,
}

/// Knows whom to let in.
#[derive(Debug)]
pub struct Authenticator {
    roots: RwLock<Arc<[Root]>>,
    revoked: RwLock<Arc<HashSet<Identity>>>,
    throttle: Throttle,
}

impl Authenticator {
    /// Trusts these roots.
    ///
    /// # Errors
    /// A key is unusable, or two roots have the same key.
    pub fn new(roots: &[TrustRoot]) -> Result<Self, KeyError> {
        Ok(Self {
            roots: RwLock::new(token::roots(roots)?),
            revoked: RwLock::default(),
            throttle: Throttle::default(),
        })
    }

    /// Trusts these roots from now on. Connections that exist are not touched.
    ///
    /// # Errors
    /// As for [`Authenticator::new`]; then nothing changes.
    pub fn replace_roots(&self, roots: &[TrustRoot]) -> Result<(), KeyError> {
        let roots = token::roots(roots)?;
        *self.roots.write().unwrap_or_else(PoisonError::into_inner) = roots;
        Ok(())
    }

    /// Refuses these identities from now on. Their connections are closed by
    /// [`crate::server::Registry::close_revoked`].
    pub fn set_revoked(&self, revoked: HashSet<Identity>) {
        *self.revoked.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(revoked);
    }

    /// Whether an identity is revoked.
    pub fn is_revoked(&self, identity: &Identity) -> bool {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).contains(identity)
    }

    /// Checks what a client has presented. A valid credential is never refused for what others
    /// behind the same address do.
    ///
    /// # Errors
    /// It may not connect.
    pub fn check(
        &self,
        presented: Presented<'_>,
        from: IpAddr,
        now: Instant,
        now_unix_s: i64,
    ) -> Result<Verified, Denied> {
        let by_token = presented.token.map(|token| self.check_token(token, now_unix_s));
        let verified = match (by_token, presented.certificate) {
            (Some(Ok(token)), None) => token,
            (None, Some(certificate)) => certificate.clone(),
            (Some(Ok(token)), Some(certificate)) => {
                if token.identity != certificate.identity {
                    return Err(Denied::Forbidden);
                }
                let until = token.expires_unix_s.into_iter().chain(certificate.expires_unix_s);
                Verified { expires_unix_s: until.min(), identity: token.identity }
            }
            (Some(Err(error)), _) => {
                tracing::debug!(%from, %error, "token refused");
                return Err(self.failed(from, now));
            }
            (None, None) => return Err(self.failed(from, now)),
        };
        if self.is_revoked(&verified.identity) {
            return Err(Denied::Forbidden);
        }
        Ok(verified)
    }

    /// Checks a token.
    ///
    /// # Errors
    /// What is wrong with it: for the log, never for the client.
    pub fn check_token(&self, token: &str, now_unix_s: i64) -> Result<Verified, TokenError> {
        let roots = self.roots.read().unwrap_or_else(PoisonError::into_inner).clone();
        token::verify(&roots, token, now_unix_s)
    }

    fn failed(&self, from: IpAddr, now: Instant) -> Denied {
        match self.throttle.failed(from, now) {
            None => Denied::Unauthenticated,
            Some(retry_after) => Denied::Throttled { retry_after },
        }
    }
}

/// True for 1 to 128 bytes of `[A-Za-z0-9_.:@%/=+-]`.
pub fn is_device_id(text: &str) -> bool {
    (1..=MAX_DEVICE_ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:@%/=+-".contains(&byte))
}
