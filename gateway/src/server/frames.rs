//! Watches the frames of a WebSocket go by, below the library that reads them: that one surfaces
//! neither fragments nor partial messages.
//!
//! It only counts; what a frame may look like is the library's business.

/// Most frames of one message. A sender that cuts 256 KiB into pieces of 256 bytes stays below.
const MAX_FRAMES_PER_MESSAGE: u32 = 1_024;
/// Most control frames in a second.
const MAX_CONTROL_FRAMES_PER_SECOND: u32 = 100;
const SECOND_US: u64 = 1_000_000;
/// Two bytes, an extended length of eight and a mask of four.
const MAX_HEADER_BYTES: usize = 14;

/// A limit that the device has exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// Too many pings and pongs.
    ControlFrames,
    /// A message in too many pieces.
    Fragments,
}

#[derive(Debug, Default)]
pub(super) struct FrameWatch {
    header: [u8; MAX_HEADER_BYTES],
    header_bytes: u8,
    payload_left: u64,
    /// Frames of the data message that is under way; 0 between messages.
    frames: u32,
    /// When the first byte came of what is incomplete.
    incomplete_since_us: Option<u64>,
    message_since_us: u64,
    control_second: u64,
    control_frames: u32,
}

impl FrameWatch {
    /// Bytes have come.
    pub(super) fn feed(&mut self, mut bytes: &[u8], now_us: u64) -> Result<(), Excess> {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let passed = usize::try_from(self.payload_left)
                    .map_or(bytes.len(), |left| left.min(bytes.len()));
                bytes = &bytes[passed..];
                self.payload_left -= passed as u64;
            } else {
                self.incomplete_since_us.get_or_insert(now_us);
                self.header[usize::from(self.header_bytes)] = bytes[0];
                self.header_bytes += 1;
                bytes = &bytes[1..];
                if !self.header_is_complete() {
                    continue;
                }
                self.begin_frame(now_us)?;
            }
            if self.payload_left == 0 {
                self.end_frame();
            }
        }
        Ok(())
    }

    /// Since when a frame or a message has been incomplete.
    pub(super) fn incomplete_since_us(&self) -> Option<u64> {
        self.incomplete_since_us
    }

    fn header_is_complete(&self) -> bool {
        let have = usize::from(self.header_bytes);
        have >= 2 && have == self.header_length()
    }

    fn header_length(&self) -> usize {
        let extended = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + extended + mask
    }

    fn is_control(&self) -> bool {
        self.header[0] & 0x08 != 0
    }

    fn is_final(&self) -> bool {
        self.header[0] & 0x80 != 0
    }

    fn begin_frame(&mut self, now_us: u64) -> Result<(), Excess> {
        let [_, length, extended @ ..] = &self.header;
        let mut wide = [0; 8];
        self.payload_left = match length & 0x7f {
            126 => {
                wide[6..].copy_from_slice(&extended[..2]);
                u64::from_be_bytes(wide)
            }
            127 => {
                wide.copy_from_slice(&extended[..8]);
                u64::from_be_bytes(wide)
            }
            short => u64::from(short),
        };
        self.header_bytes = 0;
        if self.is_control() {
            let second = now_us / SECOND_US;
            if self.control_second != second {
                self.control_second = second;
                self.control_frames = 0;
            }
            self.control_frames += 1;
            if self.control_frames > MAX_CONTROL_FRAMES_PER_SECOND {
                return Err(Excess::ControlFrames);
            }
        } else {
            if self.frames == 0 {
                self.message_since_us = self.incomplete_since_us.unwrap_or(now_us);
            }
            self.frames += 1;
            if self.frames > MAX_FRAMES_PER_MESSAGE {
                return Err(Excess::Fragments);
            }
        }
        Ok(())
    }

    fn end_frame(&mut self) {
        if !self.is_control() && self.is_final() {
            self.frames = 0;
        }
        self.incomplete_since_us = (self.frames > 0).then_some(self.message_since_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINAL: u8 = 0x80;
    const BINARY: u8 = 2;
    const PING: u8 = 9;

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload {
            0..126 => bytes.push(0x80 | payload as u8),
            126..65536 => {
                bytes.push(0x80 | 126);
                bytes.extend((payload as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        bytes.resize(bytes.len() + payload, 0x89);
        bytes
    }

    #[test]
    fn finds_the_end_of_a_message_however_it_is_cut() {
        for payload in [0, 1, 125, 126, 300, 65_535, 65_536, 70_000] {
            let bytes = frame(FINAL | BINARY, payload);
            for piece in [1, 2, 3, 7, bytes.len()] {
                let mut watch = FrameWatch::default();
                for (at, part) in bytes.chunks(piece).enumerate() {
                    assert!(at == 0 || watch.incomplete_since_us() == Some(7), "{payload}");
                    assert_eq!(watch.feed(part, 7 + at as u64), Ok(()));
                }
                assert_eq!(watch.incomplete_since_us(), None, "{payload} in {piece}");
            }
        }
    }

    #[test]
    fn a_ping_inside_a_message_does_not_end_it() {
        let mut watch = FrameWatch::default();
        assert_eq!(watch.feed(&frame(BINARY, 10), 1), Ok(()));
        assert_eq!(watch.feed(&frame(FINAL | PING, 3), 2), Ok(()));
        assert_eq!(watch.incomplete_since_us(), Some(1));
        assert_eq!(watch.feed(&frame(FINAL, 10), 3), Ok(()));
        assert_eq!(watch.incomplete_since_us(), None);
    }

    #[test]
    fn endless_fragments_and_ping_floods_are_noticed() {
        let mut watch = FrameWatch::default();
        assert_eq!(watch.feed(&frame(BINARY, 0), 1), Ok(()));
        let excess = (0..2_000).find_map(|_| watch.feed(&frame(0, 0), 1).err());
        assert_eq!(excess, Some(Excess::Fragments));

        let mut watch = FrameWatch::default();
        for second in 0..5 {
            for _ in 0..MAX_CONTROL_FRAMES_PER_SECOND {
                assert_eq!(watch.feed(&frame(FINAL | PING, 1), second * SECOND_US), Ok(()));
            }
        }
        let flood = watch.feed(&frame(FINAL | PING, 1), 4 * SECOND_US);
        assert_eq!(flood, Err(Excess::ControlFrames));
    }
}
