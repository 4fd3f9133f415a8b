//! What was submitted and is not acknowledged yet: the window, and the cumulative ack.

use super::nack::Complaint;
use crate::record::Position;
use proto::message::{AckMode, Window};
use std::collections::VecDeque;

#[derive(Debug)]
struct Entry {
    seq: u64,
    bytes: u32,
    received_us: u64,
    complaint: Option<Box<Complaint>>,
    logged: Option<Position>,
}

/// Batches under way, in the order in which they were submitted, which is the order in which the
/// committer answers.
#[derive(Debug)]
pub(super) struct Outstanding {
    window: Window,
    mode: AckMode,
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Everything up to here was acknowledged on this connection. What was acknowledged on an older
    /// one does not count: a device that sends it again is told what was refused of it first.
    acked: Option<u64>,
    /// Logged on an older connection, not yet covered by the ack position.
    earlier: Option<(u64, Position)>,
    /// The ack position.
    position: Position,
}

impl Outstanding {
    pub(super) fn new(window: Window, mode: AckMode) -> Self {
        Self {
            window,
            mode,
            entries: VecDeque::new(),
            bytes: 0,
            acked: None,
            earlier: None,
            position: Position::ZERO,
        }
    }

    /// The stream is open: where it stands, and a position that covers all of it.
    pub(super) fn opened(
        &mut self,
        logged_seq: Option<u64>,
        acked_seq: Option<u64>,
        position: Position,
    ) {
        self.earlier = logged_seq.filter(|_| logged_seq > acked_seq).map(|seq| (seq, position));
    }

    pub(super) fn submitted(
        &mut self,
        seq: u64,
        bytes: u32,
        received_us: u64,
        complaint: Option<Box<Complaint>>,
    ) {
        // A device that sends again what it need not is answered batch by batch.
        self.earlier = self.earlier.filter(|(earlier, _)| seq > *earlier);
        self.bytes += u64::from(bytes);
        self.entries.push_back(Entry { seq, bytes, received_us, complaint, logged: None });
    }

    /// The batch is in the log. Returns what is wrong with it.
    pub(super) fn logged(&mut self, seq: u64, position: Position) -> Option<Box<Complaint>> {
        let entry = self.unanswered(seq).and_then(|at| self.entries.get_mut(at))?;
        entry.logged = Some(position);
        entry.complaint.take()
    }

    /// The batch is not in the log and will not be without being sent again.
    pub(super) fn dropped(&mut self, seq: u64) {
        if let Some(entry) = self.unanswered(seq).and_then(|at| self.entries.remove(at)) {
            self.bytes -= u64::from(entry.bytes);
        }
    }

    fn unanswered(&self, seq: u64) -> Option<usize> {
        self.entries.iter().position(|entry| entry.logged.is_none() && entry.seq == seq)
    }

    /// The ack position has moved.
    pub(super) fn covered(&mut self, position: Position) {
        self.position = self.position.max(position);
    }

    /// The sequence number to acknowledge now, and when the oldest of the batches of this
    /// connection that it covers was received.
    pub(super) fn due(&mut self) -> Option<(u64, Option<u64>)> {
        let mut due = false;
        let mut oldest_us: Option<u64> = None;
        if let Some((seq, position)) = self.earlier
            && self.is_covered(position)
        {
            self.earlier = None;
            self.acked = self.acked.max(Some(seq));
            due = true;
        }
        while let Some(entry) = self.entries.front()
            && entry.logged.is_some_and(|position| self.is_covered(position))
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= u64::from(entry.bytes);
            self.acked = self.acked.max(Some(entry.seq));
            oldest_us = oldest_us.or(Some(entry.received_us));
            due = true;
        }
        due.then_some((self.acked?, oldest_us))
    }

    fn is_covered(&self, position: Position) -> bool {
        match self.mode {
            // What the committer calls logged is durable.
            AckMode::Durable => true,
            AckMode::Stored => position <= self.position,
        }
    }

    /// True if an answered batch waits for the ack position.
    pub(super) fn awaits_position(&self) -> bool {
        self.mode == AckMode::Stored
            && (self.earlier.is_some()
                || self.entries.front().is_some_and(|entry| entry.logged.is_some()))
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() >= self.window.batches as usize
            || self.bytes >= u64::from(self.window.bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives back memory that an idle connection does not need.
    pub(super) fn rest(&mut self) {
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }
}
