use proto::{Batch, BatchEncoder, Limits, RawReading, RawTime, RawValue, encode::ColumnTimes};

/// A body that is no batch any more, or a time that has no place in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body of a batch cannot be read")]
pub struct TranscodeError;

/// Writes a batch again in the shape that it has (readings or columns), with what `change` makes of
/// each reading; one for which it says false is left out. Returns how many were written: where that
/// is none, `encoder` holds nothing to send. Times must be integers after the change.
///
/// # Errors
/// The body is no batch.
pub fn transcode<'a>(
    body: &'a [u8],
    seq: u64,
    encoder: &mut BatchEncoder,
    mut change: impl FnMut(u32, &mut RawReading<'a>) -> bool,
) -> Result<u32, TranscodeError> {
    let batch = Batch::open(body, &Limits::unbounded()).map_err(|_| TranscodeError)?;
    let mut readings = batch.readings();
    let mut kept = Vec::with_capacity(batch.len() as usize);
    let (mut index, mut reading) = (0, RawReading::default());
    while let Some(read) = readings.next(&mut reading).map_err(|_| TranscodeError)? {
        if change(index, &mut reading) {
            read.map_err(|_| TranscodeError)?;
            kept.push(std::mem::take(&mut reading));
        }
        index += 1;
    }
    let count = u32::try_from(kept.len()).map_err(|_| TranscodeError)?;
    if count > 0 && batch.has_columns() {
        columns(seq, &kept, encoder)?;
    } else if count > 0 {
        encoder.readings(seq, count);
        for reading in &kept {
            let RawReading { measurement, tags, fields, .. } = reading;
            encoder.reading(*measurement, time(reading)?, tags, fields);
        }
    }
    Ok(count)
}

fn time(reading: &RawReading<'_>) -> Result<Option<i64>, TranscodeError> {
    match reading.time {
        None => Ok(None),
        Some(RawTime::Units(time)) => Ok(Some(time)),
        Some(RawTime::Timestamp { .. }) => Err(TranscodeError),
    }
}

/// All rows have the measurement and the tags of the first.
fn columns(
    seq: u64,
    rows: &[RawReading<'_>],
    encoder: &mut BatchEncoder,
) -> Result<(), TranscodeError> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        for (name, _) in &row.fields {
            if !names.contains(name) {
                names.push(name);
            }
        }
    }
    let times: Vec<i64> =
        rows.iter().map(time).filter_map(Result::transpose).collect::<Result<_, _>>()?;
    let times = match times.len() {
        0 => ColumnTimes::Absent,
        length if length == rows.len() => ColumnTimes::of(&times),
        _ => return Err(TranscodeError),
    };
    let count = u32::try_from(names.len()).map_err(|_| TranscodeError)?;
    encoder.columns(seq, rows[0].measurement, &rows[0].tags, times, count);
    for name in names {
        encoder.column(name, rows.iter().map(|row| value(row, name)));
    }
    Ok(())
}

fn value<'a>(row: &RawReading<'a>, name: &str) -> Option<RawValue<'a>> {
    row.fields.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
}
