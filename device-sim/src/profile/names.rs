//! Texts that a user's profile brings along: names, tag values, choices.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A text that lives as long as the process, as the names of built-in profiles do: readings of
/// every profile then have one type, and no batch copies a name. A profile has a few dozen, and is
/// read once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Word(&'static str);

impl Word {
    /// The text.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl From<String> for Word {
    fn from(text: String) -> Self {
        Self(text.leak())
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}
