//! A store within the test that answers as InfluxDB and as VictoriaMetrics do, from what the test
//! says it holds, with whatever trouble a test wants.

use super::influxdb_2;
use super::readings::{Reading, Value};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value as Json, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the store holds and how it behaves.
#[derive(Debug, Default)]
pub struct State {
    pub readings: Vec<Reading>,
    /// What every request must carry in `Authorization`.
    pub authorization: Option<&'static str>,
    /// Ends the connection after each answer.
    pub closes: bool,
    /// VictoriaMetrics keeps one sample of each millisecond.
    pub deduplicates: bool,
    /// InfluxDB cuts answers off after so many points.
    pub max_row_limit: Option<usize>,
    /// What `/health` says; without it there is no such page.
    pub version: Option<&'static str>,
    /// What `/api/v1/ledger` says: it is a gateway's listener for operators, too.
    pub ledger: Option<Json>,
    /// What `/api/v1/ledger/device` says of a realm and device.
    pub of_device: Option<fn(&str, &str) -> Json>,
    /// The devices that were asked for there.
    pub devices_asked: Vec<String>,
    /// Every answer is this.
    pub refuses: Option<(u16, &'static str)>,
    /// Questions that came, without what differs between devices.
    pub questions: Vec<String>,
}

pub struct HttpStore {
    pub url: String,
    pub state: Arc<Mutex<State>>,
}

impl HttpStore {
    pub fn start(readings: Vec<Reading>) -> Self {
        Self::serve(readings, None)
    }

    /// Over TLS, with a certificate that comes back as PEM.
    pub fn start_tls(readings: Vec<Reading>) -> (Self, String) {
        let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key.unwrap())
            .unwrap();
        let mut store = Self::serve(readings, Some(TlsAcceptor::from(Arc::new(config))));
        store.url = store.url.replace("http://127.0.0.1", "https://localhost");
        (store, issued.cert.pem())
    }

    fn serve(readings: Vec<Reading>, tls: Option<TlsAcceptor>) -> Self {
        let state = Arc::new(Mutex::new(State { readings, ..State::default() }));
        let (shared, (ready, port)) = (Arc::clone(&state), std::sync::mpsc::channel());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                ready.send(listener.local_addr().unwrap().port()).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let (state, tls) = (Arc::clone(&shared), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => converse(socket, state).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(socket).await {
                                    converse(stream, state).await;
                                }
                            }
                        }
                    });
                }
            });
        });
        Self { url: format!("http://127.0.0.1:{}", port.recv().unwrap()), state }
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: Arc<Mutex<State>>,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let answer = answer(&Request::from_parts(head, body), &mut state.lock().unwrap());
            Ok::<_, Infallible>(answer)
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

fn answer(request: &Request<Bytes>, state: &mut State) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let query: HashMap<String, String> =
        form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let flux = serde_json::from_slice::<Json>(request.body()).ok();
    let flux = flux.and_then(|body| body["query"].as_str().map(str::to_owned));
    let asked = query.get("q").or(query.get("match[]")).cloned().or(flux.clone());
    state.questions.push(asked.unwrap_or_default());
    let mut response = Response::builder();
    if state.closes {
        response = response.header("connection", "close");
    }
    let credential = request.headers().get("authorization").map(|value| value.to_str().unwrap());
    let (status, text) = if credential != state.authorization {
        (401, "{\"error\":\"unauthorized access\"}".to_owned())
    } else if let Some((status, words)) = state.refuses {
        (status, words.to_owned())
    } else {
        match request.uri().path() {
            "/query" => {
                assert_eq!((query["db"].as_str(), query["epoch"].as_str()), ("fleet", "ns"));
                (200, influx(state, &query["q"]).to_string() + "\n")
            }
            "/api/v1/ledger" if state.ledger.is_some() => (200, json!(state.ledger).to_string()),
            "/api/v1/ledger/device" if state.of_device.is_some() => {
                state.devices_asked.push(query["id"].clone());
                let of = state.of_device.map(|of| of(&query["realm"], &query["id"]));
                (200, json!(of).to_string())
            }
            "/health" if state.version.is_some() => {
                let version = state.version;
                (
                    200,
                    json!({ "name": "influxdb", "status": "pass", "version": version }).to_string(),
                )
            }
            "/api/v2/query" => {
                assert_eq!((request.method().as_str(), query["org"].as_str()), ("POST", "our org"));
                (200, influxdb_2::answer(&state.readings, &flux.unwrap()))
            }
            "/api/v1/export" => (200, export(state, &query)),
            "/api/v1/label/device/values" => {
                let (from, to) = times(&query);
                let within = state.readings.iter().filter(|r| (from..=to).contains(&ms(r)));
                let devices: BTreeSet<&str> = within.map(|r| r.device.as_str()).collect();
                (200, json!({ "status": "success", "data": devices }).to_string())
            }
            path => (404, format!("no {path}")),
        }
    };
    let status = StatusCode::from_u16(status).unwrap();
    response.status(status).body(Full::new(Bytes::from(text))).unwrap()
}

fn ms(reading: &Reading) -> i64 {
    reading.time_ns.div_euclid(1_000_000)
}

fn times(query: &HashMap<String, String>) -> (i64, i64) {
    let time = |name: &str| query[name].replace('.', "").parse().unwrap();
    (time("start"), time("end"))
}

