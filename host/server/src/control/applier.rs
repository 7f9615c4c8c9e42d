//! Serves what the store says, beside whoever follows it: the newest view of each model, however long that takes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use samovar_types::id::Id;
use tokio::sync::Notify;

use crate::control::builder::Builder;
use crate::domain::model::ModelView;

/// What is to become of a model.
enum Wanted {
    Served(Box<ModelView>),
    Removed(Box<ModelView>),
}

/// Hands models over to be served.
#[derive(Clone)]
pub struct Applier {
    builder: Builder,
    wanted: Arc<Mutex<BTreeMap<Id, Wanted>>>,
    wake: Arc<Notify>,
}

impl Applier {
    /// Serves models by this builder, as long as [`Self::run`] runs.
    pub fn new(builder: Builder) -> Self {
        Self {
            builder,
            wanted: Arc::default(),
            wake: Arc::default(),
        }
    }

    /// Serves a model as it is in this view, unless a newer one comes before.
    pub fn serve(&self, view: ModelView) {
        self.want(view.model.id, Wanted::Served(Box::new(view)));
    }

    /// Serves a model no longer, of which this was the last view.
    pub fn remove(&self, view: ModelView) {
        self.want(view.model.id, Wanted::Removed(Box::new(view)));
    }

    fn want(&self, model: Id, wanted: Wanted) {
        self.lock().insert(model, wanted);
        self.wake.notify_one();
    }

    /// Serves what is handed over, for as long as the node runs.
    pub async fn run(self) {
        loop {
            self.wake.notified().await;
            let wanted = std::mem::take(&mut *self.lock());
            for one in wanted.into_values() {
                self.apply(one).await;
            }
        }
    }

    async fn apply(&self, wanted: Wanted) {
        let serving = self.builder.serving.clone();
        match wanted {
            Wanted::Served(view) => {
                // What this node changed itself is served already.
                let served = serving.has(view.model.id, view.model.generation);
                if !served && let Err(error) = self.builder.apply((*view).clone()).await {
                    let model = &view.model.name;
                    tracing::error!(model, %error, "cannot be served whole");
                }
                // Whoever asked for a build may be gone.
                if serving.is_newest(&view) {
                    self.builder.build_unfinished(&view);
                }
            }
            // Running requests finish first, which others must not wait for.
            Wanted::Removed(view) => {
                tokio::spawn(async move { serving.remove_model(&view).await });
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id, Wanted>> {
        // A map of whole views is whole at every instant.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
