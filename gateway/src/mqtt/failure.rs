//! What a broker says when it does not want to, as sentences for a person.

use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Disconnect, DisconnectReasonCode as Reason,
};

/// Most characters of a broker's own words that are passed on.
const MAX_WORDS: usize = 200;

/// Whom a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The broker or the way to it: later is better.
    Away,
    /// A person has to change something here or at the broker.
    Blocked,
    /// Something that we sent: the broker has closed because of it.
    Message,
}

/// Why there is no connection (any more).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Failure {
    /// Whom it is about.
    pub kind: FailureKind,
    /// What happened, for a person.
    pub why: String,
}

impl Failure {
    pub(super) fn away(why: impl Into<String>) -> Self {
        Self { kind: FailureKind::Away, why: why.into() }
    }

    /// We have ended it.
    pub fn closed() -> Self {
        Self::away("the connection was closed")
    }

    /// An acknowledgement has not come within this time.
    pub fn silent(within: std::time::Duration) -> Self {
        Self::away(format!("the broker did not acknowledge a message within {within:?}"))
    }

    /// The broker takes nothing at this moment; `reason` is its code.
    pub fn not_now(reason: &str) -> Self {
        Self::away(format!("the broker takes no more messages now: {reason}"))
    }

    /// The broker does not retain messages.
    pub fn no_retain(whom: &dyn std::fmt::Display) -> Self {
        Self::blocked(format!("the broker at {whom} does not retain messages: set retain = false"))
    }

    /// The broker does not let us subscribe; `reason` is its code.
    pub fn no_subscription(whom: &dyn std::fmt::Display, reason: &str) -> Self {
        Self::blocked(format!(
            "the broker at {whom} does not let us subscribe to what devices publish ({reason}): \
             mend its access rules"
        ))
    }

    /// Nothing can be logged any more: the gateway stops.
    pub fn log_closed() -> Self {
        Self::away("the log takes no more batches")
    }

    pub(super) fn blocked(why: impl Into<String>) -> Self {
        Self { kind: FailureKind::Blocked, why: why.into() }
    }

    /// A connection that the broker at `whom` does not want; `user` is who we said we are.
    pub(super) fn refused(whom: &str, user: Option<&str>, answer: &ConnAck) -> Self {
        use ConnectReturnCode as Code;
        let said = answer.properties.as_ref().and_then(|of| of.reason_string.as_deref());
        let user = match user {
            Some(user) => format!("the user {user:?}"),
            None => "clients without a user".to_owned(),
        };
        let (kind, why) = match answer.code {
            Code::BadUserNamePassword | Code::NotAuthorized => (
                FailureKind::Blocked,
                format!("does not let {user} in: correct the user or the password"),
            ),
            Code::BadAuthenticationMethod => {
                (FailureKind::Blocked, format!("wants {user} to authenticate in another way"))
            }
            Code::BadClientId | Code::ClientIdentifierNotValid => {
                (FailureKind::Blocked, "does not take the client_id: choose another".to_owned())
            }
            Code::Banned => (FailureKind::Blocked, format!("has banned us or {user}")),
            Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
                (FailureKind::Blocked, "does not speak MQTT 5".to_owned())
            }
            Code::UseAnotherServer | Code::ServerMoved => {
                (FailureKind::Blocked, "says that it has moved: correct the url".to_owned())
            }
            code => (FailureKind::Away, format!("takes no connection now: {code:?}")),
        };
        Self { kind, why: format!("the broker at {whom} {why}{}", words(said)) }
    }

    /// The broker at `whom` has said good-bye.
    pub(super) fn disconnected(whom: &str, packet: &Disconnect) -> Self {
        let said = packet.properties.as_ref().and_then(|of| of.reason_string.as_deref());
        let (kind, why) = match packet.reason_code {
            Reason::NotAuthorized => {
                (FailureKind::Blocked, "has closed: not authorised; mend its access rules")
            }
            Reason::SessionTakenOver => (
                FailureKind::Blocked,
                "has closed: another client came with the same client_id; give each its own",
            ),
            Reason::AdministrativeAction => (FailureKind::Away, "has closed: an operator did it"),
            Reason::RetainNotSupported => {
                (FailureKind::Blocked, "does not retain messages: set retain = false")
            }
            Reason::QoSNotSupported => (FailureKind::Blocked, "does not take QoS 1"),
            Reason::UseAnotherServer | Reason::ServerMoved => {
                (FailureKind::Blocked, "says that it has moved: correct the url")
            }
            Reason::MalformedPacket
            | Reason::ProtocolError
            | Reason::TopicNameInvalid
            | Reason::PacketTooLarge
            | Reason::PayloadFormatInvalid => {
                (FailureKind::Message, "has closed because of a message")
            }
            Reason::ServerShuttingDown => (FailureKind::Away, "is shutting down"),
            Reason::KeepAliveTimeout => (FailureKind::Away, "did not hear us for too long"),
            _ => (FailureKind::Away, "has closed the connection"),
        };
        let code = match packet.reason_code {
            Reason::NormalDisconnection => String::new(),
            code => format!(" ({code:?})"),
        };
        Self { kind, why: format!("the broker at {whom} {why}{code}{}", words(said)) }
    }
}

/// The broker's own words on one line, if it has any.
pub(super) fn words(said: Option<&str>) -> String {
    match said.map(str::trim).filter(|said| !said.is_empty()) {
        None => String::new(),
        Some(said) => {
            let clean = said.chars().take(MAX_WORDS);
            let clean: String = clean.map(|c| if c.is_control() { ' ' } else { c }).collect();
            format!("; it says: {clean}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_and_who_waits_for_whom() {
        use ConnectReturnCode as Code;
        let refused = |code| {
            let answer = ConnAck { session_present: false, code, properties: None };
            Failure::refused("b:1", Some("gw"), &answer)
        };
        for code in [Code::NotAuthorized, Code::BadUserNamePassword] {
            let failure = refused(code);
            assert_eq!(failure.kind, FailureKind::Blocked);
            assert_eq!(
                failure.why,
                "the broker at b:1 does not let the user \"gw\" in: correct the user or the password"
            );
        }
        for code in [Code::ServerBusy, Code::ServerUnavailable, Code::QuotaExceeded] {
            assert_eq!(refused(code).kind, FailureKind::Away, "{code:?}");
        }
        for code in [Code::ClientIdentifierNotValid, Code::Banned, Code::UnsupportedProtocolVersion]
        {
            assert_eq!(refused(code).kind, FailureKind::Blocked, "{code:?}");
        }
    }

    #[test]
    fn a_good_bye_is_about_the_broker_a_person_or_a_message() {
        for (reason, kind) in [
            (Reason::ServerShuttingDown, FailureKind::Away),
            (Reason::UnspecifiedError, FailureKind::Away),
            (Reason::SessionTakenOver, FailureKind::Blocked),
            (Reason::NotAuthorized, FailureKind::Blocked),
            (Reason::TopicNameInvalid, FailureKind::Message),
            (Reason::PacketTooLarge, FailureKind::Message),
        ] {
            let failure = Failure::disconnected("b:1", &Disconnect::new(reason));
            assert_eq!(failure.kind, kind, "{failure}");
        }
    }

    #[test]
    fn the_words_of_a_broker_stay_on_one_line() {
        assert_eq!(words(Some("a\nb\u{1b}[0m ")), "; it says: a b [0m");
        assert!(words(Some(&"x".repeat(10_000))).len() < 300);
        assert_eq!(words(Some("  ")), "");
    }
}
