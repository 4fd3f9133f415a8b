//! Which series a value belongs to, and its number in the file.

use crate::record::Value;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// What a value is. Part of the identity of a series, so that a field that changes its type begins
/// another series instead of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 64-bit float.
    Float,
    /// Signed 64-bit integer.
    Integer,
    /// True or false.
    Boolean,
    /// UTF-8 text.
    String,
}

impl Kind {
    /// The kind as it stands in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Float => "float",
            Kind::Integer => "integer",
            Kind::Boolean => "boolean",
            Kind::String => "string",
        }
    }

    /// The kind of a text in the file.
    pub fn from_text(text: &str) -> Option<Self> {
        [Kind::Float, Kind::Integer, Kind::Boolean, Kind::String]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }

    pub(super) const fn of(value: Value<'_>) -> Self {
        match value {
            Value::Float(_) => Kind::Float,
            Value::Int(_) => Kind::Integer,
            Value::Bool(_) => Kind::Boolean,
            Value::Str(_) => Kind::String,
        }
    }
}

/// A series by its parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) realm: &'a str,
    pub(super) device: &'a str,
    pub(super) measurement: &'a str,
    /// In any order.
    pub(super) tags: &'a [(&'a str, &'a str)],
}

/// The numbers of the series that were written lately. Two generations: what is looked up moves
/// to the young one, and when that is full the old one is forgotten.
#[derive(Debug)]
pub(super) struct Series {
    young: HashMap<Box<[u8]>, i64, Xxh3DefaultBuilder>,
    old: HashMap<Box<[u8]>, i64, Xxh3DefaultBuilder>,
    generation: usize,
    key: Vec<u8>,
    created: u64,
}

impl Series {
    /// At most `limit` series are remembered, at about 150 bytes each.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            young: HashMap::default(),
            old: HashMap::default(),
            generation: (limit / 2).max(1),
            key: Vec::new(),
            created: 0,
        }
    }

    /// Forgets everything: the numbers may be those of a transaction that was rolled back.
    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.created = 0;
    }

    /// Series that were made since the last call.
    pub(super) fn take_created(&mut self) -> u64 {
        std::mem::take(&mut self.created)
    }

    /// Begins with the fields of one reading; gives the length to pass to [`Self::id`].
    pub(super) fn begin(&mut self, identity: &Identity<'_>) -> usize {
        self.key.clear();
        for part in [identity.realm, identity.device, identity.measurement] {
            push(&mut self.key, part);
        }
        match identity.tags {
            [] => {}
            [(name, value)] => {
                push(&mut self.key, name);
                push(&mut self.key, value);
            }
            tags => {
                let mut sorted = tags.to_vec();
                sorted.sort_unstable();
                for (name, value) in sorted {
                    push(&mut self.key, name);
                    push(&mut self.key, value);
                }
            }
        }
        self.key.len()
    }

    /// The number of the series of one field of the reading begun last, made if it is new.
    pub(super) fn id(
        &mut self,
        connection: &Connection,
        identity: &Identity<'_>,
        prefix: usize,
        field: &str,
        kind: Kind,
    ) -> Result<i64, rusqlite::Error> {
        self.key.truncate(prefix);
        push(&mut self.key, field);
        self.key.push(kind as u8);
        if let Some(&id) = self.young.get(self.key.as_slice()) {
            return Ok(id);
        }
        let id = match self.old.remove(self.key.as_slice()) {
            Some(id) => id,
            None => self.look_up(connection, identity, field, kind)?,
        };
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(self.key.as_slice().into(), id);
        Ok(id)
    }

    fn look_up(
        &mut self,
        connection: &Connection,
        identity: &Identity<'_>,
        field: &str,
        kind: Kind,
    ) -> Result<i64, rusqlite::Error> {
        let tags = canonical_tags(identity.tags);
        let key = params![
            identity.device,
            identity.realm,
            identity.measurement,
            field,
            kind.as_str(),
            tags
        ];
        let found = connection
            .prepare_cached(
                "SELECT id FROM series WHERE device = ?1 AND realm = ?2 AND measurement = ?3
                 AND field = ?4 AND kind = ?5 AND tags = ?6",
            )?
            .query_row(key, |row| row.get(0))
            .optional()?;
        if let Some(id) = found {
            return Ok(id);
        }
        let id = connection
            .prepare_cached(
                "INSERT INTO series (device, realm, measurement, field, kind, tags)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .insert(key)?;
        self.created += 1;
        Ok(id)
    }
}

/// Length first, so that no two lists of texts have the same bytes.
fn push(key: &mut Vec<u8>, text: &str) {
    key.extend_from_slice(&text.len().to_le_bytes()[..4]);
    key.extend_from_slice(text.as_bytes());
}

/// Tags as a JSON object with sorted names: one text for one set of tags.
fn canonical_tags(tags: &[(&str, &str)]) -> String {
    let sorted: std::collections::BTreeMap<_, _> = tags.iter().copied().collect();
    match serde_json::to_string(&sorted) {
        Ok(text) => text,
        Err(_) => unreachable!("a map of texts is JSON"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE series (id INTEGER PRIMARY KEY, device, realm, measurement, field,
                 kind, tags, UNIQUE (device, realm, measurement, field, kind, tags))",
            )
            .unwrap();
        connection
    }

    fn id(series: &mut Series, db: &Connection, tags: &[(&str, &str)], field: &str) -> i64 {
        let identity = Identity { realm: "default", device: "d", measurement: "m", tags };
        let prefix = series.begin(&identity);
        series.id(db, &identity, prefix, field, Kind::Float).unwrap()
    }

    #[test]
    fn the_order_of_tags_does_not_matter_and_their_borders_do() {
        let (db, mut series) = (connection(), Series::new(100));
        let a = id(&mut series, &db, &[("x", "1"), ("y", "2")], "f");
        assert_eq!(a, id(&mut series, &db, &[("y", "2"), ("x", "1")], "f"));
        assert_ne!(a, id(&mut series, &db, &[("x", "1y"), ("", "2")], "f"));
        assert_ne!(a, id(&mut series, &db, &[("x", "1")], "y2f"));
    }

    #[test]
    fn memory_is_bounded_and_numbers_stay() {
        let (db, mut series) = (connection(), Series::new(10));
        let first: Vec<i64> =
            (0..50).map(|n| id(&mut series, &db, &[], &format!("f{n}"))).collect();
        assert_eq!(series.take_created(), 50);
        let again: Vec<i64> =
            (0..50).map(|n| id(&mut series, &db, &[], &format!("f{n}"))).collect();
        assert_eq!(first, again);
        assert_eq!(series.take_created(), 0);
        assert!(series.young.len() + series.old.len() <= 10);
    }
}
