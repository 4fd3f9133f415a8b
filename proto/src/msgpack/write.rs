use crate::RawValue;

/// Appends values in the shortest form, so that the same message is always the same bytes.
pub(crate) trait Write {
    fn put_map(&mut self, pairs: usize);
    fn put_array(&mut self, elements: usize);
    fn put_str(&mut self, text: &str);
    fn put_uint(&mut self, n: u64);
    fn put_int(&mut self, n: i64);
    fn put_nil(&mut self);
    fn put_value(&mut self, value: RawValue<'_>);
}

impl Write for Vec<u8> {
    fn put_map(&mut self, pairs: usize) {
        match pairs {
            0..=15 => self.push(0x80 | low_byte(pairs)),
            16..=0xffff => put_head(self, 0xde, &low_u16(pairs).to_be_bytes()),
            _ => put_head(self, 0xdf, &low_u32(pairs).to_be_bytes()),
        }
    }

    fn put_array(&mut self, elements: usize) {
        match elements {
            0..=15 => self.push(0x90 | low_byte(elements)),
            16..=0xffff => put_head(self, 0xdc, &low_u16(elements).to_be_bytes()),
            _ => put_head(self, 0xdd, &low_u32(elements).to_be_bytes()),
        }
    }

    fn put_str(&mut self, text: &str) {
        match text.len() {
            n @ 0..=31 => self.push(0xa0 | low_byte(n)),
            n @ 32..=0xff => put_head(self, 0xd9, &[low_byte(n)]),
            n @ 0x100..=0xffff => put_head(self, 0xda, &low_u16(n).to_be_bytes()),
            n => put_head(self, 0xdb, &low_u32(n).to_be_bytes()),
        }
        self.extend_from_slice(text.as_bytes());
    }

    fn put_uint(&mut self, n: u64) {
        let [.., d, c, b, a] = n.to_be_bytes();
        match n {
            0..=0x7f => self.push(a),
            0x80..=0xff => put_head(self, 0xcc, &[a]),
            0x100..=0xffff => put_head(self, 0xcd, &[b, a]),
            0x1_0000..=0xffff_ffff => put_head(self, 0xce, &[d, c, b, a]),
            _ => put_head(self, 0xcf, &n.to_be_bytes()),
        }
    }

    fn put_int(&mut self, n: i64) {
        let [.., d, c, b, a] = n.to_be_bytes();
        match n {
            0.. => self.put_uint(n.cast_unsigned()),
            -32..0 => self.push(a),
            -0x80..-32 => put_head(self, 0xd0, &[a]),
            -0x8000..-0x80 => put_head(self, 0xd1, &[b, a]),
            -0x8000_0000..-0x8000 => put_head(self, 0xd2, &[d, c, b, a]),
            _ => put_head(self, 0xd3, &n.to_be_bytes()),
        }
    }

    fn put_nil(&mut self) {
        self.push(0xc0);
    }

    fn put_value(&mut self, value: RawValue<'_>) {
        match value {
            RawValue::Float(x) => put_head(self, 0xcb, &x.to_be_bytes()),
            RawValue::Int(n) => self.put_int(n),
            RawValue::UInt(n) => self.put_uint(n),
            RawValue::Bool(b) => self.push(0xc2 | u8::from(b)),
            RawValue::Str(text) => self.put_str(text),
        }
    }
}

/// Marker and its bytes in one step: one check of the capacity instead of two.
fn put_head(out: &mut Vec<u8>, marker: u8, bytes: &[u8]) {
    out.reserve(1 + bytes.len());
    out.push(marker);
    out.extend_from_slice(bytes);
}

#[expect(clippy::cast_possible_truncation, reason = "the caller's match bounds it")]
const fn low_byte(n: usize) -> u8 {
    n as u8
}

#[expect(clippy::cast_possible_truncation, reason = "the caller's match bounds it")]
const fn low_u16(n: usize) -> u16 {
    n as u16
}

/// A message never comes near 4 GiB; the largest is bounded by `Limits::message_bytes`, 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
const fn low_u32(n: usize) -> u32 {
    n as u32
}
