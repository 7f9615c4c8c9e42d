//! Runs of a loaded graph: on the thread that asks when that is known to be short, else on a compute thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::infer::backend::arrange::arrange;
use crate::infer::backend::tensor::{Place, Tensor};
use crate::infer::backend::{RunError, Runs};
use crate::infer::compute::{ComputeError, Owner, Worker, guarded};
use crate::infer::engines::{Length, Remote};
use crate::infer::graphs::LoadedGraph;
use crate::infer::tally::Queued;

/// A run that is known to be shorter than this stays on the thread that asks for it: a hop would cost as much.
const SHORT: Duration = Duration::from_micros(100);
/// Runs of a graph on a card at once: while it computes for one, the inputs of the next travel. More would only wait there.
const CARD_LANES: usize = 2;
/// A graph larger than this is never run on the caller's thread, however fast: its stack needs are unknown.
const SMALL_BYTES: u64 = 4 << 20;

/// Why a run gave nothing.
#[derive(Clone, Debug)]
pub(crate) enum ComputeFailure {
    /// The inputs do not fit, or the backend does not take their values.
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

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub outputs: Vec<Tensor>,
    /// How long the backend took.
    pub took: Duration,
    /// How long the call waited for that to begin.
    pub waited: Duration,
}

/// How fast a graph was so far.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// What runs have taken; 0 until the first. Rises at once, falls slowly.
    typical_ns: AtomicU64,
    /// The largest inputs that a run was quick with, in bytes.
    proven_bytes: AtomicU64,
}

impl Pace {
    fn remember(&self, took: Duration, input_bytes: u64) {
        if took < SHORT {
            self.proven_bytes.fetch_max(input_bytes, Ordering::Relaxed);
        }
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let before = self.typical_ns.load(Ordering::Relaxed);
        self.typical_ns
            .store(typical(before, took), Ordering::Relaxed);
    }

    fn is_quick(&self, input_bytes: u64) -> bool {
        let typical = self.typical_ns.load(Ordering::Relaxed);
        input_bytes <= self.proven_bytes.load(Ordering::Relaxed)
            && typical != 0
            && u128::from(typical) < SHORT.as_nanos()
    }
}

/// A slow run counts at once, quick ones by an eighth each, so that no mixture of both passes for quick.
fn typical(before: u64, new: u64) -> u64 {
    new.max(before - before / 8).max(1)
}

/// Bytes of a run's inputs.
pub(crate) fn bytes(inputs: &[Tensor]) -> u64 {
    inputs.iter().map(|tensor| tensor.data.bytes() as u64).sum()
}

