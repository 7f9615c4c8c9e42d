//! The caller, the server's organization, and its instance types.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{OrganizationId, TeamId};

/// The caller. Each key counts as one user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = User))]
pub struct UserResponse {
    /// Public part of the key; `anyone` on a server without keys.
    pub user_id: String,
    /// Always null: users have no e-mail addresses here.
    pub email: Option<String>,
    /// Name of the key.
    pub name: Option<String>,
    /// The server's only organization.
    pub workspace_name: String,
}

/// The organization of the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Organization))]
pub struct OrganizationResponse {
    /// Id of the organization.
    pub org_id: OrganizationId,
    /// Name of the organization.
    pub name: String,
    /// When the server was first started.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// The organization's only team.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Team))]
pub struct TeamResponse {
    /// Id of the team.
    pub id: TeamId,
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
    /// The only team, or none if the filter names another one.
    pub teams: Vec<TeamResponse>,
}

/// Filters of a list of teams.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ListTeamsQuery {
    /// Only the team with this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An instance type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceType {
    /// Id of the instance type, as in `instance_type_name` of a deployment.
    pub id: String,
    /// Name of the instance type, equal to its id.
    pub name: String,
    /// Memory in MiB: the machine's, which all deployments share; for an environment, the limit of a replica.
    pub memory_limit_mib: u64,
    /// The machine's processors in thousandths, which all deployments share.
    pub millicpu_limit: u64,
    /// Number of GPUs.
    pub gpu_count: u32,
    /// Model of the GPUs, if the backends know it.
    pub gpu_type: Option<String>,
    /// Memory of the GPUs, if the backends know it.
    pub gpu_memory_limit_mib: Option<u64>,
}

/// Instance types of this node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListInstanceTypesResponse {
    /// `cpu`, and `gpu` if a backend can use one.
    pub instance_types: Vec<InstanceType>,
}
