//! What happened to models, deployments, environments and engines, each with its place in the history of the store.

use std::fmt;
use std::str::FromStr;

use samovar_types::id::{DeploymentId, ModelId};

use super::audit::Entry;
use super::deployment::Deployment;
use super::engine_events::{EngineNote, EvictionNote, QuarantineNote};
use super::environment::Environment;
use super::promotion::Promotion;

/// The place of an event in the history of a store: equal for all who are told of it, and growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    rev: u64,
    place: u32,
}

impl EventId {
    /// Behind everything that the commit at a revision tells of.
    pub fn end_of(rev: u64) -> Self {
        Self {
            rev,
            place: u32::MAX,
        }
    }

    /// Of the event at this place in the commit at a revision.
    pub fn new(rev: u64, place: u32) -> Self {
        Self { rev, place }
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
    pub model: Option<ModelId>,
    /// What happened.
    pub what: What,
}

impl Event {
    /// Whether it happened to a model or to one of its deployments.
    pub fn concerns(&self, model: ModelId) -> bool {
        let deployments = match &self.what {
            What::Engine(note) => &note.deployments,
            What::Quarantine(note) => &note.deployments,
            What::Eviction(note) => &note.deployments,
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
        id: DeploymentId,
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
        deployment: DeploymentId,
    },
    /// An engine started or ended.
    Engine(Box<EngineNote>),
    /// A graph is not run for a while, or may be run again.
    Quarantine(Box<QuarantineNote>),
    /// An idle graph was unloaded to make room for another.
    Eviction(Box<EvictionNote>),
    /// The audit log has a new entry.
    Audit(Box<Entry>),
    /// Some of what happened before this is not told.
    Missed,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
