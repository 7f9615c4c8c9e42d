//! What happened, told from the changes of stored documents by comparing each with what was there.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use samovar_types::id::Id;

use super::api_key::ApiKey;
use super::audit::Entry;
use super::deployment::Deployment;
use super::engine_events::{EngineNote, QuarantineNote};
use super::environment::Environment;
use super::keys::Key;
use super::model::{Model, ModelView};
use super::promotion::Promotion;

/// The place of an event in the history of a store: equal for all who are told of it, and growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    rev: u64,
    place: u32,
}

/// Events that one changed document may tell of.
const EVENTS_OF_ONE: u32 = 2;

impl EventId {
    /// Behind everything that the commit at a revision tells of.
    pub fn end_of(rev: u64) -> Self {
        Self {
            rev,
            place: u32::MAX,
        }
    }

    /// The revision of the commit.
    pub fn rev(self) -> u64 {
        self.rev
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place == u32::MAX {
            write!(f, "{}-end", self.rev)
        } else {
            write!(f, "{}-{}", self.rev, self.place)
        }
    }
}

/// Text that is not an event's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the id of an event, as 17-0")]
pub struct InvalidEventId(String);

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let parsed = text.split_once('-').and_then(|(rev, place)| {
            let place = match place {
                "end" => u32::MAX,
                place => place.parse().ok()?,
            };
            let rev = rev.parse().ok()?;
            Some(Self { rev, place })
        });
        parsed.ok_or_else(|| InvalidEventId(text.chars().take(80).collect()))
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in the history; nothing for what is only observed, which nobody can be told of later.
    pub id: Option<EventId>,
    /// The model that it happened to.
    pub model: Option<Id>,
    /// What happened.
    pub what: What,
}

impl Event {
    /// Whether it happened to a model or to one of its deployments.
    pub fn concerns(&self, model: Id) -> bool {
        let deployments = match &self.what {
            What::Engine(note) => &note.deployments,
            What::Quarantine(note) => &note.deployments,
            _ => return self.model == Some(model),
        };
        deployments.iter().any(|one| one.model_id == model)
    }
}

/// What happened. Values are those afterwards.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A model was made or renamed.
    Model {
        /// Its name.
        name: String,
    },
    /// A model was deleted.
    ModelDeleted,
    /// A deployment was made or is other than it was.
    Deployment(Box<Deployment>),
    /// A deployment was deleted.
    DeploymentDeleted {
        /// Its id.
        id: Id,
    },
    /// An environment was made, got other settings or points elsewhere.
    Environment(Box<Environment>),
    /// An environment was deleted.
    EnvironmentDeleted {
        /// Its name.
        name: String,
    },
    /// A promotion began, went on or ended.
    Promotion {
        /// The environment that moves.
        environment: String,
        /// How it stands.
        promotion: Box<Promotion>,
    },
    /// The replicas of a deployment are other in number.
    Replicas {
        /// The deployment.
        deployment: Id,
    },
    /// An engine started or ended.
    Engine(Box<EngineNote>),
    /// A graph is not run for a while, or may be run again.
    Quarantine(Box<QuarantineNote>),
    /// The audit log has a new entry.
    Audit(Box<Entry>),
    /// Some of what happened before this is not told.
    Missed,
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

/// What the change of a document means.
#[derive(Debug, Default, PartialEq)]
pub struct Meaning {
    /// What happened.
    pub events: Vec<Event>,
    /// The model that is other now.
    pub model: Option<Id>,
    /// The key that is other now: there with what it is, or gone.
    pub api_key: Option<(String, Option<ApiKey>)>,
}

/// The documents as far as they are known, for comparing them with what they become.
#[derive(Debug, Default)]
pub struct Mirror {
    models: BTreeMap<Id, Model>,
    deployments: BTreeMap<(Id, Id), Deployment>,
    environments: BTreeMap<(Id, String), Environment>,
    api_keys: BTreeMap<String, ApiKey>,
}

impl Mirror {
    /// Knows all of these.
    pub fn of(views: Vec<ModelView>, api_keys: BTreeMap<String, ApiKey>) -> Self {
        let mut mirror = Self {
            api_keys,
            ..Self::default()
        };
        for view in views {
            let id = view.model.id;
            mirror.models.insert(id, view.model);
            let deployments = view.deployments.into_iter();
            mirror
                .deployments
                .extend(deployments.map(|(key, one)| ((id, key), one)));
            let environments = view.environments.into_iter();
            mirror
                .environments
                .extend(environments.map(|(key, one)| ((id, key), one)));
        }
        mirror
    }

    /// The ids of the models.
    pub fn models(&self) -> impl Iterator<Item = Id> {
        self.models.keys().copied()
    }

    /// The keys.
    pub fn api_keys(&self) -> &BTreeMap<String, ApiKey> {
        &self.api_keys
    }

