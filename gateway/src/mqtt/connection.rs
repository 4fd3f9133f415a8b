//! One connection: bytes in, bytes out, keep-alive. Nothing runs in the background; whoever holds
//! it drives it by asking for the next packet.

use super::{Broker, Failure, Session};
use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::{
    Error as CodecError,
    v5::{
        ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode,
        Login, Packet, PingReq,
    },
};
use rustls::pki_types::ServerName;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    task,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;

/// Room that is made for what comes, in bytes.
const READ_BYTES: usize = 16 * 1024;
/// A header of MQTT: one byte, and a length of at most four.
const MAX_HEADER_BYTES: usize = 5;
/// How long a good-bye may take.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What the broker has granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Most messages that it takes without having acknowledged them.
    pub receive_maximum: u16,
    /// Largest packet that it takes, in bytes.
    pub max_packet_bytes: u32,
    /// It retains messages.
    pub retain: bool,
    /// It still had our session.
    pub session_present: bool,
}

/// A connection to a broker.
pub struct Connection {
    whom: String,
    reader: ReadHalf<Box<dyn Stream>>,
    writer: WriteHalf<Box<dyn Stream>>,
    input: BytesMut,
    output: BytesMut,
    unflushed: bool,
    max_packet_bytes: usize,
    granted: Granted,
    keep_alive: Duration,
    /// When the broker is asked whether it is there, or given up if it was asked already.
    due: Instant,
    asked: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({})", self.whom)
    }
}

impl Connection {
    /// Connects and is let in.
    ///
    /// # Errors
    /// The broker is away, or does not let us in.
    pub async fn open(broker: &Broker, session: &Session) -> Result<Self, Failure> {
        let whom = broker.to_string();
        match timeout(broker.timeout, Self::enter(broker, session, whom.clone())).await {
            Ok(opened) => opened,
            Err(_) => {
                let within = broker.timeout;
                Err(Failure::away(format!("the broker at {whom} did not answer within {within:?}")))
            }
        }
    }

    async fn enter(broker: &Broker, session: &Session, whom: String) -> Result<Self, Failure> {
        let away = |error: io::Error| Failure::away(format!("the broker at {whom}: {error}"));
        let tcp = TcpStream::connect((broker.host.as_str(), broker.port)).await.map_err(away)?;
        tcp.set_nodelay(true).map_err(away)?;
        let stream: Box<dyn Stream> = match &broker.tls {
            None => Box::new(tcp),
            Some(config) => {
                let name = ServerName::try_from(broker.host.clone());
                let name = name.map_err(|error| Failure::blocked(format!("{whom}: {error}")))?;
                let connector = TlsConnector::from(config.clone());
                Box::new(connector.connect(name, tcp).await.map_err(away)?)
            }
        };
        let (reader, writer) = split(stream);
        let mut this = Self {
            whom,
            reader,
            writer,
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            max_packet_bytes: session.max_packet_bytes as usize,
            granted: Granted {
                receive_maximum: u16::MAX,
                max_packet_bytes: u32::MAX,
                retain: true,
                session_present: false,
            },
            keep_alive: broker.keep_alive,
            due: Instant::now() + broker.keep_alive / 2,
            asked: false,
        };
        let user = broker.login.as_ref().map(|login| login.user.clone());
        this.queue(&connect(broker, session).await)?;
        match this.next().await? {
            Packet::ConnAck(answer) if answer.code == ConnectReturnCode::Success => {
                this.take_grant(&answer)?;
                Ok(this)
            }
            Packet::ConnAck(answer) => Err(Failure::refused(&this.whom, user.as_deref(), &answer)),
            _ => Err(Failure::away(format!("the broker at {} does not speak MQTT 5", this.whom))),
        }
    }

    fn take_grant(&mut self, answer: &ConnAck) -> Result<(), Failure> {
        self.granted.session_present = answer.session_present;
        let Some(of) = &answer.properties else { return Ok(()) };
        if of.max_qos == Some(0) {
            let why = format!("the broker at {} takes nothing above QoS 0", self.whom);
            return Err(Failure::blocked(why));
        }
        self.granted.receive_maximum = of.receive_max.unwrap_or(u16::MAX).max(1);
        self.granted.max_packet_bytes = of.max_packet_size.unwrap_or(u32::MAX);
        self.granted.retain = of.retain_available != Some(0);
        if let Some(seconds) = of.server_keep_alive {
            // 0 means that the broker does not care; we still want to know that it is there.
            let wish = Duration::from_secs(seconds.max(1).into());
            self.keep_alive = if seconds == 0 { self.keep_alive } else { wish };
        }
        Ok(())
    }

    /// What the broker has granted.
    pub fn granted(&self) -> Granted {
        self.granted
    }

    /// Bytes that were queued and are not written yet.
    pub fn queued_bytes(&self) -> usize {
        self.output.len()
    }

