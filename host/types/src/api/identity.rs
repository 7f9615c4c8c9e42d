//! Who calls, whose server it is, and what it runs on.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::Id;

/// Who calls. A server knows keys, and a user by each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = User))]
pub struct UserResponse {
    /// The public part of the key; `anyone` where no key is asked for.
    pub user_id: String,
    /// Always null: nobody is asked for one.
    pub email: Option<String>,
    /// What the key is called.
    pub name: Option<String>,
    /// The server's one organization.
    pub workspace_name: String,
}

/// Whose server it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Organization))]
pub struct OrganizationResponse {
    /// Id of the organization.
    pub org_id: Id,
    /// Name of the organization.
    pub name: String,
    /// When the server was first started.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// The organization's one team.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Team))]
pub struct TeamResponse {
    /// Id of the team.
    pub id: Id,
    /// Name of the team.
    pub name: String,
    /// Always true.
    pub default: bool,
    /// When the server was first started.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// Teams.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListTeamsResponse {
    /// One, or none when another name was asked for.
    pub teams: Vec<TeamResponse>,
}

/// Which teams are listed.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ListTeamsQuery {
    /// Only the team of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What deployments can run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceType {
    /// As in `instance_type_name` of a deployment.
    pub id: String,
    /// The same.
    pub name: String,
    /// Memory: the machine's, which its deployments share, or of an environment what a replica may have.
    pub memory_limit_mib: u64,
    /// The machine's processors in thousandths, which its deployments share.
    pub millicpu_limit: u64,
    /// Graphics processors.
    pub gpu_count: u32,
    /// Which, if the backends say.
    pub gpu_type: Option<String>,
    /// Their memory, if the backends say.
    pub gpu_memory_limit_mib: Option<u64>,
}

/// What this node offers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListInstanceTypesResponse {
    /// `cpu`, and `gpu` where a backend can use one.
    pub instance_types: Vec<InstanceType>,
}
