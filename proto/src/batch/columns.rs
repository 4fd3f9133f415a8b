use super::{
    BatchFault, RawReading, RawTime, ReadingFault,
    open::{bad_batch, count},
    rows::{read_tags, time, value},
};
use crate::{
    ErrorCode, Limits,
    message::MessageError,
    msgpack::{Reader, Token, Unsound},
};

/// Depths of the containers in `columns`; the message's own map is 1.
const LEVEL_IN_COLUMNS: usize = 4;
const LEVEL_COLUMN: usize = 5;
const LEVEL_VALUE: usize = 6;

/// Walks the rows of `columns`: one reader per column, side by side.
#[derive(Debug, Clone)]
pub(super) struct Columns<'a> {
    row: u32,
    rows: u32,
    measurement: Option<&'a str>,
    tags: Vec<(&'a str, &'a str)>,
    time: Times<'a>,
    fields: Vec<(&'a str, Reader<'a>)>,
}

#[derive(Debug, Clone)]
enum Times<'a> {
    /// The readings have no time of their own.
    Absent,
    Each(Reader<'a>),
    Steps {
        start: i64,
        step: i64,
    },
}

/// A column's name, where its values start, and how many there are.
type Column<'a> = (&'a str, Reader<'a>, usize);

/// What a step of opening yields when the bytes are sound: a part, or why the batch is refused.
type Part<T> = Result<Result<T, BatchFault>, Unsound>;

impl<'a> Columns<'a> {
    /// Reads the structure of `columns`, whose head is `token` and whose inside, known to be
    /// sound, starts at `reader`.
    pub(super) fn open(token: Token<'a>, reader: Reader<'a>, limits: &Limits) -> Part<(Self, u32)> {
        let Token::Map(pairs) = token else {
            return Ok(Err(bad_batch("`columns` is not a map")));
        };
        let mut reader = reader;
        let mut parts = Parts::default();
        for _ in 0..pairs {
            let key = reader.key()?;
            let done = match key {
                b"measurement" => {
                    set(&mut parts.measurement, measurement(&mut reader)?, "measurement")
                }
                b"tags" => set(&mut parts.tags, tags(&mut reader, limits)?, "tags"),
                b"time" => set(&mut parts.time, times(&mut reader)?, "time"),
                b"fields" => set(&mut parts.fields, fields(&mut reader, limits)?, "fields"),
                _ => {
                    reader.skip(LEVEL_IN_COLUMNS)?;
                    Ok(())
                }
            };
            if let Err(fault) = done {
                return Ok(Err(fault));
            }
        }
        Ok(parts.join(limits))
    }

    pub(super) fn next(
        &mut self,
        out: &mut RawReading<'a>,
    ) -> Result<Option<Result<(), ReadingFault<'a>>>, MessageError> {
        if self.row == self.rows {
            return Ok(None);
        }
        out.clear();
        out.measurement = self.measurement;
        out.tags.extend_from_slice(&self.tags);
        let mut fault = None;
        match self.row_time()? {
            Ok(time) => out.time = time,
            Err(code) => fault = Some(ReadingFault::new(code, "time")),
        }
        for (name, reader) in &mut self.fields {
            match next_in(reader, |token| match token {
                Token::Nil => Ok(None),
                other => value(other).map(Some),
            })? {
                Ok(Some(value)) => out.fields.push((name, value)),
                Ok(None) => {}
                Err(code) => fault = fault.or(Some(ReadingFault::new(code, name))),
            }
        }
        self.row += 1;
        if fault.is_none() && out.fields.is_empty() {
            fault = Some(ReadingFault { code: ErrorCode::NoFields, field: None });
        }
        Ok(Some(fault.map_or(Ok(()), Err)))
    }

    fn row_time(&mut self) -> Result<Result<Option<RawTime>, ErrorCode>, MessageError> {
        Ok(match &mut self.time {
            Times::Absent => Ok(None),
            Times::Each(reader) => next_in(reader, time)?,
            Times::Steps { start, step } => i64::from(self.row)
                .checked_mul(*step)
                .and_then(|offset| start.checked_add(offset))
                .map(|units| Some(RawTime::Units(units)))
                .ok_or(ErrorCode::TimeImplausible),
        })
    }
}

/// Reads the next value of a column; what is inside one of a wrong type is skipped.
fn next_in<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(Token<'a>) -> Result<T, ErrorCode>,
) -> Result<Result<T, ErrorCode>, MessageError> {
    let step = |reader: &mut Reader<'a>| {
        let token = reader.token()?;
        let read = read(token);
        if read.is_err() {
            reader.skip_inside(token, LEVEL_VALUE)?;
        }
        Ok(read)
    };
    step(reader).map_err(|unsound| reader.refuse(unsound))
}

/// The keys of `columns` that have come, in any order.
#[derive(Default)]
struct Parts<'a> {
    measurement: Option<Option<&'a str>>,
    tags: Option<Vec<(&'a str, &'a str)>>,
    time: Option<(Times<'a>, Option<usize>)>,
    fields: Option<Vec<Column<'a>>>,
}

