//! Reloads of development deployments: the new code is rehearsed while the old one serves, then takes its place. One at a
//! time for each deployment, in the order in which they came.
//!
//! That a reload goes on is known in memory alone. What is stored changes with one commit, once the new code is up, so a
//! node that is killed comes back with the old bundle or the new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use samovar_types::bundle::Bundle;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::Id;

use crate::control::builder::Builder;
use crate::control::garbage::{Garbage, GarbageError};
use crate::control::serving::{RehearsalTimings, ServeError, Served};
use crate::domain::audit::Author;
use crate::domain::changes::{Done, Reload};
use crate::domain::model::{ModelView, Target, Unresolved};
use crate::registry::{Registry, RegistryError};

/// Reloads of one deployment that may wait for their turn.
pub const MAX_WAITING: usize = 16;

/// Why a development deployment goes on with what it had.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// There is none.
    #[error("{0}: push one with `development`")]
    NoDevelopment(Unresolved),
    /// Blobs are missing, or cannot be looked at.
    #[error(transparent)]
    Blobs(#[from] GarbageError),
    /// The new code does not work.
    #[error("{source}; {}", match before {
        Before::Serves => "the code that was there goes on serving",
        Before::Silent => "the deployment stays as it was",
    })]
    Refused {
        /// What is wrong with it.
        source: ServeError,
        /// What it would have taken the place of.
        before: Before,
    },
    /// The change is refused, or cannot be stored.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is stored cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The deployment was deleted meanwhile.
    #[error("the reload was stopped: the deployment was deleted meanwhile")]
    Deleted,
    /// Others came first.
    #[error("{MAX_WAITING} reloads of this deployment wait already: try again when they are done")]
    TooMany,
}

/// Whether there is code that goes on serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// There is.
    Serves,
    /// It never worked, or is switched off.
    Silent,
}

/// How a reload went.
#[derive(Debug)]
pub struct Reloaded {
    /// The model as it is now.
    pub view: ModelView,
    /// The development deployment.
    pub id: Id,
    /// Whether other code serves now.
    pub done: Done,
    /// Where the time of its rehearsal went.
    pub rehearsal: RehearsalTimings,
    /// Storing it and letting requests in.
    pub switch: Duration,
}

/// Carries reloads out.
#[derive(Clone)]
pub struct Reloader {
    /// As somebody changes it; the builder goes on by itself.
    registry: Registry,
    builder: Builder,
    garbage: Garbage,
    lines: Lines,
}

impl Reloader {
    /// Reloads what the builder's registry holds.
    pub fn new(builder: Builder, garbage: Garbage) -> Self {
        Self {
            registry: builder.registry.clone(),
            builder,
            garbage,
            lines: Lines::default(),
        }
    }

    /// The same, for reloads that this author asks for.
    #[must_use]
    pub fn by(&self, author: Author) -> Self {
        Self {
            registry: self.registry.by(author),
            ..self.clone()
        }
    }

    /// Whether a deployment is being reloaded now.
    pub fn is_reloading(&self, deployment: Id) -> bool {
        self.lines.lock().contains_key(&deployment)
    }

    /// Swaps the bundle of a model's development deployment. It answers when the new code serves, or when that failed and
    /// nothing was changed.
    ///
    /// # Errors
    /// Why nothing was changed.
    pub async fn reload(&self, model: &str, reload: Reload) -> Result<Reloaded, ReloadError> {
        // First, so that who has none to reload may make one of the blobs that are there.
        let view = self.registry.model(model).await?;
        let found = view.find(Target::Development);
        let id = found.map_err(ReloadError::NoDevelopment)?.id;
        let kept = self.garbage.keep(&reload.bundle).await?;
        let ended = self.swap(view.model.id, id, &reload).await;
        drop(kept);
        if ended.is_err() {
            // Nothing of it is kept, unless something else has it too.
            self.collect(&reload.bundle).await;
        }
        ended
    }

