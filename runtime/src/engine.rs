//! The wasmtime engines of the process, with and without async support: their settings, their allocator, and the ticker that
//! advances their epochs.

mod async_support;
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

pub use async_support::AsyncSupport;
use functions::CompiledFunctions;
use ticker::Ticker;

/// Address space that a pool slot reserves for a linear memory: 4 GiB, so that code needs no bounds checks.
const MEMORY_RESERVATION: u64 = 4 << 30;
/// The same where address space is limited (`ulimit -v`): the current size, and a little to grow into. Code then checks bounds,
/// and a memory that outgrows its reservation is moved.
const SCARCE_RESERVATION: u64 = 0;
const SCARCE_GROWTH: u64 = 1 << 20;
/// 32 MiB of guard pages catch nearly all accesses that 4 GiB would, with far less address space.
const MEMORY_GUARD: u64 = 32 << 20;
/// Bytes of wasm frames on a guest's stack above which it traps.
const MAX_WASM_STACK: usize = 512 << 10;
/// Bytes of a guest's whole fiber stack; host functions have what wasm does not use.
const ASYNC_STACK: usize = 2 << 20;
/// Bytes of a free slot that stay resident for its next instance.
const KEEP_RESIDENT: usize = 1 << 20;
/// Largest sparse initial memory, in bytes, that is still mapped copy-on-write.
const DENSE_IMAGE: u64 = 64 << 20;

/// Linear memories in the pool per slot; a component with more takes several slots.
const MEMORIES_PER_SLOT: u32 = 2;
/// Tables in the pool per slot.
const TABLES_PER_SLOT: u32 = 4;

/// How instances are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Allocator {
    /// From slots that were reserved once, in microseconds.
    Pooling,
    /// Mapped for each instance; for machines without enough address space.
    OnDemand,
}

/// The settings of the engines.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Maximum number of replicas on this node.
    pub max_replicas: u32,
    /// `None` chooses what the machine allows.
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

/// 1000, or fewer on a machine with less than a GiB of memory: a warm replica of a small guest holds about a MiB.
fn default_max_replicas() -> u32 {
    let memory = match address_space_limit() {
        Some(limit) => machine_memory_bytes().min(limit),
        None => machine_memory_bytes(),
    };
    u32::try_from(memory >> 20).unwrap_or(1000).clamp(64, 1000)
}

/// The limit of the process's address space, in bytes; `None` if it is unlimited.
fn address_space_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a local variable that outlives the call.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// The memory of this machine in bytes; 0 if the system does not tell.
pub fn machine_memory_bytes() -> u64 {
    // SAFETY: sysconf has no preconditions; it returns -1 for what it does not know.
    let (pages, page) = unsafe {
        (
            libc::sysconf(libc::_SC_PHYS_PAGES),
            libc::sysconf(libc::_SC_PAGESIZE),
        )
    };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(page).unwrap_or(0)
}

/// The two engines and their ticker, shared by everything that runs guests.
pub struct SharedEngine {
    without_async: Engine,
    with_async: Engine,
    allocator: Allocator,
    ticker: Arc<Ticker>,
}

impl SharedEngine {
    /// Builds the engines and starts their ticker thread.
    ///
    /// # Errors
    /// If Wasmtime refuses the settings on this machine, or no thread can be started.
    pub fn new(options: &EngineOptions) -> wasmtime::Result<Self> {
        let allocator = options.allocator.unwrap_or_else(choose_allocator);
        let functions = Arc::new(CompiledFunctions::new(functions::MAX_BYTES));
        let engine = |support| {
            let mut config = engine_config(allocator, options.max_replicas, support);
            config.enable_incremental_compilation(functions.clone())?;
            Engine::new(&config)
        };
        let (without_async, with_async) = (engine(AsyncSupport::Off)?, engine(AsyncSupport::On)?);
        let ticker = Ticker::start([&without_async, &with_async])?;
        Ok(Self {
            without_async,
            with_async,
            allocator,
            ticker,
        })
    }

