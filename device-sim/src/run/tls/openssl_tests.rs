//! Against OpenSSL, which is what many gateways stand behind.

#![allow(clippy::unwrap_used)]

use super::tests::{Pki, localhost};
use super::*;
use rustls::{SupportedProtocolVersion, version};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Longest wait for anything that the server does.
const PATIENCE: Duration = Duration::from_secs(60);

/// `openssl s_server`, which shows what comes and sends the lines that it is given; a line that
/// begins with `K` asks for new keys.
struct Server {
    child: Child,
    /// Its lines, which a thread reads.
    says: mpsc::UnboundedReceiver<String>,
    told: ChildStdin,
    port: u16,
}

impl Server {
    async fn start(pki: &Pki, version: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, pem: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path
        };
        // Each line is said at once.
        let mut child = Command::new("stdbuf")
            .args(["-oL", "openssl", "s_server", "-accept", "127.0.0.1:0", version, "-cert"])
            .arg(write("cert.pem", pki.issued.cert.pem()))
            .arg("-key")
            .arg(write("key.pem", pki.issued.signing_key.serialize_pem()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("coreutils have it");
        let (says, lines) = (child.stdout.take().unwrap(), mpsc::unbounded_channel());
        std::thread::spawn(move || {
            for line in BufReader::new(says).split(b'\n') {
                let line = String::from_utf8_lossy(&line.unwrap()).into_owned();
                if lines.0.send(line).is_err() {
                    break;
                }
            }
        });
        let told = child.stdin.take().unwrap();
        let mut server = Self { child, says: lines.1, told, port: 0 };
        let line = server.wait_for("ACCEPT").await;
        server.port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
        server
    }

    /// The next line that holds a word.
    async fn wait_for(&mut self, word: &str) -> String {
        let wait = async {
            loop {
                let line = self.says.recv().await;
                let line = line.unwrap_or_else(|| {
                    panic!("no {word:?} from openssl, which scripts/test-tools.sh installs")
                });
                if line.contains(word) {
                    return line;
                }
            }
        };
        let line = tokio::time::timeout(PATIENCE, wait).await;
        line.unwrap_or_else(|_| panic!("the server does not say {word:?}"))
    }

    fn tell(&mut self, line: &str) {
        self.told.write_all(line.as_bytes()).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads so many bytes.
async fn read(stream: &mut TlsStream<TcpStream>, count: usize) -> Vec<u8> {
    let mut got = vec![0; count];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut got)).await.unwrap().unwrap();
    got
}

/// Talks in both directions, with new keys in between if the version knows them.
async fn talk(version: &'static SupportedProtocolVersion, argument: &str, rekeys: bool) {
    let pki = Pki::new();
    let mut server = Server::start(&pki, argument).await;
    let socket = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let mut stream = connect(pki.client(version), localhost(), socket).await.unwrap();
    stream.write_all(b"from the device\n").await.unwrap();
    server.wait_for("from the device").await;
    for turn in 0..3 {
        if rekeys {
            server.tell("K\n");
            server.wait_for("SSL_do_handshake -> 1").await;
        }
        let line = format!("turn {turn}\n");
        server.tell(&line);
        assert_eq!(read(&mut stream, line.len()).await, line.as_bytes());
        stream
            .write_all(format!("{}, turn {turn}\n", "x".repeat(40_000)).as_bytes())
            .await
            .unwrap();
        server.wait_for(&format!("turn {turn}")).await;
    }
    // Both close in good order.
    stream.shutdown().await.unwrap();
    server.wait_for("DONE").await;
    let ended = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await;
    assert_eq!(ended.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn openssl_is_understood() {
    talk(&version::TLS12, "-tls1_2", false).await;
    talk(&version::TLS13, "-tls1_3", true).await;
}
