//! Usage counters of a pool.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// The guest responded with a status below 400.
    Ok,
    /// The guest responded with a status from 400 to 499.
    ClientError,
    /// The guest responded with a status of 500 or above.
    ServerError,
    /// The guest trapped, exited, ran out of memory, gave no response or did not finish it.
    Trapped,
    /// The request was stopped at the deployment's timeout.
    Timeout,
    /// The queue was full.
    Rejected,
    /// The request waited for a replica until the timeout.
    QueueTimeout,
    /// No replica could be started.
    StartFailed,
    /// The client hung up.
    Cancelled,
    /// The request body exceeded the deployment's limit.
    TooLarge,
    /// The pool was closed.
    Closed,
    /// The host failed because of a bug.
    HostFailed,
}

impl Outcome {
    /// Number of outcomes.
    pub const COUNT: usize = Self::HostFailed as usize + 1;

    /// The outcome of a response with this status.
    pub(crate) fn answered(status: http::StatusCode) -> Self {
        match status.as_u16() {
            ..400 => Self::Ok,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// Usage of a pool since its creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    requests: [u64; Outcome::COUNT],
    /// Time of replicas, idle or busy, since the creation of their instances; living ones count until now.
    pub replica_time: Duration,
    /// Wall-clock time that guests ran on executor threads, including inference on those threads.
    pub guest_cpu: Duration,
    /// Time of finished graph runs in backends.
    pub inference: Duration,
    /// Bytes of request bodies passed to guests.
    pub bytes_in: u64,
    /// Bytes of response bodies of guests.
    pub bytes_out: u64,
}

impl Totals {
    /// Number of requests with this outcome.
    pub fn requests(&self, outcome: Outcome) -> u64 {
        self.requests[outcome as usize]
    }
}

/// The atomic counters of a pool. Updates of different counters are not ordered.
#[derive(Debug, Default)]
pub struct Meter {
    requests: [AtomicU64; Outcome::COUNT],
    guest_cpu_ns: AtomicU64,
    inference_ns: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    serving: AtomicUsize,
    // Locked when a replica comes or goes, never by a request on a warm one.
    replicas: Mutex<ReplicaTime>,
}

#[derive(Debug, Default)]
struct ReplicaTime {
    alive: u32,
    total: Duration,
    counted_to: Option<Instant>,
}

impl ReplicaTime {
    /// Adds the time of living replicas until now.
    fn advance(&mut self, now: Instant) {
        if let Some(before) = self.counted_to {
            self.total += now.saturating_duration_since(before) * self.alive;
        }
        self.counted_to = self.counted_to.max(Some(now));
    }
}

impl Meter {
    /// The usage so far.
    pub fn totals(&self, now: Instant) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let replica_time = {
            let mut replicas = self.replicas();
            replicas.advance(now);
            replicas.total
        };
        Totals {
            requests: std::array::from_fn(|outcome| read(&self.requests[outcome])),
            replica_time,
            guest_cpu: Duration::from_nanos(read(&self.guest_cpu_ns)),
            inference: Duration::from_nanos(read(&self.inference_ns)),
            bytes_in: read(&self.bytes_in),
            bytes_out: read(&self.bytes_out),
        }
    }

    /// Runs a future of the guest and counts the time of its polls. The future is passed by reference because it has several kilobytes, and
    /// each move would copy it.
    pub(crate) async fn guest<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            let begun = Instant::now();
            let polled = future.as_mut().poll(cx);
            add_time(&self.guest_cpu_ns, begun.elapsed());
            polled
        })
        .await
    }

    pub(crate) fn add_inference(&self, took: Duration) {
        add_time(&self.inference_ns, took);
    }

    /// Counts bytes of a request body passed to the guest.
    pub fn add_bytes_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of a response body of the guest.
    pub fn add_bytes_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Number of requests in guests.
    pub fn serving(&self) -> usize {
        self.serving.load(Ordering::Relaxed)
    }

    /// Counts a request as being in a guest until the returned value is dropped.
    pub(crate) fn serve(&self) -> Serving<'_> {
        self.serving.fetch_add(1, Ordering::Relaxed);
        Serving(&self.serving)
    }

    fn replicas(&self) -> MutexGuard<'_, ReplicaTime> {
        // Whatever a panic left is a valid count.
        self.replicas
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn add_time(counter: &AtomicU64, time: Duration) {
    let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    counter.fetch_add(ns, Ordering::Relaxed);
}

