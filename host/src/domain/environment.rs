//! An environment: a stable address of a model that points at a deployment.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::Id;

/// The environment that every model has.
pub const PRODUCTION: &str = "production";

/// A stable address of a model. As the store holds it: fields may be added, so what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its model.
    pub model_id: Id,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The deployment that its requests go to.
    #[serde(default)]
    pub current_deployment_id: Option<Id>,
}

impl Environment {
    /// An environment that points at nothing.
    pub fn new(model_id: Id, name: impl Into<String>, now: Timestamp) -> Self {
        Self {
            model_id,
            name: name.into(),
            created_at: now,
            current_deployment_id: None,
        }
    }
}
