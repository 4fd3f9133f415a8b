//! Who a device is.

use std::sync::Arc;

/// What a credential proved: a device within the realm of the trust root that vouched for it.
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The realm; `default` unless configured.
    pub realm: Arc<str>,
    /// The device id.
    pub device: Arc<str>,
}

impl Identity {
    /// An identity of the given realm and device.
    pub fn new(realm: &str, device: &str) -> Self {
        Self { realm: realm.into(), device: device.into() }
    }
}

impl std::fmt::Display for Identity {
    /// `device`, or `realm/device` outside the default realm.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if &*self.realm == "default" {
            f.write_str(&self.device)
        } else {
            write!(f, "{}/{}", self.realm, self.device)
        }
    }
}
