//! The circuit breaker: refuses starts of replicas while they keep failing. While none has failed, a start reads one flag.

pub(crate) mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use state::{Circuit, StartPermission, Unavailable};

/// A circuit breaker, shared by all starts of a pool.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    /// Copy of [`Circuit::is_pristine`], read without the lock.
    is_pristine: AtomicBool,
    circuit: Mutex<Circuit>,
}

impl CircuitBreaker {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            is_pristine: AtomicBool::new(true),
            circuit: Mutex::default(),
        })
    }

    /// Asks for permission to start a replica. The start after a pause gets a probe, which it holds until it has ended.
    pub(super) fn try_start(self: &Arc<Self>, now: Instant) -> Result<Option<Probe>, Unavailable> {
        if self.is_pristine() {
            return Ok(None);
        }
        match self.update(|circuit| circuit.request_start(now)) {
            StartPermission::Granted => Ok(None),
            StartPermission::Refused(unavailable) => Err(unavailable),
            StartPermission::Probe(number) => Ok(Some(Probe {
                breaker: self.clone(),
                number,
            })),
        }
    }

    /// Whether a start would be refused now.
    pub(super) fn refuses_starts(&self, now: Instant) -> bool {
        !self.is_pristine() && self.update(|circuit| circuit.refuses_starts(now))
    }

    /// Records that a replica has started.
    pub(super) fn record_success(&self) {
        if !self.is_pristine() {
            self.update(Circuit::record_success);
        }
    }

    /// Records that a replica did not start.
    pub(super) fn record_failure(&self, reason: &str) {
        self.update(|circuit| circuit.record_failure(reason, Instant::now()));
    }

    /// Why starts pause, unless the circuit is closed.
    pub(super) fn unavailable(&self, now: Instant) -> Option<Unavailable> {
        match self.is_pristine() {
            true => None,
            false => self.update(|circuit| circuit.unavailable(now)),
        }
    }

    /// Closes the circuit and forgets all failures.
    pub(super) fn reset(&self) {
        self.update(|circuit| *circuit = Circuit::default());
    }

    fn is_pristine(&self) -> bool {
        // May miss an update that another thread makes right now, as if this read had come first.
        self.is_pristine.load(Ordering::Relaxed)
    }

    fn update<T>(&self, update: impl FnOnce(&mut Circuit) -> T) -> T {
        let mut circuit = self.circuit.lock();
        let result = update(&mut circuit);
        self.is_pristine
            .store(circuit.is_pristine(), Ordering::Relaxed);
        result
    }
}

/// The one start that is tried after a pause. Dropped without a success or failure, it lets the next start be the probe.
#[derive(Debug)]
pub(super) struct Probe {
    breaker: Arc<CircuitBreaker>,
    number: u64,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.breaker
            .update(|circuit| circuit.abandon_probe(self.number, Instant::now()));
    }
}
