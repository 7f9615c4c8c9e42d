//! Snapshots: components whose initial memory is the memory that their `init` left, so that replicas need not run it.
//!
//! A snapshot holds only the component's own memory. An `init` that reads what may change, such as the time, or that holds a
//! resource of the host when it returns, is refused with a reason, and runs in each replica.

mod entry;
mod watch;

use std::pin::pin;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{Component, Instance, Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use crate::account::Account;
use crate::engine::{AsyncSupport, SharedEngine};
use crate::guest::{TimedOut, call_init, with_timeout};
use crate::infer::graph::GraphStore;
use crate::infer::graph::loading::LoadingGraphs;
use crate::infer::nn::{NnCtx, NnLimits};
use crate::limits::Limits;
use crate::log::{Level, LogSink, ReplicaLog};
use crate::sandbox::{CallWatch, Capabilities, Sandbox};

/// The replica named in log lines that `init` prints while a snapshot is taken.
pub(crate) const REPLICA_NAME: &str = "snapshot";

/// Whether replicas of a deployment with `snapshot = true` start from a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Replicas start from the memory that `init` left.
    Taken,
    /// There can be no snapshot, for this reason; each replica runs `init`.
    Refused(String),
}

/// What `init` runs with while a snapshot is taken.
pub(crate) struct SnapshotContext {
    pub engine: Arc<SharedEngine>,
    pub graphs: Arc<GraphStore>,
    pub capabilities: Capabilities,
    pub limits: Limits,
    pub log: Arc<dyn LogSink>,
}

/// Runs the component's `init` and returns the component that starts after it. Runs on a blocking thread, because it compiles.
///
/// # Errors
/// Why there can be no snapshot, as a text for the deployment's log.
pub(crate) async fn take(context: SnapshotContext, component: Vec<u8>) -> Result<Vec<u8>, String> {
    let executor = tokio::runtime::Handle::current();
    let taking =
        tokio::task::spawn_blocking(move || executor.block_on(take_blocking(&context, &component)));
    taking
        .await
        .unwrap_or_else(|error| Err(format!("taking the snapshot panicked: {error}")))
}

async fn take_blocking(context: &SnapshotContext, component: &[u8]) -> Result<Vec<u8>, String> {
    let wizer = Wizer::new();
    let (wizer_context, instrumented) = wizer
        .instrument_component(component)
        .map_err(|e| format!("a component of this form cannot have a snapshot: {e:#}"))?;
    let (mut store, instance) = instantiate(context, &instrumented).await?;
    let initialised = run_init(context, &mut store, &instance).await;
    store.data().flush_lines();
    if let Some(import) = store.data().watch.as_ref().and_then(|watch| watch.first()) {
        return Err(format!(
            "`init` calls {import}, whose result may differ from one start to the next"
        ));
    }
    initialised?;
    let open = store.data_mut().count_handles();
    if open > 0 {
        return Err(format!(
            "`init` leaves {open} handle(s) of the host open, such as files or streams, which other replicas do not have"
        ));
    }
    let mut state = InstanceState {
        store: &mut store,
        instance,
    };
    let snapshot = wizer
        .snapshot_component(&wizer_context, &mut state)
        .await
        .map_err(|e| format!("its memory cannot be read: {e:#}"))?;
    drop(store);
    let snapshot = entry::skip_constructors(&snapshot)?;
    // A snapshot that does not start must not be served.
    instantiate(context, &snapshot)
        .await
        .map_err(|why| format!("the component does not start from its snapshot: {why}"))?;
    Ok(snapshot)
}

/// Writes to the deployment's log that each replica runs `init`, and why.
pub(crate) fn log_refusal(log: Arc<dyn LogSink>, why: &str) {
    let log = ReplicaLog::new(log, REPLICA_NAME.into());
    log.write(
        Level::Warning,
        format!("no snapshot, so `init` runs in each replica: {why}"),
    );
}

