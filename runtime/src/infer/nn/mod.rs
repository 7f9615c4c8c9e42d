//! The `wasi:nn` host: what a guest asks of tensors, graphs, runs and errors.

mod bindings;
mod error;
mod graph;
mod inference;
mod tensor;

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, ResourceTable};

use crate::infer::graphs::{GraphStore, GraphUse};
use crate::infer::loading::Loading;
use crate::meter::Meter;

/// What a replica may hold on the host through wasi-nn.
#[derive(Clone, Copy, Debug)]
pub struct NnLimits {
    /// Bytes of tensors and of graphs loaded from bytes, together.
    pub max_bytes: u64,
    /// Whether it may load graphs from bytes of its own.
    pub load_from_bytes: bool,
}

/// The wasi-nn state of one replica.
pub struct NnCtx {
    graphs: Loading,
    uses: Arc<[Arc<GraphUse>]>,
    store: Arc<GraphStore>,
    limits: NnLimits,
    held_bytes: u64,
    meter: Arc<Meter>,
}

impl NnCtx {
    /// State that finds these graphs and no others; `uses` are the deployment's, of the same names.
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
            held_bytes: 0,
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

    /// Counts bytes as held, if there is room for them.
    fn hold(&mut self, bytes: u64) -> Result<(), OverLimit> {
        let wanted = self.held_bytes.saturating_add(bytes);
        if wanted > self.limits.max_bytes {
            return Err(OverLimit {
                wanted,
                limit: self.limits.max_bytes,
            });
        }
        self.held_bytes = wanted;
        Ok(())
    }

    /// Bytes that it may still hold.
    fn room(&self) -> u64 {
        self.limits.max_bytes.saturating_sub(self.held_bytes)
    }

    fn release(&mut self, bytes: u64) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }
}

/// More than the replica may hold.
#[derive(Debug, thiserror::Error)]
#[error(
    "tensors and graphs of this replica would take {wanted} bytes, its limit is {limit}; drop some, or raise `limits.memory`"
)]
struct OverLimit {
    wanted: u64,
    limit: u64,
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
