//! An environment: a stable address of a model that points at a deployment, with settings of its own.

use jiff::Timestamp;
use samovar_types::id::{DeploymentId, ModelId};
use samovar_types::origins::Origin;
use samovar_types::promotion_settings::PromotionSettings;
use samovar_types::settings::{AutoscalingSettings, BackpressurePolicy};
use serde::{Deserialize, Serialize};

use super::promotion::Promotion;

/// Environments of one model.
pub const MAX_ENVIRONMENTS: usize = 100;

/// A stable address of a model. As the store holds it: fields may be added, so what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Its model.
    pub model_id: ModelId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The deployment that its requests go to.
    #[serde(default)]
    pub current_deployment_id: Option<DeploymentId>,
    /// The settings that a deployment takes on when it moves in; the first one brings its own.
    #[serde(default)]
    pub autoscaling_settings: Option<AutoscalingSettings>,
    /// How it moves to another deployment.
    #[serde(default)]
    pub promotion_settings: PromotionSettings,
    /// What happens to requests that find every replica busy.
    #[serde(default)]
    pub backpressure: BackpressurePolicy,
    /// The web pages that may call it from a browser.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_origins: Vec<Origin>,
    /// The move that goes on, or the last one.
    #[serde(default)]
    pub promotion: Option<Promotion>,
    /// The deployment that was current before, for going back.
    #[serde(default)]
    pub previous_deployment_id: Option<DeploymentId>,
}

impl Environment {
    /// An environment that points at nothing.
    pub fn new(model_id: ModelId, name: impl Into<String>, now: Timestamp) -> Self {
        Self {
            model_id,
            name: name.into(),
            created_at: now,
            current_deployment_id: None,
            autoscaling_settings: None,
            promotion_settings: PromotionSettings::default(),
            backpressure: BackpressurePolicy::default(),
            allowed_origins: Vec::new(),
            promotion: None,
            previous_deployment_id: None,
        }
    }

    /// The move that goes on.
    pub fn in_progress(&self) -> Option<&Promotion> {
        self.promotion
            .as_ref()
            .filter(|promotion| promotion.status.is_in_progress())
    }

    /// The deployment that is moving in.
    pub fn candidate_deployment_id(&self) -> Option<DeploymentId> {
        self.in_progress()
            .map(|promotion| promotion.candidate_deployment_id)
    }

    /// Whether it points at a deployment, or is about to.
    pub fn holds(&self, deployment: DeploymentId) -> bool {
        self.current_deployment_id == Some(deployment)
            || self.candidate_deployment_id() == Some(deployment)
    }
}
