//! The local socket for the command line: HTTP over a Unix socket in the data directory, whose
//! owner alone may connect.
//!
//! | call | does |
//! |---|---|
//! | `POST /v1/sinks/NAME/rewind` `{"to": RECORD or null}` | lets a sink get everything again |
//! | `POST /v1/quarantine/replay` `{…}` | sends refused readings to their sinks once more, a page |
//! | `POST /v1/quarantine/drop` `{…}` | gives refused readings up, a page |
//! | `POST /v1/known` `{…}` | shows devices and kinds of fields; revokes, allows, sets, forgets |
//!
//! The last three are [`Commands::others`]: who gives them knows what their objects mean.

use super::{connection, problem};
use axum::{
    Json, Router,
    extract::{Path as UrlPath, State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};
use tokio::{net::UnixListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Most connections at once.
const MAX_CONNECTIONS: usize = 8;

/// What a rewind is to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct RewindTo {
    /// The first record that the sink gets; `None` for the oldest that the log has.
    pub to: Option<u64>,
}

/// What a rewind has done, or why it has not.
pub(super) type Rewinding = Pin<Box<dyn Future<Output = Result<serde_json::Value, String>> + Send>>;
/// Rewinds the sink of this name.
pub type Rewinder = Arc<dyn Fn(String, RewindTo) -> Rewinding + Send + Sync>;

/// What a command has done, or why it has not.
pub type Doing = Pin<Box<dyn Future<Output = anyhow::Result<serde_json::Value>> + Send>>;
/// Carries out a request, a JSON object.
pub type Command = Arc<dyn Fn(serde_json::Value) -> Doing + Send + Sync>;

/// What the socket can do.
#[derive(Clone)]
pub struct Commands {
    /// Takes a sink back.
    pub rewind: Rewinder,
    /// By path, what else can be done.
    pub others: BTreeMap<&'static str, Command>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Commands")
    }
}

/// The bound socket, not yet serving.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Opens the socket; one that a gateway left that died is replaced.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves until `stop` is cancelled, then removes the socket.
    pub async fn serve(self, commands: Commands, stop: CancellationToken) {
        let others = commands.others.iter().fold(Router::new(), |router, (path, command)| {
            let command = Arc::clone(command);
            router.route(path, post(move |request| carry_out(Arc::clone(&command), request)))
        });
        let router = others
            .route("/v1/sinks/{name}/rewind", post(rewind_sink))
            .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing at this path") })
            .with_state(commands);
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
                    tracing::warn!(%error, "cannot accept a connection of the command line");
                    tokio::time::sleep(super::ACCEPT_PAUSE).await;
                }
            }
        }
        let _ = fs::remove_file(&self.path);
        connections.close();
        connections.wait().await;
    }
}

async fn rewind_sink(
    State(commands): State<Commands>,
    UrlPath(name): UrlPath<String>,
    to: Result<Json<RewindTo>, JsonRejection>,
) -> Response {
    let to = match to {
        Ok(Json(to)) => to,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    match (commands.rewind)(name, to).await {
        Ok(done) => Json(done).into_response(),
        Err(why) => problem(StatusCode::CONFLICT, &why),
    }
}

async fn carry_out(
    command: Command,
    request: Result<Json<serde_json::Value>, JsonRejection>,
) -> Response {
    let request = match request {
        Ok(Json(request)) => request,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    match command(request).await {
        Ok(done) => Json(done).into_response(),
        Err(why) => problem(StatusCode::CONFLICT, &format!("{why:#}")),
    }
}

/// What the running gateway answers to a call: the body of its answer, or what it says against it.
/// Blocks. `None` if no gateway listens.
///
/// # Errors
/// The socket fails, or the answer makes no sense.
pub fn call(socket: &Path, path: &str, body: &str) -> io::Result<Option<Result<String, String>>> {
    use std::io::{Read, Write};
    let mut stream = match std::os::unix::net::UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(super::CALL_TIMEOUT))?;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.0\r\nHost: gateway\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())?;
    let mut answer = String::new();
    stream.take(super::MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    let senseless = || io::Error::other("the gateway's answer makes no sense");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(senseless)?;
    if head.split(' ').nth(1) == Some("200") {
        return Ok(Some(Ok(body.to_owned())));
    }
    let problem: serde_json::Value = serde_json::from_str(body).map_err(|_| senseless())?;
    Ok(Some(Err(problem["detail"].as_str().unwrap_or_default().to_owned())))
}
