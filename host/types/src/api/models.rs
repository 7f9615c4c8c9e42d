//! Models: pushed, listed, renamed, deleted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::deployments::DeploymentResponse;
use crate::bundle::Bundle;
use crate::id::Id;

/// A model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Model))]
pub struct ModelResponse {
    /// Id of the model.
    pub id: Id,
    /// When it was first pushed.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Name of the model.
    pub name: String,
    /// Deployments that it has.
    pub deployments_count: usize,
    /// The deployment in production.
    pub production_deployment_id: Option<Id>,
    /// The development deployment.
    pub development_deployment_id: Option<Id>,
    /// What it runs on.
    pub instance_type_name: String,
    /// A server has one team, `default`.
    pub team_name: String,
}

/// What a push sends. The bundle's blobs have to be on the server already.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PushRequest {
    /// The model's name; the bundle's without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is deployed.
    #[serde(deserialize_with = "crate::strict::deserialize")]
    pub bundle: Bundle,
    /// The deployment's name; `deployment-N` without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_name: Option<String>,
    /// Whether this is for the development deployment, which is made with the first such push and reloaded by the others.
    #[serde(default)]
    pub development: bool,
    /// The environment that it goes to. Without it, the first deployment of a model goes to production.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// What the pusher notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

impl PushRequest {
    /// A push of a bundle that leaves everything else to the server.
    pub fn new(bundle: Bundle) -> Self {
        Self {
            name: None,
            bundle,
            deployment_name: None,
            development: false,
            environment: None,
            labels: None,
        }
    }
}

/// What a push made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PushResponse {
    /// The model as it is now.
    pub model: ModelResponse,
    /// The new deployment.
    pub deployment: DeploymentResponse,
}

/// Which models are listed.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ListModelsQuery {
    /// Only the model of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// All models.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListModelsResponse {
    /// Ordered by name.
    pub models: Vec<ModelResponse>,
}

/// A thing that is deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteModelResponse {
    /// Id of the model.
    pub id: Id,
    /// Always true.
    pub deleted: bool,
}

/// What may be changed of a model.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateModelRequest {
    /// New name of the model.
    pub name: String,
}
