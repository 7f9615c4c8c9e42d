//! The Wasmtime engines of the process, one for each kind of component: their settings, the allocator that this machine supports, and the
//! epoch ticker.

mod calls;
mod functions;
mod ticker;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, MemoryTypeBuilder,
    PoolingAllocationConfig, Store, StoreContextMut, UpdateDeadline,
};

pub use calls::Calls;
use functions::CompiledFunctions;
use ticker::Ticker;

/// Address space of a pool slot for a linear memory: 4 GiB, so that bounds checks cost nothing.
const MEMORY_RESERVATION: u64 = 4 << 30;
/// The same if address space is limited (`ulimit -v`): the memory's current size, and a little to grow. The code then checks bounds, and a
/// memory that outgrows its place is moved.
const SCARCE_RESERVATION: u64 = 0;
const SCARCE_GROWTH: u64 = 1 << 20;
/// 32 MiB of guard pages catch nearly all accesses that 4 GiB would catch, with far less address space.
const MEMORY_GUARD: u64 = 32 << 20;
/// Largest WebAssembly stack of a guest in bytes; beyond it the guest traps.
const MAX_WASM_STACK: usize = 512 << 10;
/// A guest's whole fiber stack, including the part for host functions.
const ASYNC_STACK: usize = 2 << 20;
/// Bytes of a free slot that stay resident for its next instance.
const KEEP_RESIDENT: usize = 1 << 20;
/// Largest sparse initial heap image that is mapped copy-on-write.
const DENSE_IMAGE: u64 = 64 << 20;

/// Linear memories per pool slot; a component with more uses several slots.
const MEMORIES_PER_SLOT: u32 = 2;
/// Tables per pool slot.
const TABLES_PER_SLOT: u32 = 4;

/// How instances are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocator {
    /// From preallocated slots, in microseconds.
    Pooling,
    /// With new mappings for each instance, on machines with too little address space.
    OnDemand,
}

/// Options of the engines.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Maximum number of replicas on this node.
    pub max_replicas: u32,
    /// The allocator; `None` chooses one for this machine.
    pub allocator: Option<Allocator>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_replicas: default_max_replicas(),
            allocator: None,
        }
    }
}

/// 1,000, or fewer if memory is scarce: a warm replica of a small guest uses about a megabyte.
fn default_max_replicas() -> u32 {
    let memory = match address_space_limit() {
        Some(limit) => machine_memory_bytes().min(limit),
        None => machine_memory_bytes(),
    };
    u32::try_from(memory >> 20).unwrap_or(1000).clamp(64, 1000)
}

/// Limit of the process's address space; `None` without a limit.
fn address_space_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a structure of ours, which lives as long as the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Memory of this machine in bytes; 0 if it is unknown.
pub fn machine_memory_bytes() -> u64 {
    // SAFETY: sysconf has no preconditions; it answers -1 for what it does not know.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(page).unwrap_or(0)
}

/// The engines with their ticker, shared by everything that runs guests.
pub struct SharedEngine {
    sequential: Engine,
    concurrent: Engine,
    allocator: Allocator,
    ticker: Arc<Ticker>,
}

impl SharedEngine {
    /// Builds the engines and starts their ticker thread.
    ///
    /// # Errors
    /// If Wasmtime refuses the settings on this machine, or no thread can be started.
    pub fn new(options: &EngineOptions) -> wasmtime::Result<Self> {
        let allocator = options.allocator.unwrap_or_else(probe_allocator);
        let functions = Arc::new(CompiledFunctions::new(functions::MAX_BYTES));
        let engine = |calls| {
            let mut config = engine_config(allocator, options.max_replicas, calls);
            config.enable_incremental_compilation(functions.clone())?;
            Engine::new(&config)
        };
        let (sequential, concurrent) = (engine(Calls::Sequential)?, engine(Calls::Concurrent)?);
        let ticker = Ticker::start([&sequential, &concurrent])?;
        Ok(Self {
            sequential,
            concurrent,
            allocator,
            ticker,
        })
    }

    /// The wasmtime engine for components of a kind.
    pub fn engine(&self, calls: Calls) -> &Engine {
        match calls {
            Calls::Sequential => &self.sequential,
            Calls::Concurrent => &self.concurrent,
        }
    }

