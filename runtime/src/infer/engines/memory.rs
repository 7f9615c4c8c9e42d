//! The memory that all graphs of a node may take together: what each of them takes, which go so that another can come, and
//! which do not fit.
//!
//! A graph counts with what it was measured to take when it was loaded, and with the most that a run of it was seen to take
//! besides. It counts with the size of its files at least: they are mapped, and in memory once runs have read them. While it loads it
//! also counts with what loading takes for a moment, so that large graphs load one after the other where there is no room for both.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::slot::Slot;
use crate::infer::eviction::{Fit, ModelId, Resident, fit};

/// So long a graph waits for others to end their runs, when memory is full of graphs that run.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How often it looks whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What a graph takes besides its weights, as long as it was not measured.
const OVERHEAD_BYTES: u64 = 4 << 20;
/// What loading takes for a moment besides, for each byte of the files, as long as it was not measured: the library's copy of the weights,
/// what the optimizers make of them, and what they are laid out as for the processor.
const LOADING_FACTOR: u64 = 4;
/// So long a load waits until there is room for what it takes for a moment. Then it begins without, if it takes little or is the only
/// one: graphs that always run must not keep others from loading.
const LOADING_WAIT: Duration = Duration::from_secs(5);
/// What is little: so much is left to each engine for what was not measured, several times.
const LITTLE_BYTES: u64 = 256 << 20;
/// Graphs whose measures are remembered while they are not loaded.
const REMEMBERED: usize = 4096;

/// What all graphs of a node may take together, and what they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphMemory {
    /// As `samovar serve --memory` says.
    pub limit_bytes: u64,
    /// By graphs that are loaded, with the most that runs of them were seen to take.
    pub used_bytes: u64,
}

/// The memory.
pub(super) struct Memory {
    limit_bytes: u64,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By all graphs that are loaded or load.
    used_bytes: u64,
    /// Graphs that load.
    loading: usize,
    next: u64,
    graphs: BTreeMap<ModelId, Weak<Slot>>,
    /// What graphs took when they were loaded last, by their keys.
    measured: HashMap<String, Measure>,
}

/// What a graph takes, and what its runs take besides.
#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    weight_bytes: u64,
    peak_bytes: u64,
    /// What loading took for a moment, beside the weight.
    loading_bytes: u64,
}

/// What one graph takes, from before it is loaded until it is gone.
pub(super) struct Share {
    memory: Arc<Memory>,
    key: String,
    file_bytes: u64,
    /// What it takes when it does not run.
    weight_bytes: AtomicU64,
    /// What its runs take besides.
    peak_bytes: AtomicU64,
    /// What loading takes for a moment, by the measure or an estimate.
    loading_bytes: AtomicU64,
    /// What is held for that while it loads.
    held: Mutex<Option<u64>>,
}

/// Memory that is taken for a while, beside what graphs take.
pub(super) struct Beside {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Beside {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        state.used_bytes = state.used_bytes.saturating_sub(self.bytes);
    }
}

