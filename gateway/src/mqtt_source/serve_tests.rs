//! The source beside brokers that misbehave, and a committer that answers when it is told to.

use super::*;
use crate::{
    ingest::{CommitterHandle, Guards, Outcome, Request, Rules, clock::Clock, clock::WallClock},
    metrics::{MqttSourceMetrics, Registry, StateMetrics},
    mqtt::{
        Broker,
        packet::{ConnAck, ConnAckProperties, ConnectReturnCode, PingResp, SubAck},
    },
    mqtt_source::MqttSource,
    record::Position,
    state,
};
use bytes::BytesMut;
use proto::{BatchEncoder, RawValue, TimeUnit};
use std::sync::{Arc, atomic::AtomicBool};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    task::JoinHandle,
};

/// How long anything may take that has to happen.
const PATIENCE: Duration = Duration::from_secs(60);
const IN_FLIGHT: u16 = 4;

/// A source on its way to a broker that the test plays.
struct Rig {
    broker: TcpListener,
    requests: mpsc::Receiver<Request>,
    registry: Registry,
    stop: CancellationToken,
    source: JoinHandle<()>,
    _ack_position: watch::Sender<Position>,
    _dir: tempfile::TempDir,
}

async fn rig() -> Rig {
    let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options {
        broker: Broker {
            host: "127.0.0.1".to_owned(),
            port: broker.local_addr().unwrap().port(),
            tls: None,
            client_id: "source".to_owned(),
            login: None,
            // Long enough for a busy machine to answer, short enough to see questions.
            keep_alive: Duration::from_secs(1),
            timeout: PATIENCE,
        },
        realm: "mqtt".to_owned(),
        share: None,
        acks: false,
        in_flight: IN_FLIGHT,
        session: PATIENCE,
        time_unit: TimeUnit::Ms,
        measurement: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.db");
    let (state, _keeper) = state::open(&file, 100, StateMetrics::default()).unwrap();
    let (requests, asked) = mpsc::channel(1000);
    let (ack_position, position) = watch::channel(Position(u64::MAX));
    let registry = Registry::new();
    let context = Context {
        committer: CommitterHandle {
            requests,
            budget: Arc::new(Semaphore::new(1 << 20)),
            full: Arc::new(AtomicBool::new(false)),
        },
        ack_position: position,
        rules: Arc::new(Rules::default()),
        guards: Guards::unguarded(),
        state,
        clock: WallClock::new(Clock::new()),
        metrics: MqttSourceMetrics::new(&registry),
    };
    let stop = CancellationToken::new();
    let source = tokio::spawn(MqttSource::new(options, context).run(stop.clone()));
    let (_ack_position, _dir) = (ack_position, dir);
    Rig { broker, requests: asked, registry, stop, source, _ack_position, _dir }
}

impl Rig {
    /// Lets the source in and subscribe.
    async fn enter(&self, granted: ConnAckProperties) -> Peer {
        let (stream, _) =
            tokio::time::timeout(PATIENCE, self.broker.accept()).await.unwrap().unwrap();
        let mut peer = Peer { stream, input: BytesMut::new() };
        let Packet::Connect(..) = peer.next().await else { panic!("CONNECT comes first") };
        let code = ConnectReturnCode::Success;
        let properties = Some(granted);
        peer.send(&Packet::ConnAck(ConnAck { session_present: false, code, properties })).await;
        let Packet::Subscribe(subscribe) = peer.next().await else { panic!("then SUBSCRIBE") };
        let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
        let pkid = subscribe.pkid;
        peer.send(&Packet::SubAck(SubAck { pkid, return_codes, properties: None })).await;
        peer
    }

    async fn submitted(&mut self) -> crate::ingest::Submission {
        match tokio::time::timeout(PATIENCE, self.requests.recv()).await.unwrap() {
            Some(Request::Submit(submission)) => submission,
            other => panic!("{other:?}"),
        }
    }

    fn count(&self, metric: &str) -> u64 {
        let text = self.registry.render();
        let line = text.lines().find_map(|line| line.strip_prefix(metric));
        line.unwrap_or_else(|| panic!("no {metric} in {text}")).trim().parse().unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.source).await.unwrap().unwrap();
    }
}

/// The broker's end.
struct Peer {
    stream: TcpStream,
    input: BytesMut,
}

