//! The start of a replica. It belongs to the pool: the request that needs it drives it, which costs no task, and when that
//! request has gone a task of its own brings it to its end, for those who come next.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::runtime::Handle;

use super::replica_id::replica_id;
use super::{Pool, PoolLease, RunError};
use crate::account::Account;
use crate::artifact::{Artifact, ArtifactError};
use crate::infer::loading::Loading;
use crate::infer::nn::{NnCtx, NnLimits};
use crate::log::{Level, ReplicaLog};
use crate::pool::registry::Listed;
use crate::pool::replica::{Blueprint, Replica, StartError, StartTimings};

type Started = Result<(Box<Replica>, StartTimings), RunError>;

/// How long a start waits before it asks the engine for room again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

struct UnderWay {
    pool: Arc<Pool>,
    lease: PoolLease,
    start: BoxFuture<'static, Started>,
}

/// A start that goes on when this is dropped.
pub(super) struct Starting {
    /// Gone when it is over.
    under_way: Option<UnderWay>,
}

impl Starting {
    /// Starts a replica in a place of the pool's.
    pub(super) fn new(pool: Arc<Pool>, lease: PoolLease) -> Self {
        let starts = pool.clone();
        let start = Box::pin(async move {
            let mut timings = StartTimings::default();
            let replica = starts.start(&mut timings).await?;
            Ok((replica, timings))
        });
        Self {
            under_way: Some(UnderWay { pool, lease, start }),
        }
    }
}

impl Future for Starting {
    type Output = Result<(PoolLease, Box<Replica>, StartTimings), RunError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Taken out, so that a start that panics is not polled again by the task that would go on with it.
        let Some(mut under_way) = self.under_way.take() else {
            return Poll::Pending;
        };
        match under_way.start.as_mut().poll(cx) {
            Poll::Pending => {
                self.under_way = Some(under_way);
                Poll::Pending
            }
            Poll::Ready(started) => {
                Poll::Ready(started.map(|(replica, took)| (under_way.lease, replica, took)))
            }
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let Some(mut under_way) = self.under_way.take() else {
            return;
        };
        // Without an executor the node is going down.
        let Ok(executor) = Handle::try_current() else {
            return;
        };
        under_way.lease.request_left(Instant::now());
        executor.spawn(async move {
            // Why it did not start was noted by the start.
            if let Ok((replica, _)) = under_way.start.await {
                under_way.pool.give_back(under_way.lease, replica);
            }
        });
    }
}

impl Pool {
    /// Starts a replica, unless too many failed to just now. Waits for room in the engine, for which nobody is called ill.
    pub(super) async fn start(&self, timings: &mut StartTimings) -> Result<Box<Replica>, RunError> {
        let _attempt = self
            .health
            .may_start(Instant::now())
            .map_err(RunError::Unhealthy)?;
        loop {
            let listed = self.roster.enter(replica_id);
            let (id, card) = (listed.id().to_owned(), listed.card());
            let killed = tokio::task::unconstrained(poll_fn(|cx| card.poll_killed(cx)));
            let made = tokio::select! {
                biased;
                made = self.make(listed, timings) => made,
                () = killed => Err(StartError::Stopped),
            };
            let error = match made {
                Ok(replica) => {
                    self.health.started();
                    return Ok(Box::new(replica));
                }
                Err(error) => error,
            };
            match &error {
                StartError::Exhausted(_) if !self.lock().is_closed() => {
                    tracing::debug!(%error, "a start waits");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    continue;
                }
                // By the engine or by us, which says nothing about the deployment.
                StartError::Exhausted(_) | StartError::Stopped => {}
                _ => {
                    self.health.start_failed(&error.to_string());
                    let log = ReplicaLog::new(self.spec.log.clone(), id);
                    log.write(Level::Error, format!("the replica did not start: {error}"));
                }
            }
            return Err(error.into());
        }
    }

    async fn make(
        &self,
        listed: Listed,
        timings: &mut StartTimings,
    ) -> Result<Replica, StartError> {
        // Before anything is read from them: what is made of a damaged file would be kept beyond its repair.
        if let Some(files) = &self.spec.files {
            files.check().await.map_err(StartError::Files)?;
        }
        let machine = &self.machine;
        let graphs = Loading::new(machine.graphs.clone(), self.spec.graphs.clone());
        let started = tokio::select! {
            biased;
            // Polled first, so that they load from the beginning; when one fails, whatever fails for want of it is not
            // the reason.
            error = graphs.failure() => Err(error.into()),
            started = self.make_beside(&graphs, listed, timings) => started,
        };
        let started = started?;
        let loaded = graphs.ready().await?;
        timings.graphs = loaded.took;
        self.see_graphs(&loaded.graphs);
        Ok(started)
    }

    async fn artifact(&self) -> Result<Arc<Artifact>, Arc<ArtifactError>> {
        let spec = &self.spec;
        let artifacts = &self.machine.artifacts;
        let Some(seen) = &spec.snapshot else {
            return artifacts.get(&spec.component).await;
        };
        let artifact = artifacts
            .get_snapshot(&spec.component, seen, self.machine.setting(spec))
            .await?;
        self.see_snapshot(&artifact.snapshot);
        Ok(artifact)
    }

    /// Makes the replica while its graphs load.
    async fn make_beside(
        &self,
        graphs: &Loading,
        listed: Listed,
        timings: &mut StartTimings,
    ) -> Result<Replica, StartError> {
        let machine = &self.machine;
        let begun = Instant::now();
        let artifact = self.artifact().await.map_err(StartError::Artifact)?;
        timings.artifact = begun.elapsed();
        let slot = self.share.take(artifact.slots).await;
        let nn = NnCtx::new(
            graphs.clone(),
            self.uses.clone(),
            machine.graphs.clone(),
            NnLimits {
                account: Account::new(self.spec.limits.memory_bytes),
                load_from_bytes: self.spec.capabilities.load_graphs_from_bytes,
                own_engine: self.spec.own_engine.clone(),
            },
            self.meter.clone(),
        );
        let blueprint = Blueprint {
            engine: &machine.engine,
            capabilities: &self.spec.capabilities,
            limits: &self.spec.limits,
            log: self.spec.log.clone(),
            listed,
            meter: self.meter.clone(),
            graphs,
        };
        Replica::start(&artifact, blueprint, nn, slot, timings).await
    }
}
