//! A small run of the log that the other trials disturb.

use crate::model_files::ModelFiles;
use gateway::{
    log::{self, Check, LogError, Options, ReadError, Recovery, Shared, Writer},
    record::Position,
};
use std::{ops::RangeInclusive, sync::Arc};

pub(crate) const DIR: &str = "/data/log";

pub(crate) fn options(segment_bytes: u64, check: Check) -> Options {
    Options { dir: DIR.into(), segment_bytes, check, ..Options::default() }
}

pub(crate) fn open(
    files: &ModelFiles,
    check: Check,
    known: u64,
) -> Result<(Writer, Shared, Recovery), LogError> {
    log::open(options(200, check), Arc::new(files.clone()), Position(known))
}

/// Of different lengths, one of them empty.
pub(crate) fn payload(position: u64) -> Vec<u8> {
    let length = usize::try_from(position * 11 % 44).unwrap();
    (0..length).map(|at| (position as usize * 31 + at) as u8).collect()
}

/// Writes the given records, three in a group.
pub(crate) fn write(writer: &mut Writer, positions: RangeInclusive<u64>) {
    let last = *positions.end();
    for position in positions {
        assert_eq!(writer.append(&[&payload(position)]).unwrap(), Position(position));
        if position % 3 == 0 || position == last {
            writer.commit().unwrap();
            if writer.needs_roll() && position != last {
                writer.roll().unwrap();
            }
        }
    }
}

/// What a reader gives: the records in order, and the ranges that it says are damaged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) records: Vec<(u64, Vec<u8>)>,
    pub(crate) damaged: Vec<RangeInclusive<u64>>,
}

pub(crate) fn read(shared: &Shared) -> Content {
    let mut content = Content::default();
    let mut reader = shared.reader_at(shared.oldest());
    loop {
        match reader.next() {
            Ok(Some((position, payload))) => content.records.push((position.0, payload.to_vec())),
            Ok(None) => return content,
            Err(ReadError::Damaged { from, to }) => content.damaged.push(from.0..=to.0),
            Err(error) => panic!("{error}"),
        }
    }
}
