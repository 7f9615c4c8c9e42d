//! The data of a replica's store: its WASI contexts, with exactly the capabilities that its manifest names.

mod bodies;
mod holdings;
mod logging;
pub(crate) mod outgoing;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::config::Config;
use crate::engine::{AsyncSupport, SharedEngine, yield_at_epochs};
use crate::infer::nn::{NnCtx, NnView};
use crate::limits::{
    HOSTCALL_SLACK_BYTES, MAX_COMPONENT_HANDLES, MAX_CONCURRENT, MAX_HANDLES, MAX_HEADER_BYTES,
    MAX_RANDOM_BYTES, StoreLimiter,
};
use crate::log::{Level, LogStream, ReplicaLog};
use crate::request::state::RequestState;
use crate::sandbox::logging::LoggingView;
pub use holdings::Excess;
use holdings::{CALLS_BETWEEN_COUNTS, Holdings};
use outgoing::{Outgoing, limit_requests};
pub(crate) use watch::CallWatch;

/// What a deployment's replicas can access.
#[derive(Clone, Debug, Default)]
pub struct Capabilities {
    /// Environment variables: names and values.
    pub environment: Vec<(String, String)>,
    /// Values, such as secrets, for `wasi:config/store`.
    pub config: Config,
    /// A folder mounted read-only at `/`; without one the guest has no files.
    pub files: Option<PathBuf>,
    /// `host:port` pairs that outgoing HTTP requests may reach.
    pub network_allow: Arc<[String]>,
    /// Whether the guest may load graphs from bytes of its own.
    pub load_graphs_from_bytes: bool,
}

/// The data of a replica's store.
pub struct Sandbox {
    table: ResourceTable,
    /// Replaces `table` once the guest holds too much. It is empty and stays so, which makes the guest trap.
    refusing: ResourceTable,
    excess: Option<Excess>,
    /// Host calls since `table` was last counted.
    calls: u32,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    config: WasiConfigVariables,
    /// The generation of `config`.
    pub config_generation: u64,
    nn: NnCtx,
    /// Enforces the memory limit on the store.
    pub limiter: StoreLimiter,
    /// The replica's log.
    pub log: Arc<ReplicaLog>,
    stdout: LogStream,
    stderr: LogStream,
    /// Records calls of an `init` while a snapshot is taken.
    pub watch: Option<CallWatch>,
}

impl Sandbox {
    /// Creates the store of a new replica. Its memory is charged to the account of `nn`.
    ///
    /// # Errors
    /// When the folder of files cannot be opened.
    pub fn store(
        engine: &Engine,
        capabilities: &Capabilities,
        nn: NnCtx,
        log: Arc<ReplicaLog>,
    ) -> wasmtime::Result<Store<Self>> {
        let stdout = LogStream::new(log.clone(), Level::Info);
        let stderr = LogStream::new(log.clone(), Level::Warning);
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(stdout.clone());
        wasi.stderr(stderr.clone());
        wasi.envs(&capabilities.environment);
        wasi.allow_tcp(false);
        wasi.allow_udp(false);
        wasi.max_random_size(MAX_RANDOM_BYTES);
        if let Some(files) = &capabilities.files {
            wasi.preopened_dir(files, "/", FsPerms::ReadOnly)?;
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let mut refusing = ResourceTable::new();
        refusing.set_max_capacity(0);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_HEADER_BYTES);
        let (config_generation, config) = capabilities.config.snapshot();
        let limiter = StoreLimiter::new(nn.account().clone());
        let sandbox = Self {
            table,
            refusing,
            excess: None,
            calls: 0,
            wasi: wasi.build(),
            http,
            outgoing: Outgoing::new(capabilities.network_allow.clone()),
            config,
            config_generation,
            nn,
            limiter,
            log,
            stdout,
            stderr,
            watch: None,
        };
        let mut store = Store::new(engine, sandbox);
        store.limiter(|sandbox| &mut sandbox.limiter);
        store.set_max_component_handles(MAX_COMPONENT_HANDLES);
        if let Some(concurrent) = store.concurrent_resource_table() {
            concurrent.set_max_capacity(MAX_CONCURRENT);
        }
        let fuel = store.data().hostcall_fuel();
        store.set_hostcall_fuel(fuel);
        yield_at_epochs(&mut store, |mut store| {
            let fuel = store.data().hostcall_fuel();
            store.set_hostcall_fuel(fuel);
        });
        Ok(store)
    }

