//! A deployment's use of one of its graphs: its calls from all replicas, joined where the manifest says so, and counted.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::join_all;
use tokio::sync::oneshot;

use crate::infer::backend::tensor::Tensor;
use crate::infer::batch::{Act, Batching, Kin, Queue, Waiting, rows};
use crate::infer::compute::{Owner, Worker};
use crate::infer::graphs::LoadedGraph;
use crate::infer::run::{ComputeFailure, Ran, bytes};
use crate::infer::tally::{Queued, Tally, Totals};
use crate::meter::Meter;

/// The calls of one deployment to one graph, on this node.
pub struct GraphUse {
    name: String,
    owner: Owner,
    tally: Arc<Tally>,
    /// Counts the requests that may call, and what runs took.
    meter: Arc<Meter>,
    joint: Option<Joint>,
}

/// What joins calls.
struct Joint {
    rules: Batching,
    queue: Mutex<Queue<Call>>,
    /// Set when a joined run gave other rows than it was given: the graph mixes them.
    lies: AtomicBool,
}

/// A call that waits to be joined.
struct Call {
    inputs: Vec<Tensor>,
    done: oneshot::Sender<Result<Ran, ComputeFailure>>,
}

impl GraphUse {
    /// Nothing used yet. `meter` is the deployment's: runs of graphs that share it take turns with those of others.
    pub fn new(name: String, batching: Option<Batching>, meter: Arc<Meter>) -> Arc<Self> {
        let joint = batching.map(|rules| Joint {
            rules,
            queue: Mutex::new(Queue::new(rules)),
            lies: AtomicBool::new(false),
        });
        Arc::new(Self {
            name,
            owner: Owner::of(&meter),
            tally: Arc::default(),
            meter,
            joint,
        })
    }

    /// The graph's name in the manifest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What was used so far.
    pub fn totals(&self) -> Totals {
        let joining = self.joint.as_ref().map_or(0, |joint| joint.queue().len());
        self.tally.totals(joining as u64)
    }