    /// Queues a packet; [`Connection::next`] writes it.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn queue(&mut self, packet: &Packet) -> Result<(), Failure> {
        let before = self.output.len();
        match packet.write(&mut self.output, Some(self.granted.max_packet_bytes)) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.output.truncate(before);
                Err(Failure::away(format!("a packet cannot be written: {error}")))
            }
        }
    }

    /// The next packet from the broker; writes what is queued meanwhile and keeps the connection
    /// alive. Cancel safe.
    ///
    /// # Errors
    /// The connection is no more.
    pub async fn next(&mut self) -> Result<Packet, Failure> {
        loop {
            match self.take_packet()? {
                None => self.exchange().await?,
                Some(Packet::PingResp(_)) => {}
                Some(Packet::Disconnect(packet)) => {
                    return Err(Failure::disconnected(&self.whom, &packet));
                }
                Some(packet) => return Ok(packet),
            }
        }
    }

    /// As [`Connection::next`]; but without `reads` it takes nothing from the broker, and ends
    /// only when the connection does. Cancel safe.
    ///
    /// # Errors
    /// The connection is no more.
    pub async fn next_if(&mut self, reads: bool) -> Result<Packet, Failure> {
        if reads {
            return self.next().await;
        }
        loop {
            let writes = !self.output.is_empty() || self.unflushed;
            tokio::select! {
                biased;
                wrote = push(&mut self.writer, &mut self.output, &mut self.unflushed), if writes => {
                    wrote.map_err(|error| self.lost(&error))?;
                }
                // The answer is not read, so that it is not missed either.
                () = sleep_until(self.due) => self.ask(self.keep_alive / 2)?,
            }
        }
    }

    /// A packet that has come as a whole.
    fn take_packet(&mut self) -> Result<Option<Packet>, Failure> {
        take_packet(&mut self.input, self.max_packet_bytes)
            .map_err(|what| Failure::away(format!("the broker at {} sent {what}", self.whom)))
    }

    /// Writes and reads what goes without waiting. Cancel safe.
    async fn exchange(&mut self) -> Result<(), Failure> {
        let Self { reader, writer, input, output, unflushed, .. } = self;
        if input.capacity() - input.len() < READ_BYTES / 4 {
            input.reserve(READ_BYTES);
        }
        let writes = !output.is_empty() || *unflushed;
        let done = tokio::select! {
            // In this order: who was not asked for packets for a while has not missed an answer.
            biased;
            wrote = push(writer, output, unflushed), if writes => wrote.map(|()| Done::Wrote),
            read = reader.read_buf(input) => {
                read.map(|n| if n == 0 { Done::Closed } else { Done::Read })
            }
            () = sleep_until(self.due) => Ok(Done::Due),
        };
        match done {
            Err(error) => Err(self.lost(&error)),
            Ok(Done::Closed) => {
                Err(Failure::away(format!("the broker at {} has closed the connection", self.whom)))
            }
            Ok(Done::Due) if self.asked => {
                Err(Failure::away(format!("the broker at {} does not answer any more", self.whom)))
            }
            Ok(Done::Due) => self.ask(self.keep_alive),
            Ok(Done::Read) => {
                self.heard();
                Ok(())
            }
            Ok(Done::Wrote) => Ok(()),
        }
    }

    /// Asks the broker whether it is there, and looks for the answer after this time.
    fn ask(&mut self, look_after: Duration) -> Result<(), Failure> {
        self.asked = true;
        self.due = Instant::now() + look_after;
        self.queue(&Packet::PingReq(PingReq))
    }

    fn lost(&self, error: &io::Error) -> Failure {
        Failure::away(format!("the broker at {}: {error}", self.whom))
    }

    /// The broker is there. It counts our silence, too: that is why it is asked again at half of
    /// what was agreed, however much it speaks.
    fn heard(&mut self) {
        if self.asked {
            self.asked = false;
            self.due = Instant::now() + self.keep_alive / 2;
        }
    }

    /// Says good-bye. What was queued and not written is written before, if that is quick.
    pub async fn close(mut self) {
        let normal = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        if self.queue(&Packet::Disconnect(normal)).is_err() {
            return;
        }
        let Self { writer, output, unflushed, .. } = &mut self;
        // Whoever is away does not hear it.
        let _ = timeout(CLOSE_WITHIN, async {
            push(writer, output, unflushed).await?;
            writer.shutdown().await
        })
        .await;
    }
}

enum Done {
    Read,
    Wrote,
    Closed,
    Due,
}

