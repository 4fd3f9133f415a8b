//! Bytes on disk: segment headers, frames, state files. `FORMAT.md` is the normative text.

use crate::record::Position;
use crc32c::{crc32c, crc32c_append};
use uuid::Uuid;

/// The version that this gateway writes, and the newest that it reads.
pub(super) const VERSION: u32 = 1;
/// Length of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Length of a frame before its payload.
pub(super) const FRAME_HEADER_BYTES: usize = 28;
/// What a frame adds to its payload.
pub(super) const FRAME_OVERHEAD_BYTES: usize = FRAME_HEADER_BYTES + 4;
/// Length of a state file.
pub(super) const STATE_BYTES: usize = 64;
/// A frame that claims more is not a frame, whatever the configured limit was when it was written.
pub(super) const MAX_PAYLOAD_BYTES: u32 = 16 * 1024 * 1024;

/// Both kinds of frame begin with this byte, which no UTF-8 text and few numbers contain.
pub(super) const FRAME_FIRST_BYTE: u8 = 0xF8;
const RECORD_MAGIC: [u8; 4] = [FRAME_FIRST_BYTE, b'R', b'E', b'C'];
const SEAL_MAGIC: [u8; 4] = [FRAME_FIRST_BYTE, b'E', b'N', b'D'];
const SEGMENT_MAGIC: [u8; 8] = *b"GWLOGSEG";

/// Seed of the checksums of one segment: a frame that was moved to another offset, segment or log
/// does not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn new(uuid: Uuid, base: Position) -> Self {
        Self(crc32c_append(crc32c(uuid.as_bytes()), &base.0.to_le_bytes()))
    }

    fn at(self, offset: u64) -> u32 {
        crc32c_append(self.0, &offset.to_le_bytes())
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// A record.
    Record,
    /// Bears `durable_upto` and no record; takes no position.
    Seal,
}

/// The header of a frame, its checksum verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) kind: FrameKind,
    /// Length of the payload.
    pub(super) length: u32,
    /// Of a record its own; of a seal that of the record before it.
    pub(super) position: Position,
    /// The highest position that was known to be durable when the frame was written.
    pub(super) durable_upto: Position,
    crc: u32,
}

impl FrameHeader {
    /// Length of the whole frame.
    pub(super) fn frame_bytes(&self) -> usize {
        FRAME_OVERHEAD_BYTES + self.length as usize
    }

    /// Whether `rest`, the payload and its checksum, is what was written.
    pub(super) fn matches(&self, rest: &[u8]) -> bool {
        rest.split_last_chunk::<4>().is_some_and(|(payload, crc)| {
            crc32c_append(self.crc, payload) == u32::from_le_bytes(*crc)
        })
    }

    /// Reads a header found at `offset`; `None` if this is not one.
    pub(super) fn parse(salt: Salt, offset: u64, bytes: &[u8; FRAME_HEADER_BYTES]) -> Option<Self> {
        let kind = match field(bytes, 0) {
            RECORD_MAGIC => FrameKind::Record,
            SEAL_MAGIC => FrameKind::Seal,
            _ => return None,
        };
        let length = u32::from_le_bytes(field(bytes, 4));
        let crc = u32::from_le_bytes(field(bytes, 24));
        if length > MAX_PAYLOAD_BYTES
            || (kind == FrameKind::Seal && length != 0)
            || crc != crc32c_append(salt.at(offset), &bytes[..24])
        {
            return None;
        }
        Some(Self {
            kind,
            length,
            position: Position(u64::from_le_bytes(field(bytes, 8))),
            durable_upto: Position(u64::from_le_bytes(field(bytes, 16))),
            crc,
        })
    }
}

/// Appends a record's frame to `out`; it will stand at `offset`.
pub(super) fn encode_record(
    out: &mut Vec<u8>,
    salt: Salt,
    offset: u64,
    position: Position,
    durable_upto: Position,
    parts: &[&[u8]],
) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(FRAME_OVERHEAD_BYTES + length);
    // The caller has compared the length with a limit below MAX_PAYLOAD_BYTES.
    #[expect(clippy::cast_possible_truncation)]
    let mut crc =
        encode_header(out, salt, offset, RECORD_MAGIC, length as u32, position, durable_upto);
    for part in parts {
        crc = crc32c_append(crc, part);
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&crc.to_le_bytes());
}

/// A seal that will stand at `offset`.
pub(super) fn encode_seal(out: &mut Vec<u8>, salt: Salt, offset: u64, durable: Position) {
    let crc = encode_header(out, salt, offset, SEAL_MAGIC, 0, durable, durable);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// The checksum of the payload goes on from the one of the header, so that it is salted too, and
/// a payload fits no other header.
fn encode_header(
    out: &mut Vec<u8>,
    salt: Salt,
    offset: u64,
    magic: [u8; 4],
    length: u32,
    position: Position,
    durable_upto: Position,
) -> u32 {
    let mut header = [0; FRAME_HEADER_BYTES];
    header[0..4].copy_from_slice(&magic);
    header[4..8].copy_from_slice(&length.to_le_bytes());
    header[8..16].copy_from_slice(&position.0.to_le_bytes());
    header[16..24].copy_from_slice(&durable_upto.0.to_le_bytes());
    let crc = crc32c_append(salt.at(offset), &header[..24]);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&header);
    crc
}

