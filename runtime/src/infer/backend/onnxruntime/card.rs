//! Models on a card: loaded when they run, and taken off it for others when they do not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::infer::backend::devices::{Card, Driver};
use crate::infer::backend::tensor::{self, Tensor};
use crate::infer::backend::{Model, RunError};
use crate::infer::compute::Worker;
use crate::infer::residency::{Ledger, Room, Tenant};

/// So long a graph waits for others to end their runs, when the card is full of graphs that run.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(30);
/// What a session takes on a card besides its weights, as long as it was not measured.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// How a model is put on a card, in which it may take so many bytes.
type Load = Box<dyn Fn(u32, u64) -> Result<Box<dyn Model>, String> + Send + Sync>;
/// How many bytes of a card are free, when its driver says so.
type Free = Box<dyn Fn(u32) -> Option<u64> + Send + Sync>;

/// The cards of a node with the models on them.
pub(super) struct Cards {
    free: Free,
    /// Bytes of each card that models may take, all together.
    limit_bytes: Option<u64>,
    next: AtomicU64,
    places: Mutex<HashMap<u32, Arc<Place>>>,
}

/// One card.
struct Place {
    number: u32,
    ledger: Mutex<Ledger>,
    run_ended: Condvar,
    /// One loads at a time, so that what it takes can be measured.
    loading: Mutex<()>,
    tenants: Mutex<HashMap<Tenant, Weak<OnCard>>>,
}

/// A model that lives on a card, whether it is there just now or not.
pub(super) struct OnCard {
    cards: Arc<Cards>,
    place: Arc<Place>,
    tenant: Tenant,
    here: Mutex<Option<Arc<dyn Model>>>,
    /// What it takes there: first estimated, then measured.
    bytes: AtomicU64,
    load: Load,
}

impl Cards {
    /// The cards of this driver, of each of which models take so many bytes at most.
    pub fn new(driver: Arc<Driver>, limit_bytes: Option<u64>) -> Arc<Self> {
        let free = move |number| {
            let cards = driver.cards().ok()?;
            let card = cards.into_iter().find(|card| card.number == number)?;
            Some(card.free_bytes)
        };
        Self::with(Box::new(free), limit_bytes)
    }

    fn with(free: Free, limit_bytes: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            free,
            limit_bytes,
            next: AtomicU64::new(0),
            places: Mutex::default(),
        })
    }

    /// Bytes of a card that models of this node take.
    pub fn used_bytes(&self, number: u32) -> u64 {
        let place = lock(&self.places).get(&number).cloned();
        place.map_or(0, |place| lock(&place.ledger).bytes())
    }

    /// Puts a model whose weights take `bytes` on that of these cards which has most room.
    ///
    /// # Errors
    /// When it does not fit, or cannot run there.
    pub fn put(
        self: &Arc<Self>,
        cards: &[Card],
        bytes: u64,
        load: Load,
    ) -> Result<(u32, OnTenancy), String> {
        let roomiest = cards
            .iter()
            .max_by_key(|card| card.free_bytes.saturating_add(self.used_bytes(card.number)));
        let number = roomiest.ok_or("there is no card")?.number;
        let place = lock(&self.places)
            .entry(number)
            .or_insert_with(|| Arc::new(Place::new(number)))
            .clone();
        let one = Arc::new(OnCard {
            cards: self.clone(),
            place: place.clone(),
            tenant: Tenant(self.next.fetch_add(1, Ordering::Relaxed)),
            here: Mutex::default(),
            bytes: AtomicU64::new(bytes.saturating_add(OVERHEAD_BYTES)),
            load,
        });
        lock(&place.tenants).insert(one.tenant, Arc::downgrade(&one));
        drop(one.enter()?);
        Ok((number, OnTenancy(one)))
    }
}

impl Place {
    fn new(number: u32) -> Self {
        Self {
            number,
            ledger: Mutex::default(),
            run_ended: Condvar::new(),
            loading: Mutex::default(),
            tenants: Mutex::default(),
        }
    }

    /// Takes models off the card that the ledger has let go already.
    fn take_off(&self, gone: &[Tenant]) {
        for tenant in gone {
            let one = lock(&self.tenants).get(tenant).and_then(Weak::upgrade);
            if let Some(one) = one {
                let model = lock(&one.here).take();
                tracing::debug!(card = self.number, tenant = tenant.0, "a graph makes room");
                drop(model);
            }
        }
    }

    /// Takes every model off that does not run; says whether there was any.
    fn take_off_idle(&self) -> bool {
        let idle = {
            let mut ledger = lock(&self.ledger);
            let idle = ledger.idle();
            idle.iter().for_each(|tenant| ledger.left(*tenant));
            idle
        };
        self.take_off(&idle);
        !idle.is_empty()
    }
}

/// While it is held, the model stays on its card.
struct Run<'a> {
    place: &'a Place,
    tenant: Tenant,
    model: Arc<dyn Model>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        lock(&self.place.ledger).ran(self.tenant);
        self.place.run_ended.notify_all();
    }
}

