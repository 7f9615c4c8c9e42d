//! A graph as one deployment uses it: calls from all its replicas are joined if the manifest says so, and counted.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::join_all;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::LoadedGraph;
use super::metrics::{GraphMetrics, GraphTotals, QueuedGuard};
use super::run::{ComputeFailure, RunOutput, input_bytes};
use crate::infer::backend::tensor::Tensor;
use crate::infer::batch::{BatchKey, BatchQueue, Batching, Decision, QueuedCall, rows};
use crate::infer::compute::{Owner, Worker};
use crate::metrics::PoolMetrics;

/// A graph as one deployment uses it, on this node.
pub struct DeploymentGraph {
    name: String,
    owner: Owner,
    metrics: Arc<GraphMetrics>,
    /// The metrics of the pool: they count the requests that may call, and the time of runs.
    pool_metrics: Arc<PoolMetrics>,
    /// `None` if calls are not joined.
    batcher: Option<Batcher>,
}

/// Joins calls.
struct Batcher {
    rules: Batching,
    queue: Mutex<BatchQueue<Call>>,
    /// A joined run returned a different number of rows than it was given, so calls can no longer be joined.
    mixes_rows: AtomicBool,
}

/// A call that waits for a joined run.
struct Call {
    inputs: Vec<Tensor>,
    done: oneshot::Sender<Result<RunOutput, ComputeFailure>>,
}

impl DeploymentGraph {
    /// A graph without calls so far. Graphs with the same `pool_metrics` belong to one deployment, and share its turns.
    pub fn new(
        name: String,
        batching: Option<Batching>,
        pool_metrics: Arc<PoolMetrics>,
    ) -> Arc<Self> {
        let batcher = batching.map(|rules| Batcher {
            rules,
            queue: Mutex::new(BatchQueue::new(rules)),
            mixes_rows: AtomicBool::new(false),
        });
        Arc::new(Self {
            name,
            owner: Owner::of(&pool_metrics),
            metrics: Arc::default(),
            pool_metrics,
            batcher,
        })
    }

    /// The graph's name in the manifest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The metrics so far.
    pub fn totals(&self) -> GraphTotals {
        let joining = self
            .batcher
            .as_ref()
            .map_or(0, |batcher| batcher.queue().len());
        self.metrics.totals(joining as u64)
    }