    /// Bytes that one host call may copy out of the guest: what the limit leaves beside the guest's own memory.
    ///
    /// Updated at the start of a request and at each epoch. In between the guest's memory can only have grown.
    pub fn hostcall_fuel(&self) -> usize {
        let limit = self.nn.account().limit_bytes();
        let left = limit.saturating_sub(self.limiter.memory_bytes());
        usize::try_from(left.saturating_add(HOSTCALL_SLACK_BYTES)).unwrap_or(usize::MAX)
    }

    /// The values for `wasi:config/store`.
    pub fn config(&self) -> &WasiConfigVariables {
        &self.config
    }

    /// The context of `wasi:nn`.
    pub fn nn(&mut self) -> NnView<'_> {
        NnView {
            ctx: &mut self.nn,
            table: &mut self.table,
        }
    }

    /// What the guest holds too much of, if anything.
    pub fn excess(&self) -> Option<Excess> {
        self.excess
    }

    /// Counts a host call; every few calls, counts what the guest holds.
    fn count_call(&mut self) {
        self.calls += 1;
        if self.calls >= CALLS_BETWEEN_COUNTS {
            self.calls = 0;
            self.excess = Holdings::count(&mut self.table).excess();
        }
    }

    /// The number of host handles that the guest holds.
    pub fn count_handles(&mut self) -> usize {
        self.table.iter_mut().count()
    }

    /// Describes the limit that a guest has reached when it cannot create another handle.
    pub fn describe_handle_limit(&mut self) -> String {
        let held = self.count_handles();
        if held < MAX_HANDLES {
            return format!(
                "it has {MAX_CONCURRENT} tasks, streams and futures of WASI 0.3 at once, which is the limit of a replica; end or drop what is no longer needed"
            );
        }
        format!(
            "it holds {held} handles of the host (streams, tensors, headers, pollables and others), which is the limit of a replica; drop what is no longer needed"
        )
    }

    /// Writes the lines that the guest has not ended.
    pub fn flush_lines(&self) {
        self.stdout.flush_line();
        self.stderr.flush_line();
    }

    /// Ends a request: its large body buffers may be free now.
    pub(crate) fn finish_bodies(&mut self, state: &Arc<RequestState>) {
        let table = &mut self.table;
        self.outgoing
            .bodies
            .finish(state, || Holdings::count(table).has_bodies());
    }
}

/// The table, or the empty one once the guest holds too much.
fn usable_table<'a>(
    excess: Option<Excess>,
    table: &'a mut ResourceTable,
    refusing: &'a mut ResourceTable,
) -> &'a mut ResourceTable {
    match excess {
        None => table,
        Some(_) => refusing,
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.count_call();
        WasiCtxView {
            ctx: &mut self.wasi,
            table: usable_table(self.excess, &mut self.table, &mut self.refusing),
        }
    }
}

impl WasiHttpView for Sandbox {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.count_call();
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: usable_table(self.excess, &mut self.table, &mut self.refusing),
            hooks: &mut self.outgoing,
        }
    }
}

/// A linker with all imports that [`crate::admission`] allows; those of WASI 0.3 only with async support.
///
/// # Errors
/// When an import is defined twice, which would be a bug.
pub fn linker(engine: &SharedEngine, support: AsyncSupport) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine.engine(support));
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if support == AsyncSupport::On {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    limit_requests(&mut linker, support)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |sandbox: &mut Sandbox| {
        WasiConfig::from(sandbox.config())
    })?;
    logging::add_to_linker(&mut linker, |sandbox: &mut Sandbox| {
        LoggingView(&sandbox.log)
    })?;
    crate::infer::nn::add_to_linker(&mut linker, Sandbox::nn)?;
    Ok(linker)
}
