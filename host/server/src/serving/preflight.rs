//! Preflight: compile, load graphs and start one replica of a bundle before any traffic. Serving the bundle afterwards takes
//! the replica over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use samovar_types::digest::Digest;
use samovar_types::id::DeploymentId;

use super::{ServeError, Served, Serving};
use crate::domain::deployment::Deployment;
use crate::domain::model::ModelView;
use crate::domain::observed::BuildPhase;

/// The deployments whose preflight succeeded and that are not served yet.
#[derive(Default)]
pub(super) struct Preflights(Mutex<HashMap<DeploymentId, Arc<Served>>>);

impl Preflights {
    /// What the preflight of a deployment started, if that was of this bundle.
    pub fn of(&self, deployment: DeploymentId, bundle: Digest) -> Option<Arc<Served>> {
        let served = self.lock().get(&deployment).cloned();
        served.filter(|served| served.bundle_digest == bundle)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeploymentId, Arc<Served>>> {
        // One insertion or removal at a time, which no panic cuts in two.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the time of a preflight went.
#[derive(Debug, Clone, Copy, Default)]
pub struct PreflightTimings {
    /// Checking and compiling the component, or finding it compiled.
    pub compile: Duration,
    /// Loading its graphs.
    pub graphs: Duration,
    /// Starting its first replica, `init` included.
    pub start: Duration,
}

/// A deployment that works. While this is held, serving it takes over the replica that is up.
pub struct Preflighted<'s> {
    serving: &'s Serving,
    served: Arc<Served>,
    /// Where the time went.
    pub timings: PreflightTimings,
}

impl Drop for Preflighted<'_> {
    fn drop(&mut self) {
        let mut preflights = self.serving.preflights.lock();
        let id = self.served.id;
        if preflights
            .get(&id)
            .is_some_and(|one| Arc::ptr_eq(one, &self.served))
        {
            preflights.remove(&id);
        }
    }
}

impl Serving {
    /// Finds out whether a deployment can be served: compiles its component, loads its graphs, starts a replica. What is
    /// served of it now is not touched. `reached` is called at the start of each phase.
    ///
    /// # Errors
    /// What is wrong with its bundle.
    pub async fn preflight(
        &self,
        view: &ModelView,
        deployment: &Deployment,
        reached: impl Fn(BuildPhase),
    ) -> Result<Preflighted<'_>, ServeError> {
        self.parts
            .secrets
            .require(&deployment.bundle.secrets)
            .await?;
        for digest in deployment.bundle.blobs().into_keys() {
            self.parts.blobs.check(digest).await?;
        }
        let (spec, files) = self.spec(view, deployment).await?;
        let mut timings = PreflightTimings::default();
        reached(BuildPhase::Compiling);
        let begun = Instant::now();
        self.parts.runtime.admit(&spec.component).await?;
        self.parts.runtime.admit_snapshot(&spec).await?;
        timings.compile = begun.elapsed();

        reached(BuildPhase::Loading);
        let begun = Instant::now();
        // Held until the replica holds them, so that none is loaded twice.
        let mut graphs = Vec::with_capacity(spec.graphs.len());
        for graph in &spec.graphs {
            let admitted = self.parts.runtime.admit_graph(graph).await;
            graphs.push(admitted.map_err(|source| ServeError::Graph {
                name: graph.name.clone(),
                source,
            })?);
        }
        timings.graphs = begun.elapsed();

        reached(BuildPhase::Starting);
        let begun = Instant::now();
        let served = Arc::new(self.served_by(deployment, spec, files));
        served.pool.prewarm(1).await.map_err(ServeError::Start)?;
        drop(graphs);
        timings.start = begun.elapsed();
        self.preflights.lock().insert(served.id, served.clone());
        Ok(Preflighted {
            serving: self,
            served,
            timings,
        })
    }
}
