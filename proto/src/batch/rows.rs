use super::{RawReading, RawTime, RawValue, ReadingFault};
use crate::{
    ErrorCode, Limits,
    message::MessageError,
    msgpack::{Reader, Token, Unsound},
};

/// Depths of the containers in `readings`; the message's own map is 1.
const LEVEL_READING: usize = 4;
const LEVEL_IN_READING: usize = 5;
const LEVEL_VALUE: usize = 6;

/// MessagePack's extension type of timestamps.
const TIMESTAMP: i8 = -1;

/// How many names are remembered from the reading before: the usual batch repeats its names, and
/// comparing bytes is cheaper than checking that they are UTF-8.
const REMEMBERED: usize = 8;

/// Walks `readings`.
#[derive(Debug, Clone)]
pub(super) struct Rows<'a> {
    reader: Reader<'a>,
    left: u32,
    /// Nothing may follow the last reading; it was not checked before.
    last: bool,
    max_fields: usize,
    max_tags: usize,
    names: [&'a str; REMEMBERED],
}

/// The first fault of a reading; what follows it is read and forgotten.
type Fault<'a> = Option<ReadingFault<'a>>;

impl<'a> Rows<'a> {
    pub(super) fn new(reader: Reader<'a>, left: u32, last: bool, limits: &Limits) -> Self {
        let max_fields = limits.fields as usize;
        let max_tags = limits.tags as usize;
        Self { reader, left, last, max_fields, max_tags, names: [""; REMEMBERED] }
    }

    /// True if the readings are the last thing in the message and only the walk reads them.
    pub(super) fn ends_the_message(&self) -> bool {
        self.last
    }

