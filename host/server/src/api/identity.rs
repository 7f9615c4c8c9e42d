//! Who calls, whose server it is, and what it offers.

use axum::Extension;
use jiff::Timestamp;
use samovar_types::id::Id;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, Query, State};
use super::permission::{Action, Needs as _};
use crate::control::access::Caller;
use crate::domain::organization::{NAME, Organization};

/// The routes of who and what.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(user).needs(Action::Manage))
        .routes(routes!(organization).needs(Action::Manage))
        .routes(routes!(teams).needs(Action::Manage))
        .routes(routes!(team).needs(Action::Manage))
        .routes(routes!(instance_types).needs(Action::Manage))
}

/// Who calls. A server knows keys, and a user by each.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserShape {
    /// The public part of the key; `anyone` where no key is asked for.
    pub user_id: String,
    /// Always null: nobody is asked for one.
    pub email: Option<String>,
    /// What the key is called.
    pub name: Option<String>,
    /// The server's one organization.
    pub workspace_name: &'static str,
}

/// Whose server it is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Organization)]
pub struct OrganizationShape {
    /// Its id.
    pub org_id: Id,
    /// Its name.
    pub name: &'static str,
    /// When the server was first started.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// The organization's one team.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Team)]
pub struct TeamShape {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: &'static str,
    /// Always true.
    pub default: bool,
    /// When the server was first started.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Teams.
#[derive(Debug, Serialize, ToSchema)]
pub struct TeamList {
    /// One, or none when another name was asked for.
    pub teams: Vec<TeamShape>,
}

/// Which teams are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TeamQuery {
    /// Only the team of this name.
    name: Option<String>,
}

/// What deployments can run on.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct InstanceType {
    /// As in `instance_type_name` of a deployment.
    pub id: &'static str,
    /// The same.
    pub name: &'static str,
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
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceTypes {
    /// `cpu`, and `gpu` where a backend can use one.
    pub instance_types: Vec<InstanceType>,
}

impl From<Organization> for TeamShape {
    fn from(organization: Organization) -> Self {
        Self {
            id: organization.id,
            name: NAME,
            default: true,
            created_at: organization.created_at,
        }
    }
}

/// Show who calls.
#[utoipa::path(get, path = "/v1/users/me", responses((status = 200, body = UserShape)))]
async fn user(Extension(caller): Extension<Caller>) -> Json<UserShape> {
    let (user_id, name) = match caller {
        Caller::Anyone => ("anyone".to_owned(), None),
        Caller::Key(key) => (key.prefix.clone(), key.name.clone()),
    };
    Json(UserShape {
        user_id,
        email: None,
        name,
        workspace_name: NAME,
    })
}

/// Show whose server it is.
#[utoipa::path(get, path = "/v1/organizations/me", responses((status = 200, body = OrganizationShape)))]
async fn organization(State(api): State<Api>) -> Result<Json<OrganizationShape>, ApiError> {
    let organization = api.registry.organization(Timestamp::now()).await?;
    Ok(Json(OrganizationShape {
        org_id: organization.id,
        name: NAME,
        created_at: organization.created_at,
    }))
}

/// List the teams, of which there is one.
#[utoipa::path(get, path = "/v1/teams", params(TeamQuery), responses((status = 200, body = TeamList)))]
async fn teams(
    State(api): State<Api>,
    Query(query): Query<TeamQuery>,
) -> Result<Json<TeamList>, ApiError> {
    let organization = api.registry.organization(Timestamp::now()).await?;
    let mut teams = vec![TeamShape::from(organization)];
    teams.retain(|team| query.name.as_deref().is_none_or(|name| name == team.name));
    Ok(Json(TeamList { teams }))
}

/// Show the team.
#[utoipa::path(get, path = "/v1/teams/{team}", params(("team" = String, Path)), responses((status = 200, body = TeamShape)))]
async fn team(
    State(api): State<Api>,
    Path(team): Path<String>,
) -> Result<Json<TeamShape>, ApiError> {
    Ok(Json(check_team(&api, &team).await?))
}

/// The team of that id, if it is the one that there is.
pub(super) async fn check_team(api: &Api, id: &str) -> Result<TeamShape, ApiError> {
    let organization = api.registry.organization(Timestamp::now()).await?;
    if id == organization.id.as_str() {
        return Ok(organization.into());
    }
    let shown: String = id.chars().take(80).collect();
    Err(ApiError::not_found(format!("there is no team {shown:?}")))
}

/// List what deployments can run on.
#[utoipa::path(get, path = "/v1/instance_types", responses((status = 200, body = InstanceTypes)))]
async fn instance_types(State(api): State<Api>) -> Json<InstanceTypes> {
    let backends = api.runtime.backends();
    let usable = backends.iter().filter(|backend| backend.reason.is_none());
    let targets: Vec<&str> = usable.flat_map(|backend| backend.targets.clone()).collect();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Json(InstanceTypes {
        instance_types: offered(
            samovar_runtime::machine_memory_bytes(),
            u64::try_from(processors).unwrap_or(u64::MAX),
            &targets,
        ),
    })
}

fn offered(memory_bytes: u64, processors: u64, targets: &[&str]) -> Vec<InstanceType> {
    let machine = |name, gpu_count| InstanceType {
        id: name,
        name,
        memory_limit_mib: memory_bytes >> 20,
        millicpu_limit: processors.saturating_mul(1000),
        gpu_count,
        gpu_type: None,
        gpu_memory_limit_mib: None,
    };
    let mut types = vec![machine("cpu", 0)];
    if targets.contains(&"gpu") {
        types.push(machine("gpu", 1));
    }
    types
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_offered_where_a_backend_can_use_it() {
        let names = |targets: &[&str]| -> Vec<&str> {
            let types = offered(8 << 30, 2, targets);
            assert_eq!(types[0].memory_limit_mib, 8192);
            assert_eq!(types[0].millicpu_limit, 2000);
            types.iter().map(|one| one.name).collect()
        };
        assert_eq!(names(&["cpu", "cpu"]), ["cpu"]);
        assert_eq!(names(&["cpu", "cpu", "gpu"]), ["cpu", "gpu"]);
    }
}
