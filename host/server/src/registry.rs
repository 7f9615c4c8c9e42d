//! Models, deployments, environments, keys and secrets in the store: each change is one commit, so that nobody ever sees
//! half of one.

mod api_keys;
mod audit;
mod change;
mod error;
mod organization;
mod push;
mod sealed;
mod secrets;
mod unreadable;
mod webhook_secrets;

use std::collections::BTreeMap;
use std::sync::Arc;

use samovar_store::{Doc, DocStore, Expect, Lease, Op, Rev, StoreError};
use samovar_types::id::{DeploymentId, ModelId};
use samovar_types::names;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::audit::{Act, Author, Note};
use crate::domain::deployment::Deployment;
use crate::domain::environment::Environment;
use crate::domain::keys;
use crate::domain::model::{Model, ModelView};
pub use api_keys::MAX_API_KEYS;
pub use audit::{AuditLog, Entries, MAX_LOOKED_AT, Page};
pub use change::Changed;
pub use error::RegistryError;
pub use push::{Push, PushTo, Pushed};
pub use sealed::{LostSecrets, open_vault};
pub use secrets::Secrets;
pub use unreadable::{UnreadableDocument, UnreadableDocuments};
pub use webhook_secrets::WebhookSecrets;

/// A prefix that no document has.
const NO_DOCUMENT: &str = "-";
/// Attempts of a change that others' changes keep overtaking.
const ATTEMPTS: usize = 32;

/// Everything that a node starts with.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// All models.
    pub models: Vec<ModelView>,
    /// Changes after this revision may not be in it.
    pub rev: Rev,
}

/// A model with what hangs on it, as it is stored.
struct Stored {
    view: ModelView,
    /// The revisions of what hangs on it, by their keys.
    revs: BTreeMap<String, Rev>,
    /// What hangs on it and cannot be read, with the reasons. The view is without it.
    unreadable: BTreeMap<String, String>,
}

impl Stored {
    /// Refuses to write over a document that cannot be read.
    fn check(&self, ops: &[Op]) -> Result<(), RegistryError> {
        let found = ops
            .iter()
            .find_map(|op| self.unreadable.get_key_value(op.key()));
        match found {
            None => Ok(()),
            Some((key, reason)) => Err(RegistryError::InTheWay {
                key: key.clone(),
                reason: reason.clone(),
            }),
        }
    }
}

/// A value, and the revision that a change of it expects.
struct Versioned<T> {
    value: T,
    rev: Rev,
}

/// Models, deployments, environments and API keys in a store, as somebody changes them: what is changed is told by the
/// audit log in the same commit.
#[derive(Clone)]
pub struct Registry {
    store: Arc<dyn DocStore>,
    author: Author,
    /// On account of which changes are made, by a controller.
    lease: Option<Lease>,
    pushing: Arc<tokio::sync::Mutex<()>>,
    unreadable: UnreadableDocuments,
}

impl Registry {
    /// The registry in a store, as the server itself changes it.
    pub fn new(store: Arc<dyn DocStore>) -> Self {
        Self {
            store,
            author: Author::SYSTEM,
            lease: None,
            pushing: Arc::default(),
            unreadable: UnreadableDocuments::default(),
        }
    }

    /// The same, for changes that are made on account of a lease: they fail once another node has taken it.
    #[must_use]
    pub fn fenced(&self, lease: Lease) -> Self {
        Self {
            lease: Some(lease),
            ..self.clone()
        }
    }

    /// The stored documents that cannot be read.
    pub fn unreadable(&self) -> &UnreadableDocuments {
        &self.unreadable
    }

    /// All models, ordered by name.
    pub async fn models(&self) -> Result<Vec<ModelView>, RegistryError> {
        let mut models = self.recover().await?.models;
        models.sort_by(|a, b| a.model.name.cmp(&b.model.name));
        Ok(models)
    }

    /// A model by its id or name.
    pub async fn model(&self, id_or_name: &str) -> Result<ModelView, RegistryError> {
        match self.versioned_model(id_or_name).await? {
            Some(model) => Ok(self.stored(model.value).await?.view),
            None => Err(RegistryError::NoModel {
                model: shown(id_or_name),
            }),
        }
    }

    /// The newest revision of the store. Once the cache has observed it, the cache shows at least what was there now.
    pub async fn newest_rev(&self) -> Result<Rev, RegistryError> {
        // A prefix that no document has: nothing is read but the revision.
        Ok(self.store.list(NO_DOCUMENT).await?.rev)
    }

    /// A deployment by its model's id and its own.
    pub async fn deployment(
        &self,
        model_id: ModelId,
        id: DeploymentId,
    ) -> Result<Deployment, RegistryError> {
        Ok(self.versioned_deployment(model_id, id).await?.value)
    }

