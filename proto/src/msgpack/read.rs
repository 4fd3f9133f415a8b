use crate::{ErrorCode, Limits, message::MessageError};

/// Deepest nesting that the reader walks whatever the limits say: the room for its own stack.
const MAX_DEPTH: usize = 32;

/// Why bytes are refused as a whole. Small, because it travels through every return value; the
/// position is the reader's when it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsound {
    /// The bytes end inside a value.
    Truncated,
    /// 0xc1, which MessagePack never uses.
    NeverUsed,
    /// A map or array claims more elements than there are bytes.
    LongClaim,
    /// Deeper than the limit.
    TooDeep,
    /// The key of a map is not a string.
    KeyNotString,
    /// Bytes behind the end of the message.
    Trailing,
    /// Sound MessagePack, but not a message of this protocol.
    Structure(&'static str),
}

impl Unsound {
    fn what(self) -> &'static str {
        match self {
            Unsound::Truncated => "the message ends inside a value",
            Unsound::NeverUsed => "0xc1 is not MessagePack",
            Unsound::LongClaim => "a map or array claims more elements than there are bytes",
            Unsound::TooDeep => "maps and arrays are nested too deeply",
            Unsound::KeyNotString => "the key of a map is not a string",
            Unsound::Trailing => "there are bytes behind the end of the message",
            Unsound::Structure(what) => what,
        }
    }
}

