use super::{Batch, BatchFault, Source, columns::Columns, rows::Rows};
use crate::{
    ErrorCode, Limits, MAX_SEQ,
    msgpack::{Reader, Token, Unsound},
};

/// Depth of what a key of the body holds: the message's map is 1, the body 2.
const LEVEL_INSIDE_BODY: usize = 3;

/// Reads the keys of the body, in any order.
pub(super) fn open<'a>(reader: &mut Reader<'a>, limits: &Limits) -> Result<Batch<'a>, Unsound> {
    let Token::Map(pairs) = reader.token()? else {
        return Err(Unsound::Structure("the body of a batch is not a map"));
    };
    let mut seq = None;
    let mut source = Source::Nothing;
    let mut len = 0;
    let mut fault = None;
    let mut found = false;
    for pair in 1..=pairs {
        let key = reader.key()?;
        if !matches!(key, b"seq" | b"readings" | b"columns") {
            reader.skip(LEVEL_INSIDE_BODY)?;
            continue;
        }
        if key == b"seq" {
            if seq.replace(sequence(reader)?).is_some() {
                return Err(Unsound::Structure("the batch has two keys `seq`"));
            }
            continue;
        }
        if std::mem::replace(&mut found, true) {
            fault = bad("the batch has `readings` or `columns` twice, or both");
            reader.skip(LEVEL_INSIDE_BODY)?;
        } else if key == b"readings" {
            let last = pair == pairs;
            match readings(reader, limits, last)? {
                Ok((rows, count)) => (source, len) = (Source::Rows(rows), count),
                Err(refused) => fault = Some(refused),
            }
        } else {
            let token = reader.token()?;
            let start = *reader;
            reader.skip_inside(token, LEVEL_INSIDE_BODY)?;
            match Columns::open(token, start, limits)? {
                Ok((columns, count)) => (source, len) = (Source::Columns(columns), count),
                Err(refused) => fault = Some(refused),
            }
        }
    }
    let seq = seq.ok_or(Unsound::Structure("the batch has no `seq`"))?;
    if !found {
        fault = bad("the batch has neither `readings` nor `columns`");
    }
    if !matches!(&source, Source::Rows(rows) if rows.ends_the_message()) {
        reader.end()?;
    }
    if fault.is_some() {
        (source, len) = (Source::Nothing, 0);
    }
    Ok(Batch { seq, len, fault, source })
}

fn sequence(reader: &mut Reader<'_>) -> Result<u64, Unsound> {
    match reader.token()? {
        Token::Int(n) if n > 0 && n.cast_unsigned() <= MAX_SEQ => Ok(n.cast_unsigned()),
        _ => Err(Unsound::Structure("`seq` is not an integer from 1 to 2^53-1")),
    }
}

/// Reads the head of `readings`. What is inside is skipped unless it is good and the last thing
/// in the message: then it is read once, by the walk.
fn readings<'a>(
    reader: &mut Reader<'a>,
    limits: &Limits,
    last: bool,
) -> Result<Result<(Rows<'a>, u32), BatchFault>, Unsound> {
    let token = reader.token()?;
    let start = *reader;
    let count = match token {
        Token::Array(count) => self::count(count, limits),
        _ => Err(bad_batch("`readings` is not an array")),
    };
    if !last || count.is_err() {
        reader.skip_inside(token, LEVEL_INSIDE_BODY)?;
    }
    Ok(count.map(|count| (Rows::new(start, count, last, limits), count)))
}

/// Checks the number of readings or rows.
pub(super) fn count(count: usize, limits: &Limits) -> Result<u32, BatchFault> {
    let limit = limits.readings;
    match u32::try_from(count) {
        Ok(0) => Err(BatchFault {
            code: ErrorCode::EmptyBatch,
            detail: "the batch has no readings".to_owned(),
        }),
        Ok(count) if count <= limit => Ok(count),
        _ => Err(BatchFault {
            code: ErrorCode::TooManyReadings,
            detail: format!("{count} readings, the limit is {limit}"),
        }),
    }
}

pub(super) fn bad_batch(detail: &str) -> BatchFault {
    BatchFault { code: ErrorCode::BadBatch, detail: detail.to_owned() }
}

fn bad(detail: &str) -> Option<BatchFault> {
    Some(bad_batch(detail))
}
