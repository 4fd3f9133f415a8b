//! The operators' side: metrics, health, the ledger, and a page that shows them.
//!
//! | path | answer |
//! |---|---|
//! | `/` | a page with the state and the ledger |
//! | `/metrics` | Prometheus text format |
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200, or 503 with the reasons |
//! | `/api/v1/ledger` | the ledger, JSON |
//! | `/api/v1/ledger/device?id=ID&realm=REALM` | a device's, for each sink |
//! | `/api/v1/quarantine` | readings that sinks refused: `sink`, `device`, `after`, `limit` (to 1,000) |
//!
//! It refuses: whoever lacks the token (if there is one; off loopback there always is), pages of
//! other origins, names that are not ours on loopback, slow and large requests. It changes nothing
//! and knows no other room: what it shows comes through [`Sources`]. What changes something goes
//! through [`Control`], the socket for the command line.

mod control;
mod guard;
mod ledger;
mod page;
mod readiness;

pub use control::{Command, Commands, Control, Doing, RewindTo, Rewinder, call};
pub use ledger::{DeviceLedgerSource, LedgerSnapshot, LedgerSource, SinkLedger};
pub use readiness::{NotReady, Readiness};

use crate::{config::valid, metrics::Registry};
use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Most connections at once; further ones wait in the listen queue.
const MAX_CONNECTIONS: usize = 64;
/// A request's head must be complete within this, which also ends idle connections.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer must be made within this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// What the command line asks must be done within this.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Most bytes of an answer to the command line.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Pause after accept failed, as it does without pause when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin side shows.
#[derive(Clone)]
pub struct Sources {
    /// `/metrics`.
    pub registry: Registry,
    /// `/readyz`.
    pub readiness: Readiness,
    /// `/api/v1/ledger`.
    pub ledger: LedgerSource,
    /// `/api/v1/ledger/device`.
    pub of_device: DeviceLedgerSource,
    /// `/api/v1/quarantine`.
    pub quarantine: QuarantineSource,
}

/// Looks into the quarantine; blocks for the disk.
pub type QuarantineSource =
    Arc<dyn Fn(QuarantineQuery) -> anyhow::Result<serde_json::Value> + Send + Sync>;

/// Which page of the quarantine.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuarantineQuery {
    /// Only of this sink.
    pub sink: Option<String>,
    /// Only of this device id.
    pub device: Option<String>,
    /// Only after this id: the last one of the page before.
    pub after: Option<i64>,
    /// How many at most.
    pub limit: Option<u32>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sources")
    }
}

/// The admin listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for operators: {source}; stop what uses it, or set \"admin.listen\""
)]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// The bound listener, not yet serving.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<valid::Secret>,
}

impl Admin {
    /// Opens the listener.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(config: &valid::Admin) -> Result<Self, BindError> {
        let failed = |source| BindError { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, token: config.token.clone() })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled; then finishes the requests that are under way.
    pub async fn serve(self, sources: Sources, stop: CancellationToken) {
        let guard = guard::Guard::new(self.address, self.token);
        let router = router(sources, guard);
        let connections = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let permit = permits.clone().acquire_owned();
            let (permit, stream) = tokio::select! {
                () = stop.cancelled() => break,
                next = async { (permit.await, self.listener.accept().await) } => next,
            };
            match stream {
                Ok((stream, _)) => {
                    let connection = connection(stream, router.clone(), stop.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of an operator");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    // What goes wrong here is the client's doing, and nothing to act on.
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(ANSWER_TIMEOUT, connection).await;
    }
}

fn router(sources: Sources, guard: guard::Guard) -> Router {
    routes()
        .layer(middleware::from_fn(in_time))
        .layer(middleware::from_fn_with_state(Arc::new(guard), guard::check))
        .layer(middleware::map_response(secure))
        .with_state(sources)
}

/// What is shown, to whoever may ask.
fn routes() -> Router<Sources> {
    Router::new()
        .route("/", get(show_page))
        .route("/style.css", get(style))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/api/v1/ledger", get(show_ledger))
        .route("/api/v1/ledger/device", get(show_device))
        .route("/api/v1/quarantine", get(show_quarantine))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "this path is only read: use GET")
        })
}

/// An answer in the form of RFC 9457.
fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let body = json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
    });
    let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, content_type, body.to_string()).into_response()
}

async fn in_time(request: axum::extract::Request, next: middleware::Next) -> Response {
    match timeout(ANSWER_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => problem(StatusCode::SERVICE_UNAVAILABLE, "the answer took too long"),
    }
}

/// Nothing from elsewhere is loaded, nothing is framed, cached or guessed.
async fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn metrics(State(sources): State<Sources>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, sources.registry.render()).into_response()
}

async fn readyz(State(sources): State<Sources>) -> Response {
    let reasons = sources.readiness.reasons();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reasons: Vec<_> = reasons
        .into_iter()
        .map(|reason| json!({ "code": reason.code(), "detail": reason.detail() }))
        .collect();
    (status, Json(json!({ "ready": reasons.is_empty(), "reasons": reasons }))).into_response()
}

async fn show_ledger(State(sources): State<Sources>) -> Response {
    Json((sources.ledger)().to_json()).into_response()
}

/// Whose ledger is asked for.
#[derive(serde::Deserialize)]
struct OfDevice {
    id: String,
    #[serde(default = "default_realm")]
    realm: String,
}

fn default_realm() -> String {
    "default".to_owned()
}

async fn show_device(
    State(sources): State<Sources>,
    of: Result<Query<OfDevice>, QueryRejection>,
) -> Response {
    let OfDevice { id, realm } = match of {
        Ok(Query(of)) => of,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    match (sources.of_device)(realm, id).await {
        Ok(ledger) => Json(ledger).into_response(),
        Err(why) => problem(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
}

async fn show_quarantine(
    State(sources): State<Sources>,
    query: Result<Query<QuarantineQuery>, QueryRejection>,
) -> Response {
    let Ok(Query(query)) = query else {
        let detail = "the query takes sink, device, after and limit (a number)";
        return problem(StatusCode::BAD_REQUEST, detail);
    };
    match tokio::task::spawn_blocking(move || (sources.quarantine)(query)).await {
        Ok(Ok(page)) => Json(page).into_response(),
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}")),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn show_page(State(sources): State<Sources>) -> Html<String> {
    Html(page::render(&sources.readiness.reasons(), &(sources.ledger)()))
}

async fn style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE).into_response()
}

#[cfg(test)]
mod tests;