    /// Hashes of the engines' compile settings. Code of an engine runs in any engine with the same hash.
    pub fn compatibility(&self) -> [u64; 2] {
        [Calls::Sequential, Calls::Concurrent].map(|calls| {
            let mut hasher = DefaultHasher::new();
            let engine = self.engine(calls);
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        })
    }

    /// The allocator in use.
    pub fn allocator(&self) -> Allocator {
        self.allocator
    }

    /// Runs a future that runs guest code; without this an endless loop in a guest would never yield. The future is passed by reference
    /// because it has several kilobytes, and each move would copy it.
    pub async fn watch<F: Future>(&self, future: Pin<&mut F>) -> F::Output {
        self.ticker.watch(future).await
    }
}

/// Number of replica slots that an instance with these numbers of memories and tables uses.
pub(crate) fn slots_of(memories: u32, tables: u32) -> u32 {
    let memories = memories.div_ceil(MEMORIES_PER_SLOT);
    let tables = tables.div_ceil(TABLES_PER_SLOT);
    memories.max(tables).max(1)
}

/// Yields to other tasks of the thread whenever the epoch advances while the guest computes, and calls `first` before.
pub fn yield_at_epochs<T: 'static>(
    store: &mut Store<T>,
    first: impl Fn(StoreContextMut<'_, T>) + Send + Sync + 'static,
) {
    store.set_epoch_deadline(1);
    // A plain yield would requeue the guest at the head of its thread's queue and starve the neighbours.
    store.epoch_deadline_callback(move |store| {
        first(store);
        let turn = Box::pin(tokio::task::yield_now());
        Ok(UpdateDeadline::YieldCustom(1, turn))
    });
}

