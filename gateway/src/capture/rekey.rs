//! What takes the place of names and texts: keyed hashes, the same for the same text within one
//! capture. The key is made at random for each capture and is never stored, so nobody can try
//! texts until one fits, and two captures do not show that they are of one device.

use aws_lc_rs::{hmac, rand::SystemRandom};
use std::collections::HashMap;

/// Fields that are blanked unless they are kept: where a device is.
pub const POSITIONS: [&str; 10] = [
    "lat",
    "lon",
    "lng",
    "long",
    "latitude",
    "longitude",
    "altitude",
    "location",
    "position",
    "geohash",
];
/// Most texts that are remembered between two batches; only to save time.
const MAX_TEXTS: usize = 100_000;
/// Letters and digits that are not taken for one another.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// Length of the name of a device or realm: 80 bits.
const NAME_LETTERS: usize = 16;
/// Shortest text that takes the place of another: 60 bits, so that no two are the same by chance.
const MIN_LETTERS: usize = 12;
/// What a blanked text is.
const BLANK: &str = "xxxxxxxxxxxx";

/// What of the readings is kept, and what is taken away altogether.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Tags whose values are kept as they are.
    pub kept_tags: Vec<String>,
    /// Fields whose texts are kept as they are.
    pub kept_fields: Vec<String>,
    /// Fields whose values are blanked: numbers 0, booleans false, texts of x.
    pub blanked_fields: Vec<String>,
}

impl Policy {
    /// These are kept or blanked, and [`POSITIONS`] blanked where they are not kept.
    pub fn new(kept_tags: Vec<String>, kept_fields: Vec<String>, blanked: Vec<String>) -> Self {
        let positions = POSITIONS.iter().map(|&name| name.to_owned());
        let mut blanked_fields: Vec<String> =
            positions.filter(|name| !kept_fields.contains(name)).chain(blanked).collect();
        blanked_fields.sort_unstable();
        blanked_fields.dedup();
        Self { kept_tags, kept_fields, blanked_fields }
    }

    pub(super) fn keeps_tag(&self, name: &str) -> bool {
        self.kept_tags.iter().any(|kept| kept == name)
    }

    pub(super) fn keeps_field(&self, name: &str) -> bool {
        self.kept_fields.iter().any(|kept| kept == name)
    }

    /// In whatever case it is written, unless exactly this name is kept.
    pub(super) fn blanks(&self, name: &str) -> bool {
        !self.keeps_field(name)
            && self.blanked_fields.iter().any(|blanked| blanked.eq_ignore_ascii_case(name))
    }
}

pub(super) struct Rekey {
    key: hmac::Key,
    texts: HashMap<Box<str>, Box<str>>,
}

impl Rekey {
    pub(super) fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        // Without random numbers nothing of this process works, TLS first of all.
        Self { key: key.expect("the system has random numbers"), texts: HashMap::new() }
    }

    /// The name of a device or a realm; `of` says which.
    pub(super) fn name(&self, of: &[&str]) -> String {
        // Lengths keep parts apart.
        let parts = of.iter().map(|part| format!("{}:{part}", part.len())).collect::<String>();
        self.letters(1, &parts, NAME_LETTERS)
    }

    /// Forgets texts if they are many. To be called between batches.
    pub(super) fn tidy(&mut self) {
        if self.texts.len() > MAX_TEXTS {
            self.texts.clear();
        }
    }

    /// Makes sure that a text has its replacement.
    pub(super) fn learn(&mut self, text: &str) {
        if !self.texts.contains_key(text) {
            let letters = self.letters(2, text, class(text.len()));
            self.texts.insert(text.into(), letters.into());
        }
    }

    /// The replacement of a text that was learned.
    pub(super) fn of(&self, text: &str) -> &str {
        self.texts.get(text).map_or(BLANK, |replacement| replacement)
    }

    pub(super) fn blank() -> &'static str {
        BLANK
    }

    fn letters(&self, kind: u8, text: &str, length: usize) -> String {
        let mut letters = String::with_capacity(length);
        for block in 0_u32.. {
            if letters.len() >= length {
                break;
            }
            let mut context = hmac::Context::with_key(&self.key);
            context.update(&[kind]);
            context.update(&block.to_le_bytes());
            context.update(text.as_bytes());
            let tag = context.sign();
            let bytes = tag.as_ref().iter().take(length - letters.len());
            letters.extend(bytes.map(|byte| char::from(LETTERS[usize::from(byte % 32)])));
        }
        letters
    }
}

/// The length of what replaces a text of so many bytes: the next of 12, 16, 24, 32, 48, …; nothing is
/// replaced by nothing.
fn class(length: usize) -> usize {
    if length == 0 {
        return 0;
    }
    let mut class = MIN_LETTERS;
    while class < length {
        class += if class.is_power_of_two() { class / 2 } else { class / 3 };
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_replaced_alike_within_a_capture_and_differently_in_the_next() {
        let (mut one, mut other) = (Rekey::new(), Rekey::new());
        for text in ["A", "B", "serial-00231", "a longer text about a place", ""] {
            one.learn(text);
            other.learn(text);
            assert_eq!(one.of(text).len(), class(text.len()));
            assert_eq!(one.of(text), one.of(text));
            assert_eq!(one.of(text) == other.of(text), text.is_empty(), "{text}");
        }
        assert_ne!(one.of("A"), one.of("B"));
        assert_ne!(one.name(&["default", "a"]), one.name(&["other", "a"]));
        assert_ne!(one.name(&["a", "bc"]), one.name(&["ab", "c"]));
        assert_eq!(one.name(&["default", "a"]).len(), NAME_LETTERS);
        let lengths = [1, 12, 13, 17, 25, 33, 49, 200, 256, 4096].map(class);
        assert_eq!(lengths, [12, 12, 16, 24, 32, 48, 64, 256, 256, 4096]);
    }

    #[test]
    fn positions_are_blanked_unless_they_are_kept() {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let policy = Policy::new(list(&["site"]), list(&["lat", "state"]), list(&["fuel"]));
        for (name, blanked) in
            [("lat", false), ("LAT", false), ("Longitude", true), ("fuel", true), ("speed", false)]
        {
            assert_eq!(policy.blanks(name), blanked, "{name}");
        }
        assert!(policy.keeps_tag("site") && !policy.keeps_tag("state"));
        assert!(policy.keeps_field("state") && !policy.keeps_field("site"));
    }
}
