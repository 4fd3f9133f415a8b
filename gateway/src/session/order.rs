//! The order of sequence numbers within one connection.

/// What to do with a sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask the committer.
    Submit {
        /// It may leave a gap behind the last admitted one.
        may_skip: bool,
    },
    /// Refuse it.
    OutOfOrder {
        /// The one that comes next.
        expected: u64,
    },
}

/// Which sequence number comes next on this connection.
#[derive(Debug, Default)]
pub(super) struct Order {
    started: Option<Started>,
}

#[derive(Debug)]
struct Started {
    /// The first that came.
    first: u64,
    /// Whether the committer has admitted the first: until then its repetitions may skip, too.
    first_admitted: bool,
    /// The one that comes next.
    next: u64,
}

impl Order {
    /// A batch has come.
    pub(super) fn arrive(&mut self, seq: u64) -> Verdict {
        let Some(started) = &mut self.started else {
            self.started = Some(Started { first: seq, first_admitted: false, next: seq + 1 });
            return Verdict::Submit { may_skip: true };
        };
        if seq > started.next || seq < started.first {
            return Verdict::OutOfOrder { expected: started.next };
        }
        started.next = started.next.max(seq + 1);
        Verdict::Submit { may_skip: seq == started.first && !started.first_admitted }
    }

    /// The committer has this batch, now or from before.
    pub(super) fn admitted(&mut self, seq: u64) {
        let Some(started) = &mut self.started else { return };
        started.first_admitted |= seq == started.first;
        // A late refusal of an earlier attempt may have asked for it after it was sent again.
        started.next = started.next.max(seq + 1);
    }

    /// The committer has kept nothing of this batch, and wants it next.
    pub(super) fn put_off(&mut self, seq: u64) {
        if let Some(started) = &mut self.started {
            started.next = started.next.min(seq);
        }
    }

    /// The committer has kept nothing of this batch, since it wants another one first. Returns the
    /// one to name to the device.
    pub(super) fn not_admitted(&mut self, seq: u64, expected: u64) -> u64 {
        let Some(started) = &mut self.started else { return expected };
        started.next = started.next.min(seq);
        // Until the first batch is admitted the committer knows nothing of the gap before it: it
        // names what comes after its last one, which the device may have dropped long ago.
        if started.first_admitted { expected } else { expected.max(started.first) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBMIT: Verdict = Verdict::Submit { may_skip: false };
    const SKIP: Verdict = Verdict::Submit { may_skip: true };

    fn expects(expected: u64) -> Verdict {
        Verdict::OutOfOrder { expected }
    }

    #[test]
    fn only_the_next_one_is_taken() {
        let mut order = Order::default();
        assert_eq!(order.arrive(7), SKIP);
        order.admitted(7);
        for (seq, verdict) in [
            (9, expects(8)),
            (8, SUBMIT),
            (8, SUBMIT),
            (7, SUBMIT),
            (6, expects(9)),
            (10, expects(9)),
            (9, SUBMIT),
        ] {
            assert_eq!(order.arrive(seq), verdict, "{seq}");
        }
    }

    #[test]
    fn after_a_retry_everything_above_waits_for_it() {
        let mut order = Order::default();
        for seq in 1..=4 {
            order.arrive(seq);
            if seq < 3 {
                order.admitted(seq);
            }
        }
        order.put_off(3);
        assert_eq!(order.not_admitted(4, 3), 3);
        assert_eq!(order.arrive(4), expects(3));
        assert_eq!(order.arrive(5), expects(3));
        assert_eq!(order.arrive(3), SUBMIT);
        assert_eq!(order.arrive(4), SUBMIT);
    }

    #[test]
    fn the_first_may_skip_until_it_is_admitted() {
        let mut order = Order::default();
        assert_eq!(order.arrive(50), SKIP);
        assert_eq!(order.arrive(51), SUBMIT);
        order.put_off(50);
        // The committer's last one is 10; the device has dropped 11 to 49.
        assert_eq!(order.not_admitted(51, 11), 50);
        assert_eq!(order.arrive(51), expects(50));
        assert_eq!(order.arrive(50), SKIP);
        order.admitted(50);
        assert_eq!(order.arrive(50), SUBMIT);
        assert_eq!(order.not_admitted(51, 51), 51);
    }

    #[test]
    fn a_late_refusal_does_not_undo_a_repetition() {
        let mut order = Order::default();
        for seq in 1..=3 {
            order.arrive(seq);
        }
        order.admitted(1);
        order.put_off(2);
        assert_eq!(order.arrive(2), SUBMIT);
        // The refusal of the 3 that was sent before the repetition of 2.
        assert_eq!(order.not_admitted(3, 2), 2);
        assert_eq!(order.arrive(3), SUBMIT);
    }

    #[test]
    fn what_was_admitted_is_not_asked_for_again() {
        let mut order = Order::default();
        for seq in 1..=3 {
            order.arrive(seq);
        }
        order.admitted(1);
        order.put_off(2);
        // The device sends both again before the refusal of the first 3 is there.
        assert_eq!((order.arrive(2), order.arrive(3)), (SUBMIT, SUBMIT));
        assert_eq!(order.not_admitted(3, 2), 2);
        order.admitted(2);
        order.admitted(3);
        // The device has an ack for 3 and may have thrown it away.
        assert_eq!(order.arrive(4), SUBMIT);
    }
}
