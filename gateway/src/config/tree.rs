//! Values that know where they came from: the TOML document with the environment laid over it.

use super::{ConfigError, ENVIRONMENT_PREFIX, Origin};
use std::{collections::BTreeMap, path::Path};
use toml::de::{DeTable, DeValue};

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// A TOML value; `Text` is a value from the environment, whose type the reader decides.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Table(BTreeMap<String, Node>),
    Array(Vec<Node>),
    String(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    Other(&'static str),
}

impl Node {
    fn get(&self, segment: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(table) => table.get(segment),
            Value::Array(items) => segment.parse().ok().and_then(|i: usize| items.get(i)),
            _ => None,
        }
    }

    /// Whether there is a value under a dotted path.
    pub(super) fn has(&self, path: &str) -> bool {
        path.split('.').try_fold(self, |node, segment| node.get(segment)).is_some()
    }

    /// Where the value under a dotted path came from; if it is not there, the section of the file
    /// that it would stand in.
    pub(super) fn origin_of(&self, path: &str) -> Origin {
        let mut node = self;
        for segment in path.split('.') {
            match (node.get(segment), &node.value) {
                (Some(next), _) => node = next,
                // Words of a list in one variable.
                (None, Value::Text(_)) => break,
                // That the environment touched a section says nothing about its absent keys.
                (None, _) if matches!(node.origin, Origin::Environment(_)) => {
                    return Origin::Unknown;
                }
                (None, _) => break,
            }
        }
        node.origin.clone()
    }
}

/// Parses a document.
pub(super) fn from_toml(text: &str, path: &Path) -> Result<Node, ConfigError> {
    let place = Place { text, path };
    let table = DeTable::parse(text).map_err(|error| ConfigError {
        origin: place.at(error.span().map_or(0, |span| span.start)),
        message: format!("not TOML: {}", one_line(error.message())),
    })?;
    Ok(Node { value: place.table(table.into_inner())?, origin: Origin::Unknown })
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

struct Place<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Place<'_> {
    fn at(&self, offset: usize) -> Origin {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        Origin::File { path: self.path.to_path_buf(), line }
    }

    fn table(&self, table: DeTable<'_>) -> Result<Value, ConfigError> {
        let mut nodes = BTreeMap::new();
        for (key, value) in table {
            let origin = self.at(key.span().start);
            let node = Node { value: self.value(value.into_inner(), &origin)?, origin };
            nodes.insert(key.into_inner().into_owned(), node);
        }
        Ok(Value::Table(nodes))
    }

    fn value(&self, value: DeValue<'_>, origin: &Origin) -> Result<Value, ConfigError> {
        Ok(match value {
            DeValue::String(s) => Value::String(s.into_owned()),
            DeValue::Integer(i) => {
                Value::Integer(i64::from_str_radix(i.as_str(), i.radix()).map_err(|_| {
                    ConfigError {
                        origin: origin.clone(),
                        message: format!("{} is too large for a whole number", i.as_str()),
                    }
                })?)
            }
            DeValue::Float(f) => Value::Float(f.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(b) => Value::Bool(b),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => Value::Array(
                items
                    .into_iter()
                    .map(|item| {
                        let origin = self.at(item.span().start);
                        Ok(Node { value: self.value(item.into_inner(), &origin)?, origin })
                    })
                    .collect::<Result<_, ConfigError>>()?,
            ),
            DeValue::Table(table) => self.table(table)?,
        })
    }
}

/// Lays `GATEWAY__SECTION__KEY=value` over the tree. Lists of tables are reached by number:
/// `GATEWAY__AUTH__JWT__0__KEY_FILE`.
pub(super) fn overlay(tree: &mut Node, environment: impl IntoIterator<Item = (String, String)>) {
    let mut overrides: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
    // The order of the environment is arbitrary; errors should not be.
    overrides.sort();
    for (name, value) in overrides {
        let origin = Origin::Environment(name.clone());
        let path = name[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase();
        let mut node = &mut *tree;
        for segment in path.split("__") {
            node = child(node, segment, &origin);
        }
        *node = Node { value: Value::Text(value), origin };
    }
}

fn child<'a>(node: &'a mut Node, segment: &str, origin: &Origin) -> &'a mut Node {
    // A list that is reached into becomes a table of numbers, which reads as a list again.
    if let Value::Array(items) = &mut node.value {
        let items = std::mem::take(items).into_iter().enumerate();
        node.value = Value::Table(items.map(|(i, item)| (i.to_string(), item)).collect());
    }
    if !matches!(node.value, Value::Table(_)) {
        *node = Node { value: Value::Table(BTreeMap::new()), origin: origin.clone() };
    }
    match &mut node.value {
        Value::Table(table) => table.entry(segment.to_owned()).or_insert_with(|| Node {
            value: Value::Table(BTreeMap::new()),
            origin: origin.clone(),
        }),
        _ => unreachable!("made a table above"),
    }
}
