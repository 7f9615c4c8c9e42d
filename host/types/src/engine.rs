//! Graphs and deployments in events of engines.

use serde::{Deserialize, Serialize};

use crate::id::{DeploymentId, ModelId};

/// A deployment that an event of an engine concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConcernedDeployment {
    /// Id of the model.
    pub model_id: ModelId,
    /// Id of the deployment.
    pub deployment_id: DeploymentId,
}

/// A graph that ran or was loading in an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EngineGraph {
    /// Name of the graph in the manifest of the deployment that loaded it.
    pub name: String,
    /// SHA-256 of all files of the graph.
    pub digest: String,
    /// Type and shape of each input of its run, such as `f32 [1, 2]`, at most 16; empty if the graph was being loaded.
    pub inputs: Vec<String>,
}
