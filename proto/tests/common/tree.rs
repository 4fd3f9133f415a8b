//! MessagePack as a tree, written with every length that holds it, and what a batch made of such
//! trees means: the reference for the decoder, which never sees the bytes.

use crate::{refused, value};
use proto::{ErrorCode, Limits, RawValue};
use serde_json::{Value as Json, json};

/// A MessagePack value.
#[derive(Debug, Clone)]
pub(crate) enum Tree {
    Nil,
    Bool(bool),
    Int(i64),
    UInt(u64),
    F32(f32),
    F64(f64),
    Str(Vec<u8>),
    Bin(Vec<u8>),
    Ext(i8, Vec<u8>),
    Array(Vec<Tree>),
    Map(Vec<(Vec<u8>, Tree)>),
}

/// Writes trees; which of the lengths that hold a value is taken depends on the seed alone.
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
    pub(crate) seed: u64,
}

impl Writer {
    fn wider(&mut self, least: u32, most: u32) -> u32 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        least + (self.seed >> 33) as u32 % (most - least + 1)
    }

    /// A head with a length: `forms` are (largest length, marker, bytes of the length).
    fn head(&mut self, length: usize, fixed: Option<(usize, u8)>, forms: &[(u8, usize)]) {
        let least = forms.iter().position(|&(_, bytes)| length >> (8 * bytes).min(63) == 0);
        let least = least.unwrap() as u32;
        let fits = fixed.filter(|&(below, _)| length < below);
        let choice = self.wider(least, forms.len() as u32 - u32::from(fits.is_none()));
        match (forms.get(choice as usize), fits) {
            (None, Some((_, marker))) => self.out.push(marker | length as u8),
            (Some(&(marker, bytes)), _) => {
                self.out.push(marker);
                self.out.extend(&(length as u64).to_be_bytes()[8 - bytes..]);
            }
            (None, None) => unreachable!(),
        }
    }

    fn int(&mut self, n: i64) {
        let signed = [-0x80..0x80, -0x8000..0x8000, -(1 << 31)..1 << 31];
        let least = signed.iter().position(|range| range.contains(&n)).unwrap_or(3) as u32;
        if n >= 0 && self.wider(0, 1) == 0 {
            let least = [8, 16, 32].iter().position(|bits| n >> bits == 0).unwrap_or(3);
            let width = self.wider(least as u32, 3);
            self.out.push(0xcc + width as u8);
            self.out.extend(&n.to_be_bytes()[8 - (1 << width)..]);
        } else if (-32..128).contains(&n) && self.wider(0, 1) == 0 {
            self.out.push(n as u8);
        } else {
            let width = self.wider(least, 3);
            self.out.push(0xd0 + width as u8);
            self.out.extend(&n.to_be_bytes()[8 - (1 << width)..]);
        }
    }

    pub(crate) fn put(&mut self, tree: &Tree) {
        match tree {
            Tree::Nil => self.out.push(0xc0),
            Tree::Bool(b) => self.out.push(0xc2 + u8::from(*b)),
            Tree::Int(n) => self.int(*n),
            Tree::UInt(n) => {
                self.out.push(0xcf);
                self.out.extend(n.to_be_bytes());
            }
            Tree::F32(x) => {
                self.out.push(0xca);
                self.out.extend(x.to_be_bytes());
            }
            Tree::F64(x) => {
                self.out.push(0xcb);
                self.out.extend(x.to_be_bytes());
            }
            Tree::Str(bytes) => self.text(bytes),
            Tree::Bin(bytes) => {
                self.head(bytes.len(), None, &[(0xc4, 1), (0xc5, 2), (0xc6, 4)]);
                self.out.extend(bytes);
            }
            Tree::Ext(kind, bytes) => {
                let fixed = [1, 2, 4, 8, 16].iter().position(|&length| length == bytes.len());
                match fixed {
                    Some(form) if self.wider(0, 1) == 0 => self.out.push(0xd4 + form as u8),
                    _ => self.head(bytes.len(), None, &[(0xc7, 1), (0xc8, 2), (0xc9, 4)]),
                }
                self.out.push(*kind as u8);
                self.out.extend(bytes);
            }
            Tree::Array(items) => {
                self.head(items.len(), Some((16, 0x90)), &[(0xdc, 2), (0xdd, 4)]);
                items.iter().for_each(|item| self.put(item));
            }
            Tree::Map(pairs) => {
                self.head(pairs.len(), Some((16, 0x80)), &[(0xde, 2), (0xdf, 4)]);
                for (key, value) in pairs {
                    self.text(key);
                    self.put(value);
                }
            }
        }
    }

    fn text(&mut self, bytes: &[u8]) {
        self.head(bytes.len(), Some((32, 0xa0)), &[(0xd9, 1), (0xda, 2), (0xdb, 4)]);
        self.out.extend(bytes);
    }
}

