//! Who calls, whose server it is, and what it offers.

use axum::Extension;
use jiff::Timestamp;
use samovar_types::api::identity::{
    InstanceType, ListInstanceTypesResponse, ListTeamsQuery, ListTeamsResponse,
    OrganizationResponse, TeamResponse, UserResponse,
};
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

impl From<Organization> for TeamResponse {
    fn from(organization: Organization) -> Self {
        Self {
            id: organization.id,
            name: NAME.to_owned(),
            default: true,
            created_at: organization.created_at,
        }
    }
}

/// Show who calls.
#[utoipa::path(get, path = "/v1/users/me", responses((status = 200, body = UserResponse)))]
async fn user(Extension(caller): Extension<Caller>) -> Json<UserResponse> {
    let (user_id, name) = match caller {
        Caller::Anyone => ("anyone".to_owned(), None),
        Caller::Key(key) => (key.prefix.clone(), key.name.clone()),
    };
    Json(UserResponse {
        user_id,
        email: None,
        name,
        workspace_name: NAME.to_owned(),
    })
}

/// Show whose server it is.
#[utoipa::path(get, path = "/v1/organizations/me", responses((status = 200, body = OrganizationResponse)))]
async fn organization(State(api): State<Api>) -> Result<Json<OrganizationResponse>, ApiError> {
    let organization = api.registry.organization(Timestamp::now()).await?;
    Ok(Json(OrganizationResponse {
        org_id: organization.id,
        name: NAME.to_owned(),
        created_at: organization.created_at,
    }))
}

/// List the teams, of which there is one.
#[utoipa::path(get, path = "/v1/teams", params(ListTeamsQuery), responses((status = 200, body = ListTeamsResponse)))]
async fn teams(
    State(api): State<Api>,
    Query(query): Query<ListTeamsQuery>,
) -> Result<Json<ListTeamsResponse>, ApiError> {
    let organization = api.registry.organization(Timestamp::now()).await?;
    let mut teams = vec![TeamResponse::from(organization)];
    teams.retain(|team| query.name.as_ref().is_none_or(|name| *name == team.name));
    Ok(Json(ListTeamsResponse { teams }))
}

/// Show the team.
#[utoipa::path(get, path = "/v1/teams/{team}", params(("team" = String, Path)), responses((status = 200, body = TeamResponse)))]
async fn team(
    State(api): State<Api>,
    Path(team): Path<String>,
) -> Result<Json<TeamResponse>, ApiError> {
    Ok(Json(check_team(&api, &team).await?))
}

/// The team of that id, if it is the one that there is.
pub(super) async fn check_team(api: &Api, id: &str) -> Result<TeamResponse, ApiError> {
    let organization = api.registry.organization(Timestamp::now()).await?;
    if id == organization.id.as_str() {
        return Ok(organization.into());
    }
    let shown: String = id.chars().take(80).collect();
    Err(ApiError::not_found(format!("there is no team {shown:?}")))
}

/// List what deployments can run on.
#[utoipa::path(get, path = "/v1/instance_types", responses((status = 200, body = ListInstanceTypesResponse)))]
async fn instance_types(State(api): State<Api>) -> Json<ListInstanceTypesResponse> {
    let backends = api.runtime.backends();
    let usable = backends.iter().filter(|backend| backend.reason.is_none());
    let targets: Vec<&str> = usable.flat_map(|backend| backend.targets.clone()).collect();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    Json(ListInstanceTypesResponse {
        instance_types: offered(
            samovar_runtime::machine_memory_bytes(),
            u64::try_from(processors).unwrap_or(u64::MAX),
            &targets,
        ),
    })
}

fn offered(memory_bytes: u64, processors: u64, targets: &[&str]) -> Vec<InstanceType> {
    let machine = |name: &str, gpu_count| InstanceType {
        id: name.to_owned(),
        name: name.to_owned(),
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
        let names = |targets: &[&str]| -> Vec<String> {
            let types = offered(8 << 30, 2, targets);
            assert_eq!(types[0].memory_limit_mib, 8192);
            assert_eq!(types[0].millicpu_limit, 2000);
            types.into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(&["cpu", "cpu"]), ["cpu"]);
        assert_eq!(names(&["cpu", "cpu", "gpu"]), ["cpu", "gpu"]);
    }
}
