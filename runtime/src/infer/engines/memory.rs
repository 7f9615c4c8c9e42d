//! The memory budget of all graphs of a node: charges each graph, evicts graphs for others, and refuses graphs that do not fit.
//!
//! A graph is charged the memory that it used after its load, plus the peak of its runs. It is charged at least the size of its files,
//! which are mapped and in memory once runs have read them. During its load it is also charged the temporary memory of the load, so that
//! large graphs load one after the other if there is no room for both.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::graph_slot::GraphSlot;
use crate::infer::eviction::{Fit, ModelId, Resident, fit};

/// Longest wait of a load for runs of other graphs to end, if all graphs are running.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How often it checks whether they have.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Memory of a graph besides its weights in bytes, until it was measured.
const OVERHEAD_BYTES: u64 = 4 << 20;
/// Temporary memory of a load per byte of the files, until it was measured: the library's copy of the weights, their optimized form, and
/// their layout for the CPU.
const LOADING_FACTOR: u64 = 4;
/// Longest wait of a load for room for its temporary memory. Then it starts without it, if it needs little or no other graph loads,
/// because graphs that always run must not prevent others from loading.
const LOADING_WAIT: Duration = Duration::from_secs(5);
/// Temporary memory that counts as little: each engine has several times as much for unmeasured memory.
const SMALL_LOAD_BYTES: u64 = 256 << 20;
/// Most graphs whose memory use is remembered while they are not loaded.
const MAX_REMEMBERED: usize = 4096;

/// The memory of all graphs of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphMemory {
    /// The limit of `samovar serve --memory` in bytes.
    pub limit_bytes: u64,
    /// Bytes charged to loaded graphs, including the peaks of their runs.
    pub used_bytes: u64,
}

/// The memory budget of the graphs.
pub(super) struct MemoryBudget {
    limit_bytes: u64,
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes charged to loaded and loading graphs.
    used_bytes: u64,
    /// Number of loading graphs.
    loading: usize,
    last_id: u64,
    graphs: BTreeMap<ModelId, Weak<GraphSlot>>,
    /// Memory use of graphs when they were loaded last, by key.
    measured: HashMap<String, Measure>,
}

/// The memory use of a graph and its runs.
#[derive(Clone, Copy, Debug, Default)]
struct Measure {
    weight_bytes: u64,
    peak_bytes: u64,
    /// Temporary memory of the load, in addition to the weights.
    loading_bytes: u64,
}

/// The charge of one graph, from before its load until it is unloaded.
pub(super) struct MemoryCharge {
    memory: Arc<MemoryBudget>,
    key: String,
    file_bytes: u64,
    /// Memory while it is idle.
    weight_bytes: AtomicU64,
    /// Additional peak memory of its runs.
    peak_bytes: AtomicU64,
    /// Temporary memory of the load, measured or estimated.
    loading_bytes: AtomicU64,
    /// Temporary memory that is charged while it loads.
    temporary: Mutex<Option<u64>>,
}

/// Memory that is charged in addition until this is dropped.
pub(super) struct Reservation {
    memory: Arc<MemoryBudget>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        state.used_bytes = state.used_bytes.saturating_sub(self.bytes);
    }
}