/// Counts a request when this is dropped: with the outcome that was set, otherwise as cancelled, or as failed during a panic.
#[derive(Debug)]
pub(crate) struct Counted {
    meter: Arc<Meter>,
    outcome: Option<Outcome>,
}

impl Counted {
    pub fn new(meter: Arc<Meter>) -> Self {
        Self {
            meter,
            outcome: None,
        }
    }

    /// Sets the outcome.
    pub fn ends(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let unsaid = || match std::thread::panicking() {
            true => Outcome::HostFailed,
            false => Outcome::Cancelled,
        };
        let outcome = self.outcome.unwrap_or_else(unsaid);
        self.meter.requests[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// A request in a guest.
#[derive(Debug)]
pub(crate) struct Serving<'a>(&'a AtomicUsize);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts the time of a replica until this is dropped.
#[derive(Debug)]
pub(crate) struct Alive(Arc<Meter>);

impl Alive {
    /// Counts a replica since the beginning of its start.
    pub fn since(begun: Instant, meter: Arc<Meter>) -> Self {
        Self::at(begun, Instant::now(), meter)
    }

    fn at(begun: Instant, now: Instant, meter: Arc<Meter>) -> Self {
        {
            let mut replicas = meter.replicas();
            replicas.advance(now);
            replicas.total += now.saturating_duration_since(begun);
            replicas.alive += 1;
        }
        Self(meter)
    }

    pub fn meter(&self) -> &Meter {
        &self.0
    }

    fn end(&self, now: Instant) {
        let mut replicas = self.0.replicas();
        replicas.advance(now);
        replicas.alive -= 1;
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.end(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_once_by_how_it_ended() {
        let meter = Arc::new(Meter::default());
        let mut counted = Counted::new(meter.clone());
        counted.ends(Outcome::HostFailed);
        counted.ends(Outcome::Ok);
        assert_eq!(meter.totals(Instant::now()).requests, [0; Outcome::COUNT]);
        drop(counted);
        drop(Counted::new(meter.clone()));
        let totals = meter.totals(Instant::now());
        assert_eq!(totals.requests(Outcome::Ok), 1);
        assert_eq!(totals.requests(Outcome::Cancelled), 1);
        assert_eq!(totals.requests.iter().sum::<u64>(), 2);
        let panicked = std::panic::catch_unwind({
            let meter = meter.clone();
            move || {
                let _counted = Counted::new(meter);
                panic!("as a bug would");
            }
        });
        assert!(panicked.is_err());
        let totals = meter.totals(Instant::now());
        assert_eq!(totals.requests(Outcome::HostFailed), 1);
    }

    #[test]
    fn answers_are_told_apart_by_their_status() {
        let of = |status: u16| Outcome::answered(http::StatusCode::from_u16(status).unwrap());
        assert_eq!([of(200), of(302), of(399)], [Outcome::Ok; 3]);
        assert_eq!([of(400), of(499)], [Outcome::ClientError; 2]);
        assert_eq!([of(500), of(599)], [Outcome::ServerError; 2]);
    }

    #[test]
    fn replicas_count_from_their_start_to_their_end() {
        let meter = Arc::new(Meter::default());
        let zero = Instant::now() + Duration::from_secs(3600);
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let time = |ms: u64| meter.totals(at(ms)).replica_time.as_millis();
        let first = Alive::at(at(0), at(10), meter.clone());
        assert_eq!(time(30), 30);
        let second = Alive::at(at(40), at(50), meter.clone());
        assert_eq!(time(60), 60 + 20);
        first.end(at(100));
        assert_eq!(time(160), 100 + 120);
        second.end(at(200));
        assert_eq!(time(500), 100 + 160);
        // A time that was read before, told after a later one: nothing shrinks.
        assert_eq!(time(10), 260);
        std::mem::forget((first, second));
    }

    #[tokio::test]
    async fn only_the_polls_of_a_guest_are_its_time() {
        let meter = Meter::default();
        let busy = Duration::from_millis(20);
        let spin = || {
            let begun = Instant::now();
            while begun.elapsed() < busy {
                std::hint::spin_loop();
            }
        };
        let begun = Instant::now();
        let waited = Duration::from_millis(50);
        meter
            .guest(std::pin::pin!(async {
                spin();
                tokio::time::sleep(waited).await;
                spin();
            }))
            .await;
        let counted = meter.totals(Instant::now()).guest_cpu;
        assert!(counted >= 2 * busy, "{counted:?}");
        assert!(counted <= begun.elapsed() - waited, "{counted:?}");
    }
}