    /// Runs the graph for one call. Returns the outputs, and the time of the backend.
    pub(crate) async fn run(
        self: &Arc<Self>,
        graph: &Arc<LoadedGraph>,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<(Vec<(String, Tensor)>, Duration), ComputeFailure> {
        let inputs = graph.arrange(inputs)?;
        let output = match self.batch_key(graph, &inputs) {
            Some((key, rows)) => self.run_batched(graph, inputs, key, rows).await,
            None => {
                let rows = inputs.first().and_then(|first| first.dims.first());
                let rows = rows.map_or(1, |rows| u64::from(*rows));
                let output = self.run_alone(graph, inputs, rows).await?;
                self.metrics.record_run(output.took, rows);
                self.metrics.record_wait(output.waited);
                Ok(output)
            }
        }?;
        Ok((graph.name_outputs(output.outputs), output.took))
    }

    async fn run_alone(
        self: &Arc<Self>,
        graph: &LoadedGraph,
        inputs: Vec<Tensor>,
        rows: u64,
    ) -> Result<RunOutput, ComputeFailure> {
        let (queued, graph_use) = (QueuedGuard::new(&self.metrics), self.clone());
        // OutcomeRecorder although the caller has gone: it was computed.
        let unclaimed = move |output: Result<RunOutput, ComputeFailure>| {
            if let Ok(ran) = output {
                graph_use.metrics.record_run(ran.took, rows);
                graph_use.metrics.record_wait(ran.waited);
                graph_use.pool_metrics.add_inference(ran.took);
            }
        };
        graph.run(self.owner, inputs, queued, unclaimed).await
    }

    /// The key of a call that can be joined, and its rows; `None` if it must run alone.
    fn batch_key(&self, graph: &LoadedGraph, inputs: &[Tensor]) -> Option<(BatchKey, usize)> {
        let batcher = self.batcher.as_ref()?;
        let alone = batcher.mixes_rows.load(Ordering::Relaxed)
            || graph.joinable().is_err()
            || graph.is_short(inputs)
            // Calls may have different values of an optional input.
            || graph.has_optional_inputs(inputs);
        if alone { None } else { rows::batch_key(inputs) }
    }

    async fn run_batched(
        self: &Arc<Self>,
        graph: &Arc<LoadedGraph>,
        inputs: Vec<Tensor>,
        key: BatchKey,
        rows: usize,
    ) -> Result<RunOutput, ComputeFailure> {
        let Some(batcher) = &self.batcher else {
            return self.run_alone(graph, inputs, rows as u64).await;
        };
        // Dropped after the receiver, without which the call counts as cancelled.
        let _cancel = CancelOnDrop(batcher);
        let (done, result) = oneshot::channel();
        let mut result = pin!(graph.receive(result));
        let arrived = Instant::now();
        let until = arrived + batcher.rules.max_delay;
        let queued = QueuedCall {
            call: Call { inputs, done },
            key,
            rows,
            arrived,
        };
        let decision = batcher
            .queue()
            .push(queued, graph.max_parallel(), self.active(), arrived);
        self.act_on(decision, graph);
        // Each call decides again when its own wait is over, so that no call is left without a run.
        let gone = || ComputeFailure::Backend("no compute thread ran it".into());
        tokio::select! {
            biased;
            output = &mut result => return output.unwrap_or_else(|_| Err(gone())),
            () = tokio::time::sleep_until(until.into()) => {}
        }
        let decision = batcher
            .queue()
            .decide(graph.max_parallel(), self.active(), Instant::now());
        self.act_on(decision, graph);
        result.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Starts a run if that was decided.
    fn act_on(self: &Arc<Self>, decision: Decision, graph: &Arc<LoadedGraph>) {
        if decision != Decision::Start {
            return;
        }
        let run = BatchRun {
            calls: 0,
            has_begun: false,
            graph_use: self.clone(),
            graph: graph.clone(),
        };
        // Without a thread the run is dropped, which fails the calls that wait.
        let _ = graph.spawn(self.owner, move |worker| run.execute(worker));
    }

    /// Runs calls with equal keys as one run; if that fails, each alone.
    fn run_calls(&self, graph: &LoadedGraph, mut calls: Vec<QueuedCall<Call>>, worker: &Worker) {
        let rows: Vec<usize> = calls.iter().map(|queued| queued.rows).collect();
        if let [_, _, ..] = &calls[..] {
            match self.run_joined(graph, &mut calls, &rows, worker) {
                Ok(parts) => {
                    for (queued, ran) in calls.into_iter().zip(parts) {
                        self.send(queued.call.done, Ok(ran));
                    }
                    return;
                }
                Err(reason) => {
                    tracing::debug!(
                        graph = self.name,
                        reason,
                        "joined run failed; running each call alone"
                    );
                }
            }
        }
        for (queued, rows) in calls.into_iter().zip(rows) {
            let Call { inputs, mut done } = queued.call;
            if done.is_closed() {
                continue;
            }
            let (bytes, begun) = (input_bytes(&inputs), Instant::now());
            let ran = graph.run_until(worker, inputs, queued.arrived, done.closed());
            match &ran {
                Ok(ran) => {
                    self.record(rows, bytes, ran.took);
                    self.metrics.record_wait(ran.waited);
                }
                Err(_) if done.is_closed() => self.pool_metrics.add_inference(begun.elapsed()),
                Err(_) => {}
            }
            self.send(done, ran);
        }
    }

    /// Sends a call its result. Its time is counted here if the caller has gone, otherwise by the caller.
    fn send(
        &self,
        done: oneshot::Sender<Result<RunOutput, ComputeFailure>>,
        ran: Result<RunOutput, ComputeFailure>,
    ) {
        if let Err(Ok(unclaimed)) = done.send(ran) {
            self.pool_metrics.add_inference(unclaimed.took);
        }
    }

    /// The number of requests in guests, each of which may call.
    fn active(&self) -> usize {
        self.pool_metrics.in_flight()
    }

    fn run_joined(
        &self,
        graph: &LoadedGraph,
        calls: &mut [QueuedCall<Call>],
        rows: &[usize],
        worker: &Worker,
    ) -> Result<Vec<RunOutput>, String> {
        let begun = Instant::now();
        let inputs: Vec<&[Tensor]> = calls.iter().map(|queued| &queued.call.inputs[..]).collect();
        let joined = rows::join(&inputs)?;
        let bytes = input_bytes(&joined);
        let failed = |failure| match failure {
            ComputeFailure::Inputs(text) | ComputeFailure::Backend(text) => text,
        };
        let callers = calls.iter_mut().map(|queued| queued.call.done.closed());
        let cancelled = join_all(callers).map(drop);
        let ran = graph.run_until(worker, joined, begun, cancelled);
        let ran = ran.map_err(failed).inspect_err(|_| {
            if calls.iter().all(|queued| queued.call.done.is_closed()) {
                self.pool_metrics.add_inference(begun.elapsed());
            }
        })?;
        let parts = rows::split(&ran.outputs, rows).inspect_err(|reason| {
            if let Some(batcher) = &self.batcher
                && !batcher.mixes_rows.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(
                    graph = self.name,
                    reason,
                    "graph mixes rows; its calls are no longer joined"
                );
            }
        })?;
        let all: usize = rows.iter().sum();
        // Including the time of joining and splitting, which runs alone do not need.
        self.record(all, bytes, begun.elapsed());
        let parts = parts.into_iter().zip(calls).zip(rows);
        let parts = parts.map(|((outputs, queued), rows)| {
            let waited = begun.saturating_duration_since(queued.arrived);
            self.metrics.record_wait(waited);
            RunOutput {
                outputs,
                took: ran.took.mul_f64(*rows as f64 / all as f64),
                waited,
            }
        });
        Ok(parts.collect())
    }

    fn record(&self, rows: usize, input_bytes: u64, took: Duration) {
        self.metrics.record_run(took, rows as u64);
        if let Some(batcher) = &self.batcher {
            let bytes = usize::try_from(input_bytes).unwrap_or(usize::MAX);
            batcher.queue().record(rows, bytes, took);
        }
    }
}

impl Batcher {
    fn queue(&self) -> MutexGuard<'_, BatchQueue<Call>> {
        self.queue.lock()
    }
}

