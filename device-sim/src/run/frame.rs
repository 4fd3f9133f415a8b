//! A device's messages, as frames of WebSocket that leave no buffer behind.
//!
//! tungstenite copies what is sent into a buffer which it keeps for the life of the link, as large
//! as the largest batch. So a device's own messages are made into frames here, by tungstenite's
//! code in a buffer of the thread, and handed to TLS beside it. Only its answers to ping and close
//! go through tungstenite. Both kinds of frames arrive whole: TLS takes what is put into it at
//! once, and of what is written through it a frame of control fits a record.

use super::tls::TlsStream;
use bytes::Bytes;
use std::cell::RefCell;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

thread_local! {
    /// The frame that is being made.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Puts a binary message into the link; the link has to be flushed.
///
/// # Errors
/// TLS has failed, or so much waits already that the socket cannot be alive.
pub(super) fn put<IO: AsyncRead + AsyncWrite + Unpin>(
    link: &mut WebSocketStream<TlsStream<IO>>,
    message: Bytes,
) -> Result<(), Error> {
    let mut frame = Frame::message(message, OpCode::Data(Data::Binary), true);
    // It protects proxies from scripts in a browser, which a simulated device is not.
    frame.header_mut().mask = Some(fastrand::u32(..).to_ne_bytes());
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        frame.format(scratch)?;
        Ok(link.get_mut().put(scratch)?)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::run::tls::{connect, tests::Pki, tests::localhost};
    use futures_util::{Sink, Stream};
    use std::pin::Pin;
    use std::task::Poll;
    use tokio_tungstenite::tungstenite::{Message, protocol::Role};

    /// Messages that a device sends.
    const MESSAGES: u32 = 300;

    /// The message of a number: of any length, up to many records.
    fn message(number: u32) -> Bytes {
        let mut dice = fastrand::Rng::with_seed(number.into());
        let longest = [10, 1_500, 70_000][dice.usize(..3)];
        let length = dice.usize(1..longest);
        std::iter::repeat_with(|| dice.u8(..)).take(length).collect()
    }

    #[tokio::test]
    async fn frames_stay_whole_between_pongs_while_the_socket_is_full() {
        let pki = Pki::new();
        let (near, far) = tokio::io::duplex(700);
        let server = pki.server(None);
        let (near, far) = tokio::join!(
            connect(pki.client(&rustls::version::TLS13), localhost(), near),
            server.accept(far)
        );
        let mut link = WebSocketStream::from_raw_socket(near.unwrap(), Role::Client, None).await;
        let mut far = WebSocketStream::from_raw_socket(far.unwrap(), Role::Server, None).await;

        let device = async {
            for number in 0..MESSAGES {
                put(&mut link, message(number)).unwrap();
                // Pings come and are answered while the frame is still on its way.
                std::future::poll_fn(|cx| {
                    while let Poll::Ready(read) = Pin::new(&mut link).poll_next(cx) {
                        assert!(matches!(read, Some(Ok(Message::Ping(_)))), "{read:?}");
                    }
                    // The last one waits for everything.
                    match Pin::new(&mut link).poll_flush(cx) {
                        Poll::Pending if number % 3 > 0 && number + 1 < MESSAGES => Poll::Ready(()),
                        flushed => flushed.map(|flushed| flushed.unwrap()),
                    }
                })
                .await;
            }
            link.close(None).await.unwrap();
        };
        let gateway = async {
            let (mut number, mut pings, mut pongs) = (0, 0_u32, 0_u32);
            loop {
                let read = std::future::poll_fn(|cx| Pin::new(&mut far).poll_next(cx)).await;
                match read.unwrap().unwrap() {
                    Message::Binary(came) => {
                        assert!(came == message(number), "message {number}");
                        number += 1;
                        pings += 1;
                        let ping = Message::Ping(pings.to_be_bytes().to_vec().into());
                        Pin::new(&mut far).start_send(ping).unwrap();
                        std::future::poll_fn(|cx| Pin::new(&mut far).poll_flush(cx)).await.unwrap();
                    }
                    Message::Pong(_) => pongs += 1,
                    Message::Close(_) => return (number, pongs),
                    other => panic!("{other:?}"),
                }
            }
        };
        let ((), (messages, pongs)) = tokio::join!(device, gateway);
        assert_eq!(messages, MESSAGES);
        assert!(pongs > 0, "no ping was answered between messages");
        assert_eq!(link.get_ref().memory(), 0);
    }
}