impl<'a> Parts<'a> {
    fn join(self, limits: &Limits) -> Result<(Columns<'a>, u32), BatchFault> {
        let fields = self.fields.ok_or_else(|| bad_batch("`columns` has no `fields`"))?;
        let (time, times) = self.time.unwrap_or((Times::Absent, None));
        let rows = fields.first().map_or(0, |&(_, _, rows)| rows);
        let unequal = |name: &str, length: usize| BatchFault {
            code: ErrorCode::UnequalColumns,
            detail: format!("column {name:?} has {length} values, the first has {rows}"),
        };
        if let Some(&(name, _, length)) = fields.iter().find(|&&(_, _, length)| length != rows) {
            return Err(unequal(name, length));
        }
        if let Some(length) = times.filter(|&length| length != rows) {
            return Err(unequal("time", length));
        }
        let rows = count(rows, limits)?;
        let columns = Columns {
            row: 0,
            rows,
            measurement: self.measurement.flatten(),
            tags: self.tags.unwrap_or_default(),
            time,
            fields: fields.into_iter().map(|(name, reader, _)| (name, reader)).collect(),
        };
        Ok((columns, rows))
    }
}

fn set<T>(slot: &mut Option<T>, part: Result<T, BatchFault>, key: &str) -> Result<(), BatchFault> {
    match slot.replace(part?) {
        None => Ok(()),
        Some(_) => Err(bad_batch(&format!("`columns` has two keys `{key}`"))),
    }
}

fn measurement<'a>(reader: &mut Reader<'a>) -> Part<Option<&'a str>> {
    Ok(match reader.token()? {
        Token::Nil => Ok(None),
        Token::Str(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(bad_batch("`measurement` is not UTF-8")),
        },
        _ => Err(bad_batch("`measurement` is not a string")),
    })
}

fn tags<'a>(reader: &mut Reader<'a>, limits: &Limits) -> Part<Vec<(&'a str, &'a str)>> {
    let mut tags = Vec::new();
    let fault = read_tags(reader, limits.tags as usize, LEVEL_IN_COLUMNS, &mut tags)?;
    Ok(match fault {
        None => Ok(tags),
        Some(ReadingFault { code: ErrorCode::TooManyTags, .. }) => Err(BatchFault {
            code: ErrorCode::TooManyTags,
            detail: format!("more tags than the limit of {}", limits.tags),
        }),
        Some(fault) => Err(bad_batch(&format!(
            "`tags` is not a map of UTF-8 strings, see {:?}",
            fault.field.unwrap_or_default()
        ))),
    })
}

fn times<'a>(reader: &mut Reader<'a>) -> Part<(Times<'a>, Option<usize>)> {
    const WHAT: &str = "`time` is neither an array nor a map of two integers, `start` and `step`";
    Ok(match reader.token()? {
        Token::Nil => Ok((Times::Absent, None)),
        token @ Token::Array(length) => {
            let start = *reader;
            reader.skip_inside(token, LEVEL_IN_COLUMNS)?;
            Ok((Times::Each(start), Some(length)))
        }
        Token::Map(pairs) => {
            let (mut start, mut step) = (None, None);
            for _ in 0..pairs {
                let slot = match reader.key()? {
                    b"start" => &mut start,
                    b"step" => &mut step,
                    _ => {
                        reader.skip(LEVEL_COLUMN)?;
                        continue;
                    }
                };
                let (None, Token::Int(n)) = (&slot, reader.token()?) else {
                    return Ok(Err(bad_batch(WHAT)));
                };
                *slot = Some(n);
            }
            match (start, step) {
                (Some(start), Some(step)) => Ok((Times::Steps { start, step }, None)),
                _ => Err(bad_batch(WHAT)),
            }
        }
        _ => Err(bad_batch(WHAT)),
    })
}

fn fields<'a>(reader: &mut Reader<'a>, limits: &Limits) -> Part<Vec<Column<'a>>> {
    let Token::Map(pairs) = reader.token()? else {
        return Ok(Err(bad_batch("`fields` of `columns` is not a map")));
    };
    if pairs > limits.fields as usize {
        return Ok(Err(BatchFault {
            code: ErrorCode::TooManyFields,
            detail: format!("{pairs} columns, the limit is {}", limits.fields),
        }));
    }
    let mut columns = Vec::new();
    for _ in 0..pairs {
        let Ok(name) = std::str::from_utf8(reader.key()?) else {
            return Ok(Err(bad_batch("the name of a column is not UTF-8")));
        };
        let token = reader.token()?;
        let Token::Array(length) = token else {
            return Ok(Err(bad_batch(&format!("column {name:?} is not an array"))));
        };
        columns.push((name, *reader, length));
        reader.skip_inside(token, LEVEL_COLUMN)?;
    }
    Ok(Ok(columns))
}