/// Writes all of `output`. Cancel safe.
async fn push<W: AsyncWrite + Unpin>(
    writer: &mut W,
    output: &mut BytesMut,
    unflushed: &mut bool,
) -> io::Result<()> {
    while output.has_remaining() {
        *unflushed = true;
        if writer.write_buf(output).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    writer.flush().await?;
    *unflushed = false;
    Ok(())
}

async fn connect(broker: &Broker, session: &Session) -> Packet {
    let seconds = |of: Duration| u32::try_from(of.as_secs()).unwrap_or(u32::MAX);
    let properties = ConnectProperties {
        session_expiry_interval: session.keep.map(seconds),
        receive_maximum: Some(session.receive_maximum.max(1)),
        max_packet_size: Some(session.max_packet_bytes),
        ..ConnectProperties::new()
    };
    let packet = Connect {
        keep_alive: u16::try_from(broker.keep_alive.as_secs()).unwrap_or(u16::MAX),
        client_id: broker.client_id.clone(),
        clean_start: session.keep.is_none(),
        properties: Some(properties),
    };
    let login = match broker.login.clone() {
        None => None,
        Some(login) => {
            let user = login.user.clone();
            let password = task::spawn_blocking(move || login.password.text()).await;
            Some(Login { username: user, password: password.unwrap_or_default() })
        }
    };
    Packet::Connect(packet, None, login)
}

/// Takes the first packet off `input` if it has come as a whole.
fn take_packet(input: &mut BytesMut, max_packet_bytes: usize) -> Result<Option<Packet>, String> {
    let Some(length) = frame_length(input)? else { return Ok(None) };
    if length > max_packet_bytes.saturating_add(MAX_HEADER_BYTES) {
        return Err(format!("{length} bytes at once, more than was agreed"));
    }
    if input.len() < length {
        input.reserve(length - input.len());
        return Ok(None);
    }
    let mut frame = input.split_to(length);
    // Without a reason and properties there is nothing behind the header.
    if frame[..] == [0xE0, 0] {
        let normal = Disconnect::new(DisconnectReasonCode::NormalDisconnection);
        return Ok(Some(Packet::Disconnect(normal)));
    }
    match Packet::read(&mut frame, None) {
        Ok(packet) => Ok(Some(packet)),
        Err(CodecError::InsufficientBytes(_)) => Err("a packet that ends too early".to_owned()),
        Err(error) => Err(format!("what is not MQTT 5: {error}")),
    }
}

/// Length of the packet at the start of `input`, header included; `None` if it does not show yet.
fn frame_length(input: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut length = 0usize;
    for (at, &byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some(1 + at + 1 + length));
        }
    }
    if input.len() >= MAX_HEADER_BYTES { Err("what is not MQTT") } else { Ok(None) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rumqttc::v5::mqttbytes::{
        QoS,
        v5::{Publish, PublishProperties},
    };

    fn publish() -> BytesMut {
        let mut bytes = BytesMut::new();
        let packet = Packet::Publish(Publish {
            qos: QoS::AtLeastOnce,
            topic: "telemetry/d".into(),
            pkid: 7,
            payload: "payload".into(),
            properties: Some(PublishProperties {
                content_type: Some("x".to_owned()),
                user_properties: vec![("a".to_owned(), "b".to_owned())],
                ..PublishProperties::default()
            }),
            ..Publish::default()
        });
        packet.write(&mut bytes, None).unwrap();
        bytes
    }

    #[test]
    fn a_packet_is_taken_when_it_is_there_and_not_before() {
        let whole = publish();
        for end in 0..whole.len() {
            let mut input = BytesMut::from(&whole[..end]);
            assert_eq!(take_packet(&mut input, 1024), Ok(None), "{end}");
            input.extend_from_slice(&whole[end..]);
            input.extend_from_slice(&[0xD0, 0]);
            assert!(matches!(take_packet(&mut input, 1024), Ok(Some(Packet::Publish(_)))));
            assert!(matches!(take_packet(&mut input, 1024), Ok(Some(Packet::PingResp(_)))));
        }
    }

    #[test]
    fn what_is_too_large_or_not_mqtt_ends_the_connection() {
        let said = |bytes: &[u8]| take_packet(&mut BytesMut::from(bytes), 1024).unwrap_err();
        assert!(said(&[0x30, 0xFF, 0xFF, 0x7F]).contains("more than was agreed"));
        assert!(said(&[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01]).contains("not MQTT"));
        assert!(said(&[0x00, 0x00]).contains("not MQTT"));
        assert!(said(&[0x40, 1, 0]).contains("not MQTT"));
        assert!(said(&[0x32, 4, 0, 1, b'a', 0]).contains("not MQTT"));
    }

    proptest! {
        /// Whatever a broker sends is a packet, not yet one, or an error.
        #[test]
        fn no_bytes_are_a_panic(
            at in 0usize..40,
            byte: u8,
            end in 0usize..60,
            random in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut changed = publish();
            let at = at % changed.len();
            changed[at] = byte;
            changed.truncate(end);
            for mut input in [changed, BytesMut::from(&random[..])] {
                while let Ok(Some(_)) = take_packet(&mut input, 1024) {}
            }
        }
    }
}
