//! A bundle's first start, before anybody is sent to it: compiled, its graphs loaded, one replica up. The replica is kept
//! for the moment that it is served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use samovar_types::digest::Digest;
use samovar_types::id::Id;

use super::{ServeError, Served, Serving};
use crate::domain::deployment::Deployment;
use crate::domain::model::ModelView;
use crate::domain::observed::BuildPhase;

/// The deployments that were rehearsed and are not served yet.
#[derive(Default)]
pub(super) struct Rehearsals(Mutex<HashMap<Id, Arc<Served>>>);

impl Rehearsals {
    /// What was rehearsed of a deployment, if that is this bundle.
    pub fn of(&self, deployment: Id, bundle: Digest) -> Option<Arc<Served>> {
        let rehearsed = self.lock().get(&deployment).cloned();
        rehearsed.filter(|served| served.bundle_digest == bundle)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Arc<Served>>> {
        // One insertion or removal at a time, which no panic cuts in two.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the time of a rehearsal went.
#[derive(Debug, Clone, Copy, Default)]
pub struct RehearsalTimings {
    /// Checking and compiling the component, or finding it compiled.
    pub compile: Duration,
    /// Loading its graphs.
    pub graphs: Duration,
    /// Starting its first replica, `init` included.
    pub start: Duration,
}

/// A deployment that works. While this is held, serving it takes over the replica that is up.
pub struct Rehearsed<'s> {
    serving: &'s Serving,
    served: Arc<Served>,
    /// Where the time went.
    pub timings: RehearsalTimings,
}

impl Drop for Rehearsed<'_> {
    fn drop(&mut self) {
        let mut rehearsals = self.serving.rehearsals.lock();
        let id = self.served.id;
        if rehearsals
            .get(&id)
            .is_some_and(|one| Arc::ptr_eq(one, &self.served))
        {
            rehearsals.remove(&id);
        }
    }
}

impl Serving {
    /// Finds out whether a deployment can be served: compiles its component, loads its graphs, starts a replica. What is
    /// served of it now goes on.
    ///
    /// # Errors
    /// What is wrong with its bundle.
    pub async fn rehearse(
        &self,
        view: &ModelView,
        deployment: &Deployment,
    ) -> Result<Rehearsed<'_>, ServeError> {
        self.rehearse_telling(view, deployment, |_| {}).await
    }

    /// The same, telling how far it has come.
    ///
    /// # Errors
    /// What is wrong with its bundle.
    pub async fn rehearse_telling(
        &self,
        view: &ModelView,
        deployment: &Deployment,
        reached: impl Fn(BuildPhase),
    ) -> Result<Rehearsed<'_>, ServeError> {
        self.secrets.require(&deployment.bundle.secrets).await?;
        for digest in deployment.bundle.blobs().into_keys() {
            self.blobs.check(digest).await?;
        }
        let (spec, files) = self.spec(view, deployment).await?;
        let mut timings = RehearsalTimings::default();
        reached(BuildPhase::Compiling);
        let begun = Instant::now();
        self.runtime.admit(&spec.component).await?;
        self.runtime.admit_snapshot(&spec).await?;
        timings.compile = begun.elapsed();

        reached(BuildPhase::Loading);
        let begun = Instant::now();
        // Held until the replica holds them, so that none is loaded twice.
        let mut graphs = Vec::with_capacity(spec.graphs.len());
        for graph in &spec.graphs {
            let admitted = self.runtime.admit_graph(graph).await;
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
        self.rehearsals.lock().insert(served.id, served.clone());
        Ok(Rehearsed {
            serving: self,
            served,
            timings,
        })
    }
}
