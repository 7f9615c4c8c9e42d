//! What a connection is doing, as counters that its task and the table of connections share, and when it has to end.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

/// One request in the upper half of the counter of requests.
const BEGUN: u64 = 1 << 32;
/// The lower half: requests that wait for the server.
const WORKING: u64 = BEGUN - 1;

/// What a connection was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Go on.
    Serve,
    /// Take no more requests; end when the running ones are answered.
    Finish,
    /// End now, unless a request arrived in the meantime.
    Evict,
    /// End now, whatever runs.
    Close,
}

const ORDERS: [Order; 4] = [Order::Serve, Order::Finish, Order::Evict, Order::Close];

/// The state of one connection.
///
/// A request on a warm connection costs two atomic additions here. Time is taken only in [`Watch::look`].
#[derive(Debug)]
pub struct ConnectionState {
    /// Requests so far (upper half), and those that wait for the server (lower half).
    requests: AtomicU64,
    /// Bytes written to the socket. Written by the connection's own task alone.
    written: AtomicU64,
    /// When the table of connections first saw it, and when it was last active: milliseconds on the table's clock.
    idle_since_ms: AtomicU64,
    /// The client sends no more.
    input_ended: AtomicBool,
    /// The client is gone: it reads no answer either.
    gone: AtomicBool,
    order: AtomicU8,
    task: AtomicWaker,
}

impl ConnectionState {
    /// A connection that was accepted at this time of the table's clock.
    pub fn new(now_ms: u64) -> Self {
        Self {
            requests: AtomicU64::new(0),
            written: AtomicU64::new(0),
            idle_since_ms: AtomicU64::new(now_ms),
            input_ended: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            order: AtomicU8::new(Order::Serve as u8),
            task: AtomicWaker::new(),
        }
    }

    /// The head of a request arrived; the server works on it until [`Self::yields`].
    pub fn begins(&self) {
        self.requests.fetch_add(BEGUN + 1, Ordering::Relaxed);
    }

    /// The server works on a request again after it had to wait for the client.
    pub fn works(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is answered, or its answer waits for the client to read it.
    pub fn yields(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a request waits for the server.
    pub fn is_working(&self) -> bool {
        self.requests.load(Ordering::Relaxed) & WORKING != 0
    }

    /// Whether the client ever sent the head of a request.
    pub fn has_asked(&self) -> bool {
        self.requests.load(Ordering::Relaxed) >= BEGUN
    }

    /// So many bytes went to the client.
    pub fn wrote(&self, bytes: usize) {
        // One task writes, so that a plain load and store are enough.
        let written = self.written.load(Ordering::Relaxed);
        let written = written.wrapping_add(bytes as u64);
        self.written.store(written, Ordering::Relaxed);
    }

    /// Bytes that went to the client so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The client shut down its sending half, or closed the connection: from here the two look the same.
    pub fn end_input(&self) {
        self.input_ended.store(true, Ordering::Relaxed);
    }

    /// Whether the client sends no more.
    pub fn input_ended(&self) -> bool {
        self.input_ended.load(Ordering::Relaxed)
    }

    /// The connection was reset.
    pub fn lose(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    /// Whether the connection was reset.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// When it was last active, as far as that was looked at.
    pub fn idle_since_ms(&self) -> u64 {
        self.idle_since_ms.load(Ordering::Relaxed)
    }

    /// Gives an order and wakes the connection's task. A stronger order is not taken back.
    pub fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::Relaxed);
        self.task.wake();
    }

    /// What it was told to do.
    pub fn order(&self) -> Order {
        ORDERS[usize::from(self.order.load(Ordering::Relaxed)).min(ORDERS.len() - 1)]
    }

    /// Takes back [`Order::Evict`]: a request came first.
    pub fn keep(&self) {
        let (evict, serve) = (Order::Evict as u8, Order::Serve as u8);
        let _ = self
            .order
            .compare_exchange(evict, serve, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Which task [`Self::tell`] wakes.
    pub fn register(&self, task: &Waker) {
        self.task.register(task);
    }
}

/// How long a connection may be open without a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From its acceptance to the complete head of its first request.
    pub header: Duration,
    /// From the end of an answer to the complete head of the next request.
    pub idle: Duration,
}

/// Looks at a connection now and then, and tells when it has been silent for too long.
#[derive(Debug)]
pub struct Watch {
    accepted: Instant,
    active: Instant,
    seen: (u64, u64),
}

impl Watch {
    /// Of a connection that was just accepted.
    pub fn new(accepted: Instant) -> Self {
        Self {
            accepted,
            active: accepted,
            seen: (0, 0),
        }
    }

    /// Whether the connection is to end. An answer that waits for its reader is active while bytes go out.
    pub fn look(&mut self, state: &ConnectionState, timeouts: Timeouts, now: Instant) -> bool {
        let seen = (state.requests.load(Ordering::Relaxed), state.written());
        if state.is_working() || seen != self.seen {
            self.seen = seen;
            let active = now.duration_since(self.active);
            self.active = now;
            let active_ms = u64::try_from(active.as_millis()).unwrap_or(u64::MAX);
            state.idle_since_ms.fetch_add(active_ms, Ordering::Relaxed);
        }
        match (state.has_asked(), state.is_working()) {
            (_, true) => false,
            (false, _) => now.duration_since(self.accepted) >= timeouts.header,
            (true, false) => now.duration_since(self.active) >= timeouts.idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        header: Duration::from_secs(30),
        idle: Duration::from_secs(60),
    };

    #[test]
    fn a_connection_without_a_request_ends_whatever_is_written() {
        let (state, begun) = (ConnectionState::new(0), Instant::now());
        let mut watch = Watch::new(begun);
        let mut look = |seconds| {
            // Settings and pongs of HTTP/2.
            state.wrote(9);
            watch.look(&state, TIMEOUTS, begun + Duration::from_secs(seconds))
        };
        assert_eq!([look(0), look(29), look(30)], [false, false, true]);
    }

    #[test]
    fn a_request_keeps_its_connection_and_so_do_bytes_that_go_out() {
        let (state, begun) = (ConnectionState::new(0), Instant::now());
        let mut watch = Watch::new(begun);
        let mut look = |seconds| watch.look(&state, TIMEOUTS, begun + Duration::from_secs(seconds));
        state.begins();
        assert!(!look(1000));
        state.yields();
        assert!(!look(1059));
        state.wrote(1);
        assert!(!look(1061));
        assert!(!look(1120));
        assert!(look(1121));
        assert_eq!(state.idle_since_ms(), 1_061_000);
    }

    #[test]
    fn orders_are_not_weakened_except_by_a_request_that_came_first() {
        let state = ConnectionState::new(0);
        state.tell(Order::Evict);
        state.keep();
        assert_eq!(state.order(), Order::Serve);
        state.tell(Order::Close);
        state.tell(Order::Finish);
        state.keep();
        assert_eq!(state.order(), Order::Close);
    }
}