impl Peer {
    async fn next(&mut self) -> Packet {
        loop {
            match Packet::read(&mut self.input, None) {
                Ok(packet) => return packet,
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error}"),
            }
            let read = self.stream.read_buf(&mut self.input);
            let bytes = tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
            assert_ne!(bytes, 0, "the source has hung up");
        }
    }

    async fn send(&mut self, packet: &Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn publish(&mut self, pkid: u16, payload: Vec<u8>) {
        let publish = Publish {
            qos: QoS::AtLeastOnce,
            topic: "telemetry/d".into(),
            pkid,
            payload: payload.into(),
            ..Publish::default()
        };
        self.send(&Packet::Publish(publish)).await;
    }

    /// The next acknowledgement, and the answers before it, by their QoS.
    async fn acknowledged(&mut self) -> (u16, Vec<(QoS, u16)>) {
        let next = tokio::time::timeout(PATIENCE, self.next_acknowledgement()).await;
        next.expect("a message is acknowledged in time")
    }

    async fn next_acknowledgement(&mut self) -> (u16, Vec<(QoS, u16)>) {
        let mut answers = Vec::new();
        loop {
            match self.next().await {
                Packet::PubAck(ack) => return (ack.pkid, answers),
                Packet::Publish(answer) => {
                    assert_eq!(&answer.topic[..], b"telemetry/d/reply");
                    answers.push((answer.qos, answer.pkid));
                }
                Packet::PingReq(_) => self.send(&Packet::PingResp(PingResp)).await,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn granting(receive_max: Option<u16>, max_packet_size: Option<u32>) -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max,
        max_qos: None,
        retain_available: None,
        max_packet_size,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

fn batch(seq: u64) -> Vec<u8> {
    let mut encoder = BatchEncoder::new();
    encoder.readings(seq, 1).reading(Some("m"), None, &[], &[("value", RawValue::Float(1.0))]);
    encoder.finish().to_vec()
}

#[tokio::test]
async fn a_broker_that_does_not_keep_to_what_was_asked_is_read_no_further_than_twice_that() {
    const ALL: u16 = 300;
    let mut rig = rig().await;
    let mut peer = rig.enter(granting(None, None)).await;
    for pkid in 1..=ALL {
        peer.publish(pkid, batch(pkid.into())).await;
    }
    // While the log takes nothing, the source says every now and then that it is there, does not
    // miss answers that it does not read, and takes nothing more.
    let mut held = Vec::new();
    for _ in 0..2 * IN_FLIGHT {
        held.push(rig.submitted().await);
    }
    for _ in 0..4 {
        let packet = peer.next().await;
        assert!(matches!(packet, Packet::PingReq(_)), "{packet:?}");
    }
    assert!(rig.requests.try_recv().is_err(), "more is held than twice what was asked for");

    let committer = async {
        for at in 0..usize::from(ALL) {
            let submission = match held.get(at) {
                Some(submission) => submission.reply.clone(),
                None => rig.submitted().await.reply,
            };
            let logged = Outcome::Logged { seq: at as u64 + 1, position: Position(1) };
            submission.send(logged).await.unwrap();
        }
    };
    let broker = async {
        for pkid in 1..=ALL {
            assert_eq!(peer.acknowledged().await, (pkid, Vec::new()), "in order");
        }
    };
    tokio::join!(committer, broker);
    assert_eq!(rig.count("gateway_mqtt_source_messages_total{outcome=\"logged\"}"), u64::from(ALL));
    rig.end().await;
}

#[tokio::test]
async fn answers_that_a_broker_does_not_acknowledge_hold_up_nothing() {
    let rig = rig().await;
    let granted = granting(Some(2), None);
    let mut peer = rig.enter(granted).await;
    for pkid in 1..=20 {
        peer.publish(pkid, b"no batch".to_vec()).await;
    }
    // Two may be under way at QoS 1. What is held beyond the limit goes without.
    let held = 2 * IN_FLIGHT - 1;
    let mut ids = Vec::new();
    for pkid in 1..=20 - held {
        let (acked, answers) = peer.acknowledged().await;
        let (qos, id) = answers[0];
        assert_eq!((acked, answers.len()), (pkid, 1));
        let expected = if pkid <= 2 { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        assert_eq!(qos, expected, "{pkid}");
        ids.extend((id != 0).then_some(id));
    }
    // The others wait; each acknowledgement lets one go.
    for pkid in 20 - held + 1..=20 {
        let id = ids.pop().unwrap();
        peer.send(&Packet::PubAck(PubAck::new(id, None))).await;
        let (acked, answers) = peer.acknowledged().await;
        assert_eq!((acked, answers[0].0), (pkid, QoS::AtLeastOnce));
        ids.push(answers[0].1);
    }
    assert_eq!(rig.count("gateway_mqtt_source_answers_total{kind=\"nack\"}"), 20);
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_for_the_broker_is_left_out() {
    let rig = rig().await;
    let granted = granting(None, Some(40));
    let mut peer = rig.enter(granted).await;
    for pkid in 1..=3 {
        peer.publish(pkid, b"no batch".to_vec()).await;
        assert_eq!(peer.acknowledged().await, (pkid, Vec::new()));
    }
    assert_eq!(rig.count("gateway_mqtt_source_answers_total{kind=\"refused\"}"), 3);
    rig.end().await;
}

#[tokio::test]
async fn a_session_that_the_broker_has_forgotten_is_counted() {
    let rig = rig().await;
    drop(rig.enter(granting(None, None)).await);
    let mut peer = rig.enter(granting(None, None)).await;
    peer.publish(1, b"no batch".to_vec()).await;
    assert_eq!(peer.acknowledged().await.0, 1);
    assert_eq!(rig.count("gateway_mqtt_source_sessions_lost_total"), 1);
    rig.end().await;
}
