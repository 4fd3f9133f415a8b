//! An MQTT 5 broker that does what the test says: takes messages, or gets into trouble.

use bytes::BytesMut;
use gateway::mqtt::packet::{
    ConnAck, ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet, PingResp, PubAck,
    PubAckReason,
};
use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

/// What comes in the place of an answer.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// To a connection: this code.
    RefuseConnection(ConnectReturnCode),
    /// To a connection: nothing.
    HangAtConnect,
    /// To a message: this reason.
    Refuse(PubAckReason),
    /// To a message: nothing.
    Hang,
    /// To a message: the connection is closed.
    Close,
    /// To a message: it is taken, and the connection is closed.
    TakeAndClose,
    /// To a message: a good-bye.
    Disconnect(DisconnectReasonCode),
    /// To a message: it is taken, but so much later.
    Slow(Duration),
}

impl Trouble {
    fn is_of_connect(&self) -> bool {
        matches!(self, Self::RefuseConnection(_) | Self::HangAtConnect)
    }
}

#[derive(Default)]
struct Script {
    troubles: VecDeque<Trouble>,
    taken: Vec<String>,
}

/// The broker; it ends with the test process.
pub struct ScriptedBroker {
    port: u16,
    script: Arc<Mutex<Script>>,
}

impl ScriptedBroker {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(Script::default()));
        let of_threads = Arc::clone(&script);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let script = Arc::clone(&of_threads);
                std::thread::spawn(move || serve(stream, &script));
            }
        });
        Self { port, script }
    }

    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// These come next, each once.
    pub fn next(&self, troubles: &[Trouble]) {
        self.script.lock().unwrap().troubles.extend(troubles.iter().cloned());
    }

    /// How many are still to come.
    pub fn left(&self) -> usize {
        self.script.lock().unwrap().troubles.len()
    }

    /// The messages that it has taken, as texts.
    pub fn taken(&self) -> Vec<String> {
        self.script.lock().unwrap().taken.clone()
    }
}

/// The next trouble, if it is one for this moment.
fn trouble(script: &Mutex<Script>, at_connect: bool) -> Option<Trouble> {
    let troubles = &mut script.lock().unwrap().troubles;
    let is_due = troubles.front().is_some_and(|of| of.is_of_connect() == at_connect);
    is_due.then(|| troubles.pop_front()).flatten()
}

/// Until the client has gone, or longer than it waits.
fn hang(stream: &mut TcpStream) {
    let mut rest = [0; 1024];
    while stream.read(&mut rest).is_ok_and(|bytes| bytes > 0) {}
}

fn serve(mut stream: TcpStream, script: &Mutex<Script>) {
    let mut input = BytesMut::new();
    let mut bytes = [0; 64 * 1024];
    loop {
        while let Ok(packet) = Packet::read(&mut input, None) {
            if answer(&mut stream, script, packet).is_none() {
                return;
            }
        }
        match stream.read(&mut bytes) {
            Ok(read) if read > 0 => input.extend_from_slice(&bytes[..read]),
            _ => return,
        }
    }
}

/// `None` if the connection ends.
fn answer(stream: &mut TcpStream, script: &Mutex<Script>, packet: Packet) -> Option<()> {
    match packet {
        Packet::Connect(..) => {
            let code = match trouble(script, true) {
                Some(Trouble::RefuseConnection(code)) => code,
                Some(_) => {
                    hang(stream);
                    return None;
                }
                None => ConnectReturnCode::Success,
            };
            send(
                stream,
                &Packet::ConnAck(ConnAck { session_present: false, code, properties: None }),
            )?;
            (code == ConnectReturnCode::Success).then_some(())
        }
        Packet::Publish(publish) => {
            let text = String::from_utf8(publish.payload.to_vec()).unwrap();
            let take = || script.lock().unwrap().taken.push(text);
            let mut reason = PubAckReason::Success;
            match trouble(script, false) {
                None => take(),
                Some(Trouble::Slow(pause)) => {
                    std::thread::sleep(pause);
                    take();
                }
                Some(Trouble::Refuse(of)) => reason = of,
                Some(Trouble::Disconnect(reason_code)) => {
                    let goodbye = Disconnect { reason_code, properties: None };
                    send(stream, &Packet::Disconnect(goodbye))?;
                    hang(stream);
                    return None;
                }
                Some(Trouble::TakeAndClose) => {
                    take();
                    return None;
                }
                Some(Trouble::Hang) => {
                    hang(stream);
                    return None;
                }
                Some(_) => return None,
            }
            let ack = PubAck { pkid: publish.pkid, reason, properties: None };
            send(stream, &Packet::PubAck(ack))
        }
        Packet::PingReq(_) => send(stream, &Packet::PingResp(PingResp)),
        _ => Some(()),
    }
}

fn send(stream: &mut TcpStream, packet: &Packet) -> Option<()> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None).unwrap();
    stream.write_all(&bytes).ok()
}
