//! A tight fleet in this process: every device is a real TLS WebSocket that always has batches
//! under way, sends again what was not acknowledged, and remembers here, outside the gateway and
//! its disk, what was.

use super::{
    disk::{LoopDisk, system},
    support::{Gateway, Home, device::connector},
    table::Outcome,
};
use futures_util::{SinkExt, StreamExt};
use gateway::data_dir::TokenKey;
use proto::{BatchEncoder, GatewayMessage, Hello, RawValue, SUBPROTOCOL, encode::encode_hello};
use rustls::pki_types::ServerName;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

/// Readings in a batch.
const READINGS: u64 = 40;
/// Batches that a device has under way.
const WINDOW: u64 = 4;
const FIRST_MS: i64 = 1_760_000_000_000;
/// Nothing takes longer, also on a machine that is busy with much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a device knows.
#[derive(Debug, Default)]
struct Known {
    /// Acknowledged up to this batch.
    acked: AtomicU64,
    /// Sent up to this batch.
    sent: AtomicU64,
    /// Times that the gateway knew less than it had acknowledged.
    forgotten: AtomicU64,
}

/// How a cycle ends, or what happens in the middle of it before the gateway is killed.
pub enum End<'a> {
    Kill,
    PowerCut(&'a mut LoopDisk),
    Trouble(&'a mut dyn FnMut(&Gateway, &Fleet)),
}

pub struct Fleet {
    home: Home,
    runtime: tokio::runtime::Runtime,
    devices: Arc<Vec<Known>>,
    tokens: Vec<String>,
    rng: fastrand::Rng,
    cycles: u64,
    /// Environment of the gateway.
    pub environment: Vec<(&'static str, String)>,
    /// Its configuration.
    pub config: &'static str,
}

impl Fleet {
    pub fn new(home: Home, devices: usize, seed: u64) -> Self {
        let (status, said) = home.start().stop();
        assert_eq!(status.code(), Some(0), "{said:?}");
        // The keys of the first start are no part of the promise.
        system("sync", &["-f", home.data().to_str().unwrap()]);
        let key = TokenKey::load(&home.token_key()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let day = Duration::from_secs(30 * 24 * 3600);
        let tokens = (0..devices).map(|n| key.mint(&name(n), now, day).unwrap()).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        Self {
            home,
            runtime,
            devices: Arc::new((0..devices).map(|_| Known::default()).collect()),
            tokens,
            rng: fastrand::Rng::with_seed(seed),
            cycles: 0,
            environment: Vec::new(),
            config: "",
        }
    }

    /// Batches that were acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked_of_each().iter().sum()
    }

    fn acked_of_each(&self) -> Vec<u64> {
        self.devices.iter().map(|known| known.acked.load(Ordering::SeqCst)).collect()
    }

    /// Batches that were sent and are not acknowledged.
    pub fn in_flight(&self) -> u64 {
        self.devices
            .iter()
            .map(|known| known.sent.load(Ordering::SeqCst) - known.acked.load(Ordering::SeqCst))
            .sum()
    }

    /// Waits until so many more batches are acknowledged.
    pub fn goes_on(&self, batches: u64) {
        let enough = self.acked() + batches;
        wait("the fleet goes on", || self.acked() >= enough);
    }

    fn gateway(&self) -> Gateway {
        let mut command = self.home.command("run", self.config);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Gateway::spawn(command, self.home.ca())
    }

    /// Starts the gateway and the fleet, waits until about so many readings were acknowledged, and ends the gateway with at least 100 batches under way (or as
    /// many as the fleet can have).
    pub fn cycle(&mut self, end: End<'_>, readings: u64) {
        self.cycles += 1;
        let gateway = self.gateway();
        let (over, is_over) = watch::channel(false);
        let connector = connector(&gateway);
        let tasks: Vec<_> = (0..self.devices.len())
            .map(|n| {
                let device = Device {
                    number: n,
                    devices: Arc::clone(&self.devices),
                    token: self.tokens[n].clone(),
                    port: gateway.port(),
                    connector: connector.clone(),
                };
                self.runtime.spawn(device.run(is_over.clone()))
            })
            .collect();
        let acked_before = self.acked_of_each();
        let before: u64 = acked_before.iter().sum();
        let at_least = 100.min(self.devices.len() as u64);
        let mean = readings / READINGS;
        let batches = self.rng.u64(mean / 4..=mean * 7 / 4);
        wait("the fleet is acknowledged", || self.acked() >= before + batches);
        std::thread::sleep(Duration::from_millis(self.rng.u64(..20)));
        wait("batches are under way", || self.in_flight() >= at_least);
        let mut heard = None;
        match end {
            End::Kill => gateway.kill(),
            End::PowerCut(disk) => {
                let switch = disk.switch();
                // With the power the process is gone: what is heard from now on does not count.
                heard = Some(self.acked_of_each());
                switch.cut();
                gateway.kill();
                disk.unmount();
                disk.mount();
            }
            End::Trouble(make) => {
                wait("every device is acknowledged", || {
                    let now = self.acked_of_each();
                    now.iter().zip(&acked_before).all(|(now, before)| now > before)
                });
                make(&gateway, self);
                wait("batches are under way", || self.in_flight() >= at_least);
                gateway.kill();
            }
        }
        over.send_replace(true);
        for task in tasks {
            self.runtime.block_on(task).unwrap();
        }
        for (known, acked) in self.devices.iter().zip(heard.into_iter().flatten()) {
            known.acked.store(acked, Ordering::SeqCst);
        }
        let in_flight = self.in_flight();
        println!("cycle {}: {in_flight} batches unacknowledged at the end", self.cycles);
        assert!(in_flight >= at_least);
    }

    /// Starts the gateway once more, and compares the embedded store with what is known here.
    pub fn verify(&self) -> Outcome {
        let gateway = self.gateway();
        let mut accepted = 0;
        wait("the store has everything", || {
            let (_, ledger) = gateway.get("/api/v1/ledger");
            let ledger: serde_json::Value = serde_json::from_str(&ledger).unwrap();
            accepted = ledger["accepted"].as_u64().unwrap();
            ledger["sinks"][0]["pending"] == 0
        });
        let store = self.home.open_store();
        let sql = "SELECT device, count(*), count(DISTINCT time_ns), sum(value), max(time_ns) \
                   FROM readings WHERE measurement = 'chaos' GROUP BY device";
        let mut statement = store.prepare(sql).unwrap();
        let rows = statement
            .query_map([], |row| {
                let (count, times, sum): (i64, i64, f64) = (row.get(1)?, row.get(2)?, row.get(3)?);
                Ok((row.get::<_, String>(0)?, (count, times, sum, row.get::<_, i64>(4)?)))
            })
            .unwrap();
        let rows: HashMap<_, _> = rows.map(Result::unwrap).collect();
        let mut outcome = Outcome { tried: self.cycles, ..Outcome::default() };
        let mut in_store = 0;
        for (n, known) in self.devices.iter().enumerate() {
            let acked = known.acked.load(Ordering::SeqCst);
            let sent = known.sent.load(Ordering::SeqCst);
            let (count, times, sum, last) = rows.get(&name(n)).copied().unwrap_or_default();
            let (count, times) = (count.unsigned_abs(), times.unsigned_abs());
            in_store += count;
            outcome.acked += acked * READINGS;
            outcome.false_acks += known.forgotten.load(Ordering::SeqCst);
            // Whole batches without a gap from the first on, or the sum of what they hold differs.
            let batches = count / READINGS;
            let expected = READINGS * batches * (batches + 1) / 2;
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let is_whole = count % READINGS == 0 && sum == expected as f64;
            let last_ms = time_ms(batches, READINGS - 1);
            let ends_well = count == 0 || last == last_ms * 1_000_000;
            if !is_whole || !ends_well || batches > sent || batches < acked {
                println!("{}: {count} of {acked}..={sent} batches, sum {sum}", name(n));
                outcome.lost += (acked * READINGS).saturating_sub(count).max(1);
            }
            outcome.duplicates += count - times;
        }
        // A batch that was logged twice overwrites itself in the store, and is counted twice here.
        outcome.duplicates += accepted.saturating_sub(in_store);
        println!("{outcome:?}, {in_store} readings in the store");
        outcome
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn name(device: usize) -> String {
    format!("chaos-{device:04}")
}

fn time_ms(seq: u64, index: u64) -> i64 {
    FIRST_MS + i64::try_from(seq * 1000 + index).unwrap()
}

/// Every reading of a batch has the number of the batch as its value, at a time of its own.
fn batch(seq: u64) -> Vec<u8> {
    let mut encoder = BatchEncoder::new();
    let mut readings = encoder.readings(seq, READINGS as u32);
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let value = [("value", RawValue::Float(seq as f64))];
    for index in 0..READINGS {
        readings = readings.reading(None, Some(time_ms(seq, index)), &[], &value);
    }
    encoder.finish().to_vec()
}

struct Device {
    number: usize,
    devices: Arc<Vec<Known>>,
    token: String,
    port: u16,
    connector: TlsConnector,
}

impl Device {
    /// Connects again and again until it is over.
    async fn run(self, mut over: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = over.wait_for(|over| *over) => return,
                _ = self.session() => {}
            }
            tokio::select! {
                _ = over.wait_for(|over| *over) => return,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    /// One connection, until anything but a plain acknowledgement comes.
    async fn session(&self) -> anyhow::Result<()> {
        let known = &self.devices[self.number];
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await?;
        tcp.set_nodelay(true)?;
        let tls = self.connector.connect(ServerName::try_from("localhost")?, tcp).await?;
        let url = format!("wss://localhost:{}/v1/telemetry", self.port);
        let mut request = url.into_client_request()?;
        let bearer = HeaderValue::try_from(format!("Bearer {}", self.token))?;
        request.headers_mut().insert("Authorization", bearer);
        let protocol = HeaderValue::from_static(SUBPROTOCOL);
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let (mut socket, _) = client_async(request, tls).await?;
        let mut hello = Vec::new();
        let measurement = Some("chaos".into());
        encode_hello(&Hello { stream: Some(7), measurement, ..Hello::default() }, &mut hello);
        socket.send(Message::binary(hello)).await?;
        let mut sent = None;
        while let Some(message) = socket.next().await {
            let Message::Binary(bytes) = message? else { continue };
            match GatewayMessage::decode(&bytes)? {
                GatewayMessage::Welcome(welcome) => {
                    let acked = welcome.acked_seq.unwrap_or(0);
                    let before = known.acked.fetch_max(acked, Ordering::SeqCst);
                    if before > acked {
                        println!("{}: {before} were acknowledged, {welcome:?}", name(self.number));
                        known.forgotten.fetch_add(1, Ordering::SeqCst);
                    }
                    sent = Some(acked);
                }
                GatewayMessage::Ack(ack) => {
                    known.acked.fetch_max(ack.seq, Ordering::SeqCst);
                }
                // Later, with a new connection.
                _ => return Ok(()),
            }
            let Some(sent) = &mut sent else { continue };
            while *sent < known.acked.load(Ordering::SeqCst) + WINDOW {
                *sent += 1;
                known.sent.fetch_max(*sent, Ordering::SeqCst);
                socket.feed(Message::binary(batch(*sent))).await?;
            }
            socket.flush().await?;
        }
        Ok(())
    }
}

/// Kills the gateway under a fleet.
pub fn killed(seed: u64, cycles: u64, devices: usize, readings: u64) -> Outcome {
    let mut fleet = Fleet::new(Home::new(), devices, seed);
    for _ in 0..cycles {
        fleet.cycle(End::Kill, readings);
    }
    fleet.verify()
}

#[test]
fn kill_9_under_500_devices_loses_nothing_that_was_acknowledged() {
    let begun = Instant::now();
    let cycles = std::env::var("CHAOS_KILLS").map_or(100, |text| text.parse().unwrap());
    killed(fastrand::u64(..1 << 32), cycles, 500, 1_200).assert_nothing_lost();
    println!("{cycles} cycles in {:?}", begun.elapsed());
}
