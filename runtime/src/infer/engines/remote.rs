//! A graph in an engine, for those who run it. It is loaded again when its engine has ended.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use tokio::sync::oneshot;

use super::fleet::{At, Fleet, Spec};
use super::history::EndReason;
use super::kept::KeptAway;
use super::running::{RunEnd, Running};
use super::slot::Slot;
use super::wire::Length;
use crate::infer::backend::tensor::{Data, Place, Tensor};
use crate::infer::backend::{Model, RunError};
use crate::infer::compute::Worker;

/// How long a run may go on that nobody waits for any more. Its engine is killed then.
const GRACE: Duration = Duration::from_secs(1);
/// How often a run is begun whose engine ended on account of another graph.
const MAX_ATTEMPTS: usize = 3;

/// The graph.
pub(crate) struct Remote {
    fleet: Arc<Fleet>,
    spec: Arc<Spec>,
    place: Place,
    slot: Arc<Slot>,
    /// One caller loads it again, and the others wait.
    again: tokio::sync::Mutex<()>,
}

impl Remote {
    /// A graph that was loaded there.
    pub(super) fn new(fleet: Arc<Fleet>, spec: Arc<Spec>, place: Place, at: At) -> Self {
        let slot = Arc::<Slot>::default();
        slot.set(Arc::new(at), fleet.memory.now());
        fleet.memory.enter(&slot);
        Self {
            fleet,
            spec,
            place,
            slot,
            again: tokio::sync::Mutex::default(),
        }
    }

    /// Runs it, and says what the backend took by the engine's word. Should the future be dropped, the run is ended, and
    /// `unclaimed` gets what it gave all the same. `held` is dropped when the run has ended.
    ///
    /// # Errors
    /// In the backend's words; or how the engine ended, if this graph may have brought that about.
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
            let at = self.loaded().await?;
            bring(&at.engine, &mut inputs).await?;
            let (sender, receiver) = oneshot::channel();
            let begun = Instant::now();
            let done = move |end| {
                let Err((end, held, unclaimed)) = sender.send((end, held, unclaimed)) else {
                    return;
                };
                // A run that was ended because its caller had gone has used a core until now.
                unclaimed(match end {
                    RunEnd::Ran(_, took) => took.time,
                    RunEnd::Failed(_) | RunEnd::Lost { .. } => begun.elapsed(),
                });
                drop(held);
            };
            let run = at
                .engine
                .run(at.graph, self.spec.threads, length, inputs, Box::new(done));
            let stop = StopOnDrop {
                at: &at,
                name: &self.spec.label.name,
                run: Some(run),
            };
            if length == Length::Short {
                at.engine.wait_briefly(run);
            }
            let ended = receiver.await;
            stop.over();
            let Ok((end, held_on, unclaimed_on)) = ended else {
                return Err(RunError::Failed("its engine is gone".into()));
            };
            match end {
                RunEnd::Ran(outputs, took) => {
                    if took.peak_bytes > 0 {
                        at.share.ran_with(took.peak_bytes);
                    }
                    return Ok((outputs, took.time));
                }
                RunEnd::Failed(error) => return Err(error),
                // Of several suspects each runs once more, in an engine of its own, which shows which of them it was.
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
                    tracing::debug!(graph = self.spec.label.name, why = ended.why, "run again");
                    last.clone_from(&ended.why);
                    (inputs, held, unclaimed) = (unused, held_on, unclaimed_on);
                }
            }
        }
        Err(RunError::Failed(format!(
            "the engine that ran graph `{}` ended {MAX_ATTEMPTS} times in a row on account of others; the last time {last}",
            self.spec.label.name
        )))
    }

    /// Runs it on a thread that may block, until `unwanted` is ready, which ends the run.
    ///
    /// # Errors
    /// As of [`Self::compute`]; when it was ended.
    pub fn run_until(
        &self,
        inputs: Vec<Tensor>,
        unwanted: impl Future<Output = ()>,
    ) -> Result<Vec<Tensor>, RunError> {
        let computed = self.compute(inputs, Length::Unknown, (), drop);
        let unwanted = pin!(unwanted);
        let computed = pin!(computed);
        match futures::executor::block_on(select(computed, unwanted)) {
            Either::Left((ran, _)) => ran.map(|(outputs, _)| outputs),
            Either::Right(_) => Err(RunError::Failed("its callers have gone".into())),
        }
    }

    /// Where it is loaded: now, if the engine has ended that it was in, or others needed its memory.
    async fn loaded(&self) -> Result<Arc<At>, RunError> {
        if let Some(at) = self.slot.at(self.fleet.memory.now()) {
            return Ok(at);
        }
        let _turn = self.again.lock().await;
        if let Some(at) = self.slot.at(self.fleet.memory.now()) {
            return Ok(at);
        }
        let at = self.fleet.load_again(&self.spec).await;
        let at = Arc::new(at.map_err(RunError::Failed)?);
        self.slot.set(at.clone(), self.fleet.memory.now());
        Ok(at)
    }

    /// What it takes of the node's memory, its runs included; nothing while it is not loaded.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.slot.resident().map(|one| one.bytes)
    }
}

impl Model for Remote {
    /// For threads that may block.
    fn run(&self, inputs: Vec<Tensor>, _worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        self.run_until(inputs, std::future::pending())
    }

    fn place(&self) -> Place {
        self.place
    }

    fn remote(&self) -> Option<&Remote> {
        Some(self)
    }
}

/// Brings to the host what stays in other engines than the one that is to run.
async fn bring(engine: &Arc<Running>, inputs: &mut [Tensor]) -> Result<(), RunError> {
    for tensor in inputs {
        if KeptAway::of(&tensor.data).is_some_and(|kept| kept.is_in(engine)) {
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

/// Ends the run when nobody waits for it any more.
struct StopOnDrop<'a> {
    at: &'a Arc<At>,
    name: &'a str,
    run: Option<u64>,
}

impl StopOnDrop<'_> {
    fn over(mut self) {
        self.run = None;
    }
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        let Some(run) = self.run else { return };
        if !self.at.engine.is_running(run) {
            return;
        }
        self.at.engine.stop(run);
        let (at, name) = (self.at.clone(), self.name.to_owned());
        self.at.executor.spawn(async move {
            tokio::time::sleep(GRACE).await;
            if at.engine.is_running(run) {
                let why = format!(
                    "a run of graph `{name}` went on for {GRACE:?} after nobody waited for it any more"
                );
                at.engine.kill(EndReason::OverdueRun, why, Some(at.graph));
            }
        });
    }
}