/// A joined run that was started. Dropping it ends it.
struct BatchRun {
    calls: usize,
    has_begun: bool,
    graph_use: Arc<DeploymentGraph>,
    graph: Arc<LoadedGraph>,
}

impl BatchRun {
    fn execute(mut self, worker: &Worker) {
        self.has_begun = true;
        let graph_use = self.graph_use.clone();
        if let Some(batcher) = &graph_use.batcher {
            let calls = batcher.queue().take(|call| call.done.is_closed());
            self.calls = calls.len();
            graph_use.run_calls(&self.graph, calls, worker);
        }
    }
}

impl Drop for BatchRun {
    fn drop(&mut self) {
        let Some(batcher) = &self.graph_use.batcher else {
            return;
        };
        let decision = {
            let mut queue = batcher.queue();
            queue.end_run(self.calls);
            if !self.has_begun {
                // Without waiting calls no run is started below, where the lock of the dispatcher is held.
                queue.clear();
            }
            queue.decide(
                self.graph.max_parallel(),
                self.graph_use.active(),
                Instant::now(),
            )
        };
        self.graph_use.act_on(decision, &self.graph);
    }
}

/// Removes calls whose callers have gone from the queue when dropped.
struct CancelOnDrop<'a>(&'a Batcher);

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.0
            .queue()
            .remove_cancelled(|call| call.done.is_closed());
    }
}

#[cfg(test)]
mod tests;
