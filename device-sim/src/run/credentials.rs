//! What proves who a device is: a token for each, minted here or read from a file.

use anyhow::{Context, Result, bail, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use proto::token::{AUDIENCE, Claims};
use std::collections::HashMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A token that is minted is valid for so long beyond the end of the run, in seconds.
const SPARE_S: u64 = 3_600;

/// Where the tokens come from.
pub enum Credentials {
    /// Signed with the gateway's own key.
    Key {
        /// ES256.
        key: EncodingKey,
        /// Issued at, seconds since the Unix epoch.
        iat: u64,
        /// Expires at, seconds since the Unix epoch.
        exp: u64,
    },
    /// Made beforehand, by device id.
    Tokens(HashMap<Box<str>, Box<str>>),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    /// Reads the private key (ES256, PKCS#8 in PEM) with which tokens are minted.
    ///
    /// # Errors
    /// The file cannot be read or holds no such key.
    pub fn from_key(path: &Path, run_s: u64) -> Result<Self> {
        let pem = std::fs::read(path)
            .with_context(|| format!("cannot read the token key {}", path.display()))?;
        let key = EncodingKey::from_ec_pem(&pem).with_context(|| {
            format!("{} is not an ES256 private key in PEM (PKCS#8)", path.display())
        })?;
        let iat = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        let credentials = Self::Key { key, iat, exp: iat + run_s + SPARE_S };
        credentials.token("probe").with_context(|| {
            format!("{} is not an ES256 private key in PEM (PKCS#8)", path.display())
        })?;
        Ok(credentials)
    }

    /// Reads lines of `device token`; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// The file cannot be read, or a line has not two words.
    pub fn from_tokens(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the tokens {}", path.display()))?;
        let mut tokens = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                [device, token] => {
                    tokens.insert(device.into(), token.into());
                }
                _ => bail!("{} line {}: expected `device token`", path.display(), number + 1),
            }
        }
        ensure!(!tokens.is_empty(), "{} has no tokens", path.display());
        Ok(Self::Tokens(tokens))
    }

    /// The token of a device.
    ///
    /// # Errors
    /// The file of tokens has none for it, or the key does not sign.
    pub fn token(&self, device: &str) -> Result<Box<str>> {
        match self {
            Self::Key { key, iat, exp } => {
                let claims = Claims {
                    sub: device.to_owned(),
                    aud: AUDIENCE.to_owned(),
                    iat: *iat,
                    exp: *exp,
                };
                Ok(jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, key)?.into())
            }
            Self::Tokens(tokens) => tokens
                .get(device)
                .cloned()
                .with_context(|| format!("the file of tokens has none for {device}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn minted_tokens_name_the_device_and_verify() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = file(&pair.serialize_pem());
        let token = Credentials::from_key(key.path(), 20).unwrap().token("sim-00001").unwrap();

        let public = jsonwebtoken::DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes());
        let mut rules = jsonwebtoken::Validation::new(Algorithm::ES256);
        rules.set_audience(&[AUDIENCE]);
        let read =
            jsonwebtoken::decode::<Claims>(token.as_bytes(), &public.unwrap(), &rules).unwrap();
        assert_eq!(read.claims.sub, "sim-00001");
        assert_eq!(read.claims.exp - read.claims.iat, 20 + SPARE_S);
    }

    #[test]
    fn tokens_are_read_from_lines() {
        let tokens = Credentials::from_tokens(file("# mine\n\na x.y.z\n b  u.v.w \n").path());
        let tokens = tokens.unwrap();
        assert_eq!(&*tokens.token("b").unwrap(), "u.v.w");
        assert!(tokens.token("c").unwrap_err().to_string().contains("none for c"));
    }

    #[test]
    fn bad_files_are_named() {
        for (text, word) in [("a b c\n", "line 1"), ("", "no tokens")] {
            let message = format!("{:#}", Credentials::from_tokens(file(text).path()).unwrap_err());
            assert!(message.contains(word), "{message}");
        }
        let message = format!("{:#}", Credentials::from_key(file("x").path(), 1).unwrap_err());
        assert!(message.contains("not an ES256 private key"), "{message}");
        assert!(
            !format!("{:?}", Credentials::from_tokens(file("a b").path()).unwrap()).contains('b')
        );
    }
}
