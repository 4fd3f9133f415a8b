//! The realm of the devices that are looked at.
//!
//! Devices of several realms may have the same names. The embedded store and the messages of MQTT
//! name the realm of each; in InfluxDB and VictoriaMetrics the points of every realm but `default`
//! have it as a tag.

use anyhow::{Result, bail};

/// The realm of points without a tag.
pub(super) const DEFAULT: &str = "default";

/// What the tag says at points of a realm; nothing where it is missing.
pub(super) fn tag(realm: &str) -> &str {
    if realm == DEFAULT { "" } else { realm }
}

/// Sees to it that what is found of a device is of one realm: only one of several can be the run's.
#[derive(Debug)]
pub(super) struct OneRealm<'a> {
    device: &'a str,
    only: Option<String>,
}

impl<'a> OneRealm<'a> {
    /// For a device; `asked` is the realm that is asked for, if one is.
    pub(super) fn new(device: &'a str, asked: Option<&str>) -> Self {
        Self { device, only: asked.map(str::to_owned) }
    }

    /// Something of the device is of this realm, or has this tag.
    ///
    /// # Errors
    /// It is another one than before.
    pub(super) fn sees(&mut self, realm: &str) -> Result<()> {
        let realm = if realm.is_empty() { DEFAULT } else { realm };
        match &self.only {
            Some(only) if only == realm => {}
            Some(only) => {
                let device = self.device;
                bail!("{device} is in the realms {only} and {realm}: name one with --realm")
            }
            None => self.only = Some(realm.to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_device_in_two_realms_is_said() {
        let mut one = OneRealm::new("d", None);
        assert!(one.sees("plant").is_ok() && one.sees("plant").is_ok());
        let said = one.sees("").unwrap_err().to_string();
        assert_eq!(said, "d is in the realms plant and default: name one with --realm");
        let mut asked = OneRealm::new("d", Some("default"));
        assert!(asked.sees("").is_ok() && asked.sees("default").is_ok());
        assert!(asked.sees("plant").is_err());
        assert_eq!((tag("default"), tag("plant")), ("", "plant"));
    }
}
