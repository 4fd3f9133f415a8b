//! Reads the tree into serde types, and says in a person's words what does not fit and where.

use super::{
    ConfigError, ENVIRONMENT_PREFIX, Origin,
    tree::{Node, Value},
};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor, value::StrDeserializer,
};
use std::{cell::RefCell, collections::BTreeSet, fmt};

/// Least similarity of a key that is suggested; 1 is equality.
const SIMILAR: f64 = 0.6;

/// Reads `T` from the root of a tree.
pub(super) fn from_tree<T: DeserializeOwned>(root: &Node) -> Result<T, ConfigError> {
    read(root, None)
}

/// Every key that reading `T` from this tree asked for.
pub(super) fn keys_seen<T: DeserializeOwned>(root: &Node) -> BTreeSet<String> {
    let seen = RefCell::new(BTreeSet::new());
    // Keys that were asked for before an error count all the same.
    let _ = read::<T>(root, Some(&seen));
    seen.into_inner()
}

fn read<T: DeserializeOwned>(
    root: &Node,
    seen: Option<&RefCell<BTreeSet<String>>>,
) -> Result<T, ConfigError> {
    T::deserialize(Reader { node: root, path: String::new(), seen }).map_err(|error| ConfigError {
        origin: error.origin.unwrap_or(Origin::Unknown),
        message: error.message,
    })
}

/// Error on the way up; the innermost value that knows its place adds it.
#[derive(Debug)]
struct Error {
    origin: Option<Origin>,
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { origin: None, message: message.to_string() }
    }
}

struct Reader<'a> {
    node: &'a Node,
    path: String,
    seen: Option<&'a RefCell<BTreeSet<String>>>,
}

impl<'a> Reader<'a> {
    fn below(&self, segment: &str, node: &'a Node) -> Reader<'a> {
        let path = match self.path.as_str() {
            "" => segment.to_owned(),
            path => format!("{path}.{segment}"),
        };
        Reader { node, path, seen: self.seen }
    }

    fn same(&self) -> Reader<'a> {
        Reader { node: self.node, path: self.path.clone(), seen: self.seen }
    }

    /// `"path" must be <wanted>, not <what is there>`.
    fn must_be(&self, wanted: &str) -> Error {
        let found = match &self.node.value {
            Value::Table(_) => "a table".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::String(s) | Value::Text(s) => format!("{s:?}"),
            Value::Integer(i) => i.to_string(),
            Value::Float(f) => f.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::Other(what) => (*what).to_owned(),
        };
        let message = format!("\"{}\" must be {wanted}, not {found}", self.path);
        Error { origin: Some(self.node.origin.clone()), message }
    }

    /// Adds key and place to an error that a value type made (`must be …`).
    fn place<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| match error.origin {
            Some(_) => error,
            None => Error {
                origin: Some(self.node.origin.clone()),
                message: format!("\"{}\" {}", self.path, error.message),
            },
        })
    }

    fn entries(&self) -> Result<Vec<(&'a str, &'a Node)>, Error> {
        match &self.node.value {
            Value::Table(table) => Ok(table.iter().map(|(k, v)| (k.as_str(), v)).collect()),
            _ => Err(self.must_be("a table")),
        }
    }

    fn unsigned(&self, max: u64) -> Result<u64, Error> {
        let number = match &self.node.value {
            Value::Integer(i) => u64::try_from(*i).ok(),
            Value::Text(text) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        };
        let wanted = || format!("a whole number from 0 to {max}");
        number.filter(|&n| n <= max).ok_or_else(|| self.must_be(&wanted()))
    }

    fn unknown(&self, key: &str, node: &Node, fields: &[&str]) -> Error {
        let full = self.below(key, node).path;
        let prefix = &full[..full.len() - key.len()];
        // The right name in the wrong section, then the wrong name in the right section.
        let mut near = with_name(key);
        if near.is_empty() {
            let here = nearest(key, fields.iter().copied());
            near.extend(here.map(|near| format!("{prefix}{near}")));
        }
        if near.is_empty() {
            let known = super::known_keys();
            near.extend(nearest(&full, known.iter().map(String::as_str)).map(str::to_owned));
        }
        let environment = matches!(node.origin, Origin::Environment(_));
        let named = near.iter().map(|near| match environment {
            true => format!("\"{near}\" ({})", variable(near)),
            false => format!("\"{near}\""),
        });
        let hint = match named.collect::<Vec<_>>() {
            named if named.is_empty() => format!("; known here are {}", fields.join(", ")),
            named => format!(", did you mean {}?", named.join(" or ")),
        };
        Error {
            origin: Some(node.origin.clone()),
            message: format!("unknown key \"{full}\"{hint}"),
        }
    }
}

fn nearest<'k>(key: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&key, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Known keys whose last part is `key`.
fn with_name(key: &str) -> Vec<String> {
    let last = |path: &String| path.rsplit('.').next() == Some(key);
    super::known_keys().into_iter().filter(last).collect()
}