    /// Runs the graph for one call; says how long the backend took for it.
    pub(crate) async fn run(
        self: &Arc<Self>,
        graph: &Arc<LoadedGraph>,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<(Vec<(String, Tensor)>, Duration), ComputeFailure> {
        let inputs = graph.arrange(inputs)?;
        let ran = match self.kin(graph, &inputs) {
            Some((kin, rows)) => self.joined(graph, inputs, kin, rows).await,
            None => {
                let rows = inputs.first().and_then(|first| first.dims.first());
                let rows = rows.map_or(1, |rows| u64::from(*rows));
                let ran = self.alone(graph, inputs, rows).await?;
                self.tally.ran(ran.took, rows);
                self.tally.waited(ran.waited);
                Ok(ran)
            }
        }?;
        Ok((graph.name(ran.outputs), ran.took))
    }

    async fn alone(
        self: &Arc<Self>,
        graph: &LoadedGraph,
        inputs: Vec<Tensor>,
        rows: u64,
    ) -> Result<Ran, ComputeFailure> {
        let (queued, usage) = (Queued::new(&self.tally), self.clone());
        // It was computed although nobody takes it.
        let unclaimed = move |ran: Result<Ran, ComputeFailure>| {
            if let Ok(ran) = ran {
                usage.tally.ran(ran.took, rows);
                usage.tally.waited(ran.waited);
                usage.meter.add_inference(ran.took);
            }
        };
        graph.run(self.owner, inputs, queued, unclaimed).await
    }

    /// What the call has in common with others; `None` when it is to run alone.
    fn kin(&self, graph: &LoadedGraph, inputs: &[Tensor]) -> Option<(Kin, usize)> {
        let joint = self.joint.as_ref()?;
        let alone = joint.lies.load(Ordering::Relaxed)
            || graph.joinable().is_err()
            || graph.is_short(inputs)
            // Each call may have its own value of an optional input.
            || graph.has_optional(inputs);
        if alone { None } else { rows::kin(inputs) }
    }

    async fn joined(
        self: &Arc<Self>,
        graph: &Arc<LoadedGraph>,
        inputs: Vec<Tensor>,
        kin: Kin,
        rows: usize,
    ) -> Result<Ran, ComputeFailure> {
        let Some(joint) = &self.joint else {
            return self.alone(graph, inputs, rows as u64).await;
        };
        // Dropped after the receiver, by whose absence the call is known.
        let _forget = Forget(joint);
        let (done, result) = oneshot::channel();
        let mut result = pin!(graph.delivered(result));
        let arrived = Instant::now();
        let until = arrived + joint.rules.max_delay;
        let waiting = Waiting {
            call: Call { inputs, done },
            kin,
            rows,
            arrived,
        };
        let act = joint
            .queue()
            .push(waiting, graph.lanes(), self.active(), arrived);
        self.obey(act, graph);
        // Each call asks again when its own wait is over, so that whoever is left finds a run.
        let gone = || ComputeFailure::Backend("no thread ran it".into());
        tokio::select! {
            biased;
            ran = &mut result => return ran.unwrap_or_else(|_| Err(gone())),
            () = tokio::time::sleep_until(until.into()) => {}
        }
        let act = joint
            .queue()
            .decide(graph.lanes(), self.active(), Instant::now());
        self.obey(act, graph);
        result.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Begins a run if that was decided.
    fn obey(self: &Arc<Self>, act: Act, graph: &Arc<LoadedGraph>) {
        if act != Act::Begin {
            return;
        }
        let lane = Lane {
            calls: 0,
            began: false,
            usage: self.clone(),
            graph: graph.clone(),
        };
        // A lane that finds no thread is dropped, which tells those who wait.
        let _ = graph.start(self.owner, move |worker| lane.run(worker));
    }

    /// Runs calls of one kin as one, and each alone if that fails.
    fn run_together(&self, graph: &LoadedGraph, mut calls: Vec<Waiting<Call>>, worker: &Worker) {
        let rows: Vec<usize> = calls.iter().map(|waiting| waiting.rows).collect();
        if let [_, _, ..] = &calls[..] {
            match self.run_joined(graph, &mut calls, &rows, worker) {
                Ok(parts) => {
                    for (waiting, ran) in calls.into_iter().zip(parts) {
                        self.answer(waiting.call.done, Ok(ran));
                    }
                    return;
                }
                Err(reason) => {
                    tracing::debug!(graph = self.name, reason, "a joined run failed");
                }
            }
        }
        for (waiting, rows) in calls.into_iter().zip(rows) {
            let Call { inputs, mut done } = waiting.call;
            if done.is_closed() {
                continue;
            }
            let (input_bytes, begun) = (bytes(&inputs), Instant::now());
            let ran = graph.run_until(worker, inputs, waiting.arrived, done.closed());
            match &ran {
                Ok(ran) => {
                    self.learn(rows, input_bytes, ran.took);
                    self.tally.waited(ran.waited);
                }
                Err(_) if done.is_closed() => self.meter.add_inference(begun.elapsed()),
                Err(_) => {}
            }
            self.answer(done, ran);
        }
    }

    /// Gives a call what it was run for. What nobody takes any more is counted here, and by the caller otherwise.
    fn answer(
        &self,
        done: oneshot::Sender<Result<Ran, ComputeFailure>>,
        ran: Result<Ran, ComputeFailure>,
    ) {
        if let Err(Ok(unclaimed)) = done.send(ran) {
            self.meter.add_inference(unclaimed.took);
        }
    }

    /// Requests in guests that may call.
    fn active(&self) -> usize {
        self.meter.serving()
    }

    fn run_joined(
        &self,
        graph: &LoadedGraph,
        calls: &mut [Waiting<Call>],
        rows: &[usize],
        worker: &Worker,
    ) -> Result<Vec<Ran>, String> {
        let begun = Instant::now();
        let inputs: Vec<&[Tensor]> = calls
            .iter()
            .map(|waiting| &waiting.call.inputs[..])
            .collect();
        let joined = rows::join(&inputs)?;
        let input_bytes = bytes(&joined);
        let failed = |failure| match failure {
            ComputeFailure::Inputs(text) | ComputeFailure::Backend(text) => text,
        };
        let callers = calls.iter_mut().map(|waiting| waiting.call.done.closed());
        let unwanted = join_all(callers).map(drop);
        let ran = graph.run_until(worker, joined, begun, unwanted);
        let ran = ran.map_err(failed).inspect_err(|_| {
            if calls.iter().all(|waiting| waiting.call.done.is_closed()) {
                self.meter.add_inference(begun.elapsed());
            }
        })?;
        let parts = rows::split(&ran.outputs, rows).inspect_err(|reason| {
            if let Some(joint) = &self.joint
                && !joint.lies.swap(true, Ordering::Relaxed)
            {
                tracing::warn!(graph = self.name, reason, "calls are joined no more");
            }
        })?;
        let all: usize = rows.iter().sum();
        // With what joining and parting cost, for that is what is weighed against runs alone.
        self.learn(all, input_bytes, begun.elapsed());
        let parts = parts.into_iter().zip(calls).zip(rows);
        let parts = parts.map(|((outputs, waiting), rows)| {
            let waited = begun.saturating_duration_since(waiting.arrived);
            self.tally.waited(waited);
            Ran {
                outputs,
                took: ran.took.mul_f64(*rows as f64 / all as f64),
                waited,
            }
        });
        Ok(parts.collect())
    }

    fn learn(&self, rows: usize, input_bytes: u64, took: Duration) {
        self.tally.ran(took, rows as u64);
        if let Some(joint) = &self.joint {
            let bytes = usize::try_from(input_bytes).unwrap_or(usize::MAX);
            joint.queue().learn(rows, bytes, took);
        }
    }
}

impl Joint {
    fn queue(&self) -> MutexGuard<'_, Queue<Call>> {
        // Nothing runs under the lock but decisions.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that was begun, until it has ended, one way or another.
struct Lane {
    calls: usize,
    began: bool,
    usage: Arc<GraphUse>,
    graph: Arc<LoadedGraph>,
}

impl Lane {
    fn run(mut self, worker: &Worker) {
        self.began = true;
        let usage = self.usage.clone();
        if let Some(joint) = &usage.joint {
            let calls = joint.queue().take(|call| call.done.is_closed());
            self.calls = calls.len();
            usage.run_together(&self.graph, calls, worker);
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let Some(joint) = &self.usage.joint else {
            return;
        };
        let act = {
            let mut queue = joint.queue();
            queue.ended(self.calls);
            if !self.began {
                // Nothing waits then, so nothing begins from here, where the lock of the threads is held.
                queue.give_up();
            }
            queue.decide(self.graph.lanes(), self.usage.active(), Instant::now())
        };
        self.usage.obey(act, &self.graph);
    }
}

/// Takes calls out of the queue whose callers have gone, when one does.
struct Forget<'a>(&'a Joint);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.queue().forget(|call| call.done.is_closed());
    }
}

#[cfg(test)]
mod tests;
