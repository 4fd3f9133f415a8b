//! What a device token says: the claims of a JWT, as the gateway checks them.

use serde::{Deserialize, Serialize};

/// The audience that every device token names.
pub const AUDIENCE: &str = "telemetry";

/// Claims of a device token (RFC 7519). The signature is ES256.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The device id.
    pub sub: String,
    /// The audience, [`AUDIENCE`].
    pub aud: String,
    /// Issued at, in seconds since the Unix epoch.
    pub iat: u64,
    /// Expires at, in seconds since the Unix epoch.
    pub exp: u64,
}