/// One value, or the head of a container whose elements follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Token<'a> {
    Nil,
    Bool(bool),
    /// Any integer that fits.
    Int(i64),
    /// An integer above `i64::MAX`.
    UInt(u64),
    Float(f64),
    /// The bytes of a string, not yet known to be UTF-8.
    Str(&'a [u8]),
    Bin,
    Ext(i8, &'a [u8]),
    /// Number of elements that follow.
    Array(usize),
    /// Number of pairs that follow.
    Map(usize),
}

/// Reads values off the front of a slice. It never allocates, never recurses, and never believes
/// a length that the remaining bytes cannot hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], limits: &Limits) -> Self {
        let depth = usize::try_from(limits.depth).unwrap_or(MAX_DEPTH).min(MAX_DEPTH);
        Self { rest: bytes, total: bytes.len(), depth }
    }

    /// What has not been read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Puts the position, which is behind the value at fault, to what is wrong.
    #[cold]
    pub(crate) fn refuse(&self, unsound: Unsound) -> MessageError {
        let code = match unsound {
            Unsound::TooDeep => ErrorCode::TooDeep,
            _ => ErrorCode::Malformed,
        };
        let at = self.total - self.rest.len();
        MessageError { code, detail: format!("{} (read up to byte {at})", unsound.what()) }
    }

    /// Reads one value, or the head of a map or array. Inlined by force: where the caller wants
    /// one type only, its branch alone is left, which halves the time of the walk.
    #[inline(always)]
    pub(crate) fn token(&mut self) -> Result<Token<'a>, Unsound> {
        let marker = self.byte()?;
        Ok(match marker {
            0x00..=0x7f => Token::Int(i64::from(marker)),
            0x80..=0x8f => self.map(usize::from(marker & 0x0f))?,
            0x90..=0x9f => self.array(usize::from(marker & 0x0f))?,
            0xa0..=0xbf => Token::Str(self.take(usize::from(marker & 0x1f))?),
            0xc0 => Token::Nil,
            0xc1 => return Err(Unsound::NeverUsed),
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xc4 => self.length_u8().and_then(|n| self.bin(n))?,
            0xc5 => self.length_u16().and_then(|n| self.bin(n))?,
            0xc6 => self.length_u32().and_then(|n| self.bin(n))?,
            0xc7 => self.length_u8().and_then(|n| self.ext(n))?,
            0xc8 => self.length_u16().and_then(|n| self.ext(n))?,
            0xc9 => self.length_u32().and_then(|n| self.ext(n))?,
            0xca => Token::Float(f64::from(f32::from_be_bytes(self.chunk()?))),
            0xcb => Token::Float(f64::from_be_bytes(self.chunk()?)),
            0xcc => Token::Int(i64::from(self.byte()?)),
            0xcd => Token::Int(i64::from(u16::from_be_bytes(self.chunk()?))),
            0xce => Token::Int(i64::from(u32::from_be_bytes(self.chunk()?))),
            0xcf => {
                let n = u64::from_be_bytes(self.chunk()?);
                i64::try_from(n).map_or(Token::UInt(n), Token::Int)
            }
            0xd0 => Token::Int(i64::from(i8::from_be_bytes(self.chunk()?))),
            0xd1 => Token::Int(i64::from(i16::from_be_bytes(self.chunk()?))),
            0xd2 => Token::Int(i64::from(i32::from_be_bytes(self.chunk()?))),
            0xd3 => Token::Int(i64::from_be_bytes(self.chunk()?)),
            0xd4 => self.ext(1)?,
            0xd5 => self.ext(2)?,
            0xd6 => self.ext(4)?,
            0xd7 => self.ext(8)?,
            0xd8 => self.ext(16)?,
            0xd9 => Token::Str(self.length_u8().and_then(|n| self.take(n))?),
            0xda => Token::Str(self.length_u16().and_then(|n| self.take(n))?),
            0xdb => Token::Str(self.length_u32().and_then(|n| self.take(n))?),
            0xdc => self.length_u16().and_then(|n| self.array(n))?,
            0xdd => self.length_u32().and_then(|n| self.array(n))?,
            0xde => self.length_u16().and_then(|n| self.map(n))?,
            0xdf => self.length_u32().and_then(|n| self.map(n))?,
            0xe0..=0xff => Token::Int(i64::from(marker.cast_signed())),
        })
    }

    /// Reads the key of a map: the bytes of a string.
    #[inline]
    pub(crate) fn key(&mut self) -> Result<&'a [u8], Unsound> {
        match self.rest.split_first() {
            Some((&marker @ 0xa0..=0xbf, rest)) => {
                self.rest = rest;
                self.take(usize::from(marker & 0x1f))
            }
            _ => self.long_key(),
        }
    }

    #[cold]
    fn long_key(&mut self) -> Result<&'a [u8], Unsound> {
        match self.token()? {
            Token::Str(bytes) => Ok(bytes),
            _ => Err(Unsound::KeyNotString),
        }
    }

    /// Reads exactly these bytes if they come next: the fast way past what is expected.
    #[inline]
    pub(crate) fn eat<const N: usize>(&mut self, expected: &[u8; N]) -> bool {
        match self.rest.split_first_chunk() {
            Some((found, rest)) if found == expected => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    /// Reads one value and everything inside it; `level` is its depth in the message if it is a
    /// container (the message's own map is 1).
    #[inline(never)]
    pub(crate) fn skip(&mut self, level: usize) -> Result<(), Unsound> {
        let token = self.token()?;
        self.skip_inside(token, level)
    }

    /// Reads what is inside a token that was read already.
    #[inline]
    pub(crate) fn skip_inside(&mut self, token: Token<'a>, level: usize) -> Result<(), Unsound> {
        match elements(token) {
            None => Ok(()),
            Some(elements) => self.skip_elements(elements, level),
        }
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), Unsound> {
        if self.rest.is_empty() { Ok(()) } else { Err(Unsound::Trailing) }
    }

    fn skip_elements(&mut self, elements_left: usize, level: usize) -> Result<(), Unsound> {
        if level > self.depth {
            return Err(Unsound::TooDeep);
        }
        // Elements still to come in each open container; its height is what `depth` bounds.
        let mut open = [0_usize; MAX_DEPTH + 1];
        let mut top = level;
        open[top] = elements_left;
        loop {
            if open[top] == 0 {
                if top == level {
                    return Ok(());
                }
                top -= 1;
                continue;
            }
            open[top] -= 1;
            if let Some(inside) = elements(self.token()?) {
                top += 1;
                if top > self.depth {
                    return Err(Unsound::TooDeep);
                }
                open[top] = inside;
            }
        }
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Unsound> {
        let (&byte, rest) = self.rest.split_first().ok_or(Unsound::Truncated)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Unsound> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(Unsound::Truncated)?;
        self.rest = rest;
        Ok(*chunk)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Unsound> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(Unsound::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    fn length_u8(&mut self) -> Result<usize, Unsound> {
        self.byte().map(usize::from)
    }

    #[inline]
    fn length_u16(&mut self) -> Result<usize, Unsound> {
        Ok(usize::from(u16::from_be_bytes(self.chunk()?)))
    }

    #[inline]
    fn length_u32(&mut self) -> Result<usize, Unsound> {
        Ok(u32::from_be_bytes(self.chunk()?) as usize)
    }

    fn bin(&mut self, length: usize) -> Result<Token<'a>, Unsound> {
        self.take(length).map(|_| Token::Bin)
    }

    fn ext(&mut self, length: usize) -> Result<Token<'a>, Unsound> {
        let [kind] = self.chunk()?;
        Ok(Token::Ext(kind.cast_signed(), self.take(length)?))
    }

    /// An element takes a byte at least, so a claim beyond the bytes is refused at its head.
    #[inline]
    fn array(&self, count: usize) -> Result<Token<'a>, Unsound> {
        if count > self.rest.len() {
            return Err(Unsound::LongClaim);
        }
        Ok(Token::Array(count))
    }

    #[inline]
    fn map(&self, count: usize) -> Result<Token<'a>, Unsound> {
        if count > self.rest.len() / 2 {
            return Err(Unsound::LongClaim);
        }
        Ok(Token::Map(count))
    }
}

/// How many values follow inside a token.
#[inline]
fn elements(token: Token<'_>) -> Option<usize> {
    match token {
        Token::Array(count) => Some(count),
        Token::Map(count) => Some(count * 2),
        _ => None,
    }
}
