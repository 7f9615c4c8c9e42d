//! The listening socket: accepts connections within a bound, serves HTTP/1.1 and HTTP/2, drains when told to.

mod again;
mod answer;
mod drive;
mod lazy;
pub mod open_files;
mod socket;
mod state;
pub mod table;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};

use crate::front::Front;
use again::again_at_once;
use answer::{Answer, Running};
use drive::Driven;
use lazy::{LazyTimer, looking};
use socket::Socket;
pub use state::Timeouts;
use state::{Order, Watch};
use table::{Connections, Entry};

/// From the acceptance of a connection to the complete head of its first request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// From the end of an answer to the complete head of the next request.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long connections may take to end after that.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that has requests of HTTP/2 running is asked so often whether it is there, and has as long to answer.
const PING_EVERY: Duration = Duration::from_secs(20);

/// A bound socket.
pub struct Server {
    listener: TcpListener,
    connections: Arc<Connections>,
    timeouts: Timeouts,
}

type Builder = auto::Builder<TokioExecutor>;

impl Server {
    /// Binds the address.
    ///
    /// # Errors
    /// When it is taken or not ours.
    pub async fn bind(
        addr: SocketAddr,
        max_connections: usize,
        timeouts: Timeouts,
    ) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::bind(addr).await?,
            connections: Connections::new(max_connections),
            timeouts,
        })
    }

    /// The address in use, with the port that was chosen when 0 was asked for.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Its connections, to tell how many there are.
    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }

    /// Serves until `stop` is done, then lets running requests finish for up to `drain`.
    pub async fn serve(self, front: Arc<Front>, stop: impl Future<Output = ()>, drain: Duration) {
        let builder = Arc::new(builder());
        let mut stop = std::pin::pin!(stop);
        for number in 0.. {
            let accepted = async {
                self.connections.room().await;
                self.listener.accept().await
            };
            let accepted = tokio::select! {
                accepted = accepted => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let entry = self.connections.add(number);
                    let connection =
                        connection(stream, entry, builder.clone(), front.clone(), self.timeouts);
                    tokio::spawn(connection);
                }
                Err(error) => {
                    // Out of file descriptors, mostly: some of those in use are given back.
                    tracing::warn!(%error, "cannot accept a connection");
                    self.connections.evict();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(self.listener);
        if !self.connections.end(Order::Finish, drain).await {
            tracing::warn!("closing connections although requests still run");
            self.connections.end(Order::Close, CLOSE_TIMEOUT).await;
        }
    }
}

fn builder() -> Builder {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        // Which connections have been silent for too long is seen by `Watch`, from their acceptance on.
        .header_read_timeout(None)
        // A client that shut down its sending half gets its answer; `Driven` notices one that is gone.
        .half_close(true);
    // No `pipeline_flush`: with it, hyper buffers an answer without bound while its client does not read.
    builder
        .http2()
        .timer(LazyTimer)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_concurrent_streams(1000);
    builder
}

/// Serves one connection to its end.
async fn connection(
    stream: TcpStream,
    entry: Entry,
    builder: Arc<Builder>,
    front: Arc<Front>,
    timeouts: Timeouts,
) {
    // Small chunks of a streamed answer must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let state = entry.state.clone();
    let serving = state.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let running = Running::begin(serving.clone());
        let answer = front.clone().answer(request);
        async move {
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Answer::new(body, running)))
        }
    });
    let socket = TokioIo::new(Socket::new(stream, state.clone()));
    let connection = builder.serve_connection(socket, service).into_owned();
    let driven = again_at_once(Driven::new(connection, state.clone()));
    let mut watch = Watch::new(Instant::now());
    let look = |now| {
        if watch.look(&state, timeouts, now) {
            state.tell(Order::Evict);
        }
    };
    if let Err(error) = looking(look_every(timeouts), look, driven).await {
        tracing::debug!(%error, "connection ended");
    }
    drop(entry);
}

/// How often a connection is looked at: timeouts end at most so much late.
fn look_every(timeouts: Timeouts) -> Duration {
    let shortest = timeouts.header.min(timeouts.idle);
    (shortest / 4).clamp(Duration::from_millis(50), Duration::from_secs(5))
}
