use super::{DeviceMessage, GatewayMessage, Hello, MessageError, TimeUnit};
use crate::{
    ErrorCode, Limits, MAX_SEQ,
    limits::{MAX_ABOUT_BYTES, MAX_NAME_BYTES, MIN_MAX_RX},
    msgpack::{Reader, Token, Unsound},
};

/// Depth of what a body holds: the message's map is 1, the body 2.
const LEVEL_BODY: usize = 2;
const LEVEL_INSIDE_BODY: usize = 3;

impl<'a> DeviceMessage<'a> {
    /// Reads the kind of a message and, unless it is a batch, its body.
    ///
    /// # Errors
    /// Too large, not sound MessagePack, not one map with one key, an unknown kind, or a `hello`
    /// with a value that is out of its range. A batch body is checked by [`crate::Batch::open`].
    pub fn decode(bytes: &'a [u8], limits: &Limits) -> Result<Self, MessageError> {
        if u32::try_from(bytes.len()).map_or(true, |length| length > limits.message_bytes) {
            let (length, limit) = (bytes.len(), limits.message_bytes);
            let detail = format!("{length} bytes, the limit is {limit}");
            return Err(MessageError { code: ErrorCode::TooLarge, detail });
        }
        let mut reader = Reader::new(bytes, limits);
        let read = |reader: &mut Reader<'a>| {
            Ok(Some(match kind(reader)? {
                b"batch" => DeviceMessage::Batch(reader.rest()),
                b"hello" => DeviceMessage::Hello(hello(reader)?),
                b"result" => reserved(reader, "result")?,
                b"auth" => reserved(reader, "auth")?,
                _ => {
                    reader.skip(LEVEL_BODY)?;
                    reader.end()?;
                    return Ok(None);
                }
            }))
        };
        read(&mut reader)
            .map_err(|unsound| reader.refuse(unsound))?
            .ok_or_else(|| unknown_kind(bytes, limits))
    }
}

impl GatewayMessage {
    /// Reads a message of the gateway. A device ignores one of an unknown kind
    /// ([`ErrorCode::UnknownKind`]): later versions may send more.
    ///
    /// # Errors
    /// Not sound MessagePack, or not a message of this protocol.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let limits = Limits::default();
        let mut reader = Reader::new(bytes, &limits);
        let kind = kind(&mut reader)
            .and_then(|kind| {
                reader.skip(LEVEL_BODY)?;
                reader.end()?;
                Ok(kind)
            })
            .map_err(|unsound| reader.refuse(unsound))?;
        if !matches!(kind, b"welcome" | b"ack" | b"nack" | b"goodbye") {
            return Err(unknown_kind(bytes, &limits));
        }
        rmp_serde::from_slice(bytes).map_err(|error| MessageError {
            code: ErrorCode::Malformed,
            detail: format!("not a message of the gateway: {error}"),
        })
    }
}

/// Reads the head of a message up to its body.
fn kind<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Unsound> {
    match reader.token()? {
        Token::Map(1) => reader.key(),
        _ => Err(Unsound::Structure("the message is not a map with exactly one key, its kind")),
    }
}

fn reserved<'a>(reader: &mut Reader<'a>, kind: &'static str) -> Result<DeviceMessage<'a>, Unsound> {
    reader.skip(LEVEL_BODY)?;
    reader.end()?;
    Ok(DeviceMessage::Reserved(kind))
}

#[cold]
fn unknown_kind(bytes: &[u8], limits: &Limits) -> MessageError {
    let mut reader = Reader::new(bytes, limits);
    let name = kind(&mut reader).unwrap_or_default();
    let name = String::from_utf8_lossy(&name[..name.len().min(32)]);
    MessageError { code: ErrorCode::UnknownKind, detail: format!("unknown kind {name:?}") }
}

fn hello(reader: &mut Reader<'_>) -> Result<Hello, Unsound> {
    let Token::Map(pairs) = reader.token()? else {
        return Err(Unsound::Structure("the body of `hello` is not a map"));
    };
    let mut hello = Hello::default();
    let mut time_unit = None;
    for _ in 0..pairs {
        match reader.key()? {
            b"stream" => once(&mut hello.stream, stream(reader)?)?,
            b"time_unit" => once(&mut time_unit, unit(reader)?)?,
            b"measurement" => once(&mut hello.measurement, text(reader, MAX_NAME_BYTES)?)?,
            b"max_rx" => once(&mut hello.max_rx, max_rx(reader)?)?,
            b"firmware" => once(&mut hello.firmware, text(reader, MAX_ABOUT_BYTES)?)?,
            b"model" => once(&mut hello.model, text(reader, MAX_ABOUT_BYTES)?)?,
            _ => reader.skip(LEVEL_INSIDE_BODY)?,
        }
    }
    reader.end()?;
    hello.time_unit = time_unit.unwrap_or_default();
    Ok(hello)
}

/// Fills a key's place; nil leaves it as if the key were absent.
fn once<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), Unsound> {
    match (&slot, value) {
        (Some(_), _) => Err(Unsound::Structure("`hello` has a key twice")),
        (None, value) => {
            *slot = value;
            Ok(())
        }
    }
}

fn stream(reader: &mut Reader<'_>) -> Result<Option<u64>, Unsound> {
    match reader.token()? {
        Token::Nil => Ok(None),
        Token::Int(n) if n > 0 && n.cast_unsigned() <= MAX_SEQ => Ok(Some(n.cast_unsigned())),
        _ => Err(Unsound::Structure("`stream` is not an integer from 1 to 2^53-1")),
    }
}

fn unit(reader: &mut Reader<'_>) -> Result<Option<TimeUnit>, Unsound> {
    match reader.token()? {
        Token::Nil => Ok(None),
        Token::Str(b"s") => Ok(Some(TimeUnit::S)),
        Token::Str(b"ms") => Ok(Some(TimeUnit::Ms)),
        Token::Str(b"us") => Ok(Some(TimeUnit::Us)),
        Token::Str(b"ns") => Ok(Some(TimeUnit::Ns)),
        _ => Err(Unsound::Structure("`time_unit` is none of s, ms, us, ns")),
    }
}

fn max_rx(reader: &mut Reader<'_>) -> Result<Option<u32>, Unsound> {
    match reader.token()? {
        Token::Nil => Ok(None),
        Token::Int(n) if n >= i64::from(MIN_MAX_RX) => {
            Ok(Some(u32::try_from(n).unwrap_or(u32::MAX)))
        }
        _ => Err(Unsound::Structure("`max_rx` is not an integer of at least 1024")),
    }
}

fn text(reader: &mut Reader<'_>, max_bytes: usize) -> Result<Option<String>, Unsound> {
    match reader.token()? {
        Token::Nil => Ok(None),
        Token::Str(bytes) if bytes.len() <= max_bytes => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Unsound::Structure("a text in `hello` is not UTF-8")),
        },
        _ => Err(Unsound::Structure("a text in `hello` is not a string of at most 128 bytes")),
    }
}