    pub(super) fn next(
        &mut self,
        reading: &mut RawReading<'a>,
    ) -> Result<Option<Result<(), ReadingFault<'a>>>, MessageError> {
        if self.left == 0 {
            return if self.last {
                self.reader.end().map(|()| None).map_err(|unsound| self.reader.refuse(unsound))
            } else {
                Ok(None)
            };
        }
        match self.reading(reading) {
            Ok(fault) => {
                self.left -= 1;
                Ok(Some(fault.map_or(Ok(()), Err)))
            }
            Err(unsound) => Err(self.reader.refuse(unsound)),
        }
    }

    fn reading(&mut self, out: &mut RawReading<'a>) -> Result<Fault<'a>, Unsound> {
        out.clear();
        let pairs = match self.reader.token()? {
            Token::Map(pairs) => pairs,
            other => {
                self.reader.skip_inside(other, LEVEL_READING)?;
                return Ok(Some(ReadingFault { code: ErrorCode::BadType, field: None }));
            }
        };
        let mut fault = None;
        let mut seen = Seen::default();
        for _ in 0..pairs {
            let found = match self.reading_key()? {
                b"fields" if seen.first(Seen::FIELDS) => self.fields(out)?,
                b"time" if seen.first(Seen::TIME) => self.time(out)?,
                b"tags" if seen.first(Seen::TAGS) => self.tags(out)?,
                b"measurement" if seen.first(Seen::MEASUREMENT) => self.measurement(out)?,
                b"fields" => self.twice("fields")?,
                b"time" => self.twice("time")?,
                b"tags" => self.twice("tags")?,
                b"measurement" => self.twice("measurement")?,
                _ => {
                    self.reader.skip(LEVEL_IN_READING)?;
                    None
                }
            };
            fault = fault.or(found);
        }
        if fault.is_none() && out.fields.is_empty() {
            fault = Some(ReadingFault { code: ErrorCode::NoFields, field: None });
        }
        Ok(fault)
    }

    #[inline]
    fn reading_key(&mut self) -> Result<&'a [u8], Unsound> {
        if self.reader.eat(b"\xa6fields") {
            Ok(b"fields")
        } else if self.reader.eat(b"\xa4time") {
            Ok(b"time")
        } else {
            self.reader.key()
        }
    }

    fn fields(&mut self, out: &mut RawReading<'a>) -> Result<Fault<'a>, Unsound> {
        let token = self.reader.token()?;
        let pairs = match token {
            Token::Map(pairs) if pairs <= self.max_fields => pairs,
            Token::Nil => return Ok(None),
            Token::Map(pairs) => {
                skip_pairs(&mut self.reader, pairs, LEVEL_VALUE)?;
                return Ok(Some(ReadingFault::new(ErrorCode::TooManyFields, "fields")));
            }
            other => {
                self.reader.skip_inside(other, LEVEL_IN_READING)?;
                return Ok(Some(ReadingFault::new(ErrorCode::BadType, "fields")));
            }
        };
        let mut fault = None;
        for ordinal in 0..pairs {
            let key = self.reader.key()?;
            let token = self.reader.token()?;
            let Some(name) = self.name(ordinal, key) else {
                self.reader.skip_inside(token, LEVEL_VALUE)?;
                fault = fault.or(Some(ReadingFault::new(ErrorCode::BadUtf8, "fields")));
                continue;
            };
            match value(token) {
                Ok(value) => out.fields.push((name, value)),
                Err(code) => {
                    self.reader.skip_inside(token, LEVEL_VALUE)?;
                    fault = fault.or(Some(ReadingFault::new(code, name)));
                }
            }
        }
        Ok(fault)
    }

    #[inline]
    fn name(&mut self, ordinal: usize, key: &'a [u8]) -> Option<&'a str> {
        let Some(known) = self.names.get_mut(ordinal) else {
            return std::str::from_utf8(key).ok();
        };
        if known.as_bytes() != key {
            *known = std::str::from_utf8(key).ok()?;
        }
        Some(known)
    }

    fn time(&mut self, out: &mut RawReading<'a>) -> Result<Fault<'a>, Unsound> {
        let token = self.reader.token()?;
        match time(token) {
            Ok(time) => {
                out.time = time;
                Ok(None)
            }
            Err(code) => {
                self.reader.skip_inside(token, LEVEL_IN_READING)?;
                Ok(Some(ReadingFault::new(code, "time")))
            }
        }
    }

    fn tags(&mut self, out: &mut RawReading<'a>) -> Result<Fault<'a>, Unsound> {
        let mut tags = std::mem::take(&mut out.tags);
        let fault = read_tags(&mut self.reader, self.max_tags, LEVEL_IN_READING, &mut tags);
        out.tags = tags;
        fault
    }

    fn measurement(&mut self, out: &mut RawReading<'a>) -> Result<Fault<'a>, Unsound> {
        let token = self.reader.token()?;
        let code = match token {
            Token::Nil => return Ok(None),
            Token::Str(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => {
                    out.measurement = Some(text);
                    return Ok(None);
                }
                Err(_) => ErrorCode::BadUtf8,
            },
            _ => ErrorCode::BadType,
        };
        self.reader.skip_inside(token, LEVEL_IN_READING)?;
        Ok(Some(ReadingFault::new(code, "measurement")))
    }

    #[cold]
    fn twice(&mut self, key: &'static str) -> Result<Fault<'a>, Unsound> {
        self.reader.skip(LEVEL_IN_READING)?;
        Ok(Some(ReadingFault::new(ErrorCode::DuplicateKey, key)))
    }
}

/// Which keys of a reading have come.
#[derive(Default)]
struct Seen(u8);

impl Seen {
    const FIELDS: u8 = 1;
    const TIME: u8 = 2;
    const TAGS: u8 = 4;
    const MEASUREMENT: u8 = 8;

    fn first(&mut self, key: u8) -> bool {
        let first = self.0 & key == 0;
        self.0 |= key;
        first
    }
}

/// Reads a map of tags; `level` is its depth in the message.
pub(super) fn read_tags<'a>(
    reader: &mut Reader<'a>,
    max_tags: usize,
    level: usize,
    out: &mut Vec<(&'a str, &'a str)>,
) -> Result<Fault<'a>, Unsound> {
    let pairs = match reader.token()? {
        Token::Map(pairs) if pairs <= max_tags => pairs,
        Token::Nil => return Ok(None),
        Token::Map(pairs) => {
            skip_pairs(reader, pairs, level + 1)?;
            return Ok(Some(ReadingFault::new(ErrorCode::TooManyTags, "tags")));
        }
        other => {
            reader.skip_inside(other, level)?;
            return Ok(Some(ReadingFault::new(ErrorCode::BadType, "tags")));
        }
    };
    let mut fault = None;
    for _ in 0..pairs {
        let key = reader.key()?;
        let token = reader.token()?;
        let found = match (std::str::from_utf8(key), token) {
            (Err(_), _) => ReadingFault::new(ErrorCode::BadUtf8, "tags"),
            (Ok(name), Token::Str(bytes)) => match std::str::from_utf8(bytes) {
                Ok(value) => {
                    out.push((name, value));
                    continue;
                }
                Err(_) => ReadingFault::new(ErrorCode::BadUtf8, name),
            },
            (Ok(name), _) => ReadingFault::new(ErrorCode::BadType, name),
        };
        reader.skip_inside(token, level + 1)?;
        fault = fault.or(Some(found));
    }
    Ok(fault)
}

/// Passes over a map that has more pairs than it may. Its keys have to be strings all the same:
/// what is sound must not depend on the limits, since the log is read without them.
#[cold]
fn skip_pairs(reader: &mut Reader<'_>, pairs: usize, level: usize) -> Result<(), Unsound> {
    for _ in 0..pairs {
        reader.key()?;
        reader.skip(level)?;
    }
    Ok(())
}

/// A field's value.
#[inline]
pub(super) fn value(token: Token<'_>) -> Result<RawValue<'_>, ErrorCode> {
    match token {
        Token::Float(x) => Ok(RawValue::Float(x)),
        Token::Int(n) => Ok(RawValue::Int(n)),
        Token::UInt(n) => Ok(RawValue::UInt(n)),
        Token::Bool(b) => Ok(RawValue::Bool(b)),
        Token::Str(bytes) => {
            std::str::from_utf8(bytes).map(RawValue::Str).map_err(|_| ErrorCode::BadUtf8)
        }
        _ => Err(ErrorCode::BadType),
    }
}

/// A reading's time; nil is the same as no time.
#[inline]
pub(super) fn time(token: Token<'_>) -> Result<Option<RawTime>, ErrorCode> {
    match token {
        Token::Int(n) => Ok(Some(RawTime::Units(n))),
        Token::Nil => Ok(None),
        Token::UInt(_) => Err(ErrorCode::TimeImplausible),
        Token::Ext(TIMESTAMP, bytes) => timestamp(bytes).map(Some),
        _ => Err(ErrorCode::BadType),
    }
}

/// MessagePack's timestamps of 32, 64 and 96 bits.
fn timestamp(bytes: &[u8]) -> Result<RawTime, ErrorCode> {
    let (seconds, nanos) = if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        (i64::from(u32::from_be_bytes(bytes)), 0)
    } else if let Ok(bytes) = <[u8; 8]>::try_from(bytes) {
        // 30 bits of nanoseconds above 34 bits of seconds.
        let both = u64::from_be_bytes(bytes);
        ((both & 0x3_ffff_ffff).cast_signed(), (both >> 34) as u32)
    } else if let Ok([n0, n1, n2, n3, seconds @ ..]) = <[u8; 12]>::try_from(bytes) {
        (i64::from_be_bytes(seconds), u32::from_be_bytes([n0, n1, n2, n3]))
    } else {
        return Err(ErrorCode::BadType);
    };
    if nanos >= 1_000_000_000 {
        return Err(ErrorCode::TimeImplausible);
    }
    Ok(RawTime::Timestamp { seconds, nanos })
}
