//! The documents of the store as this node has read them, and what each change of one means. The informer alone writes
//! here; everything that acts on the catalog reads it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use samovar_store::Rev;
use samovar_types::digest::Digest;
use samovar_types::id::{DeploymentId, ModelId};
use tokio::sync::watch;

use crate::domain::api_key::ApiKey;
use crate::domain::audit::Entry;
use crate::domain::deployment::Deployment;
use crate::domain::environment::Environment;
use crate::domain::events::{Event, EventId, What};
use crate::domain::keys::Key;
use crate::domain::model::{Model, ModelView};

/// Events that one changed document may tell of.
const EVENTS_OF_ONE: u32 = 2;

/// What this node has read of the catalog. Models are shared, never copied.
pub struct Cache {
    documents: RwLock<Documents>,
    /// The revision that the documents show and every observer has been called for.
    observed: watch::Sender<Option<Rev>>,
    /// When the store has last said how far it is, which it does every few seconds.
    heard: Mutex<Option<Instant>>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            documents: RwLock::default(),
            observed: watch::Sender::new(None),
            heard: Mutex::default(),
        }
    }
}

impl Cache {
    /// A model with everything that hangs on it.
    pub fn model(&self, id: ModelId) -> Option<Arc<ModelView>> {
        self.read(|documents| documents.view(id))
    }

    /// All models.
    pub fn models(&self) -> Vec<Arc<ModelView>> {
        self.read(|documents| documents.views.values().cloned().collect())
    }

    /// Whether the bundle of any deployment names a blob.
    pub fn names_blob(&self, digest: &Digest) -> bool {
        self.read(|documents| documents.blobs.contains_key(digest))
    }

    /// Up to which revision the store has been read.
    pub fn observed(&self) -> Rev {
        self.observed.borrow().unwrap_or_default()
    }

    /// Whether the store was read once: everything that was in it is known here.
    pub fn is_synced(&self) -> bool {
        self.observed.borrow().is_some()
    }

