//! The key that signs device tokens.

use super::{is_device_id, token};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proto::token::{AUDIENCE, Claims};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the token key {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the token key {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a private P-256 key.
    #[error(
        "{} is not a private P-256 key in PEM (PKCS#8): make one with \
         `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`", path.display()
    )]
    NotAPrivateKey {
        /// Which file.
        path: PathBuf,
    },
    /// Not a public P-256 key.
    #[error(
        "the public key of realm {realm:?} is not a P-256 key in PEM: make it with \
         `openssl pkey -in KEY -pubout`"
    )]
    NotAPublicKey {
        /// Realm of the trust root.
        realm: String,
    },
    /// Two trust roots have the same key: each could vouch for the devices of the other.
    #[error("the realms {one:?} and {other:?} have the same token key: give each its own")]
    SameKey {
        /// A realm.
        one: String,
        /// The other.
        other: String,
    },
    /// Not a device id.
    #[error("{device:?} is not a device id: use 1 to 128 of A-Z a-z 0-9 _ . : @ % / = + -")]
    BadDevice {
        /// What was given.
        device: String,
    },
    /// The system has failed to generate or to sign.
    #[error("cannot make a token: {0}")]
    Crypto(String),
}

/// A private P-256 key that signs device tokens with ES256.
pub struct TokenKey {
    pair: KeyPair,
    signer: EncodingKey,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

impl TokenKey {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| KeyError::Crypto(error.to_string()))?;
        Self::of(pair)
    }

    /// A key from PEM (PKCS#8). `path` is for the error.
    ///
    /// # Errors
    /// It is none.
    pub fn from_pem(pem: &str, path: &Path) -> Result<Self, KeyError> {
        let not_a_key = || KeyError::NotAPrivateKey { path: path.to_owned() };
        let pair = KeyPair::from_pem(pem).map_err(|_| not_a_key())?;
        if !pair.is_compatible(&PKCS_ECDSA_P256_SHA256) {
            return Err(not_a_key());
        }
        Self::of(pair).map_err(|_| not_a_key())
    }

    /// A key from a file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let pem = fs::read_to_string(path)
            .map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
        Self::from_pem(&pem, path)
    }

    /// Writes the key to a new file that only its owner may read, and syncs it.
    ///
    /// # Errors
    /// The file exists, or cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(self.pair.serialize_pem().as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| KeyError::Write { path: path.to_owned(), source })
    }

    /// The key from this file; if there is none, a new one that is written there.
    ///
    /// # Errors
    /// As for [`TokenKey::load`] and [`TokenKey::save`].
    pub fn load_or_generate(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                key.save(path)?;
                Ok(key)
            }
            loaded => loaded,
        }
    }

    /// The public key in PEM, as a trust root wants it.
    pub fn public_pem(&self) -> String {
        self.pair.public_key_pem()
    }

    /// Mints a token for a device.
    ///
    /// # Errors
    /// The device id is none.
    pub fn mint(&self, device: &str, ttl: Duration, now_unix_s: u64) -> Result<String, KeyError> {
        if !is_device_id(device) {
            return Err(KeyError::BadDevice { device: device.to_owned() });
        }
        let claims = Claims {
            sub: device.to_owned(),
            aud: AUDIENCE.to_owned(),
            iat: now_unix_s,
            exp: now_unix_s.saturating_add(ttl.as_secs()).min(token::MAX_EXPIRY_UNIX_S),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.signer)
            .map_err(|error| KeyError::Crypto(error.to_string()))
    }

    fn of(pair: KeyPair) -> Result<Self, KeyError> {
        let signer = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())
            .map_err(|error| KeyError::Crypto(error.to_string()))?;
        Ok(Self { pair, signer })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn is_written_once_and_only_for_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        let made = TokenKey::load_or_generate(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let loaded = TokenKey::load_or_generate(&path).unwrap();
        assert_eq!(made.public_pem(), loaded.public_pem());
        assert!(matches!(made.save(&path), Err(KeyError::Write { .. })));
    }

    #[test]
    fn says_which_file_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.key");
        fs::write(&path, "nothing").unwrap();
        let error = TokenKey::load(&path).unwrap_err().to_string();
        assert!(error.contains("token.key") && error.contains("openssl"), "{error}");
        // A key of another kind.
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        assert!(TokenKey::from_pem(&other, &path).is_err());
    }

    #[test]
    fn hides_in_debug() {
        let key = TokenKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "TokenKey(…)");
    }
}
