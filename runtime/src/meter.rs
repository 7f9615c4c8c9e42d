//! What a pool uses: totals that only ever grow, counted while requests run.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// The guest answered with a status below 400.
    Ok,
    /// The guest answered with a status from 400 to 499.
    ClientError,
    /// The guest answered with a status of 500 or more.
    ServerError,
    /// The guest trapped, exited, ran out of memory, gave no answer or did not finish it.
    Trapped,
    /// It was stopped at the deployment's timeout.
    Timeout,
    /// The queue was full.
    Rejected,
    /// It waited for a replica until the timeout.
    QueueTimeout,
    /// No replica would start.
    StartFailed,
    /// The client hung up.
    Cancelled,
    /// Its body was longer than the deployment takes.
    TooLarge,
    /// The pool took no more requests.
    Closed,
    /// A bug of the host.
    HostFailed,
}

impl Outcome {
    /// How many there are.
    pub const COUNT: usize = Self::HostFailed as usize + 1;

    /// What a guest's answer comes to.
    pub(crate) fn answered(status: http::StatusCode) -> Self {
        match status.as_u16() {
            ..400 => Self::Ok,
            400..500 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

/// What a pool has used since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    requests: [u64; Outcome::COUNT],
    /// Time of replicas, idle or busy, from the making of their instances on; those alive count until now.
    pub replica_time: Duration,
    /// Time that guests ran on an executor thread, by the clock on the wall, inference done right there included.
    pub guest_cpu: Duration,
    /// Time that backends took for runs of graphs that came to an end.
    pub inference: Duration,
    /// Bytes of request bodies that guests were given.
    pub bytes_in: u64,
    /// Bytes of bodies that guests answered.
    pub bytes_out: u64,
}

impl Totals {
    /// Requests that ended like this.
    pub fn requests(&self, outcome: Outcome) -> u64 {
        self.requests[outcome as usize]
    }
}

/// The counters of a pool. Counting one thing is one addition to one of them, in no order with the others.
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
    /// Counts the time of those alive until now.
    fn advance(&mut self, now: Instant) {
        if let Some(before) = self.counted_to {
            self.total += now.saturating_duration_since(before) * self.alive;
        }
        self.counted_to = self.counted_to.max(Some(now));
    }
}

impl Meter {
    /// What was used so far.
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

    /// Runs a future of the guest's and counts the time that its polls take. By reference: a guest's future is of several
    /// kilobytes, and would be moved with each hand that it goes through.
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

    /// Counts bytes of a request body that the guest was given.
    pub fn add_bytes_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes of a body that the guest answered.
    pub fn add_bytes_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Requests that are with a guest now.
    pub fn serving(&self) -> usize {
        self.serving.load(Ordering::Relaxed)
    }

    /// Counts a request as one that is with a guest, until what this gives is dropped.
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

/// A request that will be counted when this is dropped: by what was said, else as cancelled, or failed in a panic.
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

    /// Says how it ends.
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

/// A request that is with a guest.
#[derive(Debug)]
pub(crate) struct Serving<'a>(&'a AtomicUsize);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A replica whose time is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Alive(Arc<Meter>);

impl Alive {
    /// Counts a replica, also for the time since it began to start.
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