    async fn swap(&self, model: Id, id: Id, reload: &Reload) -> Result<Reloaded, ReloadError> {
        let place = self.lines.enter(id).ok_or(ReloadError::TooMany)?;
        let _turn = place.turn.lock().await;

        // As those before have left it.
        let view = self.registry.model(model.as_str()).await?;
        let before = view.deployment(id).map_err(RegistryError::from)?;
        let begun = before.status;
        let next = view.reloaded(id, reload).map_err(RegistryError::from)?;
        if next.bundle_digest == before.bundle_digest && begun.serves() {
            return self.relabel(&view, id, begun, reload).await;
        }
        let serving = &self.builder.serving;
        let reloading = serving.builds().begin_reload(model, id);
        let rehearsed = tokio::select! {
            biased;
            () = reloading.stopped() => return Err(ReloadError::Deleted),
            rehearsed = serving.rehearse(&view, &next) => rehearsed,
        };
        drop(reloading);
        let rehearsed = rehearsed.map_err(|source| ReloadError::Refused {
            source,
            before: match begun.serves() {
                true => Before::Serves,
                false => Before::Silent,
            },
        })?;

        let switching = Instant::now();
        let old_code = self.builder.serving.served(view.model.id, id);
        let old_bundle = before.bundle.clone();
        let (view, done) = self.store(&view, id, begun, reload).await?;
        self.builder.apply(view.clone()).await?;
        let reloaded = Reloaded {
            view,
            id,
            done,
            rehearsal: rehearsed.timings,
            switch: switching.elapsed(),
        };
        drop(rehearsed);
        let reloader = self.clone();
        tokio::spawn(async move { reloader.leave(old_code, &old_bundle).await });
        Ok(reloaded)
    }

    /// The same code under other labels.
    async fn relabel(
        &self,
        view: &ModelView,
        id: Id,
        begun: DeploymentStatus,
        reload: &Reload,
    ) -> Result<Reloaded, ReloadError> {
        let (view, _) = self.store(view, id, begun, reload).await?;
        self.builder.apply(view.clone()).await?;
        Ok(Reloaded {
            view,
            id,
            done: Done::Unchanged,
            rehearsal: RehearsalTimings::default(),
            switch: Duration::ZERO,
        })
    }

    async fn store(
        &self,
        view: &ModelView,
        id: Id,
        begun: DeploymentStatus,
        reload: &Reload,
    ) -> Result<(ModelView, Done), ReloadError> {
        let (registry, model) = (&self.registry, view.model.id);
        let changed = registry
            .change(model.as_str(), |view| view.reload(id, begun, reload))
            .await;
        match changed {
            Ok(changed) => Ok((changed.view, changed.value)),
            // It may have been stored all the same; then the new code has to serve.
            Err(error @ RegistryError::Store(_)) => match registry.model(model.as_str()).await {
                Ok(now) if now.reloaded(id, reload).ok().as_ref() == now.deployments.get(&id) => {
                    Ok((now, Done::Changed))
                }
                _ => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the requests finish that are on the old code, then takes away what it alone had.
    async fn leave(&self, code: Option<Arc<Served>>, bundle: &Bundle) {
        self.builder
            .serving
            .retire(code.into_iter().collect())
            .await;
        self.collect(bundle).await;
    }

    async fn collect(&self, bundle: &Bundle) {
        if let Err(error) = self.garbage.collect([bundle]).await {
            tracing::warn!(%error, "blobs that nobody names stay until a later start");
        }
    }
}

/// Who reloads which deployment: a deployment is in it for as long as somebody does.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<HashMap<Id, Line>>>);

/// Those who reload one deployment, one after the other.
#[derive(Default)]
struct Line {
    turn: Arc<tokio::sync::Mutex<()>>,
    length: usize,
}

/// A place in a line.
struct Place {
    lines: Lines,
    deployment: Id,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Lines {
    /// A place in a deployment's line, if it is not too long.
    fn enter(&self, deployment: Id) -> Option<Place> {
        let mut lines = self.lock();
        let line = lines.entry(deployment).or_default();
        // One has its turn, the others wait.
        if line.length > MAX_WAITING {
            return None;
        }
        line.length += 1;
        Some(Place {
            lines: self.clone(),
            deployment,
            turn: line.turn.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Line>> {
        // A count at a time, which no panic cuts in two.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        if let Some(line) = lines.get_mut(&self.deployment) {
            line.length -= 1;
            if line.length == 0 {
                lines.remove(&self.deployment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random_id;

    #[test]
    fn a_line_is_there_while_somebody_is_in_it_and_has_an_end() {
        let lines = Lines::default();
        let id = random_id();
        let known = || lines.lock().contains_key(&id);
        let places: Vec<_> = std::iter::from_fn(|| lines.enter(id)).collect();
        assert_eq!(places.len(), MAX_WAITING + 1);
        assert!(lines.enter(random_id()).is_some(), "another has its own");
        assert!(Arc::ptr_eq(&places[0].turn, &places[1].turn));
        let mut places = places.into_iter();
        places.next();
        assert!(lines.enter(id).is_some());
        drop(places);
        assert!(!known());
    }
}