/// The environment variable of a key.
fn variable(path: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

macro_rules! unsigned {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = self.unsigned(u64::from(<$type>::MAX))?;
            self.place(visitor.$visit(<$type>::try_from(number).unwrap_or(<$type>::MAX)))
        }
    )*};
}

impl<'a> Deserializer<'a> for Reader<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let result = match &self.node.value {
            Value::String(s) | Value::Text(s) => visitor.visit_str(s),
            Value::Integer(i) => visitor.visit_i64(*i),
            Value::Float(f) => visitor.visit_f64(*f),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Table(_) => self.same().deserialize_map(visitor),
            Value::Array(_) => self.same().deserialize_seq(visitor),
            Value::Other(_) => return Err(self.must_be("a plain value")),
        };
        self.place(result)
    }

    fn deserialize_bool<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = match &self.node.value {
            Value::Bool(b) => Some(*b),
            Value::Text(text) => text.trim().parse().ok(),
            _ => None,
        };
        visitor.visit_bool(value.ok_or_else(|| self.must_be("true or false"))?)
    }

    unsigned!(deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64);

    fn deserialize_str<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::String(s) | Value::Text(s) => self.place(visitor.visit_str(s)),
            _ => Err(self.must_be("a text in quotes")),
        }
    }

    fn deserialize_string<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::String(s) | Value::Text(s) if variants.contains(&s.as_str()) => {
                visitor.visit_enum(s.as_str().into_deserializer())
            }
            _ => {
                let quoted: Vec<String> = variants.iter().map(|v| format!("\"{v}\"")).collect();
                Err(self.must_be(&quoted.join(" or ")))
            }
        }
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let readers = items.map(|(i, item)| self.below(&i.to_string(), item)).collect();
                visitor.visit_seq(Readers::new(readers))
            }
            // From the environment: "a,b,c".
            Value::Text(text) => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                let words = words.map(IntoDeserializer::<Error>::into_deserializer);
                let words = Words(words.collect::<Vec<_>>().into_iter());
                self.place(visitor.visit_seq(words))
            }
            // From the environment: …__0__KEY, …__1__KEY.
            Value::Table(table) if (0..table.len()).all(|i| table.contains_key(&i.to_string())) => {
                let numbers = (0..table.len()).map(|i| i.to_string());
                let readers = numbers.map(|i| self.below(&i, &table[&i])).collect();
                visitor.visit_seq(Readers::new(readers))
            }
            _ => Err(self.must_be("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value, Error> {
        let entries = self.entries()?;
        let readers = entries.into_iter().map(|(key, node)| (key, self.below(key, node))).collect();
        visitor.visit_map(Entries::new(readers))
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Some(seen) = self.seen {
            seen.borrow_mut().extend(fields.iter().map(|field| self.below(field, self.node).path));
        }
        let entries = self.entries()?;
        // The earliest line first, so that a person mends a file from the top.
        let unknown = entries.iter().filter(|(key, _)| !fields.contains(key));
        let line = |origin: &Origin| match origin {
            Origin::File { line, .. } => *line,
            _ => usize::MAX,
        };
        if let Some((key, node)) = unknown.min_by_key(|(_, node)| line(&node.origin)) {
            return Err(self.unknown(key, node, fields));
        }
        let readers = entries.into_iter().map(|(key, node)| (key, self.below(key, node))).collect();
        let result = visitor.visit_map(Entries::new(readers));
        self.place(result)
    }

    serde::forward_to_deserialize_any! {
        <V: Visitor<'a>>
        i8 i16 i32 i64 i128 u8 u128 f32 f64 char bytes byte_buf unit unit_struct tuple
        tuple_struct identifier ignored_any
    }
}

struct Entries<'a> {
    rest: std::vec::IntoIter<(&'a str, Reader<'a>)>,
    value: Option<Reader<'a>>,
}

impl<'a> Entries<'a> {
    fn new(entries: Vec<(&'a str, Reader<'a>)>) -> Self {
        Self { rest: entries.into_iter(), value: None }
    }
}

impl<'a> MapAccess<'a> for Entries<'a> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'a>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.rest.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some(value) => seed.deserialize(value),
            None => Err(serde::de::Error::custom("a value was asked for before its key")),
        }
    }
}

struct Readers<'a>(std::vec::IntoIter<Reader<'a>>);

impl<'a> Readers<'a> {
    fn new(readers: Vec<Reader<'a>>) -> Self {
        Self(readers.into_iter())
    }
}

impl<'a> SeqAccess<'a> for Readers<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|reader| seed.deserialize(reader)).transpose()
    }
}

struct Words<'a>(std::vec::IntoIter<StrDeserializer<'a, Error>>);

impl<'a> SeqAccess<'a> for Words<'a> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'a>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        self.0.next().map(|word| seed.deserialize(word)).transpose()
    }
}