type Fault = (ErrorCode, Option<String>);

fn fault(code: ErrorCode, field: &str) -> Fault {
    (code, Some(field.to_owned()))
}

/// What a batch body means, or the code that refuses the batch.
pub(crate) fn batch(seq: u64, body: &[(Vec<u8>, Tree)], limits: &Limits) -> Json {
    let parts: Vec<_> =
        body.iter().filter(|(key, _)| key == b"readings" || key == b"columns").collect();
    let readings = match parts[..] {
        [(key, Tree::Array(items))] if key == b"readings" => count(items.len(), limits)
            .map(|()| items.iter().map(|item| outcome(reading(item, limits))).collect()),
        [(key, Tree::Map(pairs))] if key == b"columns" => columns(pairs, limits),
        _ => Err(ErrorCode::BadBatch),
    };
    match readings {
        Ok(readings) => json!({"seq": seq, "readings": Json::Array(readings)}),
        Err(code) => json!({"seq": seq, "refused": code}),
    }
}

fn count(count: usize, limits: &Limits) -> Result<(), ErrorCode> {
    match count {
        0 => Err(ErrorCode::EmptyBatch),
        n if n > limits.readings as usize => Err(ErrorCode::TooManyReadings),
        _ => Ok(()),
    }
}

fn outcome(reading: Result<Json, Fault>) -> Json {
    reading.unwrap_or_else(|(code, field)| refused(code, field.as_deref()))
}

fn utf8(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn reading(tree: &Tree, limits: &Limits) -> Result<Json, Fault> {
    let Tree::Map(pairs) = tree else { return Err((ErrorCode::BadType, None)) };
    let mut out = json!({});
    for (position, (key, tree)) in pairs.iter().enumerate() {
        let key = utf8(key).unwrap_or("");
        if !["fields", "time", "tags", "measurement"].contains(&key) {
            continue;
        }
        if pairs[..position].iter().any(|(earlier, _)| earlier == key.as_bytes()) {
            return Err(fault(ErrorCode::DuplicateKey, key));
        }
        let part = match (key, tree) {
            (_, Tree::Nil) => continue,
            ("fields", tree) => fields(tree, limits)?,
            ("tags", tree) => tags(tree, limits)?,
            ("time", tree) => time(tree).map_err(|code| fault(code, "time"))?,
            (_, Tree::Str(bytes)) => {
                json!(utf8(bytes).ok_or(fault(ErrorCode::BadUtf8, "measurement"))?)
            }
            _ => return Err(fault(ErrorCode::BadType, "measurement")),
        };
        if part != json!([]) {
            out[key] = part;
        }
    }
    if out.get("fields").is_none() {
        return Err((ErrorCode::NoFields, None));
    }
    Ok(out)
}

fn fields(tree: &Tree, limits: &Limits) -> Result<Json, Fault> {
    let Tree::Map(pairs) = tree else { return Err(fault(ErrorCode::BadType, "fields")) };
    if pairs.len() > limits.fields as usize {
        return Err(fault(ErrorCode::TooManyFields, "fields"));
    }
    pairs
        .iter()
        .map(|(name, tree)| {
            let name = utf8(name).ok_or(fault(ErrorCode::BadUtf8, "fields"))?;
            Ok(json!([name, scalar(tree).map_err(|code| fault(code, name))?]))
        })
        .collect()
}

fn tags(tree: &Tree, limits: &Limits) -> Result<Json, Fault> {
    let Tree::Map(pairs) = tree else { return Err(fault(ErrorCode::BadType, "tags")) };
    if pairs.len() > limits.tags as usize {
        return Err(fault(ErrorCode::TooManyTags, "tags"));
    }
    pairs
        .iter()
        .map(|(name, tree)| {
            let name = utf8(name).ok_or(fault(ErrorCode::BadUtf8, "tags"))?;
            let Tree::Str(bytes) = tree else { return Err(fault(ErrorCode::BadType, name)) };
            Ok(json!([name, utf8(bytes).ok_or(fault(ErrorCode::BadUtf8, name))?]))
        })
        .collect()
}

fn scalar(tree: &Tree) -> Result<Json, ErrorCode> {
    Ok(value(match tree {
        Tree::Bool(b) => RawValue::Bool(*b),
        Tree::Int(n) => RawValue::Int(*n),
        Tree::UInt(n) => RawValue::UInt(*n),
        Tree::F32(x) => RawValue::Float(f64::from(*x)),
        Tree::F64(x) => RawValue::Float(*x),
        Tree::Str(bytes) => RawValue::Str(utf8(bytes).ok_or(ErrorCode::BadUtf8)?),
        _ => return Err(ErrorCode::BadType),
    }))
}

fn time(tree: &Tree) -> Result<Json, ErrorCode> {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |n, &byte| n << 8 | u64::from(byte));
    let (seconds, nanos) = match tree {
        Tree::Int(n) => return Ok(json!({"units": n})),
        Tree::UInt(_) => return Err(ErrorCode::TimeImplausible),
        Tree::Ext(-1, bytes) => match bytes.len() {
            4 => (number(bytes) as i64, 0),
            8 => ((number(bytes) % (1 << 34)) as i64, number(bytes) / (1 << 34)),
            12 => (number(&bytes[4..]) as i64, number(&bytes[..4])),
            _ => return Err(ErrorCode::BadType),
        },
        _ => return Err(ErrorCode::BadType),
    };
    if nanos > 999_999_999 {
        return Err(ErrorCode::TimeImplausible);
    }
    Ok(json!({"seconds": seconds, "nanos": nanos}))
}

