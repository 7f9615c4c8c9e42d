//! What events of inference engines name: graphs and deployments.

use serde::{Deserialize, Serialize};

use crate::id::Id;

/// A deployment that an event of an engine concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConcernedDeployment {
    /// Its model.
    pub model_id: Id,
    /// Its id.
    pub deployment_id: Id,
}

/// A graph that ran or was loading in an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EngineGraph {
    /// Its name in the manifest of the deployment that had it loaded.
    pub name: String,
    /// SHA-256 that tells its files from any others.
    pub digest: String,
    /// Type and shape of each input of one of its runs, as `f32 [1, 2]`, 16 at most; none when it was loading.
    pub inputs: Vec<String>,
}
