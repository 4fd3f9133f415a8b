//! What one segment holds, found by walking all of it.

use super::{
    files::File,
    format::Salt,
    scan::{Gap, Scanner, Step},
    segment::before,
};
use crate::record::Position;
use std::{collections::VecDeque, io, sync::Arc};

/// The content of a segment.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Records that can be read.
    pub(super) records: u64,
    /// The last of them, or the position before the base if there is none.
    pub(super) last: Position,
    /// Everything else, ascending.
    pub(super) gaps: Vec<Gap>,
    /// The highest `durable_upto` of any header.
    pub(super) durable_upto: Position,
    /// Records and seals that no header vouches for, and where they begin.
    pub(super) unvouched: VecDeque<(Position, u64)>,
    /// Whether a seal is the last thing in it.
    pub(super) sealed: bool,
    /// Why some of what counts as damaged could not even be read.
    pub(super) unreadable: Option<io::Error>,
}

/// Called with the offset that was reached; its error ends the walk.
pub(super) type Pace<'a> = &'a mut dyn FnMut(u64) -> io::Result<()>;

impl Survey {
    /// Walks a segment up to `end`.
    pub(super) fn take(
        file: Arc<dyn File>,
        salt: Salt,
        base: Position,
        end: u64,
    ) -> io::Result<Self> {
        Self::paced(file, salt, base, end, &mut |_| Ok(()))
    }

    /// [`Survey::take`], as slowly as `pace` wants it.
    pub(super) fn paced(
        file: Arc<dyn File>,
        salt: Salt,
        base: Position,
        end: u64,
        pace: Pace<'_>,
    ) -> io::Result<Self> {
        let mut scanner = Scanner::new(file, salt, base);
        scanner.pass_unreadable();
        let mut survey = Self::default();
        loop {
            pace(scanner.offset())?;
            let step = scanner.step(end)?;
            match &step {
                Step::Record { offset, position, durable_upto, .. } => {
                    survey.records += 1;
                    survey.vouch(*durable_upto);
                    survey.unvouched.push_back((*position, *offset));
                }
                Step::Seal { offset, durable_upto } => {
                    survey.vouch(*durable_upto);
                    // Nothing says that the seal itself was synced until a later record was.
                    survey.unvouched.push_back((durable_upto.next(), *offset));
                }
                Step::Damage(gap) => {
                    survey.vouch(gap.durable_upto);
                    survey.gaps.push(*gap);
                }
                Step::End => break,
            }
            survey.sealed = matches!(step, Step::Seal { .. });
        }
        survey.last = before(scanner.expected());
        survey.unreadable = scanner.take_unreadable();
        Ok(survey)
    }

    fn vouch(&mut self, durable_upto: Position) {
        self.durable_upto = self.durable_upto.max(durable_upto);
        while self.unvouched.front().is_some_and(|(position, _)| *position <= self.durable_upto) {
            self.unvouched.pop_front();
        }
    }

    /// The gap that reaches to the end of the segment.
    pub(super) fn trailing(&self) -> Option<&Gap> {
        self.gaps.last().filter(|gap| gap.to.is_none())
    }

    /// Where that begins which `durable` does not cover.
    pub(super) fn first_above(&self, durable: Position) -> Option<u64> {
        self.unvouched.iter().find(|(position, _)| *position > durable).map(|(_, offset)| *offset)
    }
}
