//! What one store holds: the WASI views of a replica, with exactly the capabilities its manifest names.

mod bodies;
mod holdings;
mod logging;
pub(crate) mod outgoing;

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::config::Config;
use crate::engine::{Calls, SharedEngine, yield_at_epochs};
use crate::infer::nn::{NnCtx, NnView};
use crate::limits::{
    HOSTCALL_SLACK_BYTES, MAX_COMPONENT_HANDLES, MAX_CONCURRENT, MAX_HANDLES, MAX_HEADER_BYTES,
    MAX_RANDOM_BYTES, StoreLimiter,
};
use crate::log::{Level, LogStream, ReplicaLog};
use crate::request::state::Exchange;
use crate::sandbox::logging::LoggingView;
use crate::snapshot::Watch;
pub use holdings::Excess;
use holdings::{CALLS_BETWEEN_COUNTS, Holdings};
use outgoing::{Outgoing, bound_requests};

/// What a deployment's replicas may see and do beyond computing.
#[derive(Clone, Debug, Default)]
pub struct Capabilities {
    /// Environment variables, in order.
    pub environment: Vec<(String, String)>,
    /// Secrets and other values read through `wasi:config/store`.
    pub config: Config,
    /// A folder shown read-only at `/`; nothing is shown without one.
    pub files: Option<PathBuf>,
    /// `host:port` pairs that outgoing HTTP may reach.
    pub network_allow: Arc<[String]>,
    /// Whether it may load graphs from bytes of its own.
    pub load_graphs_from_bytes: bool,
}

/// The data of a replica's store.
pub struct Sandbox {
    table: ResourceTable,
    /// What is given for the table once the guest holds too much: nothing can be found or made in it, so the guest traps.
    refusing: ResourceTable,
    excess: Option<Excess>,
    calls: u32,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    config: WasiConfigVariables,
    /// Which values of the deployment's config these are.
    pub config_generation: u64,
    nn: NnCtx,
    /// Holds the store's memories to the limit of the deployment.
    pub limiter: StoreLimiter,
    /// Where the replica's lines go.
    pub log: Arc<ReplicaLog>,
    stdout: LogStream,
    stderr: LogStream,
    /// Notices what an `init` asks for whose memory is taken.
    pub watch: Option<Watch>,
}

impl Sandbox {
    /// Makes the store of a new replica. What it holds is charged to the account that `nn` has.
    ///
    /// # Errors
    /// When the folder of the bundle's files cannot be opened.
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

    /// Bytes that one call may hand to the host: what is left beside the guest's own memory, because the host copies them.
    /// Asked for at the start of a request and while a guest computes; in between its memory can only have grown.
    pub fn hostcall_fuel(&self) -> usize {
        let limit = self.nn.account().limit_bytes();
        let left = limit.saturating_sub(self.limiter.memory_bytes());
        usize::try_from(left.saturating_add(HOSTCALL_SLACK_BYTES)).unwrap_or(usize::MAX)
    }

    /// Its values for `wasi:config/store`.
    pub fn config(&self) -> &WasiConfigVariables {
        &self.config
    }

    /// Its `wasi:nn`.
    pub fn nn(&mut self) -> NnView<'_> {
        NnView {
            ctx: &mut self.nn,
            table: &mut self.table,
        }
    }

    /// What the guest holds too much of, for which it was stopped.
    pub fn excess(&self) -> Option<Excess> {
        self.excess
    }

    /// Looks, every few calls, at what the guest holds.
    fn count_call(&mut self) {
        self.calls += 1;
        if self.calls >= CALLS_BETWEEN_COUNTS {
            self.calls = 0;
            self.excess = Holdings::of(&mut self.table).excess();
        }
    }

    /// Handles of the host that the guest holds.
    pub fn open_handles(&mut self) -> usize {
        self.table.iter_mut().count()
    }

    /// Which limit a guest has reached that can have no more handles.
    pub fn full_table(&mut self) -> String {
        let held = self.open_handles();
        if held < MAX_HANDLES {
            return format!(
                "it has {MAX_CONCURRENT} tasks, streams and futures of WASI 0.3 at once, which is the limit of a replica; end or drop what is not needed any more"
            );
        }
        format!(
            "it holds {held} handles of the host (streams, tensors, headers, pollables and others), which is the limit of a replica; drop what is not needed any more"
        )
    }

    /// Ends the lines that a finished request left open.
    pub fn finish_lines(&self) {
        self.stdout.finish_line();
        self.stderr.finish_line();
    }

    /// The request of this exchange is over.
    pub(crate) fn finish_bodies(&mut self, exchange: &Arc<Exchange>) {
        let table = &mut self.table;
        self.outgoing
            .bodies
            .finish(exchange, || Holdings::of(table).has_bodies());
    }
}

/// The table, or one that refuses everything once the guest holds too much.
fn allowed<'a>(
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
            table: allowed(self.excess, &mut self.table, &mut self.refusing),
        }
    }
}

impl WasiHttpView for Sandbox {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.count_call();
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: allowed(self.excess, &mut self.table, &mut self.refusing),
            hooks: &mut self.outgoing,
        }
    }
}

/// A linker with every import that [`crate::admission`] lets through, as far as components of this kind can have them.
///
/// # Errors
/// Only when two of the standards define the same name, which would be a bug here.
pub fn linker(engine: &SharedEngine, calls: Calls) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine.engine(calls));
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if calls == Calls::Concurrent {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    bound_requests(&mut linker, calls)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |sandbox: &mut Sandbox| {
        WasiConfig::from(sandbox.config())
    })?;
    crate::sandbox::logging::add_to_linker(&mut linker, |sandbox: &mut Sandbox| {
        LoggingView(&sandbox.log)
    })?;
    crate::infer::nn::add_to_linker(&mut linker, Sandbox::nn)?;
    Ok(linker)
}
