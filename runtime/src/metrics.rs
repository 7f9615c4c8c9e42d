//! The metrics of a pool: counters that only grow, updated while requests run.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// The guest responded with a status below 400.
    Ok,
    /// The guest responded with a status from 400 to 499.
    ClientError,
    /// The guest responded with a status of 500 or above.
    ServerError,
    /// The guest trapped, exited, ran out of memory, or sent no complete response.
    Trapped,
    /// The guest was stopped at the deadline.
    Timeout,
    /// The queue was full.
    Rejected,
    /// The request waited for a replica until its deadline.
    QueueTimeout,
    /// The replica for the request did not start.
    StartFailed,
    /// The client disconnected.
    Cancelled,
    /// The request body exceeded the limit.
    TooLarge,
    /// The pool was closed, or the replica killed.
    Closed,
    /// The host failed because of a bug.
    HostFailed,
}

impl Outcome {
    /// The number of outcomes.
    pub const COUNT: usize = Self::HostFailed as usize + 1;

    /// The outcome of a complete response.
    pub(crate) fn of_response(status: http::StatusCode) -> Self {
        match status.as_u16() {
            ..400 => Self::Ok,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// The counters of a pool since its creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolTotals {
    requests: [u64; Outcome::COUNT],
    /// The lifetime of all replicas, idle or busy, from their instantiation until they were dropped, or until now.
    pub replica_time: Duration,
    /// Wall time that guests ran on executor threads, including short inference runs there.
    pub guest_cpu: Duration,
    /// Time of backends in completed runs of graphs.
    pub inference: Duration,
    /// Bytes of request bodies that were passed to guests.
    pub bytes_in: u64,
    /// Bytes of response bodies that were read from guests.
    pub bytes_out: u64,
}

impl PoolTotals {
    /// The number of requests with this outcome.
    pub fn requests(&self, outcome: Outcome) -> u64 {
        self.requests[outcome as usize]
    }
}

/// The counters of a pool. Each update is one atomic addition, unordered with the others.
#[derive(Debug, Default)]
pub struct PoolMetrics {
    requests: [AtomicU64; Outcome::COUNT],
    guest_cpu_ns: AtomicU64,
    inference_ns: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    in_flight: AtomicUsize,
    // Locked when a replica starts or is dropped, never by a request on a warm one.
    replicas: Mutex<ReplicaTime>,
}

#[derive(Debug, Default)]
struct ReplicaTime {
    alive: u32,
    total: Duration,
    counted_to: Option<Instant>,
}

impl ReplicaTime {
    /// Adds the time of live replicas since the last call.
    fn advance(&mut self, now: Instant) {
        if let Some(before) = self.counted_to {
            self.total += now.saturating_duration_since(before) * self.alive;
        }
        self.counted_to = self.counted_to.max(Some(now));
    }
}

impl PoolMetrics {
    /// The counters at `now`.
    pub fn totals(&self, now: Instant) -> PoolTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let replica_time = {
            let mut replicas = self.replicas.lock();
            replicas.advance(now);
            replicas.total
        };
        PoolTotals {
            requests: std::array::from_fn(|outcome| read(&self.requests[outcome])),
            replica_time,
            guest_cpu: Duration::from_nanos(read(&self.guest_cpu_ns)),
            inference: Duration::from_nanos(read(&self.inference_ns)),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
        }
    }

    /// Runs a guest's future and counts the time of its polls. Takes it by reference, because it has several kilobytes, which each
    /// call would move.
    pub(crate) async fn time_guest<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            let begun = Instant::now();
            let polled = future.as_mut().poll(cx);
            add_time(&self.guest_cpu_ns, begun.elapsed());
            polled
        })
        .await
    }

    /// Counts the time of a run of a graph.
    pub(crate) fn add_inference(&self, took: Duration) {
        add_time(&self.inference_ns, took);
    }

    /// Counts bytes of a request body that were passed to the guest.
    pub fn add_bytes_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of a response body that were read from the guest.
    pub fn add_bytes_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The number of requests in guests now.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request as in flight until the guard is dropped.
    pub(crate) fn enter_guest(&self) -> InFlightGuard<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(&self.in_flight)
    }
}

fn add_time(counter: &AtomicU64, time: Duration) {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    counter.fetch_add(ns, Ordering::Relaxed);
}

/// Counts a request when dropped: with the outcome that was set, otherwise as cancelled, or as failed during a panic.
#[derive(Debug)]
pub(crate) struct OutcomeRecorder {
    metrics: Arc<PoolMetrics>,
    outcome: Option<Outcome>,
}

