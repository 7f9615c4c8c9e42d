//! Runs of a loaded graph: on the calling thread if the run is known to be short, otherwise on a compute thread or in an engine.

use std::time::{Duration, Instant};

use super::LoadedGraph;
use super::latency::LatencyEstimate;
use super::metrics::QueuedGuard;
use crate::infer::backend::arrange::arrange;
use crate::infer::backend::tensor::{Place, Tensor};
use crate::infer::backend::{RunError, Runs};
use crate::infer::compute::{ComputeError, Owner, Worker, guarded};
use crate::infer::engines::{Length, RemoteGraph};

/// Joined runs of a graph at once on a GPU: while one computes, the inputs of the next are copied. More would only wait there.
const GPU_PARALLEL_RUNS: usize = 2;
/// A larger graph, in bytes, never runs on the calling thread, because its stack usage is unknown.
const SMALL_BYTES: u64 = 4 << 20;

/// Why a run failed.
#[derive(Clone, Debug)]
pub(crate) enum ComputeFailure {
    /// The inputs do not match the graph, or the backend rejects their values.
    Inputs(String),
    /// The backend failed.
    Backend(String),
}

impl From<RunError> for ComputeFailure {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Inputs(text) => Self::Inputs(text),
            RunError::Failed(text) => Self::Backend(text),
        }
    }
}