impl LoadedGraph {
    /// Puts inputs into the graph's order, if they fit it.
    pub(crate) fn arrange(
        &self,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Vec<Tensor>, ComputeFailure> {
        arrange(&self.loaded.inputs, inputs).map_err(ComputeFailure::Inputs)
    }

    /// Outputs under the graph's names.
    pub(crate) fn name(&self, outputs: Vec<Tensor>) -> Vec<(String, Tensor)> {
        let names = self.loaded.outputs.iter().map(|port| port.name.clone());
        names.zip(outputs).collect()
    }

    /// Runs it once for a deployment, alone. The inputs are the run's until it has ended, also when its caller goes meanwhile;
    /// `unclaimed` gets then what it gave. When the caller goes before it began, it does not begin.
    pub(crate) async fn run(
        &self,
        owner: Owner,
        inputs: Vec<Tensor>,
        queued: Queued,
        unclaimed: impl FnOnce(Result<Ran, ComputeFailure>) + Send + 'static,
    ) -> Result<Ran, ComputeFailure> {
        let asked = Instant::now();
        if let Some(remote) = self.loaded.model.remote() {
            return self
                .run_remote(remote, owner, inputs, queued, asked, unclaimed)
                .await;
        }
        if self.is_short(&inputs) {
            drop(queued);
            return self.run_on(&Worker::CALLER, inputs, asked);
        }
        let (loaded, pace) = (self.loaded.clone(), self.pace.clone());
        let job = move |worker: &Worker| {
            drop(queued);
            let run = |inputs| loaded.model.run(inputs, worker);
            timed(&pace, run, inputs, asked)
        };
        self.compute
            .run(owner, self.threads, job, unclaimed)
            .await?
    }

    /// The same in an engine: it gets its permits here, so that deployments share the cores there as they do here.
    async fn run_remote(
        &self,
        remote: &Remote,
        owner: Owner,
        inputs: Vec<Tensor>,
        queued: Queued,
        asked: Instant,
        unclaimed: impl FnOnce(Result<Ran, ComputeFailure>) + Send + 'static,
    ) -> Result<Ran, ComputeFailure> {
        let (length, permit) = match self.is_short(&inputs) {
            true => (Length::Short, None),
            false => {
                let permit = self.compute.permit(owner, self.threads).await?;
                (Length::Unknown, Some(permit))
            }
        };
        drop(queued);
        let input_bytes = bytes(&inputs);
        let begun = Instant::now();
        let waited = begun.saturating_duration_since(asked);
        let pace = self.pace.clone();
        let ran = move |outputs, took: Duration| {
            // Without the way there and back, which is long on a busy machine and says nothing of the graph. An engine may
            // say anything, but none took longer than the node waited.
            let took = took.min(begun.elapsed());
            pace.remember(took, input_bytes);
            Ran {
                outputs,
                took,
                waited,
            }
        };
        let lost = ran.clone();
        let unclaimed = move |took| unclaimed(Ok(lost(Vec::new(), took)));
        let (outputs, took) = remote.compute(inputs, length, permit, unclaimed).await?;
        Ok(ran(outputs, took))
    }

    /// Runs it once on this thread. A panic of the backend is an error of this run.
    fn run_on(
        &self,
        worker: &Worker,
        inputs: Vec<Tensor>,
        asked: Instant,
    ) -> Result<Ran, ComputeFailure> {
        let run = |inputs| self.loaded.model.run(inputs, worker);
        timed(&self.pace, run, inputs, asked)
    }

    /// The same until `unwanted` is ready, which ends a run in an engine. One in this process continues to its end.
    pub(crate) fn run_until(
        &self,
        worker: &Worker,
        inputs: Vec<Tensor>,
        asked: Instant,
        unwanted: impl Future<Output = ()>,
    ) -> Result<Ran, ComputeFailure> {
        match self.loaded.model.remote() {
            None => self.run_on(worker, inputs, asked),
            Some(remote) => {
                let run = |inputs| remote.run_until(inputs, unwanted);
                timed(&self.pace, run, inputs, asked)
            }
        }
    }

    /// Whether its rows may come from several calls.
    ///
    /// # Errors
    /// Names an input or output whose first dimension does not vary.
    pub(crate) fn joinable(&self) -> Result<(), &str> {
        self.joinable.as_ref().map_err(String::as_str).copied()
    }

    /// Whether a call gives more than the inputs that it must.
    pub(crate) fn has_optional(&self, inputs: &[Tensor]) -> bool {
        let last = inputs.len().checked_sub(1);
        last.and_then(|last| self.loaded.inputs.get(last))
            .is_some_and(|port| port.optional)
    }

    /// Whether the next run may happen on the thread that asks for it.
    pub(crate) fn is_short(&self, inputs: &[Tensor]) -> bool {
        self.loaded.runs == Runs::Anywhere
            && self.bytes <= SMALL_BYTES
            && self.pace.is_quick(bytes(inputs))
            // What lies on a card is fetched first, and the card may be busy.
            && inputs.iter().all(|tensor| tensor.data.place() == Place::Host)
    }

    /// How many joined runs of it are worth having at once.
    pub(crate) fn lanes(&self) -> usize {
        match self.loaded.model.place() {
            Place::Host => self.compute.lanes(self.threads),
            Place::Cuda(_) => CARD_LANES,
        }
    }

    /// Waits for what a thread for this graph sends.
    pub(crate) async fn delivered<F: Future>(&self, result: F) -> F::Output {
        self.compute.delivered(result).await
    }

    /// Runs `job` for a deployment on one of the threads for this graph when its turn comes.
    pub(crate) fn start(
        &self,
        owner: Owner,
        job: impl FnOnce(&Worker) + Send + 'static,
    ) -> Result<(), ComputeError> {
        self.compute.start(owner, self.threads, job)
    }
}

fn timed(
    pace: &Pace,
    run: impl FnOnce(Vec<Tensor>) -> Result<Vec<Tensor>, RunError>,
    inputs: Vec<Tensor>,
    asked: Instant,
) -> Result<Ran, ComputeFailure> {
    let input_bytes = bytes(&inputs);
    let begun = Instant::now();
    let outputs = guarded(|| run(inputs))?;
    let took = begun.elapsed();
    pace.remember(took, input_bytes);
    Ok(Ran {
        outputs: outputs?,
        took,
        waited: begun.saturating_duration_since(asked),
    })
}

#[cfg(test)]
mod tests {
    use super::typical;

    #[test]
    fn one_slow_run_outweighs_many_quick_ones() {
        let slow = typical(typical(0, 1_000), 1_000_000);
        assert_eq!(slow, 1_000_000);
        assert!(typical(slow, 1_000) > 800_000);
    }
}
