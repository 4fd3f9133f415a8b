//! WebSocket frames (RFC 6455) as a client writes and reads them.
//!
//! The generator writes its frames itself so that a prepared message costs a copy and the few bytes
//! of its number: the mask of a frame is drawn when it is prepared, not for each sending. Servers
//! unmask it all the same.

use anyhow::{Result, bail};

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// Further bytes of a message.
    Continuation,
    /// Text.
    Text,
    /// Bytes.
    Binary,
    /// The end.
    Close,
    /// To be answered by a pong.
    Ping,
    /// Answer to a ping.
    Pong,
}

impl Opcode {
    const fn bits(self) -> u8 {
        match self {
            Opcode::Continuation => 0,
            Opcode::Text => 1,
            Opcode::Binary => 2,
            Opcode::Close => 8,
            Opcode::Ping => 9,
            Opcode::Pong => 10,
        }
    }

    fn from_bits(bits: u8) -> Result<Self> {
        Ok(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => bail!("a frame of the unknown kind {bits}"),
        })
    }
}

/// A frame that is ready to be sent but for its number.
#[derive(Debug, Clone)]
pub struct Prepared {
    bytes: Vec<u8>,
    /// Where the number stands, and how many bytes it has.
    number: std::ops::Range<usize>,
    /// The mask of the number's bytes.
    mask: u64,
}

impl Prepared {
    /// A masked binary frame whose payload has a big-endian number of at most eight bytes in
    /// `number`.
    pub fn new(payload: &[u8], number: std::ops::Range<usize>) -> Self {
        let mut bytes = Vec::new();
        let mask = fastrand::u32(..).to_be_bytes();
        let start = put_masked(&mut bytes, Opcode::Binary, payload, mask);
        let masks =
            number.clone().fold(0, |masks, at| masks << 8 | u64::from(mask[at % mask.len()]));
        Self { bytes, number: start + number.start..start + number.end, mask: masks }
    }

    /// Appends the frame with this number.
    pub fn put(&self, number: u64, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.bytes);
        let masked = (number ^ self.mask).to_be_bytes();
        let number = at + self.number.start..at + self.number.end;
        let tail = masked.len() - number.len();
        out[number].copy_from_slice(&masked[tail..]);
    }

    /// Bytes of the frame.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Appends a frame with a mask of its own.
pub fn put(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    put_masked(out, opcode, payload, fastrand::u32(..).to_be_bytes());
}

/// Appends a frame; says where its payload begins.
fn put_masked(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) -> usize {
    const FIN: u8 = 0x80;
    const MASKED: u8 = 0x80;
    out.push(FIN | opcode.bits());
    match payload.len() {
        len @ 0..=125 => out.push(MASKED | len as u8),
        len @ 126..=0xffff => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    start
}

/// The first frame of `bytes` from a server, and how many bytes it has; `None` if it is not
/// complete.
///
/// # Errors
/// Not a frame that a server may send.
pub fn next(bytes: &[u8]) -> Result<Option<(Opcode, &[u8], usize)>> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let opcode = Opcode::from_bits(first & 0x0f)?;
    if first & 0x70 != 0 || second & 0x80 != 0 {
        bail!("a frame with reserved bits or a mask");
    }
    let (len, header) = match (second, rest) {
        (126, &[a, b, ..]) => (usize::from(u16::from_be_bytes([a, b])), 4),
        (127, &[a, b, c, d, e, f, g, h, ..]) => {
            (usize::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h]))?, 10)
        }
        (126 | 127, _) => return Ok(None),
        (len, _) => (usize::from(len), 2),
    };
    let end = header + len;
    Ok(bytes.get(header..end).map(|payload| (opcode, payload, end)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn unmasked(frame: &[u8]) -> Vec<u8> {
        let header = match frame[1] & 0x7f {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        let (mask, payload) = frame[header..].split_at(4);
        payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }

    #[test]
    fn the_number_is_written_under_the_mask() {
        for (len, at) in [(10, 0..4), (125, 3..5), (126, 1..5), (70_000, 60_001..60_009)] {
            let payload: Vec<u8> = (0..len).map(|n: u32| n as u8).collect();
            let prepared = Prepared::new(&payload, at.clone());
            let mut out = vec![7];
            prepared.put(0x0102_0304, &mut out);
            assert_eq!(out.len(), 1 + prepared.len());
            let mut expected = payload;
            let width = at.len();
            expected[at].copy_from_slice(&0x0102_0304_u64.to_be_bytes()[8 - width..]);
            assert_eq!(unmasked(&out[1..]), expected, "{len}");
        }
    }

    #[test]
    fn frames_of_a_server_are_read_one_by_one() {
        let bytes = b"\x82\x02ab\x8a\x00\x82\x7e\x00\x80";
        let (opcode, payload, end) = next(bytes).unwrap().unwrap();
        assert_eq!((opcode, payload), (Opcode::Binary, &b"ab"[..]));
        let (opcode, payload, pong) = next(&bytes[end..]).unwrap().unwrap();
        assert_eq!((opcode, payload), (Opcode::Pong, &b""[..]));
        assert!(next(&bytes[end + pong..]).unwrap().is_none());
        assert!(next(b"\x82").unwrap().is_none());
        assert!(next(b"\x82\x82....ab").is_err());
        assert!(next(b"\x83\x00").is_err());
    }
}
