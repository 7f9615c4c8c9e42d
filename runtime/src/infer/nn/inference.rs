//! Runs of graphs.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::errors::ErrorCode;
use super::bindings::inference::{Host, HostGraphExecutionContext};
use super::error::Answer;
use super::graph::Weight;
use super::tensor::{GuestTensor, weight};
use crate::infer::graphs::{GraphUse, LoadedGraph};
use crate::infer::run::ComputeFailure;

/// A place to run a graph in. It holds nothing but the graph, because inputs come with each run.
pub struct Context {
    pub(super) graph: Arc<LoadedGraph>,
    pub(super) usage: Arc<GraphUse>,
    pub(super) weight: Arc<Weight>,
}

impl Host for NnView<'_> {}

impl HostGraphExecutionContext for NnView<'_> {
    async fn compute(
        &mut self,
        context: Resource<Context>,
        inputs: Vec<(String, Resource<GuestTensor>)>,
    ) -> Answer<Vec<(String, Resource<GuestTensor>)>> {
        let context = self.table.get(&context)?;
        let (graph, usage) = (context.graph.clone(), context.usage.clone());
        let mut tensors = Vec::with_capacity(inputs.len());
        let mut held = 0;
        for (name, tensor) in inputs {
            // The guest gave the tensor away: it is moved, never copied.
            let tensor = self.table.delete(tensor)?;
            held += tensor.weight();
            tensors.push((name, tensor.into_inner()));
        }
        let ran = usage.run(&graph, tensors).await;
        // Not before: they belong to the run until it has ended.
        self.ctx.release(held);
        let (mut outputs, took) = match ran {
            Ok(ran) => ran,
            Err(ComputeFailure::Inputs(text)) => {
                return self.error(ErrorCode::InvalidArgument, text);
            }
            Err(ComputeFailure::Backend(text)) => return self.error(ErrorCode::RuntimeError, text),
        };
        self.ctx.meter.add_inference(took);
        for (_, tensor) in &mut outputs {
            // The standard says [1] for a single value.
            if tensor.dims.is_empty() {
                tensor.dims.push(1);
            }
        }
        let total: u64 = outputs.iter().map(|(_, tensor)| weight(tensor)).sum();
        if let Err(over) = self.ctx.hold(total) {
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
        self.release(context.weight);
        Ok(())
    }
}