async fn instantiate(
    context: &SnapshotContext,
    component: &[u8],
) -> Result<(Store<Sandbox>, Instance), String> {
    let failed = |e: wasmtime::Error| format!("{e:#}");
    let (support, component) = compiled(&context.engine, component).map_err(failed)?;
    let engine = context.engine.engine(support);
    let capabilities = Capabilities {
        environment: Vec::new(),
        config: crate::config::Config::default(),
        files: context.capabilities.files.clone(),
        network_allow: Arc::default(),
        load_graphs_from_bytes: false,
    };
    let nn = NnCtx::new(
        LoadingGraphs::new(context.graphs.clone(), Vec::new()),
        Arc::default(),
        context.graphs.clone(),
        NnLimits {
            account: Account::new(context.limits.memory_bytes),
            load_from_bytes: false,
            own_engine: None,
        },
        Arc::default(),
    );
    let log = Arc::new(ReplicaLog::new(context.log.clone(), REPLICA_NAME.into()));
    let mut store = Sandbox::store(engine, &capabilities, nn, log).map_err(failed)?;
    store.data_mut().watch = Some(CallWatch::default());
    let linker = watch::linker(&context.engine, support).map_err(failed)?;
    let timeout = context.limits.timeout;
    let made = {
        let made = pin!(linker.instantiate_async(&mut store, &component));
        let made = pin!(context.engine.run_preemptible(made));
        with_timeout(timeout, std::future::ready(()), made).await
    };
    let instance = made.map_err(|TimedOut| {
        format!("making an instance took longer than the request timeout of {timeout:?}")
    })?;
    let instance = instance.map_err(failed)?;
    Ok((store, instance))
}

fn compiled(
    engine: &SharedEngine,
    component: &[u8],
) -> wasmtime::Result<(AsyncSupport, Component)> {
    AsyncSupport::select(component, |support| {
        Component::new(engine.engine(support), component).map(|compiled| (support, compiled))
    })
}

/// Runs `init` until it returns, times out, or calls an import whose result may differ.
async fn run_init(
    context: &SnapshotContext,
    store: &mut Store<Sandbox>,
    instance: &Instance,
) -> Result<(), String> {
    let watch = store.data().watch.clone().unwrap_or_default();
    let timeout = context.limits.timeout;
    let init = pin!(call_init(store, instance, &context.limits));
    let init = context.engine.run_preemptible(init);
    tokio::select! {
        biased;
        () = watch.called() => Ok(()),
        done = tokio::time::timeout(timeout, init) => match done {
            Ok(done) => done.map_err(|why| format!("`init` failed: {why}")),
            Err(_) => Err(format!("`init` took longer than the request timeout of {timeout:?}")),
        },
    }
}

/// Reads the state of an instrumented instance for wizer.
struct InstanceState<'a> {
    store: &'a mut Store<Sandbox>,
    instance: Instance,
}

impl InstanceState<'_> {
    async fn call<R: Lift + Send + Sync + 'static, U>(
        &mut self,
        instance: &str,
        function: &str,
        with: impl FnOnce(&mut Store<Sandbox>, R) -> U,
    ) -> wasmtime::Result<U> {
        let missing = || wasmtime::format_err!("{instance}#{function} is missing");
        let interface = self
            .instance
            .get_export_index(&mut *self.store, None, instance)
            .ok_or_else(missing)?;
        let function = self
            .instance
            .get_export_index(&mut *self.store, Some(&interface), function)
            .ok_or_else(missing)?;
        let function = self
            .instance
            .get_typed_func::<(), (R,)>(&mut *self.store, function)?;
        let (value,) = function.call_async(&mut *self.store, ()).await?;
        Ok(with(self.store, value))
    }

    async fn number<R: Lift + Send + Sync + 'static>(
        &mut self,
        instance: &str,
        function: &str,
    ) -> R {
        match self.call(instance, function, |_, number: R| number).await {
            Ok(number) => number,
            // The instrumentation of this component has added the functions, which read a variable.
            Err(error) => unreachable!("{error:#}"),
        }
    }
}

impl ComponentInstanceState for InstanceState<'_> {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        func: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        let read = self.call(instance, func, |store, list: WasmList<u8>| {
            contents(list.as_le_slice(&*store));
        });
        if let Err(error) = read.await {
            unreachable!("{error:#}");
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.number(instance, func).await
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.number(instance, func).await
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.number::<f32>(instance, func).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.number::<f64>(instance, func).await.to_bits()
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