    /// A model with everything that hangs on it.
    pub fn view(&self, id: Id) -> Option<ModelView> {
        let of_model = |key: &Id| *key == id;
        let deployments = self
            .deployments
            .range((id, Id::FIRST)..)
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

    /// Takes over the change of one document, the `place`th of the commit at that revision, and says what it means.
    ///
    /// # Errors
    /// When the document cannot be read; what was known of it stays.
    pub fn apply(
        &mut self,
        rev: u64,
        place: u32,
        key: &str,
        value: Option<&[u8]>,
    ) -> Result<Meaning, Unreadable> {
        let (model, whats) = match (Key::parse(key), value) {
            (Some(Key::Model(id)), Some(value)) => (id, self.model(id, read(key, value)?)),
            (Some(Key::Model(id)), None) => {
                self.models.remove(&id);
                (id, vec![What::ModelDeleted])
            }
            (Some(Key::Deployment(model, id)), Some(value)) => {
                let deployment: Deployment = read(key, value)?;
                self.deployments.insert((model, id), deployment.clone());
                (model, vec![What::Deployment(Box::new(deployment))])
            }
            (Some(Key::Deployment(model, id)), None) => {
                self.deployments.remove(&(model, id));
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
                return Ok(Meaning {
                    events: vec![event],
                    ..Meaning::default()
                });
            }
            (Some(Key::ApiKey(prefix)), value) => {
                let prefix = prefix.to_owned();
                let api_key: Option<ApiKey> = value.map(|value| read(key, value)).transpose()?;
                match &api_key {
                    Some(one) => self.api_keys.insert(prefix.clone(), one.clone()),
                    None => self.api_keys.remove(&prefix),
                };
                return Ok(Meaning {
                    api_key: Some((prefix, api_key)),
                    ..Meaning::default()
                });
            }
            (Some(Key::Audit), None) | (None, _) => return Ok(Meaning::default()),
        };
        let events = whats.into_iter().map(|what| {
            // Its own for each of them, whether the other is told or not.
            let number = u32::from(matches!(what, What::Environment(_)));
            Event {
                id: Some(event_id(rev, place, number)),
                model: Some(model),
                what,
            }
        });
        Ok(Meaning {
            events: events.collect(),
            model: Some(model),
            api_key: None,
        })
    }

    /// Every change of a model writes its document; only its name is told of.
    fn model(&mut self, id: Id, model: Model) -> Vec<What> {
        let name = model.name.clone();
        let before = self.models.insert(id, model);
        if before.is_some_and(|before| before.name == name) {
            return Vec::new();
        }
        vec![What::Model { name }]
    }

    fn environment(&mut self, model: Id, environment: Environment) -> Vec<What> {
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
    EventId {
        rev,
        place: place.saturating_mul(EVENTS_OF_ONE).saturating_add(number),
    }
}

fn read<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(value).map_err(|source| Unreadable {
        key: key.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> Id {
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

    fn told(mirror: &mut Mirror, key: &str, value: Option<&[u8]>) -> Vec<What> {
        let meaning = mirror.apply(7, 3, key, value).unwrap();
        meaning.events.into_iter().map(|event| event.what).collect()
    }

    #[test]
    fn of_a_model_only_its_name_is_told() {
        let mut mirror = Mirror::default();
        let key = "models/model000";
        let made = told(&mut mirror, key, Some(&model("a", 1)));
        assert_eq!(made, [What::Model { name: "a".into() }]);
        assert_eq!(told(&mut mirror, key, Some(&model("a", 2))), []);
        assert_eq!(mirror.view(id("model000")).unwrap().model.generation, 2);
        let renamed = told(&mut mirror, key, Some(&model("b", 3)));
        assert_eq!(renamed, [What::Model { name: "b".into() }]);
        assert_eq!(told(&mut mirror, key, None), [What::ModelDeleted]);
        assert_eq!(mirror.view(id("model000")), None);
    }

    #[test]
    fn a_promotion_is_told_apart_from_its_environment() {
        let mut mirror = Mirror::default();
        let key = "environments/model000/staging";
        told(&mut mirror, "models/model000", Some(&model("a", 1)));
        let promotion = Promotion::new(
            id("deploy00"),
            None,
            Default::default(),
            Timestamp::UNIX_EPOCH,
        );
        let begun = environment(None, Some(promotion));
        let first = told(&mut mirror, key, Some(&environment(None, None)));
        assert!(matches!(first[..], [What::Environment(_)]), "{first:?}");
        let begins = told(&mut mirror, key, Some(&begun));
        assert!(matches!(begins[..], [What::Promotion { .. }]), "{begins:?}");
        assert_eq!(told(&mut mirror, key, Some(&begun)), []);
        let view = mirror.view(id("model000")).unwrap();
        assert!(view.environments["staging"].in_progress().is_some());
        let gone = told(&mut mirror, key, None);
        let name = "staging".to_owned();
        assert_eq!(gone, [What::EnvironmentDeleted { name }]);
        // Of what is not known before, everything is told, in the same places.
        let meaning = Mirror::default().apply(9, 1, key, Some(&begun)).unwrap();
        let ids: Vec<String> = meaning
            .events
            .iter()
            .map(|event| event.id.unwrap().to_string())
            .collect();
        assert_eq!(ids, ["9-2", "9-3"]);
    }

    #[test]
    fn what_is_nobodys_business_or_unreadable_is_not_told() {
        let mut mirror = Mirror::default();
        assert_eq!(told(&mut mirror, "secrets/A", Some(b"{}")), []);
        assert_eq!(told(&mut mirror, "leases/x", None), []);
        let key = "models/model000";
        told(&mut mirror, key, Some(&model("a", 1)));
        let error = mirror.apply(8, 0, key, Some(b"{}")).unwrap_err();
        assert!(error.to_string().contains(key), "{error}");
        assert!(mirror.view(id("model000")).is_some());
    }

    proptest! {
        #[test]
        fn an_id_is_read_back_and_ordered(rev in 0..u64::MAX, place in 0..u32::MAX) {
            let event = EventId { rev, place };
            prop_assert_eq!(event.to_string().parse::<EventId>(), Ok(event));
            let end = EventId::end_of(rev);
            prop_assert_eq!(end.to_string().parse::<EventId>(), Ok(end));
            let next = EventId { rev: rev + 1, place: 0 };
            prop_assert!(event < end && end < next);
        }

        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC{0,40}") {
            let _ = text.parse::<EventId>();
        }
    }
}