/// What is at the place of a segment's header or a state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Valid.
    Valid {
        /// The log that it belongs to.
        uuid: Uuid,
        /// Base position, low-water mark, or time of creation.
        value: u64,
        /// Time of creation of a segment.
        created_at_ns: i64,
    },
    /// Valid, and of a version that this gateway does not know.
    Newer(u32),
    /// Neither.
    Damaged,
}

/// The first 64 bytes of a segment.
pub(super) fn encode_segment_header(
    uuid: Uuid,
    base: Position,
    created_at_ns: i64,
) -> [u8; SEGMENT_HEADER_BYTES] {
    encode_head(SEGMENT_MAGIC, uuid, base.0, created_at_ns)
}

/// Reads the first 64 bytes of a segment.
pub(super) fn parse_segment_header(bytes: &[u8]) -> Head {
    parse_head(SEGMENT_MAGIC, bytes)
}

/// Segment headers and state files have one layout, which no later version changes in its magic,
/// version and checksum: so a damaged one is never taken for a newer one.
pub(super) fn encode_head(
    magic: [u8; 8],
    uuid: Uuid,
    value: u64,
    created_at_ns: i64,
) -> [u8; STATE_BYTES] {
    let mut out = [0; STATE_BYTES];
    out[0..8].copy_from_slice(&magic);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..32].copy_from_slice(uuid.as_bytes());
    out[32..40].copy_from_slice(&value.to_le_bytes());
    out[40..48].copy_from_slice(&created_at_ns.to_le_bytes());
    let crc = crc32c(&out[..60]);
    out[60..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The inverse of [`encode_head`].
pub(super) fn parse_head(magic: [u8; 8], bytes: &[u8]) -> Head {
    let Some(bytes) = bytes.first_chunk::<STATE_BYTES>() else { return Head::Damaged };
    if bytes[..8] != magic || crc32c(&bytes[..60]) != u32::from_le_bytes(field(bytes, 60)) {
        return Head::Damaged;
    }
    match u32::from_le_bytes(field(bytes, 8)) {
        VERSION => Head::Valid {
            uuid: Uuid::from_bytes(field(bytes, 16)),
            value: u64::from_le_bytes(field(bytes, 32)),
            created_at_ns: i64::from_le_bytes(field(bytes, 40)),
        },
        version => Head::Newer(version),
    }
}

fn field<const N: usize, const M: usize>(bytes: &[u8; M], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(salt: Salt, offset: u64, frame: &[u8]) -> Option<FrameHeader> {
        let header = FrameHeader::parse(salt, offset, frame.first_chunk()?)?;
        header.matches(&frame[FRAME_HEADER_BYTES..]).then_some(header)
    }

    #[test]
    fn a_frame_is_a_frame_only_where_it_was_written() {
        let uuid = Uuid::from_u128(7);
        let salt = Salt::new(uuid, Position(1));
        let mut frame = Vec::new();
        encode_record(&mut frame, salt, 64, Position(1), Position(0), &[b"he", b"llo"]);
        let header = parse(salt, 64, &frame).unwrap();
        assert_eq!((header.length, header.position), (5, Position(1)));
        assert_eq!(parse(salt, 65, &frame), None, "another offset");
        assert_eq!(parse(Salt::new(uuid, Position(2)), 64, &frame), None, "another segment");
        let other = Salt::new(Uuid::from_u128(8), Position(1));
        assert_eq!(parse(other, 64, &frame), None, "another log");
        assert_eq!(parse(salt, 64, &vec![0; frame.len()]), None, "zeroed space");
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let salt = Salt::new(Uuid::from_u128(7), Position(1));
        let mut frame = Vec::new();
        encode_record(&mut frame, salt, 64, Position(1), Position(0), &[b"hello"]);
        encode_seal(&mut frame, salt, 64 + 37, Position(1));
        for bit in 0..frame.len() * 8 {
            let mut flipped = frame.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let both = parse(salt, 64, &flipped[..37]).is_some()
                && parse(salt, 64 + 37, &flipped[37..]).is_some();
            assert!(!both, "bit {bit}");
        }
        let head = encode_segment_header(Uuid::from_u128(7), Position(1), 5);
        for bit in 0..head.len() * 8 {
            let mut flipped = head;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse_segment_header(&flipped), Head::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn a_length_over_the_bound_is_refused_before_it_is_believed() {
        let salt = Salt::new(Uuid::from_u128(7), Position(1));
        let mut frame = Vec::new();
        let crc = encode_header(
            &mut frame,
            salt,
            64,
            RECORD_MAGIC,
            MAX_PAYLOAD_BYTES + 1,
            Position(1),
            Position(0),
        );
        frame.extend_from_slice(&crc.to_le_bytes());
        assert_eq!(FrameHeader::parse(salt, 64, frame.first_chunk().unwrap()), None);
    }
}
