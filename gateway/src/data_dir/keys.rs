//! The key that signs device tokens.

use super::{DataDirError, file, pki};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proto::token::{AUDIENCE, Claims};
use std::{fmt, path::Path, time::Duration};

const WHAT: &str = "the token key";

/// Makes the key if there is none, and checks it if there is.
pub(super) fn ensure(path: &Path) -> Result<(), DataDirError> {
    pki::make_key(path, WHAT)
}

/// A private ES256 key that mints device tokens.
pub struct TokenKey {
    encoding: EncodingKey,
    public_pem: String,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

impl TokenKey {
    /// Reads the key of a data directory that a gateway has made.
    ///
    /// # Errors
    /// It is not there, cannot be read, or is no such key.
    pub fn load(path: &Path) -> Result<Self, DataDirError> {
        let Some(pem) = file::read(path)? else {
            return Err(DataDirError::Content {
                path: path.to_path_buf(),
                what: "does not exist".to_owned(),
                remedy: "start the gateway once, which makes it, or name the gateway's data \
                         directory with --data-dir"
                    .to_owned(),
            });
        };
        let key = pki::parse_key(path, &pem, WHAT)?;
        let encoding = EncodingKey::from_ec_pem(pem.as_bytes()).map_err(crypto)?;
        Ok(Self { encoding, public_pem: key.public_key_pem() })
    }

    /// The public half, PEM; what verifies the tokens.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// A token for `device`, good from `now` (seconds since the Unix epoch) for `ttl`.
    ///
    /// # Errors
    /// The signature cannot be made.
    pub fn mint(&self, device: &str, now: u64, ttl: Duration) -> Result<String, DataDirError> {
        let claims = Claims {
            sub: device.to_owned(),
            aud: AUDIENCE.to_owned(),
            iat: now,
            exp: now.saturating_add(ttl.as_secs()),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &self.encoding)
            .map_err(crypto)
    }
}

fn crypto(error: jsonwebtoken::errors::Error) -> DataDirError {
    DataDirError::Crypto { what: "a token", why: error.to_string() }
}
