//! Devices that may not connect any more, although their credential is good.

use super::changes::{Change, Changes};
use crate::record::Identity;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

/// Most revocations that are kept: each is one line that a person wrote.
const MAX_REVOCATIONS: usize = 1_000_000;

/// A device that was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Which.
    pub identity: Identity,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// The revoked devices.
#[derive(Debug)]
pub struct Revocations {
    revoked: RwLock<BTreeMap<Identity, i64>>,
    changes: Arc<Changes>,
}

impl Revocations {
    pub(super) fn new(read: Vec<Revocation>, changes: Arc<Changes>) -> Self {
        let revoked = read.into_iter().map(|of| (of.identity, of.at_ms)).collect();
        Self { revoked: RwLock::new(revoked), changes }
    }

    /// Since when a device is revoked, in milliseconds since the Unix epoch.
    pub fn since(&self, identity: &Identity) -> Option<i64> {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).get(identity).copied()
    }

    /// All of them, in order.
    pub fn all(&self) -> Vec<Revocation> {
        let revoked = self.revoked.read().unwrap_or_else(PoisonError::into_inner);
        let entry = |(identity, &at_ms): (&Identity, &i64)| Revocation {
            identity: identity.clone(),
            at_ms,
        };
        revoked.iter().map(entry).collect()
    }

    /// Revokes a device; gives the number of the change, `None` if nothing changes or no further
    /// revocation is kept.
    pub fn revoke(&self, identity: &Identity, now_ms: i64) -> Option<u64> {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        if revoked.len() >= MAX_REVOCATIONS || revoked.contains_key(identity) {
            return None;
        }
        revoked.insert(identity.clone(), now_ms);
        let revocation = Revocation { identity: identity.clone(), at_ms: now_ms };
        Some(self.changes.push(Change::Revoke(revocation)))
    }

    /// Allows a device again; gives the number of the change, `None` if it was not revoked.
    pub fn allow(&self, identity: &Identity) -> Option<u64> {
        let mut revoked = self.revoked.write().unwrap_or_else(PoisonError::into_inner);
        revoked.remove(identity)?;
        Some(self.changes.push(Change::Allow(identity.clone())))
    }
}
