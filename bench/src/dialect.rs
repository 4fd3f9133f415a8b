//! What the generator says and expects: the telemetry protocol, the bare loop's, MQTT over wss.

use crate::{
    frame::Prepared,
    payload::{MEASUREMENT, Message},
};
use anyhow::{Context, Result, bail, ensure};
use proto::{GatewayMessage, Hello, encode::encode_hello};

/// User and password of MQTT clients: the broker checks one, as the gateway checks tokens.
pub const MQTT_USER: &str = "device";
/// See [`MQTT_USER`].
pub const MQTT_PASSWORD: &str = "of-the-benchmark-alone";
/// Topics of devices begin with this.
pub const MQTT_TOPIC: &str = "telemetry/";

/// A protocol of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Dialect {
    /// `hello`, `welcome`, `batch`, cumulative `ack`.
    Telemetry,
    /// The same batches; each is answered by an `ack`, and nothing is said before.
    Plain,
    /// MQTT 3.1.1, QoS 1: each batch is one PUBLISH, answered by a PUBACK.
    Mqtt,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The server takes batches now; so many at once.
    Open {
        /// Batches without an acknowledgement.
        window: u32,
    },
    /// So many batches of this connection are acknowledged.
    Acked(u64),
    /// Nothing yet.
    Nothing,
}

/// What the answers before are remembered by.
#[derive(Debug, Default)]
pub struct Answers {
    acked: u64,
    /// The beginning of an MQTT packet.
    partial: Vec<u8>,
}

impl Dialect {
    /// The upgrade's subprotocol.
    pub fn subprotocol(self) -> Option<&'static str> {
        match self {
            Dialect::Telemetry => Some(proto::SUBPROTOCOL),
            Dialect::Plain => None,
            Dialect::Mqtt => Some("mqtt"),
        }
    }

    /// The first message of a device.
    pub fn opening(self, device: &str) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Dialect::Telemetry => encode_hello(
                &Hello {
                    stream: Some(fastrand::u64(1..=proto::MAX_SEQ)),
                    measurement: Some(MEASUREMENT.to_owned()),
                    ..Hello::default()
                },
                &mut out,
            ),
            Dialect::Plain => return None,
            Dialect::Mqtt => connect(device, &mut out),
        }
        Some(out)
    }

    /// The batches of a device, ready to be sent but for their numbers.
    pub fn prepare(self, device: &str, messages: &[Message]) -> Vec<Prepared> {
        match self {
            Dialect::Telemetry | Dialect::Plain => messages
                .iter()
                .map(|message| Prepared::new(&message.bytes, message.seq.clone()))
                .collect(),
            // Each device has a topic of its own, so that nothing can be shared: few variants.
            Dialect::Mqtt => {
                messages.iter().take(2).map(|message| publish(device, &message.bytes)).collect()
            }
        }
    }

    /// Whether devices can share what [`Dialect::prepare`] made.
    pub fn shares(self) -> bool {
        self != Dialect::Mqtt
    }

    /// The number that batch `n`, counted from 1, carries.
    pub fn number(self, n: u64) -> u64 {
        match self {
            Dialect::Telemetry | Dialect::Plain => n,
            // 1 to 65,535: zero is no packet identifier.
            Dialect::Mqtt => (n - 1) % 0xffff + 1,
        }
    }

    /// Reads a binary message of the server, after `sent` batches were sent.
    ///
    /// # Errors
    /// Anything but what was to be expected.
    pub fn read(self, bytes: &[u8], answers: &mut Answers, sent: u64) -> Result<Answer> {
        match self {
            Dialect::Mqtt => answers.mqtt(bytes, sent),
            Dialect::Telemetry | Dialect::Plain => match ack(bytes) {
                Some(seq) => answers.ack(seq, sent),
                None => answers.other(bytes, sent),
            },
        }
    }
}

impl Answers {
    fn ack(&mut self, seq: u64, sent: u64) -> Result<Answer> {
        ensure!(
            self.acked < seq && seq <= sent,
            "an ack of {seq} after {} were acknowledged and {sent} sent",
            self.acked
        );
        self.acked = seq;
        Ok(Answer::Acked(seq))
    }

    fn other(&mut self, bytes: &[u8], sent: u64) -> Result<Answer> {
        match GatewayMessage::decode(bytes).context("an answer that cannot be read")? {
            GatewayMessage::Welcome(welcome) => {
                ensure!(sent == 0, "a second welcome");
                Ok(Answer::Open { window: welcome.window.batches })
            }
            GatewayMessage::Ack(ack) => self.ack(ack.seq, sent),
            other => bail!("instead of an ack: {other:?}"),
        }
    }

