//! Device tokens: JWT signed with ES256. The key fixes the algorithm; what the token says of keys
//! is refused, not followed.

use super::{KeyError, Verified, is_device_id};
use crate::record::Identity;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use proto::token::AUDIENCE;
use serde::Deserialize;
use std::{collections::HashSet, sync::Arc};

/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 4096;
/// How far the clocks of issuer and gateway may differ, in seconds.
pub const LEEWAY_S: i64 = 30;
/// Latest expiry, in seconds since the Unix epoch: exact in every language's number type.
const MAX_EXPIRY_UNIX_S: u64 = (1 << 53) - 1;

/// A key that vouches for the devices of a realm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustRoot {
    /// The realm.
    pub realm: String,
    /// Public P-256 key in PEM.
    pub public_pem: String,
    /// The `iss` that its tokens must have, if any.
    pub issuer: Option<String>,
}

/// What is wrong with a token. For the log: it never quotes the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is too long")]
    TooLong,
    /// Not a JWT, or with a header that this gateway does not take.
    #[error("not a JWT that this gateway takes")]
    Malformed,
    /// No trust root has signed it.
    #[error("no trust root has signed it")]
    BadSignature,
    /// A claim is missing, doubled or of the wrong kind.
    #[error("a claim is missing, doubled or of the wrong kind")]
    BadClaims,
    /// `aud` is not `telemetry`, or `iss` not the configured one.
    #[error("it is for another audience or by another issuer")]
    WrongAudience,
    /// `exp` has passed.
    #[error("it has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("it is not valid yet")]
    NotYet,
    /// `sub` is not a device id.
    #[error("its subject is not a device id")]
    BadSubject,
}

pub(super) struct Root {
    realm: Arc<str>,
    key: DecodingKey,
    issuer: Option<String>,
}

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Root({})", self.realm)
    }
}

pub(super) fn roots(roots: &[TrustRoot]) -> Result<Arc<[Root]>, KeyError> {
    let mut known: Vec<(Vec<u8>, &str)> = Vec::new();
    roots
        .iter()
        .map(|root| {
            let not_a_key = || KeyError::NotAPublicKey { realm: root.realm.clone() };
            let key =
                DecodingKey::from_ec_pem(root.public_pem.as_bytes()).map_err(|_| not_a_key())?;
            let bytes = key.try_get_as_bytes().map_err(|_| not_a_key())?.to_vec();
            // An uncompressed point of P-256.
            if bytes.len() != 65 {
                return Err(not_a_key());
            }
            if let Some((_, one)) = known.iter().find(|(other, _)| *other == bytes) {
                let (one, other) = ((*one).to_owned(), root.realm.clone());
                return Err(KeyError::SameKey { one, other });
            }
            known.push((bytes, &root.realm));
            Ok(Root { realm: root.realm.as_str().into(), key, issuer: root.issuer.clone() })
        })
        .collect()
}

/// The claims that count. A doubled one is refused, an unknown one is ignored.
#[derive(Debug, Clone, Deserialize)]
struct Claims {
    sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    iss: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn includes_us(&self) -> bool {
        match self {
            Self::One(audience) => audience == AUDIENCE,
            Self::Several(audiences) => audiences.iter().any(|audience| audience == AUDIENCE),
        }
    }
}

pub(super) fn verify(roots: &[Root], token: &str, now_unix_s: i64) -> Result<Verified, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
    let names_a_key = header.jku.is_some()
        || header.jwk.is_some()
        || header.x5u.is_some()
        || header.x5c.is_some();
    if header.alg != Algorithm::ES256
        || names_a_key
        || header.crit.is_some()
        || header.enc.is_some()
        || header.zip.is_some()
    {
        return Err(TokenError::Malformed);
    }
    let (root, claims) =
        roots.iter().find_map(|root| signed_by(root, token)).ok_or(TokenError::BadSignature)?;
    let claims = claims?;
    if !claims.aud.includes_us() || (root.issuer.is_some() && claims.iss != root.issuer) {
        return Err(TokenError::WrongAudience);
    }
    if claims.exp > MAX_EXPIRY_UNIX_S {
        return Err(TokenError::BadClaims);
    }
    let expires_unix_s = claims.exp.cast_signed() + LEEWAY_S;
    if now_unix_s >= expires_unix_s {
        return Err(TokenError::Expired);
    }
    if claims.nbf.is_some_and(|nbf| {
        i64::try_from(nbf).unwrap_or(i64::MAX) > now_unix_s.saturating_add(LEEWAY_S)
    }) {
        return Err(TokenError::NotYet);
    }
    if !is_device_id(&claims.sub) {
        return Err(TokenError::BadSubject);
    }
    let identity = Identity { realm: root.realm.clone(), device: claims.sub.as_str().into() };
    Ok(Verified { identity, expires_unix_s: Some(expires_unix_s) })
}

/// The claims, if this root has signed the token.
fn signed_by<'a>(root: &'a Root, token: &str) -> Option<(&'a Root, Result<Claims, TokenError>)> {
    use jsonwebtoken::errors::ErrorKind;
    // Only the signature is left to the library: the times are checked against a clock that is
    // passed in.
    let mut validation = Validation::new(Algorithm::ES256);
    validation.required_spec_claims = HashSet::new();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    match jsonwebtoken::decode::<Claims>(token, &root.key, &validation) {
        Ok(data) => Some((root, Ok(data.claims))),
        Err(error) => match error.kind() {
            ErrorKind::Json(_) | ErrorKind::Utf8(_) | ErrorKind::InvalidClaimFormat(_) => {
                Some((root, Err(TokenError::BadClaims)))
            }
            _ => None,
        },
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