impl From<ComputeError> for ComputeFailure {
    fn from(error: ComputeError) -> Self {
        Self::Backend(error.to_string())
    }
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct RunOutput {
    pub outputs: Vec<Tensor>,
    /// How long the backend took.
    pub took: Duration,
    /// How long the call waited for the run to begin.
    pub waited: Duration,
}

/// The size of a run's inputs, in bytes.
pub(crate) fn input_bytes(inputs: &[Tensor]) -> u64 {
    inputs.iter().map(|tensor| tensor.data.bytes() as u64).sum()
}

impl LoadedGraph {
    /// Puts inputs into the graph's order.
    ///
    /// # Errors
    /// When they do not match the graph.
    pub(crate) fn arrange(
        &self,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Vec<Tensor>, ComputeFailure> {
        arrange(&self.loaded.inputs, inputs).map_err(ComputeFailure::Inputs)
    }

    /// Names outputs as the graph does.
    pub(crate) fn name_outputs(&self, outputs: Vec<Tensor>) -> Vec<(String, Tensor)> {
        let names = self.loaded.outputs.iter().map(|port| port.name.clone());
        names.zip(outputs).collect()
    }

    /// Runs one call of a deployment. If the future is dropped before the run begins, the run is cancelled. If it is dropped later,
    /// the run continues with its inputs, and `unclaimed` gets the result.
    pub(crate) async fn run(
        &self,
        owner: Owner,
        inputs: Vec<Tensor>,
        queued: QueuedGuard,
        unclaimed: impl FnOnce(Result<RunOutput, ComputeFailure>) + Send + 'static,
    ) -> Result<RunOutput, ComputeFailure> {
        let arrived = Instant::now();
        if let Some(remote) = self.loaded.model.remote() {
            return self
                .run_remote(remote, owner, inputs, queued, arrived, unclaimed)
                .await;
        }
        if self.is_short(&inputs) {
            drop(queued);
            return self.run_on(&Worker::CALLER, inputs, arrived);
        }
        let (loaded, latency) = (self.loaded.clone(), self.latency.clone());
        let job = move |worker: &Worker| {
            drop(queued);
            let run = |inputs| loaded.model.run(inputs, worker);
            timed(&latency, run, inputs, arrived)
        };
        self.compute
            .run(owner, self.threads, job, unclaimed)
            .await?
    }

    /// The same in an engine. The run gets its permits here, so that deployments share the cores as they do in this process.
    async fn run_remote(
        &self,
        remote: &RemoteGraph,
        owner: Owner,
        inputs: Vec<Tensor>,
        queued: QueuedGuard,
        arrived: Instant,
        unclaimed: impl FnOnce(Result<RunOutput, ComputeFailure>) + Send + 'static,
    ) -> Result<RunOutput, ComputeFailure> {
        let (length, permit) = match self.is_short(&inputs) {
            true => (Length::Short, None),
            false => {
                let permit = self.compute.acquire(owner, self.threads).await?;
                (Length::Unknown, Some(permit))
            }
        };
        drop(queued);
        let bytes = input_bytes(&inputs);
        let begun = Instant::now();
        let waited = begun.saturating_duration_since(arrived);
        let latency = self.latency.clone();
        let output = move |outputs, took: Duration| {
            // Measured by the engine, without the messages, which take long on a busy machine. An engine may claim anything, but
            // the run took no longer than the node waited.
            let took = took.min(begun.elapsed());
            latency.record(took, bytes);
            RunOutput {
                outputs,
                took,
                waited,
            }
        };
        let lost = output.clone();
        let unclaimed = move |took| unclaimed(Ok(lost(Vec::new(), took)));
        let (outputs, took) = remote.compute(inputs, length, permit, unclaimed).await?;
        Ok(output(outputs, took))
    }

    /// Runs a call on this thread. A panic of the backend becomes an error.
    fn run_on(
        &self,
        worker: &Worker,
        inputs: Vec<Tensor>,
        arrived: Instant,
    ) -> Result<RunOutput, ComputeFailure> {
        let run = |inputs| self.loaded.model.run(inputs, worker);
        timed(&self.latency, run, inputs, arrived)
    }

    /// The same, but stopped when `cancelled` completes if the run is in an engine. A run in this process cannot be stopped.
    pub(crate) fn run_until(
        &self,
        worker: &Worker,
        inputs: Vec<Tensor>,
        arrived: Instant,
        cancelled: impl Future<Output = ()>,
    ) -> Result<RunOutput, ComputeFailure> {
        match self.loaded.model.remote() {
            None => self.run_on(worker, inputs, arrived),
            Some(remote) => {
                let run = |inputs| remote.run_until(inputs, cancelled);
                timed(&self.latency, run, inputs, arrived)
            }
        }
    }

    /// Whether calls can be joined.
    ///
    /// # Errors
    /// Why they cannot.
    pub(crate) fn joinable(&self) -> Result<(), &str> {
        self.joinable.as_ref().map_err(String::as_str).copied()
    }

    /// Whether a call has optional inputs.
    pub(crate) fn has_optional_inputs(&self, inputs: &[Tensor]) -> bool {
        let last = inputs.len().checked_sub(1);
        last.and_then(|last| self.loaded.inputs.get(last))
            .is_some_and(|port| port.optional)
    }

    /// Whether a run may happen on the calling thread.
    pub(crate) fn is_short(&self, inputs: &[Tensor]) -> bool {
        self.loaded.runs == Runs::Anywhere
            && self.bytes <= SMALL_BYTES
            && self.latency.is_short(input_bytes(inputs))
            // Inputs on a GPU are fetched first, and the GPU may be busy.
            && inputs.iter().all(|tensor| tensor.data.place() == Place::Host)
    }

    /// How many joined runs of the graph are useful at once.
    pub(crate) fn max_parallel(&self) -> usize {
        match self.loaded.model.place() {
            Place::Host => self.compute.max_parallel(self.threads),
            Place::Cuda(_) => GPU_PARALLEL_RUNS,
        }
    }

    /// Waits for what a compute thread of this graph sends.
    pub(crate) async fn receive<F: Future>(&self, result: F) -> F::Output {
        self.compute.receive(result).await
    }

    /// Runs `job` for a deployment on a compute thread of this graph, without waiting for it.
    pub(crate) fn spawn(
        &self,
        owner: Owner,
        job: impl FnOnce(&Worker) + Send + 'static,
    ) -> Result<(), ComputeError> {
        self.compute.spawn(owner, self.threads, job)
    }
}

/// Runs a call on this thread, and records how long it took.
fn timed(
    latency: &LatencyEstimate,
    run: impl FnOnce(Vec<Tensor>) -> Result<Vec<Tensor>, RunError>,
    inputs: Vec<Tensor>,
    arrived: Instant,
) -> Result<RunOutput, ComputeFailure> {
    let bytes = input_bytes(&inputs);
    let begun = Instant::now();
    let outputs = guarded(|| run(inputs))?;
    let took = begun.elapsed();
    latency.record(took, bytes);
    Ok(RunOutput {
        outputs: outputs?,
        took,
        waited: begun.saturating_duration_since(arrived),
    })
}