fn engine_config(allocator: Allocator, max_replicas: u32, calls: Calls) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.wasm_component_model_async(calls == Calls::Concurrent);
    config.concurrency_support(calls == Calls::Concurrent);
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_WASM_STACK);
    config.async_stack_size(ASYNC_STACK);
    config.memory_guaranteed_dense_image_size(DENSE_IMAGE);
    if allocator == Allocator::OnDemand && address_space_limit().is_some() {
        config.memory_reservation(SCARCE_RESERVATION);
        config.memory_reservation_for_growth(SCARCE_GROWTH);
        config.memory_guard_size(0);
    } else {
        config.memory_reservation(MEMORY_RESERVATION);
        config.memory_guard_size(MEMORY_GUARD);
    }
    if allocator == Allocator::Pooling {
        let mut pool = PoolingAllocationConfig::new();
        // No component lacks what another has taken: each has as many of the node's slots as it needs (`slots_of`), and one at
        // its maxima fits an engine of any size.
        let total = |per_slot: u32, most: u32| max_replicas.saturating_mul(per_slot).max(most);
        pool.total_component_instances(max_replicas);
        // They reserve nothing, so there are as many as anybody may have.
        pool.total_core_instances(max_replicas.saturating_mul(crate::limits::MAX_CORE_INSTANCES));
        pool.max_core_instances_per_component(crate::limits::MAX_CORE_INSTANCES);
        pool.total_memories(total(MEMORIES_PER_SLOT, crate::limits::MAX_MEMORIES));
        pool.max_memories_per_component(crate::limits::MAX_MEMORIES);
        pool.total_tables(total(TABLES_PER_SLOT, crate::limits::MAX_TABLES));
        pool.max_tables_per_component(crate::limits::MAX_TABLES);
        pool.table_elements(crate::limits::MAX_TABLE_ELEMENTS);
        pool.total_stacks(max_replicas.saturating_mul(2));
        pool.max_component_instance_size(4 << 20);
        pool.max_core_instance_size(4 << 20);
        // Zeroing what a guest touched is cheaper than giving the pages back and faulting them in again.
        pool.linear_memory_keep_resident(KEEP_RESIDENT);
        pool.table_keep_resident(64 << 10);
        pool.pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// Tries to reserve 42 bits of address space. If that fails (small address space, `ulimit -v`), instances are allocated on demand.
fn probe_allocator() -> Allocator {
    let mut config = Config::new();
    config.wasm_memory64(true);
    config.memory_reservation(1 << 42);
    let reserved = Engine::new(&config).and_then(|engine| {
        let mut store = Store::new(&engine, ());
        let memory = MemoryTypeBuilder::default()
            .memory64(true)
            .min(0)
            .max(Some(1 << 26))
            .build()?;
        wasmtime::Memory::new(&mut store, memory)
    });
    match reserved {
        Ok(_) => Allocator::Pooling,
        Err(_) => Allocator::OnDemand,
    }
}

impl Drop for SharedEngine {
    fn drop(&mut self) {
        self.ticker.stop();
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::component::{Component, Linker};

    use super::*;

    #[test]
    fn either_allocator_builds_an_engine() {
        for allocator in [Allocator::Pooling, Allocator::OnDemand] {
            let options = EngineOptions {
                max_replicas: 8,
                allocator: Some(allocator),
            };
            let shared = SharedEngine::new(&options).expect("engine");
            assert_eq!(shared.allocator(), allocator);
        }
    }

    /// A component whose instances have so many memories and tables.
    fn with(memories: u32, tables: u32) -> String {
        let of = |what: &str, name: &str, count: u32| {
            let module = format!("(core module ${name} ({what}))");
            let instance = format!("(core instance (instantiate ${name}))");
            format!("{module}{}", instance.repeat(count as usize))
        };
        let (memories, tables) = (
            of("memory 1", "m", memories),
            of("table 1 funcref", "t", tables),
        );
        format!("(component {memories} {tables})")
    }

    #[tokio::test]
    async fn the_engine_has_room_for_as_many_instances_as_their_slots_allow() {
        const SLOTS: u32 = 8;
        let options = EngineOptions {
            max_replicas: SLOTS,
            allocator: Some(Allocator::Pooling),
        };
        let shared = SharedEngine::new(&options).unwrap();
        let engine = shared.engine(Calls::Sequential);
        for (memories, tables, slots) in [(1, 1, 1), (2, 4, 1), (3, 1, 2), (1, 9, 3), (8, 32, 8)] {
            let component = wat::parse_str(with(memories, tables)).unwrap();
            let component = Component::new(engine, component).unwrap();
            let needs = component.resources_required().unwrap();
            assert_eq!((needs.num_memories, needs.num_tables), (memories, tables));
            assert_eq!(slots_of(memories, tables), slots);
            let linker = Linker::new(engine);
            let mut held = Vec::new();
            for _ in 0..SLOTS / slots {
                let mut store = Store::new(engine, ());
                yield_at_epochs(&mut store, |_| {});
                let made = linker.instantiate_async(&mut store, &component).await;
                made.unwrap_or_else(|e| panic!("{memories} memories, {tables} tables: {e:#}"));
                held.push(store);
            }
        }
    }

    #[tokio::test]
    async fn an_endless_loop_lets_others_run_on_its_thread() {
        const LOOP: &str = r#"(component
            (core module $m (func (export "spin") (loop (br 0))))
            (core instance $i (instantiate $m))
            (func (export "spin") (canon lift (core func $i "spin"))))"#;
        let options = EngineOptions {
            max_replicas: 2,
            allocator: Some(Allocator::OnDemand),
        };
        let shared = SharedEngine::new(&options).unwrap();
        for calls in [Calls::Sequential, Calls::Concurrent] {
            let engine = shared.engine(calls);
            let component = Component::new(engine, wat::parse_str(LOOP).unwrap()).unwrap();
            let mut store = Store::new(engine, ());
            yield_at_epochs(&mut store, |_| {});
            let linker = Linker::new(engine);
            let instance = linker.instantiate_async(&mut store, &component).await;
            let instance = instance.unwrap();
            let spin = instance.get_typed_func::<(), ()>(&mut store, "spin");
            let spin = spin.unwrap();
            let spinning = std::pin::pin!(spin.call_async(&mut store, ()));
            let mut spinning = std::pin::pin!(shared.watch(spinning));
            for _ in 0..20 {
                tokio::select! {
                    biased;
                    _ = &mut spinning => panic!("it came to an end"),
                    () = std::future::ready(()) => {}
                }
            }
        }
    }
}
