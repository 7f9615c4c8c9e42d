//! Drives one connection until it ends by itself or is told to.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::Sleep;

use super::state::{ConnectionState, Order};

/// A client that sends no more keeps its connection while it is sent something at least so often. TCP does not tell whether
/// it only finished sending or is gone, and work for a client that is gone has to end. What is sent to one that is gone
/// comes back as a reset, and the next write fails.
pub const HALF_CLOSED_PAUSE: Duration = Duration::from_secs(5);

/// A connection with its orders.
pub struct Driven<C> {
    connection: Pin<Box<C>>,
    state: Arc<ConnectionState>,
    registered: bool,
    finishing: bool,
    half_closed: Option<HalfClosed>,
}

/// The client sends no more.
struct HalfClosed {
    /// Bytes that were written when the pause began.
    written: u64,
    over: Pin<Box<Sleep>>,
}

impl<C: GracefulConnection> Driven<C> {
    /// A connection with its state.
    pub fn new(connection: C, state: Arc<ConnectionState>) -> Self {
        Self {
            connection: Box::pin(connection),
            state,
            registered: false,
            finishing: false,
            half_closed: None,
        }
    }

    fn finish(&mut self) {
        if !self.finishing {
            self.finishing = true;
            self.connection.as_mut().graceful_shutdown();
        }
    }

    /// Whether the client is gone, or seems to be.
    fn is_deserted(&mut self, cx: &mut Context<'_>) -> bool {
        if self.state.is_gone() {
            return true;
        }
        if !self.state.input_ended() {
            return false;
        }
        let written = self.state.written();
        let pause = || Box::pin(tokio::time::sleep(HALF_CLOSED_PAUSE));
        let half_closed = self.half_closed.get_or_insert_with(|| HalfClosed {
            written,
            over: pause(),
        });
        while half_closed.over.as_mut().poll(cx).is_ready() {
            if half_closed.written == written {
                return true;
            }
            *half_closed = HalfClosed {
                written,
                over: pause(),
            };
        }
        false
    }
}

impl<C: GracefulConnection> Future for Driven<C> {
    type Output = Result<(), C::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.registered {
            // Once: a connection stays with the task that polls it first.
            self.registered = true;
            self.state.register(cx.waker());
        }
        let order = self.state.order();
        match order {
            Order::Serve => {}
            Order::Finish => self.finish(),
            Order::Evict if self.state.is_working() => self.state.keep(),
            // HTTP/2 says goodbye in the poll below.
            Order::Evict => self.finish(),
            Order::Close => return Poll::Ready(Ok(())),
        }
        let polled = self.connection.as_mut().poll(cx);
        if polled.is_ready() {
            return polled;
        }
        let ends = order == Order::Evict && !self.state.is_working();
        if ends || self.is_deserted(cx) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}
