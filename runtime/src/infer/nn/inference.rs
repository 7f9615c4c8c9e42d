//! Runs of graphs by guests.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::errors::ErrorCode;
use super::bindings::inference::{Host, HostGraphExecutionContext};
use super::error::HostResult;
use super::graph::Charge;
use super::tensor::{GuestTensor, charged_bytes};
use crate::infer::graph::run::ComputeFailure;
use crate::infer::graph::{DeploymentGraph, LoadedGraph};

/// An execution context of wasi-nn. It holds only the graph, because inputs come with each run.
pub struct Context {
    pub(super) graph: Arc<LoadedGraph>,
    pub(super) graph_use: Arc<DeploymentGraph>,
    pub(super) charge: Arc<Charge>,
}

impl Host for NnView<'_> {}

impl HostGraphExecutionContext for NnView<'_> {
    async fn compute(
        &mut self,
        context: Resource<Context>,
        inputs: Vec<(String, Resource<GuestTensor>)>,
    ) -> HostResult<Vec<(String, Resource<GuestTensor>)>> {
        let context = self.table.get(&context)?;
        let (graph, graph_use) = (context.graph.clone(), context.graph_use.clone());
        let mut tensors = Vec::with_capacity(inputs.len());
        let mut held = 0;
        for (name, tensor) in inputs {
            // The call takes the tensor from the guest, so it is moved, not copied.
            let tensor = self.table.delete(tensor)?;
            held += tensor.charged_bytes();
            tensors.push((name, tensor.into_inner()));
        }
        let ran = graph_use.run(&graph, tensors).await;
        // The run holds its inputs until it has ended.
        self.ctx.refund(held);
        let (mut outputs, took) = match ran {
            Ok(ran) => ran,
            Err(ComputeFailure::Inputs(text)) => {
                return self.error(ErrorCode::InvalidArgument, text);
            }
            Err(ComputeFailure::Backend(text)) => return self.error(ErrorCode::RuntimeError, text),
        };
        self.ctx.metrics.add_inference(took);
        for (_, tensor) in &mut outputs {
            // wasi-nn gives a single value the dimensions [1].
            if tensor.dims.is_empty() {
                tensor.dims.push(1);
            }
        }
        let total: u64 = outputs
            .iter()
            .map(|(_, tensor)| charged_bytes(tensor))
            .sum();
        if let Err(over) = self.ctx.charge(total) {
            return self.error(ErrorCode::TooLarge, over);
        }
        let mut named = Vec::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            named.push((name, self.table.push(GuestTensor::new(tensor))?));
        }
        Ok(Ok(named))
    }

    fn drop(&mut self, context: Resource<Context>) -> wasmtime::Result<()> {
        let context = self.table.delete(context)?;
        self.release_charge(context.charge);
        Ok(())
    }
}
