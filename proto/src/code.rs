//! Error codes that a device sees, one closed enum.
//!
//! The text (`as_str`) is part of the wire format and the number (`number`) is part of the disk
//! format; neither ever changes or is used again for something else.

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $text:literal;)*) => {
        /// Why something was refused, or why a connection ends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant = $number,)*
        }

        impl ErrorCode {
            /// Every code, in the order of their numbers.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code as it stands on the wire, in logs and in metric labels.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text,)* }
            }

            /// The code of a number in a log record.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(ErrorCode::$variant),)* _ => None }
            }

            /// The code of a text on the wire.
            pub fn from_text(text: &str) -> Option<Self> {
                match text { $($text => Some(ErrorCode::$variant),)* _ => None }
            }
        }
    };
}

error_codes! {
    // A reading is refused for good; the rest of the batch is kept.
    /// A value has a MessagePack type that is not allowed in its place.
    BadType = 1, "bad_type";
    /// The reading has no field.
    NoFields = 2, "no_fields";
    /// Neither the reading nor `hello` names a measurement.
    NoMeasurement = 3, "no_measurement";
    /// A name is empty, starts with `_` or holds a control character.
    BadName = 4, "bad_name";
    /// A name is longer than 128 bytes.
    NameTooLong = 5, "name_too_long";
    /// A name is reserved (`time`, `device`, `realm`, `gateway_…`).
    ReservedName = 6, "reserved_name";
    /// A tag value is empty, too long or holds a control character.
    BadTagValue = 7, "bad_tag_value";
    /// A string field is longer than 4096 bytes.
    StringTooLong = 8, "string_too_long";
    /// More fields than the limit.
    TooManyFields = 9, "too_many_fields";
    /// More tags than the limit.
    TooManyTags = 10, "too_many_tags";
    /// The same field or tag twice in one reading.
    DuplicateKey = 11, "duplicate_key";
    /// NaN or an infinity.
    NotFinite = 12, "not_finite";
    /// An integer beyond ±2⁵³, which a float does not hold exactly.
    IntegerInexact = 13, "integer_inexact";
    /// A time before the year 2000 or beyond what nanoseconds in 64 bits hold.
    TimeImplausible = 14, "time_implausible";
    /// A time more than ten minutes ahead of the gateway's clock.
    TimeInFuture = 15, "time_in_future";
    /// A time older than the configured `max_age`.
    TimeTooOld = 16, "time_too_old";
    /// The same measurement, tags and time twice in one batch.
    DuplicatePoint = 17, "duplicate_point";
    /// The field is known with another type.
    TypeConflict = 18, "type_conflict";
    /// The device has reached its limit of series.
    SeriesLimit = 19, "series_limit";
    /// A text that is not UTF-8.
    BadUtf8 = 20, "bad_utf8";
    /// The field is new, and the gateway knows as many as it may.
    FieldLimit = 21, "field_limit";

    // A whole batch is refused for good; its sequence number is consumed.
    /// The batch has no readings.
    EmptyBatch = 40, "empty_batch";
    /// More readings than the limit.
    TooManyReadings = 41, "too_many_readings";
    /// Columns of unequal length.
    UnequalColumns = 42, "unequal_columns";
    /// The body has a missing key, a doubled key or a value of the wrong type.
    BadBatch = 43, "bad_batch";
    /// Another payload was already taken under this sequence number.
    SeqReused = 44, "seq_reused";
    /// The device may not write (reserved for policies).
    NotAllowed = 45, "not_allowed";

    // Nothing of the batch was kept; send it again.
    /// Not the sequence number that comes next; `expected` names it.
    OutOfOrder = 60, "out_of_order";
    /// The log is full; `retry_after_ms` says when to send this batch again.
    LogFull = 61, "log_full";
    /// The gateway has too much to do.
    Overloaded = 62, "overloaded";
    /// The gateway's own clock has jumped.
    ClockJump = 63, "clock_jump";

    // A message or a connection.
    /// Not MessagePack, or not a message of this protocol.
    Malformed = 80, "malformed";
    /// A message of an unknown kind.
    UnknownKind = 81, "unknown_kind";
    /// Nested deeper than the limit.
    TooDeep = 82, "too_deep";
    /// Larger than the limit.
    TooLarge = 83, "too_large";
    /// A text message; this protocol is binary.
    TextMessage = 84, "text_message";
    /// Against RFC 6455.
    ProtocolError = 85, "protocol_error";
    /// `hello` twice, or after a batch.
    UnexpectedHello = 86, "unexpected_hello";
    /// Too many bad messages on one connection.
    TooManyBad = 87, "too_many_bad";
    /// More messages than the device may send.
    Flood = 88, "flood";
    /// The device does not read what it is sent.
    NotReading = 89, "not_reading";
    /// A message was not complete in time.
    SlowMessage = 90, "slow_message";
    /// Nothing came, not even the answer to a ping.
    IdleTimeout = 91, "idle_timeout";
    /// The credential was revoked.
    Revoked = 92, "revoked";
    /// The credential has expired.
    Expired = 93, "expired";
    /// A newer connection of the same device has taken over.
    TakenOver = 94, "taken_over";
    /// The gateway shuts down.
    ShuttingDown = 95, "shutting_down";
    /// The gateway restarts.
    Restart = 96, "restart";
    /// A fault of the gateway.
    Internal = 97, "internal";
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::from_text(&text)
            .ok_or_else(|| serde::de::Error::custom(format_args!("unknown error code {text:?}")))
    }
}
