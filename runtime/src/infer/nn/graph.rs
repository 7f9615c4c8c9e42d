//! Graphs of guests: those of the manifest by name, and those from a guest's own bytes.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::errors::ErrorCode;
use super::bindings::graph::{ExecutionTarget, GraphEncoding, Host, HostGraph};
use super::error::HostResult;
use super::inference::Context;
use crate::infer::graph::{DeploymentGraph, LoadedGraph};
use crate::permits::Owner;
use crate::text::Quoted;

/// A graph that a guest holds.
pub struct GuestGraph {
    graph: Arc<LoadedGraph>,
    graph_use: Arc<DeploymentGraph>,
    /// Bytes charged to the replica; 0 for graphs of the manifest, which are shared.
    charge: Arc<Charge>,
}

/// Bytes of a graph that are charged to its replica. Refunded by the last graph or context that holds them.
#[derive(Debug, Default)]
pub struct Charge(pub(super) u64);

impl Host for NnView<'_> {
    async fn load(
        &mut self,
        builder: Vec<Vec<u8>>,
        encoding: GraphEncoding,
        target: ExecutionTarget,
    ) -> HostResult<Resource<GuestGraph>> {
        if !self.ctx.limits.load_from_bytes {
            return self.error(
                ErrorCode::Security,
                "graphs are loaded by name; `load_graphs_from_bytes = true` at the top of samovar.toml lets a component load its own bytes",
            );
        }
        if !matches!(encoding, GraphEncoding::Onnx | GraphEncoding::Autodetect) {
            return self.error(ErrorCode::InvalidEncoding, "only onnx models can be loaded");
        }
        if target != ExecutionTarget::Cpu {
            return self.error(
                ErrorCode::UnsupportedOperation,
                "a model from bytes runs on the cpu; name a graph in samovar.toml for other targets",
            );
        }
        let count = builder.len();
        let Ok([bytes]) = <[Vec<u8>; 1]>::try_from(builder) else {
            return self.error(
                ErrorCode::InvalidArgument,
                format_args!("found {count} builders, expected 1: an onnx model is one file"),
            );
        };
        let store = self.ctx.store.clone();
        let owner = Owner::of(&self.ctx.metrics);
        let read = store
            .read_bytes(owner, bytes, self.ctx.available_bytes())
            .await;
        let model = match read {
            Ok(model) => model,
            Err(error) => return self.error(ErrorCode::InvalidEncoding, error),
        };
        let bytes = model.loaded_bytes();
        if let Err(over) = self.ctx.charge(bytes) {
            return self.error(ErrorCode::TooLarge, over);
        }
        let own_engine = self.ctx.limits.own_engine.clone();
        match store.load_guest_model(owner, own_engine, model).await {
            Ok(graph) => {
                let charge = Arc::new(Charge(bytes));
                let graph_use = DeploymentGraph::new(String::new(), None, self.ctx.metrics.clone());
                let graph = GuestGraph {
                    graph,
                    graph_use,
                    charge,
                };
                Ok(Ok(self.table.push(graph)?))
            }
            Err(error) => {
                self.ctx.refund(bytes);
                self.error(ErrorCode::InvalidEncoding, error)
            }
        }
    }

    async fn load_by_name(&mut self, name: String) -> HostResult<Resource<GuestGraph>> {
        // Graphs may still be loading while the replica starts.
        let graphs = match self.ctx.graphs.ready().await {
            Ok(loaded) => loaded.graphs,
            Err(error) => return self.error(ErrorCode::RuntimeError, error),
        };
        match graphs.get(&name) {
            Some(graph) => {
                let graph = GuestGraph {
                    graph: graph.clone(),
                    graph_use: self.ctx.deployment_graph(&name),
                    charge: Arc::default(),
                };
                Ok(Ok(self.table.push(graph)?))
            }
            None => {
                let names: Vec<&str> = graphs.keys().map(String::as_str).collect();
                let names = match &names[..] {
                    [] => "none".to_owned(),
                    names => names.join(", "),
                };
                let name = Quoted(&name);
                let text = format_args!("no graph {name} in samovar.toml; it has {names}");
                self.error(ErrorCode::NotFound, text)
            }
        }
    }
}

impl NnView<'_> {
    pub(super) fn release_charge(&mut self, charge: Arc<Charge>) {
        if let Some(Charge(bytes)) = Arc::into_inner(charge) {
            self.ctx.refund(bytes);
        }
    }
}

impl HostGraph for NnView<'_> {
    fn init_execution_context(
        &mut self,
        graph: Resource<GuestGraph>,
    ) -> HostResult<Resource<Context>> {
        let held = self.table.get(&graph)?;
        let context = Context {
            graph: held.graph.clone(),
            graph_use: held.graph_use.clone(),
            charge: held.charge.clone(),
        };
        Ok(Ok(self.table.push(context)?))
    }

    fn drop(&mut self, graph: Resource<GuestGraph>) -> wasmtime::Result<()> {
        let graph = self.table.delete(graph)?;
        self.release_charge(graph.charge);
        Ok(())
    }
}