fn export(state: &State, query: &HashMap<String, String>) -> String {
    let (from, to) = times(query);
    let mut series: BTreeMap<String, (Vec<f64>, Vec<i64>)> = BTreeMap::new();
    let device = query["match[]"].split('"').nth(1).unwrap();
    let asked = |r: &&Reading| r.device == device;
    for reading in state.readings.iter().filter(asked) {
        if !(from..=to).contains(&ms(reading)) {
            continue;
        }
        for (field, value) in &reading.fields {
            let x = match value {
                Value::Float(x) => *x,
                Value::Int(n) => *n as f64,
                Value::Bool(b) => f64::from(u8::from(*b)),
                // The gateway leaves them out.
                Value::Text(_) => continue,
            };
            let mut metric = json!({ "db": "fleet", "device": reading.device });
            metric["__name__"] = format!("{}_{field}", reading.measurement).into();
            for (tag, value) in &reading.tags {
                metric[tag] = value.as_str().into();
            }
            let (values, times) = series.entry(metric.to_string()).or_default();
            if state.deduplicates && times.last() == Some(&ms(reading)) {
                values.pop();
                times.pop();
            }
            values.push(x);
            times.push(ms(reading));
        }
    }
    let most: usize = query["max_rows_per_line"].parse().unwrap();
    let mut out = String::new();
    for (metric, (values, times)) in series {
        for (values, times) in values.chunks(most).zip(times.chunks(most)) {
            let (values, times) = (json!(values), json!(times));
            out += &format!("{{\"metric\":{metric},\"values\":{values},\"timestamps\":{times}}}\n");
        }
    }
    out
}

fn influx(state: &State, question: &str) -> Json {
    let series = |columns: Json, values: Vec<Json>| {
        let series = json!([{ "name": "m", "columns": columns, "values": values }]);
        let series = if values.is_empty() { json!([]) } else { series };
        json!({ "results": [{ "statement_id": 0, "series": series }] })
    };
    let of = |set: BTreeSet<Texts>| set.into_iter().map(|Texts(row)| json!(row)).collect();
    let quoted: Vec<&str> = question.split('"').skip(1).step_by(2).collect();
    let from = question.split("FROM \"").nth(1).and_then(|rest| rest.split('"').next());
    let within = || state.readings.iter().filter(|r| from.is_none_or(|m| m == r.measurement));
    let row = |parts: &[&str]| Texts(parts.iter().map(|&part| part.to_owned()).collect());
    if question.starts_with("SHOW MEASUREMENTS") {
        return series(json!(["name"]), of(within().map(|r| row(&[&r.measurement])).collect()));
    }
    if question.starts_with("SHOW FIELD KEYS") {
        let keys = within().flat_map(|r| &r.fields).map(|(field, value)| {
            let kind = match value {
                Value::Float(_) => "float",
                Value::Int(_) => "integer",
                Value::Bool(_) => "boolean",
                Value::Text(_) => "string",
            };
            row(&[field, kind])
        });
        return series(json!(["fieldKey", "fieldType"]), of(keys.collect()));
    }
    if question.starts_with("SHOW TAG KEYS") {
        let keys = within().flat_map(|r| r.tags.keys().map(|tag| row(&[tag])));
        return series(json!(["tagKey"]), of(keys.chain([row(&["device"])]).collect()));
    }
    let number = |after: &str| -> i64 {
        let rest = question.split(after).nth(1).unwrap_or_else(|| panic!("{after}: {question}"));
        rest.split(' ').next().unwrap().parse().unwrap()
    };
    let times = number("time >= ")..=number("time <= ");
    let in_time = |r: &&Reading| times.contains(&r.time_ns);
    let limit = usize::try_from(number("LIMIT ")).unwrap();
    if question.starts_with("SHOW TAG VALUES") {
        let keys: BTreeSet<_> =
            within().filter(in_time).map(|r| row(&["device", &r.device])).collect();
        let offset = usize::try_from(number("OFFSET ")).unwrap();
        let page = keys.into_iter().skip(offset).take(limit).collect();
        return series(json!(["key", "value"]), of(page));
    }
    assert!(question.starts_with("SELECT "), "{question}");
    let (columns, _) = question["SELECT ".len()..].split_once(" FROM ").unwrap();
    let columns: Vec<(&str, &str)> = columns
        .split(',')
        .map(|column| column.trim_start_matches('"').split_once("\"::").unwrap())
        .collect();
    let names: Vec<&str> = ["time"].into_iter().chain(columns.iter().map(|c| c.0)).collect();
    assert!(quoted.contains(&"device"));
    let device = question.split("\"device\" = '").nth(1).unwrap().split('\'').next().unwrap();
    let asked = |r: &&Reading| r.device == device;
    // As a store with one point for each series and time, the newer in place of the older.
    let mut points: BTreeMap<(i64, String), Vec<Json>> = BTreeMap::new();
    for reading in within().filter(asked).filter(in_time) {
        let mut cells = vec![json!(reading.time_ns)];
        cells.extend(columns.iter().map(|&(name, kind)| {
            let tag = reading.tags.get(name).filter(|_| kind == "tag");
            match (reading.fields.get(name), kind) {
                (_, "tag") => json!(tag),
                (Some(Value::Float(x)), "float") => json!(x),
                (Some(Value::Int(n)), "integer" | "float") => json!(n),
                (Some(Value::Bool(b)), "boolean") => json!(b),
                (Some(Value::Text(text)), "string") => json!(text),
                _ => Json::Null,
            }
        }));
        points.insert((reading.time_ns, format!("{:?}", reading.tags)), cells);
    }
    let cut = state.max_row_limit.filter(|&most| points.len().min(limit) > most);
    let values = points.into_values().take(cut.unwrap_or(limit)).map(Json::from).collect();
    let mut answer = series(json!(names), values);
    if cut.is_some() {
        answer["results"][0]["series"][0]["partial"] = true.into();
    }
    answer
}

/// A row of texts that can be sorted.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Texts(Vec<String>);
