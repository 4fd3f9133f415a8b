//! A time-series store that answers every write with 204.

use super::Counters;
use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{net::Ipv4Addr, sync::Arc};
use tokio::net::TcpListener;

const PATH: &str = "/api/v2/write";

/// Binds a free port; the future serves it.
pub(super) async fn serve(
    counters: Arc<Counters>,
) -> Result<(u16, impl Future<Output = Result<()>> + Send)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    Ok((port, accept(listener, counters)))
}

async fn accept(listener: TcpListener, counters: Arc<Counters>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let counters = Arc::clone(&counters);
        tokio::spawn(async move {
            let service = service_fn(|request| write(request, &counters));
            // Whoever breaks a connection is short of counts, and that is noticed.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// A request counts when all of it has come.
async fn write(
    request: Request<Incoming>,
    counters: &Counters,
) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    let mut response = Response::new(Empty::new());
    if request.method() != "POST" || request.uri().path() != PATH {
        *response.status_mut() = StatusCode::NOT_FOUND;
        return Ok(response);
    }
    let (mut lines, mut last) = (0, b'\n');
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            lines += newlines(data);
            last = data.last().copied().unwrap_or(last);
        }
    }
    // The last line may go without.
    counters.add(lines + u64::from(last != b'\n'));
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// In chunks whose count fits a byte, so that the compiler counts many at once.
fn newlines(data: &[u8]) -> u64 {
    let count = |chunk: &[u8]| chunk.iter().map(|&byte| u8::from(byte == b'\n')).sum::<u8>();
    data.chunks(255).map(|chunk| u64::from(count(chunk))).sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_line_counts_once() {
        assert_eq!(newlines(b""), 0);
        assert_eq!(newlines(&[b'\n'; 1000]), 1000);
        assert_eq!(newlines("a b=1 2\n".repeat(5_000).as_bytes()), 5_000);
    }
}