fn columns(pairs: &[(Vec<u8>, Tree)], limits: &Limits) -> Result<Vec<Json>, ErrorCode> {
    let mut named: [Option<&Tree>; 4] = [None; 4];
    for (key, tree) in pairs {
        let known = ["measurement", "tags", "time", "fields"];
        let Some(which) = known.iter().position(|name| name.as_bytes() == key) else { continue };
        match (which, tree) {
            (0..3, Tree::Nil) => {}
            (0, Tree::Str(bytes)) if utf8(bytes).is_some() => {}
            (1, tree) => match tags(tree, limits) {
                Err((ErrorCode::TooManyTags, _)) => return Err(ErrorCode::TooManyTags),
                other => drop(other.map_err(|_| ErrorCode::BadBatch)?),
            },
            (2, Tree::Array(_)) => {}
            (2, tree) => drop(steps(tree)?),
            (3, Tree::Map(columns)) => {
                if columns.len() > limits.fields as usize {
                    return Err(ErrorCode::TooManyFields);
                }
                let good = |(name, column): &(Vec<u8>, Tree)| {
                    utf8(name).is_some() && matches!(column, Tree::Array(_))
                };
                if !columns.iter().all(good) {
                    return Err(ErrorCode::BadBatch);
                }
            }
            _ => return Err(ErrorCode::BadBatch),
        }
        if named[which].replace(tree).is_some() {
            return Err(ErrorCode::BadBatch);
        }
    }
    let Some(Tree::Map(fields)) = named[3] else { return Err(ErrorCode::BadBatch) };
    let length = |tree: &Tree| if let Tree::Array(items) = tree { Some(items.len()) } else { None };
    let lengths: Vec<_> =
        fields.iter().map(|(_, column)| column).chain(named[2]).filter_map(length).collect();
    let rows = fields.first().and_then(|(_, column)| length(column)).unwrap_or(0);
    if lengths.iter().any(|&length| length != rows) {
        return Err(ErrorCode::UnequalColumns);
    }
    count(rows, limits)?;
    Ok((0..rows).map(|row| outcome(one_row(row, named, fields, limits))).collect())
}

fn steps(tree: &Tree) -> Result<(i64, i64), ErrorCode> {
    let Tree::Map(pairs) = tree else { return Err(ErrorCode::BadBatch) };
    let find = |key: &[u8]| {
        let mut found = pairs.iter().filter(|(name, _)| name == key);
        match (found.next(), found.next()) {
            (Some((_, Tree::Int(n))), None) => Ok(*n),
            _ => Err(ErrorCode::BadBatch),
        }
    };
    Ok((find(b"start")?, find(b"step")?))
}

/// A row as the reading that says the same: columns are another spelling of readings.
fn one_row(
    row: usize,
    [measurement, tags, time, _]: [Option<&Tree>; 4],
    columns: &[(Vec<u8>, Tree)],
    limits: &Limits,
) -> Result<Json, Fault> {
    let mut pairs = Vec::new();
    match time {
        None | Some(Tree::Nil) => {}
        Some(Tree::Array(times)) => pairs.push((b"time".to_vec(), times[row].clone())),
        Some(tree) => {
            let (start, step) = steps(tree).map_err(|code| (code, None))?;
            let time = i128::from(start) + i128::from(step) * row as i128;
            let time = i64::try_from(time).map_or(Tree::UInt(u64::MAX), Tree::Int);
            pairs.push((b"time".to_vec(), time));
        }
    }
    let cell = |(name, column): &(Vec<u8>, Tree)| match column {
        Tree::Array(items) => (name.clone(), items[row].clone()),
        _ => unreachable!("checked before"),
    };
    let fields = columns.iter().map(cell).filter(|(_, cell)| !matches!(cell, Tree::Nil));
    pairs.push((b"fields".to_vec(), Tree::Map(fields.collect())));
    pairs.extend(measurement.map(|tree| (b"measurement".to_vec(), tree.clone())));
    pairs.extend(tags.map(|tree| (b"tags".to_vec(), tree.clone())));
    reading(&Tree::Map(pairs), limits)
}
