//! What can be wrong with the keys of trust roots.

/// Why a trust root cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
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
}