    /// Everything, for a node that starts. What cannot be read is reported and passed over, with all that hangs on it.
    pub async fn recover(&self) -> Result<Recovered, RegistryError> {
        let models = self.store.list(keys::MODELS).await?;
        let mut views: BTreeMap<ModelId, ModelView> = BTreeMap::new();
        for doc in &models.docs {
            if let Some(model) = self.unreadable.read::<Model>(doc) {
                views.insert(model.id, empty_view(model));
            }
        }
        // Of models made since, nothing is taken over: whoever follows the changes hears of them.
        for doc in self.store.list(keys::DEPLOYMENTS).await?.docs {
            let Some(deployment) = self.unreadable.read::<Deployment>(&doc) else {
                continue;
            };
            if let Some(view) = views.get_mut(&deployment.model_id) {
                view.deployments.insert(deployment.id, deployment.into());
            }
        }
        for doc in self.store.list(keys::ENVIRONMENTS).await?.docs {
            let Some(environment) = self.unreadable.read::<Environment>(&doc) else {
                continue;
            };
            if let Some(view) = views.get_mut(&environment.model_id) {
                view.environments
                    .insert(environment.name.clone(), environment);
            }
        }
        Ok(Recovered {
            models: views.into_values().collect(),
            rev: models.rev,
        })
    }

    /// Deletes a model with all its deployments and environments. Answers what it was, and the commit.
    pub async fn delete_model(&self, id_or_name: &str) -> Result<(ModelView, Rev), RegistryError> {
        for _ in 0..ATTEMPTS {
            let model = self.versioned_model(id_or_name).await?;
            let Versioned { value, rev } = model.ok_or_else(|| RegistryError::NoModel {
                model: shown(id_or_name),
            })?;
            let Stored {
                view,
                revs,
                unreadable,
            } = self.stored(value).await?;
            let mut ops = vec![
                // Fails when a deployment was added meanwhile, which would be left behind.
                Op::delete(keys::model(view.model.id), Expect::Rev(rev)),
                Op::delete(keys::model_name(&view.model.name), Expect::Any),
            ];
            let all = revs.into_keys().chain(unreadable.into_keys());
            ops.extend(all.map(|key| Op::delete(key, Expect::Any)));
            let note = Note {
                model: Some((view.model.id, view.model.name.clone())),
                ..Note::of_server(Act::ModelDeleted)
            };
            ops.extend(audit::entries(&self.author, vec![note])?);
            match self.store.commit(ops).await {
                Ok(rev) => return Ok((view, rev)),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended)
    }

    /// By id first: no name is another model's id.
    async fn versioned_model(
        &self,
        id_or_name: &str,
    ) -> Result<Option<Versioned<Model>>, RegistryError> {
        if let Ok(id) = id_or_name.parse::<ModelId>()
            && let Some(doc) = self.store.get(&keys::model(id)).await?
        {
            return versioned(&doc).map(Some);
        }
        if names::check_name(id_or_name).is_err() {
            return Ok(None);
        }
        let Some(doc) = self.store.get(&keys::model_name(id_or_name)).await? else {
            return Ok(None);
        };
        let id: ModelId = read(&doc)?;
        let doc = self.store.get(&keys::model(id)).await?;
        doc.as_ref().map(versioned).transpose()
    }

    async fn versioned_deployment(
        &self,
        model_id: ModelId,
        id: DeploymentId,
    ) -> Result<Versioned<Deployment>, RegistryError> {
        match self.store.get(&keys::deployment(model_id, id)).await? {
            Some(doc) => versioned(&doc),
            None => Err(RegistryError::NoDeployment {
                model: model_id.to_string(),
                deployment: id,
            }),
        }
    }

    /// The model with what hangs on it.
    async fn stored(&self, model: Model) -> Result<Stored, RegistryError> {
        let id = model.id;
        let mut stored = Stored {
            view: empty_view(model),
            revs: BTreeMap::new(),
            unreadable: BTreeMap::new(),
        };
        for doc in self.store.list(&keys::deployments(id)).await?.docs {
            if let Some(deployment) = self.part::<Deployment>(&doc, &mut stored) {
                stored
                    .view
                    .deployments
                    .insert(deployment.id, deployment.into());
            }
        }
        for doc in self.store.list(&keys::environments(id)).await?.docs {
            if let Some(environment) = self.part::<Environment>(&doc, &mut stored) {
                let name = environment.name.clone();
                stored.view.environments.insert(name, environment);
            }
        }
        Ok(stored)
    }

    /// Reads a document that hangs on a model.
    fn part<T: DeserializeOwned>(&self, doc: &Doc, stored: &mut Stored) -> Option<T> {
        match read(doc) {
            Ok(value) => {
                stored.revs.insert(doc.key.clone(), doc.rev);
                Some(value)
            }
            Err(error) => {
                stored.unreadable.insert(doc.key.clone(), error.to_string());
                self.unreadable.read::<T>(doc)
            }
        }
    }
}

fn empty_view(model: Model) -> ModelView {
    ModelView {
        model,
        deployments: BTreeMap::new(),
        environments: BTreeMap::new(),
        notes: Vec::new(),
    }
}

fn put<T: Serialize>(
    key: impl Into<String>,
    value: &T,
    expect: Expect,
) -> Result<Op, RegistryError> {
    let key = key.into();
    match serde_json::to_vec(value) {
        Ok(value) => Ok(Op::put(key, value, expect)),
        Err(source) => Err(RegistryError::Unreadable { key, source }),
    }
}

fn read<T: DeserializeOwned>(doc: &Doc) -> Result<T, RegistryError> {
    serde_json::from_slice(&doc.value).map_err(|source| RegistryError::Unreadable {
        key: doc.key.clone(),
        source,
    })
}

fn versioned<T: DeserializeOwned>(doc: &Doc) -> Result<Versioned<T>, RegistryError> {
    Ok(Versioned {
        value: read(doc)?,
        rev: doc.rev,
    })
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod previous_release_tests;
#[cfg(test)]
mod tests;
