//! What a device keeps until it is acknowledged.
//!
//! A pure state machine: no clock, no socket. It holds batches by sequence number without gaps,
//! says which to send next within the gateway's window, and forgets only what an ack covers. It
//! keeps no payload: a batch is recomputed from the plan whenever it is sent.

use proto::message::Window;
use std::collections::VecDeque;

/// A batch that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Its place in the schedule.
    tick: u32,
    /// Size of its message when it was last sent.
    bytes: u32,
}

/// The gateway contradicts what the device knows; going on would lose or double data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conflict {
    /// An ack for what was never sent: the stream belongs to somebody else, too.
    NeverSent {
        /// What is acknowledged.
        acked: u64,
        /// What was sent.
        sent: u64,
    },
    /// The gateway wants what it acknowledged before.
    Forgotten {
        /// What it wants.
        expected: u64,
    },
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Conflict::NeverSent { acked, sent } => write!(
                f,
                "the gateway has batch {acked} although this device has sent only up to {sent}: \
                 the stream was used before, choose another --stream or a higher --start-seq"
            ),
            Conflict::Forgotten { expected } => {
                write!(f, "the gateway asks for batch {expected}, which it had acknowledged")
            }
        }
    }
}

/// The bounded outbox of a device.
#[derive(Debug)]
pub(super) struct Outbox {
    held: VecDeque<Held>,
    /// Sequence number of the first one held.
    first: u64,
    /// Sequence number to send next.
    next: u64,
    /// Highest sequence number that was ever sent, `start - 1` if none was.
    sent: u64,
    capacity: usize,
    window: Window,
    /// Bytes from `first` to before `next`.
    in_flight_bytes: u64,
}

impl Outbox {
    /// An empty outbox for at most `capacity` batches, the first of them `start`.
    pub(super) fn new(start: u64, capacity: usize) -> Self {
        Self {
            held: VecDeque::new(),
            first: start,
            next: start,
            sent: start - 1,
            capacity,
            window: Window { batches: 1, bytes: u32::MAX },
            in_flight_bytes: 0,
        }
    }

    /// Keeps a batch and gives it the next sequence number; `None` if there is no room.
    pub(super) fn offer(&mut self, tick: u32) -> Option<u64> {
        if self.held.len() >= self.capacity {
            return None;
        }
        self.held.push_back(Held { tick, bytes: 0 });
        Some(self.end() - 1)
    }

    /// The next batch to send and its place in the schedule; `None` while nothing waits or the
    /// window is full. One batch may always be under way, however small the window.
    pub(super) fn next_to_send(&self) -> Option<(u64, u32)> {
        let in_flight = self.next - self.first;
        let room = in_flight == 0
            || (in_flight < u64::from(self.window.batches)
                && self.in_flight_bytes < u64::from(self.window.bytes));
        let held = self.held.get(usize::try_from(in_flight).ok()?)?;
        room.then_some((self.next, held.tick))
    }

    /// The batch that `next_to_send` named was sent, in a message of so many bytes. True if it was
    /// sent for the first time.
    pub(super) fn sent(&mut self, bytes: u32) -> bool {
        let place = (self.next - self.first) as usize;
        if let Some(held) = self.held.get_mut(place) {
            held.bytes = bytes;
        }
        self.in_flight_bytes += u64::from(bytes);
        self.next += 1;
        let for_the_first_time = self.next - 1 > self.sent;
        self.sent = self.sent.max(self.next - 1);
        for_the_first_time
    }

    /// A new connection: everything held is to be sent again, within its window, except what the
    /// gateway has in its log already.
    ///
    /// # Errors
    /// The gateway has what was never sent.
    pub(super) fn welcome(&mut self, window: Window, logged: Option<u64>) -> Result<(), Conflict> {
        let logged = logged.unwrap_or(0);
        if logged > self.sent {
            return Err(Conflict::NeverSent { acked: logged, sent: self.sent });
        }
        self.window = window;
        self.seek(logged + 1);
        Ok(())
    }

    /// Everything up to `seq` is acknowledged: `each` gets the sequence number and place in the
    /// schedule of each batch that leaves.
    ///
    /// # Errors
    /// The ack is for what was never sent.
    pub(super) fn acknowledged(
        &mut self,
        seq: u64,
        mut each: impl FnMut(u64, u32),
    ) -> Result<(), Conflict> {
        if seq > self.sent {
            return Err(Conflict::NeverSent { acked: seq, sent: self.sent });
        }
        while self.first <= seq {
            let Some(held) = self.held.pop_front() else { break };
            if self.first < self.next {
                self.in_flight_bytes -= u64::from(held.bytes);
            }
            each(self.first, held.tick);
            self.first += 1;
        }
        self.next = self.next.max(self.first);
        Ok(())
    }

    /// The gateway kept nothing of `seq`: it comes next, and all above it again.
    pub(super) fn put_off(&mut self, seq: u64) {
        if seq < self.next {
            self.seek(seq);
        }
    }

    /// The gateway names the sequence number that comes next.
    ///
    /// # Errors
    /// It names one that it had acknowledged, or one beyond what was sent.
    pub(super) fn expected(&mut self, seq: u64) -> Result<(), Conflict> {
        if seq < self.first {
            return Err(Conflict::Forgotten { expected: seq });
        }
        if seq > self.sent + 1 {
            return Err(Conflict::NeverSent { acked: seq - 1, sent: self.sent });
        }
        self.seek(seq);
        Ok(())
    }

    /// The device loses the older half of what it holds; the first and last number that no batch
    /// will ever have. Nothing happens while anything that was sent is not acknowledged.
    pub(super) fn lose_half(&mut self) -> Option<(u64, u64)> {
        let lost = self.held.len() / 2;
        if self.first <= self.sent || lost == 0 {
            return None;
        }
        self.held.drain(..lost);
        let first = self.first;
        self.first += lost as u64;
        self.next = self.first;
        Some((first, self.first - 1))
    }

