//! The `wasi:nn` host: what a guest asks of tensors, graphs, runs and errors.

mod bindings;
mod error;
mod graph;
mod inference;
mod tensor;

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, ResourceTable};

use crate::account::{Account, OverLimit};
use crate::infer::graphs::{GraphStore, GraphUse};
use crate::infer::loading::Loading;
use crate::meter::Meter;

/// What a replica may hold on the host through wasi-nn.
#[derive(Clone, Debug)]
pub struct NnLimits {
    /// The account of its replica, to which what it holds is charged.
    pub account: Arc<Account>,
    /// Whether it may load graphs from bytes of its own.
    pub load_from_bytes: bool,
    /// The deployment's id if it has engines for itself: graphs from bytes are loaded there.
    pub own_engine: Option<String>,
}

/// The wasi-nn state of one replica.
pub struct NnCtx {
    graphs: Loading,
    uses: Arc<[Arc<GraphUse>]>,
    store: Arc<GraphStore>,
    limits: NnLimits,
    meter: Arc<Meter>,
}

impl NnCtx {
    /// State that finds these graphs and no others; `uses` are the deployment's, of the same names. What it holds is charged
    /// to the replica's account.
    pub fn new(
        graphs: Loading,
        uses: Arc<[Arc<GraphUse>]>,
        store: Arc<GraphStore>,
        limits: NnLimits,
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            graphs,
            uses,
            store,
            limits,
            meter,
        }
    }

    /// The deployment's use of a graph.
    fn usage(&self, name: &str) -> Arc<GraphUse> {
        let known = self.uses.iter().find(|usage| usage.name() == name);
        known
            .cloned()
            .unwrap_or_else(|| GraphUse::new(name.to_owned(), None, self.meter.clone()))
    }

    /// The account of its replica.
    pub fn account(&self) -> &Arc<Account> {
        &self.limits.account
    }

    /// Counts bytes as held, if there is room for them.
    fn hold(&self, bytes: u64) -> Result<(), OverLimit> {
        self.account().charge(bytes)
    }

    /// Bytes that it may still hold.
    fn room(&self) -> u64 {
        let account = self.account();
        account.limit_bytes().saturating_sub(account.used_bytes())
    }

    fn release(&self, bytes: u64) {
        self.account().refund(bytes);
    }
}

/// The state of the replica that calls, with its table of resources.
pub struct NnView<'a> {
    /// Its wasi-nn state.
    pub ctx: &'a mut NnCtx,
    /// Its resources.
    pub table: &'a mut ResourceTable,
}

struct HasNn;
impl HasData for HasNn {
    type Data<'a> = NnView<'a>;
}

/// Lets components import `wasi:nn`.
///
/// # Errors
/// When the linker has one of the names already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> NnView<'_>,
) -> wasmtime::Result<()> {
    tensor::add_to_linker(linker, view)?;
    bindings::graph::add_to_linker::<T, HasNn>(linker, view)?;
    bindings::inference::add_to_linker::<T, HasNn>(linker, view)?;
    bindings::errors::add_to_linker::<T, HasNn>(linker, view)
}
