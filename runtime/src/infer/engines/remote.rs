//! A graph in an engine. A run loads it again if its engine has ended or it was evicted.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use tokio::sync::oneshot;

use super::fleet::{EngineGraph, Fleet, LoadSpec};
use super::graph_slot::GraphSlot;
use super::handle::{EngineHandle, RunEnd};
use super::history::EndReason;
use super::remote_data::RemoteData;
use super::wire::Length;
use crate::infer::backend::tensor::{Data, Place, Tensor};
use crate::infer::backend::{Model, RunError};
use crate::infer::compute::Worker;

/// How long a cancelled run may continue before its engine is killed.
const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// Attempts of a run whose engine ends because of another graph.
const MAX_ATTEMPTS: usize = 3;

/// A graph that is loaded in an engine, or will be by its next run.
pub(crate) struct RemoteGraph {
    fleet: Arc<Fleet>,
    spec: Arc<LoadSpec>,
    place: Place,
    slot: Arc<GraphSlot>,
    /// Held by the caller that loads it again.
    reloading: tokio::sync::Mutex<()>,
}

impl RemoteGraph {
    /// A graph that was just loaded.
    pub(super) fn new(
        fleet: Arc<Fleet>,
        spec: Arc<LoadSpec>,
        place: Place,
        at: EngineGraph,
    ) -> Self {
        let slot = Arc::<GraphSlot>::default();
        slot.set(Arc::new(at), fleet.memory.now());
        fleet.memory.register(&slot);
        Self {
            fleet,
            spec,
            place,
            slot,
            reloading: tokio::sync::Mutex::default(),
        }
    }

    /// Runs it. Returns the outputs and the time that the engine reported. If the future is dropped, the run is cancelled, and
    /// `unclaimed` gets the time that it used. `held` is dropped when the run has ended.
    ///
    /// # Errors
    /// The error of the backend; or how the engine ended, if this graph may be the cause.
    pub async fn compute<H, U>(
        &self,
        mut inputs: Vec<Tensor>,
        length: Length,
        mut held: H,
        mut unclaimed: U,
    ) -> Result<(Vec<Tensor>, Duration), RunError>
    where
        H: Send + 'static,
        U: FnOnce(Duration) + Send + 'static,
    {
        let mut last = String::new();
        for _ in 0..MAX_ATTEMPTS {
            let at = self.load().await?;
            fetch_foreign(&at.engine, &mut inputs).await?;
            let (sender, receiver) = oneshot::channel();
            let begun = Instant::now();
            let on_end = move |end| {
                let Err((end, held, unclaimed)) = sender.send((end, held, unclaimed)) else {
                    return;
                };
                // A run without a caller has used a core until now.
                unclaimed(match end {
                    RunEnd::Ran(_, took) => took.time,
                    RunEnd::Failed(_) | RunEnd::Lost { .. } => begun.elapsed(),
                });
                drop(held);
            };
            let run = at.engine.run(
                at.graph,
                self.spec.threads,
                length,
                inputs,
                Box::new(on_end),
            );
            let cancel = CancelOnDrop {
                at: &at,
                name: &self.spec.label.name,
                run: Some(run),
            };
            if length == Length::Short {
                at.engine.wait_for_short_run(run);
            }
            let ended = receiver.await;
            cancel.disarm();
            let Ok((end, held_on, unclaimed_on)) = ended else {
                return Err(RunError::Failed("its engine has ended".into()));
            };
            match end {
                RunEnd::Ran(outputs, took) => {
                    if took.peak_bytes > 0 {
                        at.share.record_peak(took.peak_bytes);
                    }
                    return Ok((outputs, took.time));
                }
                RunEnd::Failed(error) => return Err(error),
                // If there are several suspects, each runs again in its own engine, which shows which of them is the cause.
                RunEnd::Lost { ended, .. } if ended.suspects == [at.graph] => {
                    return Err(RunError::Failed(format!(
                        "the engine that ran graph `{}` ended: {}",
                        self.spec.label.name, ended.why
                    )));
                }
                RunEnd::Lost {
                    ended,
                    inputs: unused,
                } => {
                    tracing::debug!(
                        graph = self.spec.label.name,
                        why = ended.why,
                        "run repeated"
                    );
                    last.clone_from(&ended.why);
                    (inputs, held, unclaimed) = (unused, held_on, unclaimed_on);
                }
            }
        }
        Err(RunError::Failed(format!(
            "the engine that ran graph `{}` ended {MAX_ATTEMPTS} times in a row because of other graphs; the last time {last}",
            self.spec.label.name
        )))
    }

