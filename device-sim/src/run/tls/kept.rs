//! Bytes that wait, and take no memory once they are gone.

use tokio::io::ReadBuf;

/// Bytes in their order; the memory is given back with the last of them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    /// So many of them are gone.
    gone: usize,
}

impl Kept {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What waits.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// The first so many bytes are gone.
    pub(super) fn advance(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Lets bytes be appended, and nothing else be done to them.
    pub(super) fn append(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        append(&mut self.bytes);
    }

    /// Gives what waits, as far as there is room.
    pub(super) fn give(&mut self, to: &mut ReadBuf<'_>) {
        let count = to.remaining().min(self.bytes().len());
        to.put_slice(&self.bytes()[..count]);
        self.advance(count);
    }

    /// Gives bytes that come after all that wait, as far as there is room, and keeps the rest.
    pub(super) fn give_or_keep(&mut self, bytes: &[u8], to: &mut ReadBuf<'_>) {
        let count = if self.is_empty() { to.remaining().min(bytes.len()) } else { 0 };
        to.put_slice(&bytes[..count]);
        self.bytes.extend_from_slice(&bytes[count..]);
    }
}

#[cfg(test)]
impl Kept {
    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_their_order() {
        let mut kept = Kept::default();
        let (mut room, mut more) = ([0; 3], [0; 9]);
        let mut to = ReadBuf::new(&mut room);
        kept.give_or_keep(b"first", &mut to);
        assert_eq!(to.filled(), b"fir");
        let mut to = ReadBuf::new(&mut more);
        kept.give_or_keep(b"next", &mut to);
        assert_eq!((to.filled().len(), kept.bytes()), (0, &b"stnext"[..]));
        kept.give(&mut to);
        assert_eq!((to.filled(), kept.is_empty(), kept.memory()), (&b"stnext"[..], true, 0));
    }
}