    /// The wasmtime engine with or without async support.
    pub fn engine(&self, support: AsyncSupport) -> &Engine {
        match support {
            AsyncSupport::Off => &self.without_async,
            AsyncSupport::On => &self.with_async,
        }
    }

    /// Hashes of what the engines compile for, without and with async support. Code compiled by one engine runs in another
    /// with the same hash.
    pub fn compatibility_hashes(&self) -> [u64; 2] {
        [AsyncSupport::Off, AsyncSupport::On].map(|support| {
            let mut hasher = DefaultHasher::new();
            let engine = self.engine(support);
            engine.precompile_compatibility_hash().hash(&mut hasher);
            hasher.finish()
        })
    }

    /// The allocator in use.
    pub fn allocator(&self) -> Allocator {
        self.allocator
    }

    /// Runs a future that runs guest code, and makes it yield now and then. Without this an endless loop in the guest would
    /// never yield.
    ///
    /// Takes the future by reference, because it has several kilobytes, which each call would move.
    pub async fn run_preemptible<F: Future>(&self, future: Pin<&mut F>) -> F::Output {
        self.ticker.run_preemptible(future).await
    }
}

/// The number of replica slots that an instance with this many memories and tables takes.
pub(crate) fn slots_of(memories: u32, tables: u32) -> u32 {
    let memories = memories.div_ceil(MEMORIES_PER_SLOT);
    let tables = tables.div_ceil(TABLES_PER_SLOT);
    memories.max(tables).max(1)
}

/// Makes the guest of `store` yield to other tasks of its thread whenever the epoch advances; calls `first` before.
pub fn yield_at_epochs<T: 'static>(
    store: &mut Store<T>,
    first: impl Fn(StoreContextMut<'_, T>) + Send + Sync + 'static,
) {
    store.set_epoch_deadline(1);
    // wasmtime's own yield would put the guest at the head of its thread's queue again and starve its neighbours.
    store.epoch_deadline_callback(move |store| {
        first(store);
        let turn = Box::pin(tokio::task::yield_now());
        Ok(UpdateDeadline::YieldCustom(1, turn))
    });
}

fn engine_config(allocator: Allocator, max_replicas: u32, support: AsyncSupport) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.wasm_component_model_async(support == AsyncSupport::On);
    config.concurrency_support(support == AsyncSupport::On);
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
        // No component can exhaust what another needs: each takes as many replica slots as its memories and tables require
        // (`slots_of`). A component at its limits fits an engine of any size.
        let total = |per_slot: u32, most: u32| max_replicas.saturating_mul(per_slot).max(most);
        pool.total_component_instances(max_replicas);
        // Core instances reserve nothing, so there are as many as all replicas may have.
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
        // Zeroing the pages that a guest touched is cheaper than returning them and faulting them in again.
        pool.linear_memory_keep_resident(KEEP_RESIDENT);
        pool.table_keep_resident(64 << 10);
        pool.pagemap_scan(Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}

/// Tries to reserve 42 bits of address space, which pooling needs. Fails with a small address space or `ulimit -v`.
fn choose_allocator() -> Allocator {
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

    /// A component whose instances have this many memories and tables.
    fn component_with(memories: u32, tables: u32) -> String {
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
        let engine = shared.engine(AsyncSupport::Off);
        for (memories, tables, slots) in [(1, 1, 1), (2, 4, 1), (3, 1, 2), (1, 9, 3), (8, 32, 8)] {
            let component = wat::parse_str(component_with(memories, tables)).unwrap();
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
        for support in [AsyncSupport::Off, AsyncSupport::On] {
            let engine = shared.engine(support);
            let component = Component::new(engine, wat::parse_str(LOOP).unwrap()).unwrap();
            let mut store = Store::new(engine, ());
            yield_at_epochs(&mut store, |_| {});
            let linker = Linker::new(engine);
            let instance = linker.instantiate_async(&mut store, &component).await;
            let instance = instance.unwrap();
            let spin = instance.get_typed_func::<(), ()>(&mut store, "spin");
            let spin = spin.unwrap();
            let spinning = std::pin::pin!(spin.call_async(&mut store, ()));
            let mut spinning = std::pin::pin!(shared.run_preemptible(spinning));
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