impl OnCard {
    /// Begins a run: the model is on the card, loaded now if it was not.
    fn enter(&self) -> Result<Run<'_>, String> {
        if let Some(run) = self.begin() {
            return Ok(run);
        }
        let _turn = lock(&self.place.loading);
        if let Some(run) = self.begin() {
            return Ok(run);
        }
        let room = self.make_room()?;
        let before = self.free();
        let loaded = match (self.load)(self.place.number, room) {
            Err(error) if is_out_of_memory(&error) && self.place.take_off_idle() => {
                (self.load)(self.place.number, self.room().max(room))
            }
            loaded => loaded,
        };
        let model: Arc<dyn Model> = Arc::from(loaded.map_err(|error| self.explain(error))?);
        let taken = before.saturating_sub(self.free());
        if taken > 0 {
            self.bytes.store(taken, Ordering::Relaxed);
        }
        *lock(&self.here) = Some(model.clone());
        lock(&self.place.ledger).entered(self.tenant, self.bytes.load(Ordering::Relaxed));
        Ok(Run {
            place: &self.place,
            tenant: self.tenant,
            model,
        })
    }

    /// Begins a run if the model is on the card.
    fn begin(&self) -> Option<Run<'_>> {
        let mut ledger = lock(&self.place.ledger);
        if !ledger.runs(self.tenant) {
            return None;
        }
        // What runs is not taken off.
        let model = lock(&self.here).clone();
        if model.is_none() {
            ledger.left(self.tenant);
        }
        Some(Run {
            place: &self.place,
            tenant: self.tenant,
            model: model?,
        })
    }

    /// Makes others leave until there is room, and says how many bytes there are then.
    fn make_room(&self) -> Result<u64, String> {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let mut waited = Duration::ZERO;
        loop {
            let free = self.room();
            let begun = std::time::Instant::now();
            let mut ledger = lock(&self.place.ledger);
            match ledger.room(bytes, free) {
                Room::Free => return Ok(free),
                Room::Evict(gone) => {
                    gone.iter().for_each(|tenant| ledger.left(*tenant));
                    drop(ledger);
                    self.place.take_off(&gone);
                    return Ok(self.room());
                }
                Room::Never { available_bytes } => {
                    return Err(format!(
                        "it needs about {} MiB of memory, and cuda:{} has {} MiB for it when every other graph is gone: take a smaller model, a card with more memory, or stop other programs that use it",
                        bytes >> 20,
                        self.place.number,
                        available_bytes >> 20
                    ));
                }
                Room::AfterRuns if waited >= MAX_WAIT => {
                    return Err(format!(
                        "cuda:{} is full of graphs that run, and none ended within {MAX_WAIT:?}: try again",
                        self.place.number
                    ));
                }
                Room::AfterRuns => {
                    let woken = self.place.run_ended.wait_timeout(ledger, MAX_WAIT - waited);
                    drop(woken.unwrap_or_else(PoisonError::into_inner));
                    waited += begun.elapsed();
                }
            }
        }
    }

    /// Bytes that are free on the card; where the driver does not say, all that could be.
    fn free(&self) -> u64 {
        (self.cards.free)(self.place.number).unwrap_or(u64::MAX)
    }

    /// Bytes that a model may take just now.
    fn room(&self) -> u64 {
        let used = lock(&self.place.ledger).bytes();
        let left = self
            .cards
            .limit_bytes
            .map(|limit| limit.saturating_sub(used));
        self.free().min(left.unwrap_or(u64::MAX))
    }

    fn explain(&self, error: String) -> String {
        match is_out_of_memory(&error) {
            true => format!("cuda:{} is full: {error}", self.place.number),
            false => error,
        }
    }
}

impl Drop for OnCard {
    fn drop(&mut self) {
        lock(&self.place.tenants).remove(&self.tenant);
        lock(&self.here).take();
        lock(&self.place.ledger).left(self.tenant);
        self.place.run_ended.notify_all();
    }
}

/// A model on a card, as others run it.
pub(super) struct OnTenancy(Arc<OnCard>);

impl Model for OnTenancy {
    fn run(&self, inputs: Vec<Tensor>, worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        let run = self.0.enter()?;
        let ran = run.model.run(inputs, worker);
        drop(run);
        ran.map_err(|error| {
            let text = error.to_string();
            if !is_out_of_memory(&text) {
                return error;
            }
            // For the next run: this one's inputs are gone.
            self.0.place.take_off_idle();
            RunError::Failed(self.0.explain(text))
        })
    }

    fn place(&self) -> tensor::Place {
        tensor::Place::Cuda(super::place(self.0.place.number))
    }
}

/// Whether the library's words mean that a card's memory is used up.
fn is_out_of_memory(error: &str) -> bool {
    let error = error.to_ascii_lowercase();
    [
        "out of memory",
        "failed to allocate memory",
        "available memory of",
        "alloc_failed",
    ]
    .iter()
    .any(|words| error.contains(words))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one move of the ledger or of a model; loading happens outside of these locks but its own.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "card_tests.rs"]
mod tests;
