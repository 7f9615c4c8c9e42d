//! Models.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::deployments::DeploymentResponse;
use crate::bundle::Bundle;
use crate::id::{DeploymentId, ModelId};

/// A model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Model))]
pub struct ModelResponse {
    /// Id of the model.
    pub id: ModelId,
    /// When the model was first pushed.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Name of the model.
    pub name: String,
    /// Number of deployments.
    pub deployments_count: usize,
    /// Id of the deployment in production.
    pub production_deployment_id: Option<DeploymentId>,
    /// Id of the development deployment.
    pub development_deployment_id: Option<DeploymentId>,
    /// Instance type; the server has only one.
    pub instance_type_name: String,
    /// Name of the team; a server has one, `default`.
    pub team_name: String,
}

/// A push. All blobs of the bundle must be on the server.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PushRequest {
    /// Name of the model; the bundle's by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The bundle to deploy.
    #[serde(deserialize_with = "crate::strict::deserialize")]
    pub bundle: Bundle,
    /// Name of the deployment; `deployment-N` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_name: Option<String>,
    /// Whether to push to the development deployment. The first such push creates it, later ones reload it.
    #[serde(default)]
    pub development: bool,
    /// The environment to promote the deployment to. By default, the first deployment of a model goes to production.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Labels of the deployment.
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

/// Result of a push.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PushResponse {
    /// The model after the push.
    pub model: ModelResponse,
    /// The new deployment.
    pub deployment: DeploymentResponse,
}

/// Filters of a list of models.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ListModelsQuery {
    /// Only the model with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// All models.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListModelsResponse {
    /// The models, ordered by name.
    pub models: Vec<ModelResponse>,
}

/// A deleted model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteModelResponse {
    /// Id of the model.
    pub id: ModelId,
    /// Always true.
    pub deleted: bool,
}

/// Changes of a model.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateModelRequest {
    /// New name of the model.
    pub name: String,
}
