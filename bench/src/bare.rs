//! The bare loop: TLS, WebSocket, a small answer to every message, and nothing else.
//!
//! What the same libraries cost a server that checks nothing, keeps nothing and forwards nothing.
//! As it is usually written it sends every answer at once. It can also gather them and write them
//! out when it has nothing more to read, which costs less where messages come in numbers.

use crate::input;
use anyhow::{Context, Result};
use futures_util::{FutureExt, SinkExt, StreamExt};
use proto::{Ack, GatewayMessage};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// What the bare loop is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Certificate chain, PEM
    #[arg(long)]
    pub cert: PathBuf,
    /// Its key, PEM
    #[arg(long)]
    pub key: PathBuf,
    /// Read buffer of a connection, in bytes
    #[arg(long, default_value_t = 8192)]
    pub read_buffer: usize,
    /// Writes answers out only when there is nothing more to read
    #[arg(long)]
    pub gather: bool,
}

/// Runs until the end of the input.
///
/// # Errors
/// No port, or no certificate.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let acceptor = TlsAcceptor::from(Arc::new(tls(options)?));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{{\"event\":\"ready\",\"port\":{}}}", listener.local_addr()?.port());
        let config = WebSocketConfig::default().read_buffer_size(options.read_buffer);
        tokio::select! {
            ended = accept(listener, acceptor, config, options.gather) => ended,
            () = end_of_input() => Ok(()),
        }
    })
}

async fn end_of_input() {
    let mut lines = input::lines();
    while lines.recv().await.is_some() {}
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    config: WebSocketConfig,
    gather: bool,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(error) = Box::pin(serve(stream, acceptor, config, gather)).await {
                eprintln!("bare loop: {error:#}");
            }
        });
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    config: WebSocketConfig,
    gather: bool,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    let mut seq = 0;
    loop {
        // Flushes only where it would have to wait.
        let message = match socket.next().now_or_never() {
            Some(message) => message,
            None => {
                socket.flush().await?;
                socket.next().await
            }
        };
        match message {
            Some(Ok(Message::Binary(_))) => {
                seq += 1;
                let mut answer = Vec::with_capacity(32);
                GatewayMessage::Ack(Ack { seq, time: 1_795_305_600_000 }).encode(&mut answer);
                socket.feed(Message::Binary(answer.into())).await?;
                if !gather {
                    socket.flush().await?;
                }
            }
            None | Some(Ok(Message::Close(_)) | Err(_)) => return Ok(()),
            Some(Ok(_)) => {}
        }
    }
}

fn tls(options: &Options) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(&options.cert)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read {}", options.cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(&options.key)
        .with_context(|| format!("cannot read {}", options.key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?)
}