impl OutcomeRecorder {
    pub fn new(metrics: Arc<PoolMetrics>) -> Self {
        Self {
            metrics,
            outcome: None,
        }
    }

    /// Sets the outcome.
    pub fn set(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for OutcomeRecorder {
    fn drop(&mut self) {
        let default = || match std::thread::panicking() {
            true => Outcome::HostFailed,
            false => Outcome::Cancelled,
        };
        let outcome = self.outcome.unwrap_or_else(default);
        self.metrics.requests[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts a request as in flight until dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard<'a>(&'a AtomicUsize);

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts the time of a replica until dropped.
#[derive(Debug)]
pub(crate) struct ReplicaTimer(Arc<PoolMetrics>);

impl ReplicaTimer {
    /// Counts a replica from `begun`.
    pub fn since(begun: Instant, metrics: Arc<PoolMetrics>) -> Self {
        Self::at(begun, Instant::now(), metrics)
    }

    fn at(begun: Instant, now: Instant, metrics: Arc<PoolMetrics>) -> Self {
        {
            let mut replicas = metrics.replicas.lock();
            replicas.advance(now);
            replicas.total += now.saturating_duration_since(begun);
            replicas.alive += 1;
        }
        Self(metrics)
    }

    pub fn metrics(&self) -> &PoolMetrics {
        &self.0
    }

    fn end(&self, now: Instant) {
        let mut replicas = self.0.replicas.lock();
        replicas.advance(now);
        replicas.alive -= 1;
    }
}

impl Drop for ReplicaTimer {
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;

    use super::*;

    #[test]
    fn a_request_is_counted_once_by_how_it_ended() {
        let metrics = Arc::new(PoolMetrics::default());
        let mut counted = OutcomeRecorder::new(metrics.clone());
        counted.set(Outcome::HostFailed);
        counted.set(Outcome::Ok);
        assert_eq!(metrics.totals(Instant::now()).requests, [0; Outcome::COUNT]);
        drop(counted);
        drop(OutcomeRecorder::new(metrics.clone()));
        let totals = metrics.totals(Instant::now());
        assert_eq!(totals.requests(Outcome::Ok), 1);
        assert_eq!(totals.requests(Outcome::Cancelled), 1);
        assert_eq!(totals.requests.iter().sum::<u64>(), 2);
        let recorder = OutcomeRecorder::new(metrics.clone());
        let panicked = std::panic::catch_unwind(AssertUnwindSafe(move || {
            let _recorder = recorder;
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        let totals = metrics.totals(Instant::now());
        assert_eq!(totals.requests(Outcome::HostFailed), 1);
    }

    #[test]
    fn responses_are_counted_by_their_status() {
        let of = |status: u16| Outcome::of_response(http::StatusCode::from_u16(status).unwrap());
        assert_eq!([of(200), of(302), of(399)], [Outcome::Ok; 3]);
        assert_eq!([of(400), of(499)], [Outcome::ClientError; 2]);
        assert_eq!([of(500), of(599)], [Outcome::ServerError; 2]);
    }

    #[test]
    fn replicas_count_from_their_start_to_their_end() {
        let metrics = Arc::new(PoolMetrics::default());
        let zero = Instant::now() + Duration::from_secs(3600);
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let time = |ms: u64| metrics.totals(at(ms)).replica_time.as_millis();
        let first = ReplicaTimer::at(at(0), at(10), metrics.clone());
        assert_eq!(time(30), 30);
        let second = ReplicaTimer::at(at(40), at(50), metrics.clone());
        assert_eq!(time(60), 60 + 20);
        first.end(at(100));
        assert_eq!(time(160), 100 + 120);
        second.end(at(200));
        assert_eq!(time(500), 100 + 160);
        // A time that arrives out of order does not reduce the total.
        assert_eq!(time(10), 260);
        std::mem::forget((first, second));
    }

    #[tokio::test]
    async fn only_the_polls_of_a_guest_are_timed() {
        let metrics = PoolMetrics::default();
        let busy = Duration::from_millis(20);
        let spin = || {
            let begun = Instant::now();
            while begun.elapsed() < busy {
                std::hint::spin_loop();
            }
        };
        let begun = Instant::now();
        let waited = Duration::from_millis(50);
        metrics
            .time_guest(std::pin::pin!(async {
                spin();
                tokio::time::sleep(waited).await;
                spin();
            }))
            .await;
        let counted = metrics.totals(Instant::now()).guest_cpu;
        assert!(counted >= 2 * busy, "{counted:?}");
        assert!(counted <= begun.elapsed() - waited, "{counted:?}");
    }
}