impl MemoryBudget {
    /// A budget with a limit in bytes.
    pub fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            begun: Instant::now(),
            state: Mutex::default(),
        })
    }

    /// The limit and the use.
    pub fn info(&self) -> GraphMemory {
        GraphMemory {
            limit_bytes: self.limit_bytes,
            used_bytes: self.used_bytes(),
        }
    }

    fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    /// A monotonic timestamp for the last use of graphs.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Makes a graph evictable.
    pub fn register(&self, graph: &Arc<GraphSlot>) {
        let mut state = self.lock();
        state.last_id += 1;
        let id = ModelId(state.last_id);
        state.graphs.retain(|_, graph| graph.strong_count() > 0);
        state.graphs.insert(id, Arc::downgrade(graph));
    }

    /// Charges a graph with files of this size, and evicts others if necessary. Blocks while other graphs run.
    ///
    /// # Errors
    /// If it does not fit, with the numbers.
    pub fn charge(self: &Arc<Self>, key: &str, file_bytes: u64) -> Result<MemoryCharge, String> {
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
        // A graph that fits is not refused because of its temporary memory.
        let most = self.limit_bytes.saturating_sub(bytes);
        let temporary = self
            .make_room(bytes, loading_bytes.min(most), Purpose::Load)
            .map_err(|()| self.refusal(bytes, self.used_bytes()))?;
        Ok(MemoryCharge {
            memory: self.clone(),
            key: key.to_owned(),
            file_bytes,
            weight_bytes: AtomicU64::new(weight_bytes),
            peak_bytes: AtomicU64::new(peak_bytes),
            loading_bytes: AtomicU64::new(loading_bytes),
            temporary: Mutex::new(Some(temporary)),
        })
    }

    /// Charges `bytes` and temporary memory once there is room. Fails if there is none for too long. Returns the temporary memory that
    /// was charged.
    fn make_room(&self, bytes: u64, loading_bytes: u64, purpose: Purpose) -> Result<u64, ()> {
        let begun = Instant::now();
        loop {
            let waited = begun.elapsed();
            let loaded = self.loaded();
            let residents = loaded.iter().map(|(id, (_, one))| (id, one));
            let in_residents: u64 = residents.clone().map(|(_, one)| one.bytes).sum();
            let mut state = self.lock();
            let is_loading = state.used_bytes > in_residents;
            let skips_temporary =
                waited > LOADING_WAIT && (loading_bytes <= SMALL_LOAD_BYTES || state.loading == 0);
            let temporary = if skips_temporary { 0 } else { loading_bytes };
            let taken = bytes.saturating_add(temporary);
            let missing = state.used_bytes.saturating_add(taken);
            let missing = missing.saturating_sub(self.limit_bytes);
            match fit(missing, 0, residents) {
                Fit::Fits => {
                    state.used_bytes = state.used_bytes.saturating_add(taken);
                    state.loading += usize::from(purpose == Purpose::Load);
                    return Ok(temporary);
                }
                Fit::Evict(models) => {
                    // Without the lock, which a dropped charge takes.
                    drop(state);
                    for id in models {
                        if let Some((graph, _)) = loaded.get(&id) {
                            graph.evict();
                        }
                    }
                }
                Fit::Never { .. } if !is_loading || bytes > self.limit_bytes => {
                    return Err(());
                }
                // A loading graph can be evicted after its load and run.
                Fit::AfterRuns | Fit::Never { .. } => {
                    if waited > MAX_WAIT {
                        return Err(());
                    }
                    drop(state);
                    drop(loaded);
                    std::thread::sleep(CHECK_INTERVAL);
                }
            }
        }
    }

    fn refusal(&self, bytes: u64, used_bytes: u64) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        format!(
            "it needs {} MiB of memory; the limit of all graphs is {} MiB, of which others use {} MiB: start the server with a larger --memory, or deactivate deployments",
            mib(bytes),
            mib(self.limit_bytes),
            mib(used_bytes)
        )
    }

    /// The loaded graphs.
    fn loaded(&self) -> BTreeMap<ModelId, (Arc<GraphSlot>, Resident)> {
        let graphs: Vec<(ModelId, Arc<GraphSlot>)> = {
            let state = self.lock();
            let graphs = state.graphs.iter();
            graphs
                .filter_map(|(id, graph)| Some((*id, graph.upgrade()?)))
                .collect()
        };
        // Without the lock: if this is the last reference to a graph, dropping it releases its charge.
        let loaded = graphs.into_iter().filter_map(|(id, graph)| {
            let resident = graph.resident()?;
            Some((id, (graph, resident)))
        });
        loaded.collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why memory is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Load,
    /// It is charged already, and others are evicted for it.
    Correction,
}

impl State {
    fn remember(&mut self, key: &str, measure: Measure) {
        if self.measured.len() >= MAX_REMEMBERED && !self.measured.contains_key(key) {
            // Any: a graph that is not remembered is estimated again.
            let some = self.measured.keys().next().cloned();
            some.and_then(|key| self.measured.remove(&key));
        }
        self.measured.insert(key.to_owned(), measure);
    }
}

impl MemoryCharge {
    /// Bytes charged for the graph and its runs.
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

