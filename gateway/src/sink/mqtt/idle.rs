//! A connection between two writes: somebody has to answer for it, or the broker takes us for gone.

use crate::mqtt::{Connection, Failure};
use tokio::{sync::oneshot, task::JoinHandle};

/// Keeps a connection alive until it is wanted. Dropped, it says good-bye.
#[derive(Debug)]
pub(super) struct Idle {
    wanted: oneshot::Sender<()>,
    keeper: JoinHandle<Result<Connection, Failure>>,
}

impl Idle {
    /// Lets a connection rest.
    pub(super) fn keep(mut connection: Connection) -> Self {
        let (wanted, mut call) = oneshot::channel();
        let keeper = tokio::spawn(async move {
            loop {
                tokio::select! {
                    called = &mut call => {
                        if called.is_err() {
                            connection.close().await;
                            return Err(Failure::closed());
                        }
                        return Ok(connection);
                    }
                    // Whatever comes answers nothing that was asked.
                    packet = connection.next() => packet.map(|_| ())?,
                }
            }
        });
        Self { wanted, keeper }
    }

    /// The connection, if it is still one.
    pub(super) async fn wake(self) -> Result<Connection, Failure> {
        // Nobody listens if the connection has ended; the keeper tells why.
        let _ = self.wanted.send(());
        match self.keeper.await {
            Ok(kept) => kept,
            Err(_) => Err(Failure::closed()),
        }
    }
}