    /// True if nothing that was sent waits for its ack.
    pub(super) fn is_answered(&self) -> bool {
        self.first > self.sent
    }

    /// Sequence number of the last batch that was acknowledged, or of none.
    pub(super) fn acked(&self) -> u64 {
        self.first - 1
    }

    /// Sequence number that is sent next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// True if everything is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The sequence number that the next batch will get.
    pub(super) fn end(&self) -> u64 {
        self.first + self.held.len() as u64
    }

    fn seek(&mut self, seq: u64) {
        self.next = seq.clamp(self.first, self.end());
        let before = (self.next - self.first) as usize;
        self.in_flight_bytes =
            self.held.iter().take(before).map(|held| u64::from(held.bytes)).sum();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { batches: 3, bytes: 1_000 };

    fn connected(batches: u32) -> Outbox {
        let mut outbox = Outbox::new(1, 8);
        (0..batches).for_each(|tick| assert!(outbox.offer(tick).is_some()));
        outbox.welcome(WINDOW, None).unwrap();
        outbox
    }

    fn send_all(outbox: &mut Outbox) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Some((seq, _)) = outbox.next_to_send() {
            outbox.sent(100);
            sent.push(seq);
        }
        sent
    }

    fn ack(outbox: &mut Outbox, seq: u64) -> Vec<(u64, u32)> {
        let mut left = Vec::new();
        outbox.acknowledged(seq, |seq, tick| left.push((seq, tick))).unwrap();
        left
    }

    #[test]
    fn the_window_bounds_what_is_under_way() {
        let mut outbox = connected(5);
        assert_eq!(send_all(&mut outbox), [1, 2, 3]);
        assert_eq!(ack(&mut outbox, 2), [(1, 0), (2, 1)]);
        assert_eq!(send_all(&mut outbox), [4, 5]);
        assert_eq!(ack(&mut outbox, 5).len(), 3);
        assert!(outbox.is_empty());
    }

    #[test]
    fn bytes_bound_the_window_but_never_stop_one_batch() {
        let mut outbox = connected(3);
        outbox.sent(5_000);
        assert_eq!(outbox.next_to_send(), None);
        ack(&mut outbox, 1);
        assert_eq!(outbox.next_to_send(), Some((2, 1)));
    }

    #[test]
    fn a_full_outbox_refuses_and_leaves_no_gap() {
        let mut outbox = Outbox::new(1, 2);
        assert_eq!([0, 1, 2].map(|tick| outbox.offer(tick)), [Some(1), Some(2), None]);
        outbox.welcome(WINDOW, None).unwrap();
        send_all(&mut outbox);
        ack(&mut outbox, 1);
        assert_eq!(outbox.offer(3), Some(3));
        assert_eq!(outbox.next_to_send(), Some((3, 3)));
    }

    #[test]
    fn a_new_connection_sends_again_what_is_not_in_the_log() {
        let mut outbox = connected(5);
        send_all(&mut outbox);
        ack(&mut outbox, 1);
        outbox.welcome(WINDOW, Some(1)).unwrap();
        assert_eq!(send_all(&mut outbox), [2, 3, 4]);
        outbox.welcome(WINDOW, Some(3)).unwrap();
        assert_eq!(send_all(&mut outbox), [4], "2 and 3 are logged and not acknowledged");
        ack(&mut outbox, 4);
        assert_eq!(send_all(&mut outbox), [5]);
    }

    #[test]
    fn only_the_first_sending_counts_as_sent() {
        let mut outbox = connected(1);
        assert!(outbox.sent(10));
        outbox.welcome(WINDOW, None).unwrap();
        assert!(!outbox.sent(10));
    }

    #[test]
    fn what_was_put_off_comes_first_and_the_rest_after_it() {
        let mut outbox = connected(3);
        send_all(&mut outbox);
        outbox.put_off(2);
        outbox.expected(2).unwrap();
        outbox.expected(2).unwrap();
        assert_eq!(send_all(&mut outbox), [2, 3]);
        assert_eq!(outbox.in_flight_bytes, 300);
        // An ack that comes although it was to be sent again.
        outbox.put_off(1);
        assert_eq!(ack(&mut outbox, 3).len(), 3);
        assert_eq!(outbox.in_flight_bytes, 0);
        assert_eq!(outbox.next_to_send(), None);
    }

    #[test]
    fn a_device_loses_only_what_was_never_sent() {
        let mut outbox = connected(5);
        outbox.sent(100);
        assert_eq!(outbox.lose_half(), None, "1 is under way");
        ack(&mut outbox, 1);
        assert_eq!(outbox.lose_half(), Some((2, 3)));
        assert_eq!(send_all(&mut outbox), [4, 5]);
        assert_eq!(ack(&mut outbox, 5), [(4, 3), (5, 4)]);
        assert_eq!(outbox.lose_half(), None, "nothing is left");
    }

    #[test]
    fn contradictions_are_named() {
        let mut outbox = connected(3);
        let never = Conflict::NeverSent { acked: 1, sent: 0 };
        assert_eq!(outbox.acknowledged(1, |_, _| {}), Err(never.clone()));
        assert_eq!(outbox.welcome(WINDOW, Some(1)), Err(never.clone()));
        assert_eq!(outbox.expected(2), Err(never));
        send_all(&mut outbox);
        ack(&mut outbox, 2);
        assert_eq!(outbox.expected(2), Err(Conflict::Forgotten { expected: 2 }));
        assert_eq!(outbox.expected(4), Ok(()));
    }
}
