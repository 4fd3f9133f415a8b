//! Which devices are meant.

/// A device id in which `*` stands for any number of characters and `?` for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let good = |c: char| c.is_ascii_alphanumeric() || "_.:@%/=+-*?".contains(c);
        let max = proto::limits::MAX_DEVICE_ID_BYTES;
        if (1..=max).contains(&text.len()) && text.chars().all(good) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "a pattern is a device id with * and ?, such as 'pump-*', of {max} bytes at most"
        ))
    }
}

impl Pattern {
    /// Whether a device is meant.
    pub fn fits(&self, device: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), device.as_bytes());
        let (mut at, mut from) = (0, 0);
        // The last `*`, and how much of the text it stands for.
        let mut star: Option<(usize, usize)> = None;
        while from < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    star = Some((at, from));
                    at += 1;
                }
                Some(&c) if c == b'?' || c == text[from] => (at, from) = (at + 1, from + 1),
                _ => {
                    let Some((place, upto)) = star else { return false };
                    star = Some((place, upto + 1));
                    (at, from) = (place + 1, upto + 1);
                }
            }
        }
        pattern[at..].iter().all(|&c| c == b'*')
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_marks_stand_for_characters() {
        for (pattern, fitting, others) in [
            ("pump-1", &["pump-1"][..], &["pump-12", "pump", "xpump-1"][..]),
            ("pump-*", &["pump-", "pump-1", "pump-1-2"], &["pump", "a-pump-1"]),
            ("*", &["", "a", "a/b"], &[]),
            ("*-a-*b", &["x-a-b", "-a-a-bb", "-a--a-b"], &["-a-", "-a-bc", "a-b"]),
            ("p?mp", &["pump", "p-mp"], &["pmp", "puump"]),
        ] {
            let pattern: Pattern = pattern.parse().unwrap();
            assert!(fitting.iter().all(|id| pattern.fits(id)), "{pattern:?}");
            assert!(!others.iter().any(|id| pattern.fits(id)), "{pattern:?}");
        }
        assert!("a b".parse::<Pattern>().is_err() && "".parse::<Pattern>().is_err());
    }
}