    /// Charges the memory of a load again, for another process that loads the graph; `None` if there is no room now.
    pub fn reserve_again(&self) -> Option<Reservation> {
        let measure = self.measure();
        let bytes = measure.weight_bytes.saturating_add(measure.loading_bytes);
        let temporary = self.lock_temporary().unwrap_or(0);
        // The temporary memory of the load, which has ended, is reused.
        let bytes = bytes.saturating_sub(temporary);
        let mut state = self.memory.lock();
        let used_bytes = state.used_bytes.saturating_add(bytes);
        if used_bytes > self.memory.limit_bytes {
            return None;
        }
        state.used_bytes = used_bytes;
        drop(state);
        Some(Reservation {
            memory: self.memory.clone(),
            bytes,
        })
    }

    /// Releases the temporary memory of the load.
    fn release(&self) {
        let temporary = self.lock_temporary().take();
        if let Some(temporary) = temporary {
            let mut state = self.memory.lock();
            state.used_bytes = state.used_bytes.saturating_sub(temporary);
            state.loading = state.loading.saturating_sub(1);
        }
    }

    fn lock_temporary(&self) -> MutexGuard<'_, Option<u64>> {
        self.temporary
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the end of the load: the memory of the graph and the peak of the load, if measured.
    ///
    /// # Errors
    /// If it uses more than estimated, and there is no room for that.
    pub fn record_load(
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
            Some(bytes) => self.record_weight(bytes),
            None => Ok(()),
        }
    }

    fn record_weight(&self, bytes: u64) -> Result<(), String> {
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
            // Evicts others until the limit is met.
            let refusal = |()| {
                let others = self.memory.used_bytes().saturating_sub(bytes);
                self.memory.refusal(bytes, others)
            };
            let made = self.memory.make_room(0, 0, Purpose::Correction);
            made.map_err(refusal)?;
        }
        Ok(())
    }

    /// Records the peak memory of a run.
    pub fn record_peak(&self, bytes: u64) {
        let before = self.peak_bytes.fetch_max(bytes, Ordering::Relaxed);
        if bytes > before {
            let mut state = self.memory.lock();
            state.used_bytes = state.used_bytes.saturating_add(bytes - before);
            state.remember(&self.key, self.measure());
        }
    }
}

impl Drop for MemoryCharge {
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
        let memory = MemoryBudget::new(10 * GIB);
        let first = memory.charge("first", GIB).unwrap();
        let (loaded, second) = mpsc::channel();
        let loading = std::thread::spawn({
            let memory = memory.clone();
            move || loaded.send(memory.charge("second", GIB).unwrap())
        });
        assert!(memory.used_bytes() > 5 * GIB && memory.used_bytes() < 6 * GIB);
        second
            .recv_timeout(Duration::from_millis(200))
            .err()
            .expect("it loads at the same time as the first");
        first.record_load(Some(GIB), Some(7 * GIB)).unwrap();
        let second = second.recv().unwrap();
        loading.join().unwrap().unwrap();
        assert!(memory.used_bytes() <= 10 * GIB);
        second.record_load(None, None).unwrap();
        drop((first, second));
        assert_eq!(memory.used_bytes(), 0);
        // The use of the first is known now.
        let _first = memory.charge("first", GIB).unwrap();
        assert_eq!(memory.used_bytes(), 6 * GIB);
    }

    #[test]
    fn a_graph_whose_load_needs_all_memory_is_not_refused() {
        let memory = MemoryBudget::new(GIB);
        let only = memory.charge("only", GIB / 2).unwrap();
        assert_eq!(memory.used_bytes(), GIB);
        assert!(only.reserve_again().is_none());
        only.record_load(Some(GIB / 2), None).unwrap();
        assert_eq!(memory.used_bytes(), GIB / 2);
        assert!(memory.charge("too large", 2 * GIB).is_err());
        drop(only);
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn a_worker_is_charged_while_it_runs() {
        let memory = MemoryBudget::new(100 * GIB);
        let one = memory.charge("one", GIB).unwrap();
        let loading = memory.used_bytes();
        let reservation = one.reserve_again().unwrap();
        let both = memory.used_bytes();
        assert!(both > loading);
        drop(reservation);
        assert_eq!(memory.used_bytes(), loading);
    }
}