    /// Runs it on a thread that may block. Cancels the run when `cancelled` is ready.
    ///
    /// # Errors
    /// As [`Self::compute`], and if it was cancelled.
    pub fn run_until(
        &self,
        inputs: Vec<Tensor>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Vec<Tensor>, RunError> {
        let computed = self.compute(inputs, Length::Unknown, (), drop);
        let cancelled = pin!(cancelled);
        let computed = pin!(computed);
        match futures::executor::block_on(select(computed, cancelled)) {
            Either::Left((ran, _)) => ran.map(|(outputs, _)| outputs),
            Either::Right(_) => Err(RunError::Failed("its callers have gone".into())),
        }
    }

    /// The loaded graph. Loads it again if its engine has ended or it was evicted.
    async fn load(&self) -> Result<Arc<EngineGraph>, RunError> {
        if let Some(at) = self.slot.get(self.fleet.memory.now()) {
            return Ok(at);
        }
        let _reloading = self.reloading.lock().await;
        if let Some(at) = self.slot.get(self.fleet.memory.now()) {
            return Ok(at);
        }
        let at = self.fleet.reload(&self.spec).await;
        let at = Arc::new(at.map_err(RunError::Failed)?);
        self.slot.set(at.clone(), self.fleet.memory.now());
        Ok(at)
    }

    /// Memory that it is charged, including that of its runs, in bytes; `None` while it is not loaded.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.slot.resident().map(|one| one.bytes)
    }
}

impl Model for RemoteGraph {
    /// Blocks.
    fn run(&self, inputs: Vec<Tensor>, _worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        self.run_until(inputs, std::future::pending())
    }

    fn place(&self) -> Place {
        self.place
    }

    fn remote(&self) -> Option<&RemoteGraph> {
        Some(self)
    }
}

/// Copies inputs to the host that are in other engines than the one that runs.
async fn fetch_foreign(engine: &Arc<EngineHandle>, inputs: &mut [Tensor]) -> Result<(), RunError> {
    for tensor in inputs {
        if RemoteData::of(&tensor.data).is_some_and(|kept| kept.is_in(engine)) {
            continue;
        }
        let Data::Kept(kept) = &tensor.data else {
            continue;
        };
        if let Some(fetched) = kept.fetched() {
            tensor.data = Data::Bytes(fetched.await.map_err(RunError::Failed)?);
        }
    }
    Ok(())
}

/// Cancels the run on drop.
struct CancelOnDrop<'a> {
    at: &'a Arc<EngineGraph>,
    name: &'a str,
    run: Option<u64>,
}

impl CancelOnDrop<'_> {
    fn disarm(mut self) {
        self.run = None;
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let Some(run) = self.run else { return };
        if !self.at.engine.is_running(run) {
            return;
        }
        self.at.engine.cancel(run);
        let (at, name) = (self.at.clone(), self.name.to_owned());
        self.at.executor.spawn(async move {
            tokio::time::sleep(CANCEL_GRACE).await;
            if at.engine.is_running(run) {
                let why = format!(
                    "a run of graph `{name}` continued for {CANCEL_GRACE:?} after it was cancelled"
                );
                at.engine.kill(EndReason::OverdueRun, why, Some(at.graph));
            }
        });
    }
}
