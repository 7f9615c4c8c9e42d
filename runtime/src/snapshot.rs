//! Snapshots: components whose initial memory is the memory after `init`.
//!
//! A snapshot contains only the component's own memory. If `init` uses anything of the host whose result could differ the next time, or
//! still holds a handle of the host when it returns, there is no snapshot: the reason is reported, and `init` runs in each replica.

mod entry;
mod watch;

use std::pin::pin;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::{Component, Instance, Lift, WasmList};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use crate::account::Account;
use crate::engine::{Calls, SharedEngine};
use crate::guest::{TimedOut, call_init, with_timeout};
use crate::infer::graphs::GraphStore;
use crate::infer::loading::Loading;
use crate::infer::nn::{NnCtx, NnLimits};
use crate::limits::Limits;
use crate::log::{Level, LogSink, ReplicaLog};
use crate::sandbox::{Capabilities, Sandbox, Watch};

/// Id of the replica in log lines of `init` while a snapshot is taken.
pub(crate) const REPLICA: &str = "snapshot";

/// Result for a deployment with `snapshot = true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// The component contains the snapshot: replicas start after `init`.
    Taken,
    /// There is no snapshot for this reason: each replica runs `init`.
    Refused(String),
}

/// What `init` may access while a snapshot is taken, its limits, and its log.
pub(crate) struct Setting {
    pub engine: Arc<SharedEngine>,
    pub graphs: Arc<GraphStore>,
    pub capabilities: Capabilities,
    pub limits: Limits,
    pub log: Arc<dyn LogSink>,
}

/// Runs the component's `init` and returns the component with the snapshot. Compiling and rewriting run on a thread outside of the executor.
///
/// # Errors
/// The reason, as text that follows "no snapshot: ".
pub(crate) async fn take(setting: Setting, component: Vec<u8>) -> Result<Vec<u8>, String> {
    let here = tokio::runtime::Handle::current();
    let taking =
        tokio::task::spawn_blocking(move || here.block_on(take_here(&setting, &component)));
    taking
        .await
        .unwrap_or_else(|error| Err(format!("taking its memory stopped unexpectedly: {error}")))
}

async fn take_here(setting: &Setting, component: &[u8]) -> Result<Vec<u8>, String> {
    let wizer = Wizer::new();
    let (context, instrumented) = wizer
        .instrument_component(component)
        .map_err(|e| format!("a component of this form cannot be kept: {e:#}"))?;
    let (mut store, instance) = start(setting, &instrumented).await?;
    let ran = initialise(setting, &mut store, &instance).await;
    store.data().finish_lines();
    if let Some(touched) = store.data().watch.as_ref().and_then(|watch| watch.seen()) {
        return Err(format!(
            "`init` calls {touched}, which may answer another time differently"
        ));
    }
    ran?;
    let open = store.data_mut().open_handles();
    if open > 0 {
        return Err(format!(
            "`init` leaves {open} handle(s) of the host open, as files, folders or streams, which another replica does not have"
        ));
    }
    let mut state = State {
        store: &mut store,
        instance,
    };
    let snapshot = wizer
        .snapshot_component(&context, &mut state)
        .await
        .map_err(|e| format!("its memory cannot be taken: {e:#}"))?;
    drop(store);
    let snapshot = entry::skip_constructors(&snapshot)?;
    // What does not start must not be served.
    start(setting, &snapshot)
        .await
        .map_err(|why| format!("the component does not start from its snapshot: {why}"))?;
    Ok(snapshot)
}

/// Writes to the deployment's log that each replica runs `init`.
pub(crate) fn tell_refusal(log: Arc<dyn LogSink>, why: &str) {
    let log = ReplicaLog::new(log, REPLICA.into());
    log.write(
        Level::Warning,
        format!("no snapshot, so `init` runs in each replica: {why}"),
    );
}

async fn start(setting: &Setting, component: &[u8]) -> Result<(Store<Sandbox>, Instance), String> {
    let failed = |e: wasmtime::Error| format!("{e:#}");
    let (calls, component) = compiled(&setting.engine, component).map_err(failed)?;
    let engine = setting.engine.engine(calls);
    let capabilities = Capabilities {
        environment: Vec::new(),
        config: crate::config::Config::default(),
        files: setting.capabilities.files.clone(),
        network_allow: Arc::default(),
        load_graphs_from_bytes: false,
    };
    let nn = NnCtx::new(
        Loading::new(setting.graphs.clone(), Vec::new()),
        Arc::default(),
        setting.graphs.clone(),
        NnLimits {
            account: Account::new(setting.limits.memory_bytes),
            load_from_bytes: false,
            own_engine: None,
        },
        Arc::default(),
    );
    let log = Arc::new(ReplicaLog::new(setting.log.clone(), REPLICA.into()));
    let mut store = Sandbox::store(engine, &capabilities, nn, log).map_err(failed)?;
    store.data_mut().watch = Some(Watch::default());
    let linker = watch::linker(&setting.engine, calls).map_err(failed)?;
    let timeout = setting.limits.timeout;
    let made = {
        let made = pin!(linker.instantiate_async(&mut store, &component));
        let made = pin!(setting.engine.watch(made));
        with_timeout(timeout, std::future::ready(()), made).await
    };
    let instance = made.map_err(|TimedOut| {
        format!("making an instance took longer than the request timeout of {timeout:?}")
    })?;
    let instance = instance.map_err(failed)?;
    Ok((store, instance))
}

fn compiled(engine: &SharedEngine, component: &[u8]) -> wasmtime::Result<(Calls, Component)> {
    Calls::fit(component, |calls| {
        Component::new(engine.engine(calls), component).map(|compiled| (calls, compiled))
    })
}

/// Runs `init` until it is done, exceeds its time, or uses something that prevents a snapshot.
async fn initialise(
    setting: &Setting,
    store: &mut Store<Sandbox>,
    instance: &Instance,
) -> Result<(), String> {
    let seen = store.data().watch.clone().unwrap_or_default();
    let timeout = setting.limits.timeout;
    let init = pin!(call_init(store, instance, &setting.limits));
    let init = setting.engine.watch(init);
    tokio::select! {
        biased;
        () = seen.noticed() => Ok(()),
        done = tokio::time::timeout(timeout, init) => match done {
            Ok(done) => done.map_err(|why| format!("`init` failed: {why}")),
            Err(_) => Err(format!("`init` took longer than the request timeout of {timeout:?}")),
        },
    }
}

/// Reads the state of an instrumented instance.
struct State<'a> {
    store: &'a mut Store<Sandbox>,
    instance: Instance,
}

impl State<'_> {
    async fn read<R: Lift + Send + Sync + 'static, U>(
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
        match self.read(instance, function, |_, number: R| number).await {
            Ok(number) => number,
            // The functions were added by the instrumentation of this very component, and read a variable.
            Err(error) => unreachable!("{error:#}"),
        }
    }
}

impl ComponentInstanceState for State<'_> {
    async fn call_func_ret_list_u8(
        &mut self,
        instance: &str,
        func: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        let read = self.read(instance, func, |store, list: WasmList<u8>| {
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
