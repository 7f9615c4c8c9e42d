//! The listening socket: accepts connections within a bound, serves HTTP/1.1 and HTTP/2, drains when told to.

mod again;
mod lazy;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::front::Front;
use again::again_at_once;
use lazy::{LOOK_EVERY, LazyTimer, looking};
use socket::Socket;

/// Connections at once; one more waits to be accepted.
pub const MAX_CONNECTIONS: usize = 10_000;
/// A client that takes longer to send the head of a request is cut off, within [`lazy::LOOK_EVERY`].
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// A bound socket.
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// When it is taken or not ours.
    pub async fn bind(addr: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        Ok(Self { listener })
    }

    /// The address in use, with the port that was chosen when 0 was asked for.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is done, then lets running requests finish for up to `drain`.
    pub async fn serve(self, front: Arc<Front>, stop: impl Future<Output = ()>, drain: Duration) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(LazyTimer)
            // No `pipeline_flush`: with it, hyper buffers an answer without bound while its client does not read.
            .header_read_timeout(HEADER_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(1000);
        let builder = Arc::new(builder);
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = async {
                // The semaphore is never closed, so a permit always comes.
                let permit = connections.clone().acquire_owned().await.ok();
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = &mut stop => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, mostly: the ones in use come back.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Small chunks of a streamed answer must not wait for an acknowledgement.
            let _ = stream.set_nodelay(true);
            let front = front.clone();
            let service = service_fn(move |request| front.clone().answer(request));
            let watcher = graceful.watcher();
            let builder = builder.clone();
            tokio::spawn(async move {
                let connection = builder.serve_connection(TokioIo::new(Socket(stream)), service);
                let connection = again_at_once(watcher.watch(connection.into_owned()));
                if let Err(error) = looking(LOOK_EVERY, connection).await {
                    tracing::debug!(%error, "connection ended");
                }
                drop(permit);
            });
        }
        drop(self.listener);
        if tokio::time::timeout(drain, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("stopping although requests still run");
        }
    }
}
