//! Whose meters are read, and what they showed when they were last read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use samovar_runtime::metrics::{Outcome, PoolMetrics, PoolTotals};
use samovar_types::usage::{Counters, Owner, UsageRow, spread};

/// The meters of a node's pools. One stays here after its pool is gone, until its end has been read.
#[derive(Default)]
pub struct Meters {
    /// By the address of the meter, which it keeps as long as it is here.
    watched: Mutex<BTreeMap<usize, Watched>>,
}

struct Watched {
    owner: Owner,
    meter: Arc<PoolMetrics>,
    taken: Counters,
}

/// What was used since meters were last read. Until [`Meters::taken`] is told of it, it will be found again.
pub struct Difference {
    /// The same by deployments and minutes.
    pub rows: Vec<UsageRow>,
    read: Vec<Read>,
}

struct Read {
    meter: usize,
    counters: Counters,
    stage: Stage,
}

/// Whether a meter can still change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Ended,
}

impl Meters {
    /// Reads a pool's meter from now on. Told again, it only takes the names as they are now.
    pub fn watch(&self, owner: Owner, meter: &Arc<PoolMetrics>) {
        let mut watched = self.lock();
        match watched.get_mut(&address(meter)) {
            Some(watched) => watched.owner = owner,
            None => {
                let new = Watched {
                    owner,
                    meter: meter.clone(),
                    taken: Counters::default(),
                };
                watched.insert(address(meter), new);
            }
        }
    }

    /// What was used since `from_ms`, when meters were last read, until `to_ms`, which is `now`.
    pub fn difference(&self, from_ms: i64, to_ms: i64, now: Instant) -> Difference {
        let mut rows = Vec::new();
        let mut read = Vec::new();
        for (address, watched) in &*self.lock() {
            // Looked at before the counters: once nobody else holds it, nothing is added any more.
            let stage = match Arc::strong_count(&watched.meter) {
                1 => Stage::Ended,
                _ => Stage::Running,
            };
            let counters = counters(&watched.meter.totals(now));
            let used = spread(counters.since(&watched.taken), from_ms, to_ms);
            rows.extend(used.into_iter().map(|(minute, counters)| UsageRow {
                minute,
                owner: watched.owner.clone(),
                counters,
            }));
            read.push(Read {
                meter: *address,
                counters,
                stage,
            });
        }
        Difference { rows, read }
    }

    /// Notes that a difference is in safe hands.
    pub fn taken(&self, difference: &Difference) {
        let mut watched = self.lock();
        for read in &difference.read {
            if read.stage == Stage::Ended {
                watched.remove(&read.meter);
            } else if let Some(watched) = watched.get_mut(&read.meter) {
                watched.taken = read.counters;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, Watched>> {
        // Every entry is written whole.
        self.watched
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn address(meter: &Arc<PoolMetrics>) -> usize {
    Arc::as_ptr(meter).addr()
}

fn counters(totals: &PoolTotals) -> Counters {
    let cut = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    let requests = |outcome| totals.requests(outcome);
    Counters {
        requests_ok: requests(Outcome::Ok),
        requests_client_error: requests(Outcome::ClientError),
        requests_server_error: requests(Outcome::ServerError),
        requests_trapped: requests(Outcome::Trapped),
        requests_timeout: requests(Outcome::Timeout),
        requests_rejected: requests(Outcome::Rejected),
        requests_queue_timeout: requests(Outcome::QueueTimeout),
        requests_start_failed: requests(Outcome::StartFailed),
        requests_cancelled: requests(Outcome::Cancelled),
        requests_too_large: requests(Outcome::TooLarge),
        requests_closed: requests(Outcome::Closed),
        requests_host_failed: requests(Outcome::HostFailed),
        replica_ms: cut(totals.replica_time.as_millis()),
        guest_cpu_us: cut(totals.guest_cpu.as_micros()),
        inference_us: cut(totals.inference.as_micros()),
        bytes_in: totals.bytes_in,
        bytes_out: totals.bytes_out,
    }
}