impl Memory {
    /// Memory of so many bytes.
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            begun: Instant::now(),
            state: Mutex::default(),
        })
    }

    /// What all graphs may take, and take.
    pub fn info(&self) -> GraphMemory {
        GraphMemory {
            limit_bytes: self.limit_bytes,
            used_bytes: self.used_bytes(),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    /// A number that grows with time, by which uses of graphs are compared.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes a graph one of those that go when others need its room.
    pub fn enter(&self, graph: &Arc<Slot>) {
        let mut state = self.lock();
        state.next += 1;
        let tenant = ModelId(state.next);
        state.graphs.retain(|_, graph| graph.strong_count() > 0);
        state.graphs.insert(tenant, Arc::downgrade(graph));
    }

    /// Has room made for a graph whose files have so many bytes. For threads that may block: it waits for runs of others.
    ///
    /// # Errors
    /// When it does not fit, with the figures.
    pub fn share(self: &Arc<Self>, key: &str, file_bytes: u64) -> Result<Share, String> {
        let measured = self.lock().measured.get(key).copied();
        let Measure {
            weight_bytes,
            peak_bytes,
            loading_bytes,
        } = measured.unwrap_or(Measure {
            weight_bytes: file_bytes.saturating_add(OVERHEAD_BYTES),
            peak_bytes: 0,
            loading_bytes: file_bytes.saturating_mul(LOADING_FACTOR),
        });
        let bytes = weight_bytes.saturating_add(peak_bytes);
        // A graph that fits is not refused because it takes all memory for a moment.
        let most = self.limit_bytes.saturating_sub(bytes);
        let held = self
            .make_room(bytes, loading_bytes.min(most), Purpose::Load)
            .map_err(|()| self.refusal(bytes, self.used_bytes()))?;
        Ok(Share {
            memory: self.clone(),
            key: key.to_owned(),
            file_bytes,
            weight_bytes: AtomicU64::new(weight_bytes),
            peak_bytes: AtomicU64::new(peak_bytes),
            loading_bytes: AtomicU64::new(loading_bytes),
            held: Mutex::new(Some(held)),
        })
    }

    /// Takes `bytes` and what is to be held while a graph loads, once there is room for them; not when there is none for too long. The
    /// answer is what is held.
    fn make_room(&self, bytes: u64, loading_bytes: u64, purpose: Purpose) -> Result<u64, ()> {
        let begun = Instant::now();
        loop {
            let waited = begun.elapsed();
            let there = self.there();
            let residents = there.iter().map(|(tenant, (_, one))| (tenant, one));
            let in_residents: u64 = residents.clone().map(|(_, one)| one.bytes).sum();
            let mut state = self.lock();
            let is_loading = state.used_bytes > in_residents;
            let is_without =
                waited > LOADING_WAIT && (loading_bytes <= LITTLE_BYTES || state.loading == 0);
            let held = if is_without { 0 } else { loading_bytes };
            let taken = bytes.saturating_add(held);
            let missing = state.used_bytes.saturating_add(taken);
            let missing = missing.saturating_sub(self.limit_bytes);
            match fit(missing, 0, residents) {
                Fit::Fits => {
                    state.used_bytes = state.used_bytes.saturating_add(taken);
                    state.loading += usize::from(purpose == Purpose::Load);
                    return Ok(held);
                }
                Fit::Evict(tenants) => {
                    // Without the lock, which is taken when the room of one is given back.
                    drop(state);
                    for tenant in tenants {
                        if let Some((graph, _)) = there.get(&tenant) {
                            graph.evict();
                        }
                    }
                }
                Fit::Never { .. } if !is_loading || bytes > self.limit_bytes => {
                    return Err(());
                }
                // What loads just now can go once it has loaded and run.
                Fit::AfterRuns | Fit::Never { .. } => {
                    if waited > MAX_WAIT {
                        return Err(());
                    }
                    drop(state);
                    drop(there);
                    std::thread::sleep(LOOK_EVERY);
                }
            }
        }
    }

    fn refusal(&self, bytes: u64, used_bytes: u64) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        format!(
            "it takes {} MiB of memory, and all graphs together may take {} MiB, of which others take {} MiB: start the server with a larger --memory, or deactivate deployments",
            mib(bytes),
            mib(self.limit_bytes),
            mib(used_bytes)
        )
    }

    /// The graphs that are loaded.
    fn there(&self) -> BTreeMap<ModelId, (Arc<Slot>, Resident)> {
        let graphs: Vec<(ModelId, Arc<Slot>)> = {
            let state = self.lock();
            let graphs = state.graphs.iter();
            graphs
                .filter_map(|(tenant, graph)| Some((*tenant, graph.upgrade()?)))
                .collect()
        };
        // Without the lock: should the last of its users go meanwhile, a graph is dropped here, and gives its share back.
        let there = graphs.into_iter().filter_map(|(tenant, graph)| {
            let resident = graph.resident()?;
            Some((tenant, (graph, resident)))
        });
        there.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Sums and maps, whole at every instant.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why memory is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Load,
    /// It is taken already: others make room for it.
    Correction,
}

impl State {
    fn remember(&mut self, key: &str, measure: Measure) {
        if self.measured.len() >= REMEMBERED && !self.measured.contains_key(key) {
            // Whichever: a graph that is forgotten counts with its files once more.
            let some = self.measured.keys().next().cloned();
            some.and_then(|key| self.measured.remove(&key));
        }
        self.measured.insert(key.to_owned(), measure);
    }
}

impl Share {
    /// What the graph takes, its runs included.
    pub fn bytes(&self) -> u64 {
        let Measure {
            weight_bytes,
            peak_bytes,
            ..
        } = self.measure();
        weight_bytes.saturating_add(peak_bytes)
    }

    fn measure(&self) -> Measure {
        Measure {
            weight_bytes: self.weight_bytes.load(Ordering::Relaxed),
            peak_bytes: self.peak_bytes.load(Ordering::Relaxed),
            loading_bytes: self.loading_bytes.load(Ordering::Relaxed),
        }
    }

    /// As much again as the graph takes while it loads, for another process that loads it; nothing when there is no room for that now.
    pub fn room_beside(&self) -> Option<Beside> {
        let measure = self.measure();
        let bytes = measure.weight_bytes.saturating_add(measure.loading_bytes);
        let held = self.lock_held().unwrap_or(0);
        // What is held for the load, which is over, serves for this.
        let bytes = bytes.saturating_sub(held);
        let mut state = self.memory.lock();
        let used_bytes = state.used_bytes.saturating_add(bytes);
        if used_bytes > self.memory.limit_bytes {
            return None;
        }
        state.used_bytes = used_bytes;
        drop(state);
        Some(Beside {
            memory: self.memory.clone(),
            bytes,
        })
    }

    /// Gives back what was held while the graph loaded.
    fn release(&self) {
        let held = self.lock_held().take();
        if let Some(held) = held {
            let mut state = self.memory.lock();
            state.used_bytes = state.used_bytes.saturating_sub(held);
            state.loading = state.loading.saturating_sub(1);
        }
    }

    fn lock_held(&self) -> MutexGuard<'_, Option<u64>> {
        // A number.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the graph is loaded: what it was measured to take, and the most that loading took, both where that was measured.
    ///
    /// # Errors
    /// When it takes more than was thought, and there is no room for that.
    pub fn loaded(
        &self,
        weight_bytes: Option<u64>,
        load_peak_bytes: Option<u64>,
    ) -> Result<(), String> {
        self.release();
        let weight = weight_bytes.unwrap_or_else(|| self.measure().weight_bytes);
        if let Some(peak) = load_peak_bytes {
            // The file is mapped while it is read, which does not count.
            let kept = weight.max(self.file_bytes);
            let loading = peak.saturating_sub(kept.saturating_add(self.file_bytes));
            self.loading_bytes.store(loading, Ordering::Relaxed);
        }
        match weight_bytes {
            Some(bytes) => self.measured(bytes),
            None => Ok(()),
        }
    }

    fn measured(&self, bytes: u64) -> Result<(), String> {
        let bytes = bytes.max(self.file_bytes);
        let before = self.weight_bytes.swap(bytes, Ordering::Relaxed);
        let mut state = self.memory.lock();
        state.remember(&self.key, self.measure());
        state.used_bytes = state
            .used_bytes
            .saturating_sub(before)
            .saturating_add(bytes);
        let is_over = state.used_bytes > self.memory.limit_bytes;
        drop(state);
        if is_over {
            // What others take beyond the limit has to go, and nothing has to come.
            let refusal = |()| {
                let others = self.memory.used_bytes().saturating_sub(bytes);
                self.memory.refusal(bytes, others)
            };
            let made = self.memory.make_room(0, 0, Purpose::Correction);
            made.map_err(refusal)?;
        }
        Ok(())
    }

    /// Notes that a run took so many bytes besides.
    pub fn ran_with(&self, bytes: u64) {
        let before = self.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
        if bytes > before {
            let mut state = self.memory.lock();
            state.used_bytes = state.used_bytes.saturating_add(bytes - before);
            state.remember(&self.key, self.measure());
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
        let bytes = self.bytes();
        let mut state = self.memory.lock();
        state.used_bytes = state.used_bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn two_large_graphs_load_one_after_the_other() {
        let memory = Memory::new(10 * GIB);
        let first = memory.share("first", GIB).unwrap();
        let (loaded, second) = mpsc::channel();
        let loading = std::thread::spawn({
            let memory = memory.clone();
            move || loaded.send(memory.share("second", GIB).unwrap())
        });
        assert!(memory.used_bytes() > 5 * GIB && memory.used_bytes() < 6 * GIB);
        second
            .recv_timeout(Duration::from_millis(200))
            .err()
            .expect("it loads beside the first");
        first.loaded(Some(GIB), Some(7 * GIB)).unwrap();
        let second = second.recv().unwrap();
        loading.join().unwrap().unwrap();
        assert!(memory.used_bytes() <= 10 * GIB);
        second.loaded(None, None).unwrap();
        drop((first, second));
        assert_eq!(memory.used_bytes(), 0);
        // The first is known to take more now.
        let _first = memory.share("first", GIB).unwrap();
        assert_eq!(memory.used_bytes(), 6 * GIB);
    }

    #[test]
    fn one_that_takes_all_for_a_moment_is_not_refused() {
        let memory = Memory::new(GIB);
        let only = memory.share("only", GIB / 2).unwrap();
        assert_eq!(memory.used_bytes(), GIB);
        assert!(only.room_beside().is_none());
        only.loaded(Some(GIB / 2), None).unwrap();
        assert_eq!(memory.used_bytes(), GIB / 2);
        assert!(memory.share("too large", 2 * GIB).is_err());
        drop(only);
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn a_worker_counts_beside_the_engine_while_it_runs() {
        let memory = Memory::new(100 * GIB);
        let one = memory.share("one", GIB).unwrap();
        let loading = memory.used_bytes();
        let beside = one.room_beside().unwrap();
        let both = memory.used_bytes();
        assert!(both > loading);
        drop(beside);
        assert_eq!(memory.used_bytes(), loading);
    }
}
