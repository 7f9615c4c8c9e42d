//! The start of a replica. The request that needs the replica polls the start, which saves a task; when that request is gone,
//! the start continues in a task of its own, for the next request.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::runtime::Handle;

use super::registry::RegistryGuard;
use super::replica::{Replica, StartContext, StartError, StartTimings};
use super::replica_id::replica_id;
use super::{Pool, PoolLease, RunError};
use crate::account::Account;
use crate::artifact::{Artifact, ArtifactError};
use crate::infer::graph::loading::LoadingGraphs;
use crate::infer::nn::{NnCtx, NnLimits};
use crate::log::{Level, ReplicaLog};

type Started = Result<(Box<Replica>, StartTimings), RunError>;

/// Time until a start asks the engine again for room that it did not have.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

struct Pending {
    pool: Arc<Pool>,
    lease: PoolLease,
    start: BoxFuture<'static, Started>,
}

/// A start that continues in the background when this is dropped.
pub(super) struct Starting {
    /// `None` once the start is over.
    pending: Option<Pending>,
}

impl Starting {
    /// Starts a replica in the place of `lease`.
    pub(super) fn new(pool: Arc<Pool>, lease: PoolLease) -> Self {
        let owner = pool.clone();
        let start = Box::pin(async move {
            let mut timings = StartTimings::default();
            let replica = owner.start(&mut timings).await?;
            Ok((replica, timings))
        });
        Self {
            pending: Some(Pending { pool, lease, start }),
        }
    }
}

impl Future for Starting {
    type Output = Result<(PoolLease, Box<Replica>, StartTimings), RunError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Taken out, so that a start that panics is not polled again in the background.
        let Some(mut pending) = self.pending.take() else {
            return Poll::Pending;
        };
        match pending.start.as_mut().poll(cx) {
            Poll::Pending => {
                self.pending = Some(pending);
                Poll::Pending
            }
            Poll::Ready(started) => {
                Poll::Ready(started.map(|(replica, took)| (pending.lease, replica, took)))
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let Some(mut pending) = self.pending.take() else {
            return;
        };
        // Without an executor the node is shutting down.
        let Ok(executor) = Handle::try_current() else {
            return;
        };
        pending.lease.abandon_request(Instant::now());
        executor.spawn(async move {
            // A failure was recorded by `start`.
            if let Ok((replica, _)) = pending.start.await {
                pending.pool.give_back(pending.lease, replica);
            }
        });
    }
}

impl Pool {
    /// Starts a replica, unless the circuit breaker refuses. Waits while the engine has no room, which does not count as a
    /// failure.
    pub(super) async fn start(&self, timings: &mut StartTimings) -> Result<Box<Replica>, RunError> {
        let _probe = self
            .breaker
            .try_start(Instant::now())
            .map_err(RunError::Unhealthy)?;
        loop {
            let registration = self.registry.register(replica_id);
            let (id, entry) = (registration.id().to_owned(), registration.entry());
            let killed = tokio::task::unconstrained(poll_fn(|cx| entry.poll_killed(cx)));
            let made = tokio::select! {
                biased;
                made = self.make(registration, timings) => made,
                () = killed => Err(StartError::Stopped),
            };
            let error = match made {
                Ok(replica) => {
                    self.breaker.record_success();
                    return Ok(Box::new(replica));
                }
                Err(error) => error,
            };
            match &error {
                StartError::Exhausted(_) if !self.lock().is_closed() => {
                    tracing::debug!(%error, "start of a replica waits for room in the engine");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    continue;
                }
                // Caused by the node, which says nothing about the deployment.
                StartError::Exhausted(_) | StartError::Stopped => {}
                _ => {
                    self.breaker.record_failure(&error.to_string());
                    let log = ReplicaLog::new(self.spec.log.clone(), id);
                    log.write(Level::Error, format!("the replica did not start: {error}"));
                }
            }
            return Err(error.into());
        }
    }

    /// Makes a replica while its graphs load.
    async fn make(
        &self,
        registration: RegistryGuard,
        timings: &mut StartTimings,
    ) -> Result<Replica, StartError> {
        // Before anything is read from the files: what is made from a damaged one would outlive its repair.
        if let Some(files) = &self.spec.files {
            files.check().await.map_err(StartError::Files)?;
        }
        let node = &self.node;
        let graphs = LoadingGraphs::new(node.graphs.clone(), self.spec.graphs.clone());
        let started = tokio::select! {
            biased;
            // Polled first: graphs start to load at once, and when one fails, that is the error, and not what fails without
            // it.
            error = graphs.failure() => Err(error.into()),
            started = self.instantiate(&graphs, registration, timings) => started,
        };
        let started = started?;
        let loaded = graphs.ready().await?;
        timings.graphs = loaded.took;
        self.record_graphs(&loaded.graphs);
        Ok(started)
    }

    /// The compiled component, with its snapshot if the deployment asks for one.
    async fn artifact(&self) -> Result<Arc<Artifact>, Arc<ArtifactError>> {
        let spec = &self.spec;
        let artifacts = &self.node.artifacts;
        let Some(inputs) = &spec.snapshot else {
            return artifacts.get(&spec.component).await;
        };
        let artifact = artifacts
            .get_snapshot(&spec.component, inputs, self.node.snapshot_context(spec))
            .await?;
        self.record_snapshot(&artifact.snapshot);
        Ok(artifact)
    }

    /// Makes a replica, which waits for its graphs where it needs them.
    async fn instantiate(
        &self,
        graphs: &LoadingGraphs,
        registration: RegistryGuard,
        timings: &mut StartTimings,
    ) -> Result<Replica, StartError> {
        let node = &self.node;
        let begun = Instant::now();
        let artifact = self.artifact().await.map_err(StartError::Artifact)?;
        timings.artifact = begun.elapsed();
        let slot = self.share.acquire(artifact.slots).await;
        let nn = NnCtx::new(
            graphs.clone(),
            self.graph_uses.clone(),
            node.graphs.clone(),
            NnLimits {
                account: Account::new(self.spec.limits.memory_bytes),
                load_from_bytes: self.spec.capabilities.load_graphs_from_bytes,
                own_engine: self.spec.own_engine.clone(),
            },
            self.metrics.clone(),
        );
        let context = StartContext {
            engine: &node.engine,
            capabilities: &self.spec.capabilities,
            limits: &self.spec.limits,
            log: self.spec.log.clone(),
            registration,
            metrics: self.metrics.clone(),
            graphs,
        };
        Replica::start(&artifact, context, nn, slot, timings).await
    }
}
