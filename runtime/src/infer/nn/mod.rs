//! The host side of `wasi:nn`: tensors, graphs, runs and errors of guests.

mod bindings;
mod error;
mod graph;
mod inference;
mod tensor;

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, ResourceTable};

use crate::account::{Account, OverLimit};
use crate::infer::graph::loading::LoadingGraphs;
use crate::infer::graph::{DeploymentGraph, GraphStore};
use crate::metrics::PoolMetrics;

/// What a replica may do through wasi-nn.
#[derive(Clone, Debug)]
pub struct NnLimits {
    /// The replica's account, which tensors, graphs and errors are charged to.
    pub account: Arc<Account>,
    /// Whether the guest may load graphs from bytes of its own.
    pub load_from_bytes: bool,
    /// The deployment's id if it has engine processes of its own, where graphs from bytes are loaded.
    pub own_engine: Option<String>,
}

/// The wasi-nn state of one replica.
pub struct NnCtx {
    graphs: LoadingGraphs,
    uses: Arc<[Arc<DeploymentGraph>]>,
    store: Arc<GraphStore>,
    limits: NnLimits,
    metrics: Arc<PoolMetrics>,
}

impl NnCtx {
    /// The state of a replica that can load `graphs` by name. `uses` are the graphs of its deployment.
    pub fn new(
        graphs: LoadingGraphs,
        uses: Arc<[Arc<DeploymentGraph>]>,
        store: Arc<GraphStore>,
        limits: NnLimits,
        metrics: Arc<PoolMetrics>,
    ) -> Self {
        Self {
            graphs,
            uses,
            store,
            limits,
            metrics,
        }
    }

    /// The deployment's graph with this name.
    fn deployment_graph(&self, name: &str) -> Arc<DeploymentGraph> {
        let known = self.uses.iter().find(|graph| graph.name() == name);
        known
            .cloned()
            .unwrap_or_else(|| DeploymentGraph::new(name.to_owned(), None, self.metrics.clone()))
    }

    /// The replica's account.
    pub fn account(&self) -> &Arc<Account> {
        &self.limits.account
    }

    /// Charges bytes to the replica.
    fn charge(&self, bytes: u64) -> Result<(), OverLimit> {
        self.account().charge(bytes)
    }

    /// Bytes that the replica may still hold.
    fn available_bytes(&self) -> u64 {
        let account = self.account();
        account.limit_bytes().saturating_sub(account.used_bytes())
    }

    fn refund(&self, bytes: u64) {
        self.account().refund(bytes);
    }
}

/// The wasi-nn state and the resource table of the calling replica.
pub struct NnView<'a> {
    /// The wasi-nn state.
    pub ctx: &'a mut NnCtx,
    /// The resource table.
    pub table: &'a mut ResourceTable,
}

struct HasNn;
impl HasData for HasNn {
    type Data<'a> = NnView<'a>;
}

/// Adds `wasi:nn` to a linker.
///
/// # Errors
/// When an import is defined already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> NnView<'_>,
) -> wasmtime::Result<()> {
    tensor::add_to_linker(linker, view)?;
    bindings::graph::add_to_linker::<T, HasNn>(linker, view)?;
    bindings::inference::add_to_linker::<T, HasNn>(linker, view)?;
    bindings::errors::add_to_linker::<T, HasNn>(linker, view)
}
