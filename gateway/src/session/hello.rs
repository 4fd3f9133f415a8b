//! What a `hello` asks for, and whether it may.

use super::{Close, CloseCode};
use proto::{
    ErrorCode, Hello, MAX_SEQ, TimeUnit,
    limits::{DEFAULT_MAX_RX, MAX_NAME_BYTES, MIN_MAX_RX},
};

/// What both sides have agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// The device's stream; `None` is private to the connection.
    pub stream: Option<u64>,
    /// Unit of `time` in the readings.
    pub time_unit: TimeUnit,
    /// Measurement of the readings that name none.
    pub measurement: Option<Box<str>>,
    /// Largest message that the device can take, in bytes.
    pub max_rx: u32,
}

impl Default for Agreed {
    fn default() -> Self {
        Self {
            stream: None,
            time_unit: TimeUnit::default(),
            measurement: None,
            max_rx: DEFAULT_MAX_RX,
        }
    }
}

/// Takes a hello.
pub(super) fn agree(hello: Hello) -> Result<Agreed, Close> {
    if hello.stream.is_some_and(|stream| !(1..=MAX_SEQ).contains(&stream)) {
        return Err(Close {
            close: CloseCode::Invalid,
            code: ErrorCode::Malformed,
            reason: "hello: stream must be 1 to 2^53-1".to_owned(),
        });
    }
    if let Some(code) = hello.measurement.as_deref().and_then(fault_of_name) {
        return Err(Close {
            close: CloseCode::Invalid,
            code,
            reason: format!("hello: measurement: {code}"),
        });
    }
    Ok(Agreed {
        stream: hello.stream,
        time_unit: hello.time_unit,
        measurement: hello.measurement.map(Into::into),
        max_rx: hello.max_rx.unwrap_or(DEFAULT_MAX_RX).max(MIN_MAX_RX),
    })
}

fn fault_of_name(name: &str) -> Option<ErrorCode> {
    if name.is_empty() || name.starts_with('_') || name.chars().any(char::is_control) {
        Some(ErrorCode::BadName)
    } else if name.len() > MAX_NAME_BYTES {
        Some(ErrorCode::NameTooLong)
    } else if name.starts_with("gateway_") {
        Some(ErrorCode::ReservedName)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_it_may() {
        let hello = |stream, measurement: Option<&str>| Hello {
            stream,
            measurement: measurement.map(str::to_owned),
            ..Hello::default()
        };
        let long = "x".repeat(129);
        for (hello, code) in [
            (hello(None, None), None),
            (hello(Some(1), Some("air")), None),
            (hello(Some(MAX_SEQ), Some(&long[..128])), None),
            (hello(Some(0), None), Some(ErrorCode::Malformed)),
            (hello(Some(MAX_SEQ + 1), None), Some(ErrorCode::Malformed)),
            (hello(None, Some("")), Some(ErrorCode::BadName)),
            (hello(None, Some("_x")), Some(ErrorCode::BadName)),
            (hello(None, Some("a\nb")), Some(ErrorCode::BadName)),
            (hello(None, Some(&long)), Some(ErrorCode::NameTooLong)),
            (hello(None, Some("gateway_x")), Some(ErrorCode::ReservedName)),
        ] {
            let text = format!("{hello:?}");
            assert_eq!(agree(hello).err().map(|close| close.code), code, "{text}");
        }
    }
}