    /// MQTT is a stream of bytes: a message may hold several packets or part of one.
    fn mqtt(&mut self, bytes: &[u8], sent: u64) -> Result<Answer> {
        let mut answer = Answer::Nothing;
        self.partial.extend_from_slice(bytes);
        let mut rest = self.partial.as_slice();
        while let &[first, second, third, fourth, ref tail @ ..] = rest {
            match (first, second) {
                (0x20, 2) => {
                    ensure!(fourth == 0, "the broker refuses the connection: code {fourth}");
                    answer = Answer::Open { window: u32::MAX };
                }
                (0x40, 2) => {
                    let id = u64::from(u16::from_be_bytes([third, fourth]));
                    let due = Dialect::Mqtt.number(self.acked + 1);
                    ensure!(id == due && self.acked < sent, "a PUBACK of {id} instead of {due}");
                    self.acked += 1;
                    answer = Answer::Acked(self.acked);
                }
                _ => bail!("an MQTT packet that begins with {first:#x} {second:#x}"),
            }
            rest = tail;
        }
        let read = self.partial.len() - rest.len();
        self.partial.drain(..read);
        Ok(answer)
    }
}

/// The usual answer, at the cost of a few comparisons.
fn ack(bytes: &[u8]) -> Option<u64> {
    let (number, rest) = bytes.strip_prefix(b"\x81\xa3ack\x82\xa3seq")?.split_first()?;
    Some(match (number, rest) {
        (0..=0x7f, _) => u64::from(*number),
        (0xcc, [a, ..]) => u64::from(*a),
        (0xcd, &[a, b, ..]) => u64::from(u16::from_be_bytes([a, b])),
        (0xce, &[a, b, c, d, ..]) => u64::from(u32::from_be_bytes([a, b, c, d])),
        _ => return None,
    })
}

/// MQTT 3.1.1, 3.1: CONNECT with a clean session, user and password, keep-alive of an hour.
fn connect(device: &str, out: &mut Vec<u8>) {
    let mut body = b"\x00\x04MQTT\x04\xc2\x0e\x10".to_vec();
    for text in [device, MQTT_USER, MQTT_PASSWORD] {
        put_text(text, &mut body);
    }
    out.push(0x10);
    put_length(body.len(), out);
    out.extend(body);
}

/// 3.3: PUBLISH with QoS 1.
fn publish(device: &str, payload: &[u8]) -> Prepared {
    let mut body = Vec::new();
    put_text(&format!("{MQTT_TOPIC}{device}"), &mut body);
    let id = body.len();
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(payload);
    let mut packet = vec![0x32];
    put_length(body.len(), &mut packet);
    let start = packet.len() + id;
    packet.extend(body);
    Prepared::new(&packet, start..start + 2)
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    let len = u16::try_from(text.len()).expect("the generator's texts are short");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// 2.2.3: seven bits a byte, least significant first.
fn put_length(mut len: usize, out: &mut Vec<u8>) {
    while len > 0x7f {
        out.push((len & 0x7f) as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proto::Ack;

    fn encoded(message: &GatewayMessage) -> Vec<u8> {
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    }

    #[test]
    fn acks_count_up_and_never_beyond_what_was_sent() {
        let mut answers = Answers::default();
        let ack = |seq| encoded(&GatewayMessage::Ack(Ack { seq, time: 1_795_305_600_000 }));
        let mut read = |seq, sent| Dialect::Telemetry.read(&ack(seq), &mut answers, sent);
        for seq in [1, 127, 128, 255, 256, 65_536, 1 << 33] {
            assert_eq!(read(seq, 1 << 40).unwrap(), Answer::Acked(seq));
        }
        assert!(read(1 << 33, 1 << 40).is_err(), "twice");
        assert!(read(1 << 41, 1 << 40).is_err(), "beyond");
    }

    #[test]
    fn a_nack_is_a_failure() {
        let nack = proto::Nack {
            seq: 1,
            code: proto::ErrorCode::LogFull,
            readings: Vec::new(),
            more: None,
            refused: None,
            retry_after_ms: Some(1),
            expected: None,
            detail: None,
        };
        let bytes = encoded(&GatewayMessage::Nack(nack));
        let error = Dialect::Telemetry.read(&bytes, &mut Answers::default(), 1).unwrap_err();
        assert!(error.to_string().contains("LogFull"), "{error}");
    }

    #[test]
    fn pubacks_come_in_order_in_any_pieces() {
        let mut answers = Answers::default();
        let mut read = |bytes: &[u8], sent| Dialect::Mqtt.read(bytes, &mut answers, sent);
        assert_eq!(read(b"\x20\x02\x00\x00", 0).unwrap(), Answer::Open { window: u32::MAX });
        assert_eq!(read(b"\x40\x02\x00\x01\x40\x02", 3).unwrap(), Answer::Acked(1));
        assert_eq!(read(b"\x00\x02\x40\x02\x00\x03", 3).unwrap(), Answer::Acked(3));
        assert!(read(b"\x40\x02\x00\x04", 3).is_err(), "beyond");
        assert!(read(b"\x40\x02\x00\x09", 9).is_err(), "out of order");
        assert_eq!(Dialect::Mqtt.number(65_535), 65_535);
        assert_eq!(Dialect::Mqtt.number(65_536), 1);
    }
}