    /// When the store was last heard of; nothing before it was read once.
    pub fn heard(&self) -> Option<Instant> {
        // An instant is whole at every instant.
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes whenever more has been read.
    pub fn subscribe(&self) -> watch::Receiver<Option<Rev>> {
        self.observed.subscribe()
    }

    /// Waits until the store has been read up to a revision.
    pub async fn reach(&self, rev: Rev) {
        let mut observed = self.observed.subscribe();
        // Ends only with the cache, which is borrowed.
        let _ = observed.wait_for(|observed| *observed >= Some(rev)).await;
    }

    /// Notes up to where the store has been read; answers whether that is the first time.
    pub(crate) fn set_observed(&self, rev: Rev) -> bool {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.observed.send_replace(Some(rev)).is_none()
    }

    pub(super) fn write<T>(&self, write: impl FnOnce(&mut Documents) -> T) -> T {
        let documents = self.documents.write();
        write(&mut documents.unwrap_or_else(PoisonError::into_inner))
    }

    fn read<T>(&self, read: impl FnOnce(&Documents) -> T) -> T {
        // A document is taken over whole, so a panic leaves none half-written.
        read(
            &self
                .documents
                .read()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// What the change of a document means.
#[derive(Debug, Default, PartialEq)]
pub struct Delta {
    /// What happened.
    pub events: Vec<Event>,
    /// The model that is another now.
    pub model: Option<ModelId>,
    /// The API key that is another now: there with what it is, or gone.
    pub api_key: Option<(String, Option<ApiKey>)>,
    /// The name of the secret that has another value, or none.
    pub secret: Option<String>,
}

/// Documents, for comparing them with what they become.
#[derive(Debug, Default)]
pub struct Documents {
    models: BTreeMap<ModelId, Model>,
    deployments: BTreeMap<(ModelId, DeploymentId), Arc<Deployment>>,
    environments: BTreeMap<(ModelId, String), Environment>,
    api_keys: BTreeMap<String, ApiKey>,
    /// Each model put together, as of the last [`Self::publish`].
    views: BTreeMap<ModelId, Arc<ModelView>>,
    /// Blobs that bundles name, each with how many deployments do.
    blobs: HashMap<Digest, usize>,
    /// Those that were named once and are not any more, since they were last taken.
    unnamed: BTreeSet<Digest>,
}

impl Documents {
    /// Knows all of these.
    pub fn of(views: Vec<ModelView>, api_keys: BTreeMap<String, ApiKey>) -> Self {
        let mut documents = Self {
            api_keys,
            ..Self::default()
        };
        for view in views {
            let id = view.model.id;
            documents.models.insert(id, view.model.clone());
            for (key, one) in &view.deployments {
                documents.put_deployment((id, *key), one.clone());
            }
            let environments = view.environments.iter();
            documents
                .environments
                .extend(environments.map(|(key, one)| ((id, key.clone()), one.clone())));
            documents.views.insert(id, Arc::new(view));
        }
        documents
    }

    /// The ids of the models.
    pub fn models(&self) -> impl Iterator<Item = ModelId> {
        self.views.keys().copied()
    }

    /// The API keys by their prefixes.
    pub fn api_keys(&self) -> &BTreeMap<String, ApiKey> {
        &self.api_keys
    }

    /// A model with everything that hangs on it, as of the last [`Self::publish`].
    pub fn view(&self, id: ModelId) -> Option<Arc<ModelView>> {
        self.views.get(&id).cloned()
    }

    /// Puts models together as they are now.
    pub fn publish(&mut self, models: &BTreeSet<ModelId>) {
        for id in models {
            match self.put_together(*id) {
                Some(view) => self.views.insert(*id, Arc::new(view)),
                None => self.views.remove(id),
            };
        }
    }

    /// The blobs that no deployment names any more since this was last asked.
    pub fn take_unnamed(&mut self) -> BTreeSet<Digest> {
        let unnamed = std::mem::take(&mut self.unnamed).into_iter();
        unnamed
            .filter(|digest| !self.blobs.contains_key(digest))
            .collect()
    }

    /// The blobs that these name and others do not.
    pub fn blobs_without(&self, other: &Self) -> BTreeSet<Digest> {
        let named = self.blobs.keys().copied();
        named
            .filter(|digest| !other.blobs.contains_key(digest))
            .collect()
    }

    fn put_together(&self, id: ModelId) -> Option<ModelView> {
        let of_model = |key: &ModelId| *key == id;
        let deployments = self
            .deployments
            .range((id, DeploymentId::FIRST)..)
            .take_while(|((model, _), _)| of_model(model));
        let environments = self
            .environments
            .range((id, String::new())..)
            .take_while(|((model, _), _)| of_model(model));
        Some(ModelView {
            model: self.models.get(&id)?.clone(),
            deployments: deployments
                .map(|((_, key), one)| (*key, one.clone()))
                .collect(),
            environments: environments
                .map(|((_, key), one)| (key.clone(), one.clone()))
                .collect(),
            notes: Vec::new(),
        })
    }

    fn put_deployment(&mut self, key: (ModelId, DeploymentId), deployment: Arc<Deployment>) {
        // First what it names now, so that what it named before is not gone for a moment.
        for digest in deployment.bundle.blobs().into_keys() {
            *self.blobs.entry(digest).or_default() += 1;
        }
        let before = self.deployments.insert(key, deployment);
        self.forget_blobs(before);
    }

    fn remove_deployment(&mut self, key: (ModelId, DeploymentId)) {
        let before = self.deployments.remove(&key);
        self.forget_blobs(before);
    }

    fn forget_blobs(&mut self, deployment: Option<Arc<Deployment>>) {
        let digests = deployment.map(|one| one.bundle.blobs().into_keys());
        for digest in digests.into_iter().flatten() {
            if let Some(count) = self.blobs.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    self.blobs.remove(&digest);
                    self.unnamed.insert(digest);
                }
            }
        }
    }

    /// Takes over the change of one document, the `place`th of the commit at that revision, and says what it means. [`Self::view`] shows it after
    /// the next [`Self::publish`].
    ///
    /// # Errors
    /// When the document cannot be read; what was known of it stays.
    pub fn apply(
        &mut self,
        rev: u64,
        place: u32,
        key: &str,
        value: Option<&[u8]>,
    ) -> Result<Delta, Unreadable> {
        let (model, whats) = match (Key::parse(key), value) {
            (Some(Key::Model(id)), Some(value)) => (id, self.model(id, read(key, value)?)),
            (Some(Key::Model(id)), None) => {
                self.models.remove(&id);
                (id, vec![What::ModelDeleted])
            }
            (Some(Key::Deployment(model, id)), Some(value)) => {
                let deployment: Deployment = read(key, value)?;
                self.put_deployment((model, id), Arc::new(deployment.clone()));
                (model, vec![What::Deployment(Box::new(deployment))])
            }
            (Some(Key::Deployment(model, id)), None) => {
                self.remove_deployment((model, id));
                (model, vec![What::DeploymentDeleted { id }])
            }
            (Some(Key::Environment(model, _)), Some(value)) => {
                (model, self.environment(model, read(key, value)?))
            }
            (Some(Key::Environment(model, name)), None) => {
                let name = name.to_owned();
                self.environments.remove(&(model, name.clone()));
                (model, vec![What::EnvironmentDeleted { name }])
            }
            (Some(Key::Audit), Some(value)) => {
                let entry: Entry = read(key, value)?;
                let model = entry.fact("model_id").and_then(|id| id.parse().ok());
                let event = Event {
                    id: Some(event_id(rev, place, 0)),
                    model,
                    what: What::Audit(Box::new(entry)),
                };
                return Ok(Delta {
                    events: vec![event],
                    ..Delta::default()
                });
            }
            (Some(Key::ApiKey(prefix)), value) => return self.api_key(key, prefix, value),
            (Some(Key::Secret(name)), _) => {
                return Ok(Delta {
                    secret: Some(name.to_owned()),
                    ..Delta::default()
                });
            }
            (Some(Key::Audit), None) | (None, _) => return Ok(Delta::default()),
        };
        let events = whats.into_iter().map(|what| {
            // Each has its own number, whether the other event exists or not.
            let number = u32::from(matches!(what, What::Environment(_)));
            Event {
                id: Some(event_id(rev, place, number)),
                model: Some(model),
                what,
            }
        });
        Ok(Delta {
            events: events.collect(),
            model: Some(model),
            ..Delta::default()
        })
    }

    fn api_key(
        &mut self,
        key: &str,
        prefix: &str,
        value: Option<&[u8]>,
    ) -> Result<Delta, Unreadable> {
        let prefix = prefix.to_owned();
        let api_key: Option<ApiKey> = value.map(|value| read(key, value)).transpose()?;
        match &api_key {
            Some(one) => self.api_keys.insert(prefix.clone(), one.clone()),
            None => self.api_keys.remove(&prefix),
        };
        Ok(Delta {
            api_key: Some((prefix, api_key)),
            ..Delta::default()
        })
    }

    /// Every change of a model writes its document; only a change of its name is an event.
    fn model(&mut self, id: ModelId, model: Model) -> Vec<What> {
        let name = model.name.clone();
        let before = self.models.insert(id, model);
        if before.is_some_and(|before| before.name == name) {
            return Vec::new();
        }
        vec![What::Model { name }]
    }

    fn environment(&mut self, model: ModelId, environment: Environment) -> Vec<What> {
        let name = environment.name.clone();
        let before = self
            .environments
            .insert((model, name.clone()), environment.clone());
        let mut whats = Vec::new();
        let promotion_before = before.as_ref().and_then(|one| one.promotion.clone());
        if let Some(promotion) = &environment.promotion
            && promotion_before.as_ref() != Some(promotion)
        {
            whats.push(What::Promotion {
                environment: name,
                promotion: Box::new(promotion.clone()),
            });
        }
        let before = before.map(|one| Environment {
            promotion: environment.promotion.clone(),
            ..one
        });
        if before.as_ref() != Some(&environment) {
            whats.push(What::Environment(Box::new(environment)));
        }
        whats
    }
}

fn event_id(rev: u64, place: u32, number: u32) -> EventId {
    EventId::new(
        rev,
        place.saturating_mul(EVENTS_OF_ONE).saturating_add(number),
    )
}

fn read<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(value).map_err(|source| Unreadable {
        key: key.to_owned(),
        source,
    })
}

/// A document that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored document {key} cannot be read: {source}. Was it written by a newer release?")]
pub struct Unreadable {
    key: String,
    source: serde_json::Error,
}

impl Unreadable {
    /// What is wrong with it.
    pub fn reason(&self) -> String {
        self.source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use samovar_types::id::Id;

    use super::*;
    use crate::domain::promotion::Promotion;

    fn id<Kind>(text: &str) -> Id<Kind> {
        text.parse().unwrap()
    }

    fn model(name: &str, generation: u64) -> Vec<u8> {
        let model = Model {
            id: id("model000"),
            name: name.into(),
            created_at: Timestamp::UNIX_EPOCH,
            deployments_made: 0,
            generation,
        };
        serde_json::to_vec(&model).unwrap()
    }

    fn environment(current: Option<&str>, promotion: Option<Promotion>) -> Vec<u8> {
        let mut one = Environment::new(id("model000"), "staging", Timestamp::UNIX_EPOCH);
        one.current_deployment_id = current.map(id);
        one.promotion = promotion;
        serde_json::to_vec(&one).unwrap()
    }

    fn told(documents: &mut Documents, key: &str, value: Option<&[u8]>) -> Vec<What> {
        let delta = documents.apply(7, 3, key, value).unwrap();
        documents.publish(&delta.model.into_iter().collect());
        delta.events.into_iter().map(|event| event.what).collect()
    }

    #[test]
    fn of_a_model_only_its_name_is_told() {
        let mut documents = Documents::default();
        let key = "models/model000";
        let made = told(&mut documents, key, Some(&model("a", 1)));
        assert_eq!(made, [What::Model { name: "a".into() }]);
        assert_eq!(told(&mut documents, key, Some(&model("a", 2))), []);
        assert_eq!(documents.view(id("model000")).unwrap().model.generation, 2);
        let renamed = told(&mut documents, key, Some(&model("b", 3)));
        assert_eq!(renamed, [What::Model { name: "b".into() }]);
        assert_eq!(told(&mut documents, key, None), [What::ModelDeleted]);
        assert_eq!(documents.view(id("model000")), None);
    }

    #[test]
    fn a_promotion_is_told_apart_from_its_environment() {
        let mut documents = Documents::default();
        let key = "environments/model000/staging";
        told(&mut documents, "models/model000", Some(&model("a", 1)));
        let promotion = Promotion::new(
            id("deploy00"),
            None,
            Default::default(),
            Timestamp::UNIX_EPOCH,
        );
        let begun = environment(None, Some(promotion));
        let first = told(&mut documents, key, Some(&environment(None, None)));
        assert!(matches!(first[..], [What::Environment(_)]), "{first:?}");
        let begins = told(&mut documents, key, Some(&begun));
        assert!(matches!(begins[..], [What::Promotion { .. }]), "{begins:?}");
        assert_eq!(told(&mut documents, key, Some(&begun)), []);
        let view = documents.view(id("model000")).unwrap();
        assert!(view.environments["staging"].in_progress().is_some());
        let gone = told(&mut documents, key, None);
        let name = "staging".to_owned();
        assert_eq!(gone, [What::EnvironmentDeleted { name }]);
        // Without a document from before, everything is an event, in the same places.
        let delta = Documents::default().apply(9, 1, key, Some(&begun)).unwrap();
        let ids: Vec<String> = delta
            .events
            .iter()
            .map(|event| event.id.unwrap().to_string())
            .collect();
        assert_eq!(ids, ["9-2", "9-3"]);
    }

    #[test]
    fn leases_secrets_and_unreadable_documents_are_no_events() {
        let mut documents = Documents::default();
        assert_eq!(told(&mut documents, "secrets/A", Some(b"{}")), []);
        let secret = documents.apply(7, 4, "secrets/A", None).unwrap().secret;
        assert_eq!(secret.as_deref(), Some("A"));
        assert_eq!(told(&mut documents, "leases/x", None), []);
        let key = "models/model000";
        told(&mut documents, key, Some(&model("a", 1)));
        let error = documents.apply(8, 0, key, Some(b"{}")).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
        assert!(documents.view(id("model000")).is_some());
    }

    #[test]
    fn a_blob_is_named_until_its_last_deployment_names_another() {
        let digest = |text: &str| Digest::of(text.as_bytes());
        let deployment = |component: &str| {
            let component = digest(component);
            let deployment = serde_json::json!({
                "id": "deploy00", "model_id": "model000", "name": "d", "status": "ACTIVE",
                "created_at": "2026-01-01T00:00:00Z", "bundle_digest": component,
                "bundle": { "name": "m", "component": { "digest": component, "size": 1 } },
            });
            serde_json::to_vec(&deployment).unwrap()
        };
        let cache = Cache::default();
        let apply = |key: &str, value: Option<&[u8]>| {
            cache.write(|documents| documents.apply(1, 0, key, value).map(drop).unwrap());
        };
        let (one, other) = (
            "deployments/model000/deploy00",
            "deployments/model000/deploy01",
        );
        apply(one, Some(&deployment("old")));
        apply(other, Some(&deployment("old")));
        apply(one, Some(&deployment("new")));
        assert!(cache.names_blob(&digest("old")) && cache.names_blob(&digest("new")));
        assert!(cache.write(Documents::take_unnamed).is_empty());
        apply(other, None);
        assert!(!cache.names_blob(&digest("old")));
        assert_eq!(cache.write(Documents::take_unnamed), [digest("old")].into());
        apply(one, None);
        apply(one, None);
        assert!(!cache.names_blob(&digest("new")));
    }
}
