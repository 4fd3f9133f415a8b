//! Whether the device is still there: counts bytes, and stands still while nothing is read.

use proto::ErrorCode;
use std::time::Duration;

/// How long to wait for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Silence after which the gateway pings.
    pub ping_after: Duration,
    /// Further silence after which the gateway closes.
    pub close_after: Duration,
    /// Time within which a message must be complete.
    pub message_time: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            ping_after: Duration::from_secs(30),
            close_after: Duration::from_secs(30),
            message_time: Duration::from_secs(120),
        }
    }
}

/// What has come from the device, seen below the WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// When the last byte came.
    pub last_byte_us: u64,
    /// Since when a message has been incomplete.
    pub incomplete_since_us: Option<u64>,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// A ping.
    Ping,
    /// The end of the connection.
    Close(ErrorCode, &'static str),
}

#[derive(Debug)]
pub(super) struct Liveness {
    patience: Patience,
    /// Reading (again) since: nothing before it counts against the device.
    reading_since_us: u64,
    reading: bool,
    pinged_us: Option<u64>,
    expires_us: Option<u64>,
}

impl Liveness {
    pub(super) fn new(patience: Patience, now_us: u64, expires_us: Option<u64>) -> Self {
        Self { patience, reading_since_us: now_us, reading: true, pinged_us: None, expires_us }
    }

    /// Whether messages are read from here on.
    pub(super) fn on_reading(&mut self, now_us: u64, reading: bool) {
        if reading && !self.reading {
            self.reading_since_us = now_us;
            self.pinged_us = None;
        }
        self.reading = reading;
    }

    pub(super) fn tick(&mut self, now_us: u64, heard: Heard) -> Due {
        if self.expires_us.is_some_and(|at| now_us >= at) {
            return Due::Close(ErrorCode::Expired, "the credential has expired");
        }
        if !self.reading {
            return Due::Nothing;
        }
        if self.message_due_us(heard).is_some_and(|at| now_us >= at) {
            return Due::Close(ErrorCode::SlowMessage, "a message was not complete in time");
        }
        let heard_us = self.heard_us(heard);
        // A byte since the ping starts the silence anew.
        self.pinged_us = self.pinged_us.filter(|&at| at >= heard_us);
        if now_us.saturating_sub(heard_us) < us(self.patience.ping_after) {
            return Due::Nothing;
        }
        match self.pinged_us {
            None => {
                self.pinged_us = Some(now_us);
                Due::Ping
            }
            Some(at) if now_us.saturating_sub(at) >= us(self.patience.close_after) => {
                Due::Close(ErrorCode::IdleTimeout, "nothing came, not even the answer to a ping")
            }
            Some(_) => Due::Nothing,
        }
    }

    /// When the next thing can become due.
    pub(super) fn next_us(&self, heard: Heard) -> u64 {
        let heard_us = self.heard_us(heard);
        let quiet = match self.pinged_us {
            Some(at) if at >= heard_us => at.saturating_add(us(self.patience.close_after)),
            _ => heard_us.saturating_add(us(self.patience.ping_after)),
        };
        // While nothing is read nothing is due: reading on sets the clock anew.
        let mut next = u64::MAX;
        if self.reading {
            next = quiet.min(self.message_due_us(heard).unwrap_or(u64::MAX));
        }
        next.min(self.expires_us.unwrap_or(u64::MAX))
    }

    fn heard_us(&self, heard: Heard) -> u64 {
        heard.last_byte_us.max(self.reading_since_us)
    }

    fn message_due_us(&self, heard: Heard) -> Option<u64> {
        let since = heard.incomplete_since_us?.max(self.reading_since_us);
        Some(since.saturating_add(us(self.patience.message_time)))
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn heard(last_byte_s: u64) -> Heard {
        Heard { last_byte_us: last_byte_s * S, incomplete_since_us: None }
    }

    #[test]
    fn pings_after_silence_and_closes_after_more() {
        let mut liveness = Liveness::new(Patience::default(), 0, None);
        assert_eq!(liveness.next_us(heard(0)), 30 * S);
        assert_eq!(liveness.tick(29 * S, heard(0)), Due::Nothing);
        assert_eq!(liveness.tick(30 * S, heard(0)), Due::Ping);
        assert_eq!(liveness.next_us(heard(0)), 60 * S);
        assert_eq!(liveness.tick(59 * S, heard(0)), Due::Nothing);
        assert!(matches!(liveness.tick(60 * S, heard(0)), Due::Close(ErrorCode::IdleTimeout, _)));
    }

    #[test]
    fn any_byte_is_a_sign_of_life() {
        let mut liveness = Liveness::new(Patience::default(), 0, None);
        assert_eq!(liveness.tick(30 * S, heard(0)), Due::Ping);
        assert_eq!(liveness.next_us(heard(31)), 61 * S);
        assert_eq!(liveness.tick(61 * S, heard(31)), Due::Ping);
    }

    #[test]
    fn stands_still_while_nothing_is_read() {
        let mut liveness = Liveness::new(Patience::default(), 0, None);
        liveness.on_reading(S, false);
        assert_eq!(liveness.next_us(heard(0)), u64::MAX);
        assert_eq!(liveness.tick(500 * S, heard(0)), Due::Nothing);
        liveness.on_reading(500 * S, true);
        assert_eq!(liveness.tick(529 * S, heard(0)), Due::Nothing);
        assert_eq!(liveness.tick(530 * S, heard(0)), Due::Ping);
    }

    #[test]
    fn a_message_must_be_complete_in_time() {
        let mut liveness = Liveness::new(Patience::default(), 0, None);
        let trickle =
            |last_s: u64| Heard { last_byte_us: last_s * S, incomplete_since_us: Some(10 * S) };
        assert_eq!(liveness.tick(129 * S, trickle(129)), Due::Nothing);
        assert_eq!(liveness.next_us(trickle(129)), 130 * S);
        assert!(matches!(
            liveness.tick(130 * S, trickle(129)),
            Due::Close(ErrorCode::SlowMessage, _)
        ));
    }

    #[test]
    fn a_credential_expires_in_mid_stream() {
        let mut liveness = Liveness::new(Patience::default(), 0, Some(5 * S));
        assert_eq!(liveness.next_us(heard(0)), 5 * S);
        assert!(matches!(liveness.tick(5 * S, heard(5)), Due::Close(ErrorCode::Expired, _)));
    }
}
