//! The one wasmtime engine of the process: its settings, the allocator it can have here, and the epoch ticker.

mod functions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, EngineWeak, InstanceAllocationStrategy, MemoryTypeBuilder,
    PoolingAllocationConfig,
};

use functions::CompiledFunctions;

/// How long a guest may compute before it lets other tasks of its executor thread run.
///
/// Short, because an endless loop in one guest delays the neighbours on its thread by this much each turn.
pub const EPOCH_TICK: Duration = Duration::from_millis(1);

/// Ticks without a running guest after which the ticker parks.
const QUIET_TICKS: u32 = 100;

/// Address space that one pool slot wants for a linear memory (4 GiB, so that bounds checks cost nothing).
const MEMORY_RESERVATION: u64 = 4 << 30;
/// 32 MiB of guard pages catch nearly all accesses that 4 GiB would, in far less address space.
const MEMORY_GUARD: u64 = 32 << 20;
/// The largest number of wasm bytes on a guest's stack before it traps.
const MAX_WASM_STACK: usize = 512 << 10;
/// A guest's whole fiber stack; what wasm does not use is left to host functions.
const ASYNC_STACK: usize = 2 << 20;
/// Bytes of a free slot that stay in memory for its next instance.
const KEEP_RESIDENT: usize = 1 << 20;
/// Largest initial heap image that is still mapped copy-on-write although it is sparse.
const DENSE_IMAGE: u64 = 64 << 20;

/// How instances get their memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocator {
    /// Slots reserved once; an instance takes microseconds.
    Pooling,
    /// Mapped anew for each instance; for machines that lack the address space.
    OnDemand,
}

/// What the engine is built from.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Most replicas alive at once on this node.
    pub max_replicas: u32,
    /// `None` probes the machine.
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

/// One thousand, or fewer where memory is scarce: a warm replica of a small guest holds about a megabyte.
fn default_max_replicas() -> u32 {
    u32::try_from(machine_memory_bytes() >> 20)
        .unwrap_or(1000)
        .clamp(64, 1000)
}

/// The memory of this machine; 0 when the system does not say.
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

/// The engine with its ticker; everything that runs guests shares one.
pub struct SharedEngine {
    engine: Engine,
    allocator: Allocator,
    ticker: Arc<Ticker>,
}

impl SharedEngine {
    /// Builds the engine and starts its ticker thread.
    ///
    /// # Errors
    /// When wasmtime refuses the settings on this machine, or no thread can be started.
    pub fn new(options: &EngineOptions) -> wasmtime::Result<Self> {
        let allocator = options.allocator.unwrap_or_else(probe_allocator);
        let mut config = engine_config(allocator, options.max_replicas);
        let functions = CompiledFunctions::new(functions::MAX_BYTES);
        config.enable_incremental_compilation(Arc::new(functions))?;
        let engine = Engine::new(&config)?;
        let ticker = Ticker::start(&engine)?;
        Ok(Self {
            engine,
            allocator,
            ticker,
        })
    }

    /// The wasmtime engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The allocator in use.
    pub fn allocator(&self) -> Allocator {
        self.allocator
    }

    /// Keeps the ticker ticking while guest code may run.
    pub fn ticking(&self) -> Ticking {
        Ticking::new(self.ticker.clone())
    }
}

fn engine_config(allocator: Allocator, max_replicas: u32) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.wasm_component_model_async(true);
    config.epoch_interruption(true);
    config.max_wasm_stack(MAX_WASM_STACK);
    config.async_stack_size(ASYNC_STACK);
    config.memory_guaranteed_dense_image_size(DENSE_IMAGE);
    config.memory_reservation(MEMORY_RESERVATION);
    config.memory_guard_size(MEMORY_GUARD);
    if allocator == Allocator::Pooling {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(max_replicas);
        // A component is several core instances (the program, shims, adapters); they reserve no address space.
        pool.total_core_instances(max_replicas.saturating_mul(8));
        pool.max_core_instances_per_component(crate::limits::MAX_CORE_INSTANCES);
        pool.total_memories(max_replicas.saturating_mul(2));
        pool.max_memories_per_component(crate::limits::MAX_MEMORIES);
        pool.total_tables(max_replicas.saturating_mul(4));
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

/// Asks for a 42-bit reservation; a machine that cannot give it (small address space, `ulimit -v`) gets on-demand memory.
fn probe_allocator() -> Allocator {
    let mut config = Config::new();
    config.wasm_memory64(true);
    config.memory_reservation(1 << 42);
    let reserved = Engine::new(&config).and_then(|engine| {
        let mut store = wasmtime::Store::new(&engine, ());
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

/// One thread that advances the engine's epoch, parked while no guest has run for a while.
///
/// Requests come and go far more often than epochs: waking the thread for each would cost more than the guest does.
struct Ticker {
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
    thread: std::sync::OnceLock<std::thread::Thread>,
}

impl Ticker {
    fn start(engine: &Engine) -> wasmtime::Result<Arc<Self>> {
        let ticker = Arc::new(Self {
            running: AtomicUsize::new(0),
            parked: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            thread: std::sync::OnceLock::new(),
        });
        let engine = engine.weak();
        let for_thread = ticker.clone();
        let handle = std::thread::Builder::new()
            .name("epoch-ticker".into())
            .spawn(move || for_thread.run(&engine))?;
        // The cell was just made, so nothing else can have set it.
        let _ = ticker.thread.set(handle.thread().clone());
        Ok(ticker)
    }

    fn run(&self, engine: &EngineWeak) {
        let mut quiet_ticks = 0;
        while !self.stopped.load(Ordering::Relaxed) {
            if quiet_ticks >= QUIET_TICKS {
                self.park();
                quiet_ticks = 0;
            }
            std::thread::sleep(EPOCH_TICK);
            if self.running.load(Ordering::SeqCst) == 0 {
                quiet_ticks += 1;
                continue;
            }
            quiet_ticks = 0;
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => break,
            }
        }
    }

    /// Sleeps until a guest runs. Whoever begins to run one counts it first and looks at the flag then; this sets the
    /// flag first and looks at the count then: one of the two always sees the other.
    fn park(&self) {
        self.parked.store(true, Ordering::SeqCst);
        if self.running.load(Ordering::SeqCst) == 0 && !self.stopped.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    fn wake(&self) {
        if self.parked.load(Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}

impl Drop for SharedEngine {
    fn drop(&mut self) {
        self.ticker.stopped.store(true, Ordering::SeqCst);
        self.ticker.wake();
    }
}

/// While one of these lives, epochs advance.
pub struct Ticking(Arc<Ticker>);

impl Ticking {
    fn new(ticker: Arc<Ticker>) -> Self {
        if ticker.running.fetch_add(1, Ordering::SeqCst) == 0 {
            ticker.wake();
        }
        Self(ticker)
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
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
}
