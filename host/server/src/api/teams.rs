//! The same routes below the team's address: a server has one team, and everything is its.

use axum::Extension;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, Query, State};
use super::identity::check_team;
use super::permission::{Action, Needs as _};
use super::{api_keys, models, secrets};
use crate::control::access::Caller;

/// The routes.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list_models, push).needs(Action::Manage))
        .routes(routes!(list_secrets, set_secret).needs(Action::Manage))
        .routes(routes!(delete_secret).needs(Action::Manage))
        .routes(routes!(create_api_key).needs(Action::ManageApiKeys))
}

/// List the models of the team.
#[utoipa::path(
    get, path = "/v1/teams/{team}/models", params(("team" = String, Path), models::ListQuery),
    responses((status = 200, body = models::Models))
)]
async fn list_models(
    State(api): State<Api>,
    Path(team): Path<String>,
    query: Query<models::ListQuery>,
) -> Result<Json<models::Models>, ApiError> {
    check_team(&api, &team).await?;
    models::list(State(api), query).await
}

/// Push a bundle for a model of the team.
#[utoipa::path(
    post, path = "/v1/teams/{team}/models", params(("team" = String, Path)),
    request_body = models::PushRequest, responses((status = 200, body = models::Pushed))
)]
async fn push(
    State(api): State<Api>,
    Path(team): Path<String>,
    request: Json<models::PushRequest>,
) -> Result<Json<models::Pushed>, ApiError> {
    check_team(&api, &team).await?;
    models::push(State(api), request).await
}

/// List the secrets of the team, without their values.
#[utoipa::path(
    get, path = "/v1/teams/{team}/secrets", params(("team" = String, Path)),
    responses((status = 200, body = secrets::SecretList))
)]
async fn list_secrets(
    State(api): State<Api>,
    Path(team): Path<String>,
) -> Result<Json<secrets::SecretList>, ApiError> {
    check_team(&api, &team).await?;
    secrets::list(State(api)).await
}

/// Set a secret of the team.
#[utoipa::path(
    post, path = "/v1/teams/{team}/secrets", params(("team" = String, Path)),
    request_body = secrets::SetRequest, responses((status = 200, body = secrets::SecretShape))
)]
async fn set_secret(
    State(api): State<Api>,
    Path(team): Path<String>,
    request: Json<secrets::SetRequest>,
) -> Result<Json<secrets::SecretShape>, ApiError> {
    check_team(&api, &team).await?;
    secrets::set(State(api), request).await
}

/// Delete a secret of the team.
#[utoipa::path(
    delete, path = "/v1/teams/{team}/secrets/{name}",
    params(("team" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = secrets::SecretDeleted))
)]
async fn delete_secret(
    State(api): State<Api>,
    Path((team, name)): Path<(String, String)>,
) -> Result<Json<secrets::SecretDeleted>, ApiError> {
    check_team(&api, &team).await?;
    secrets::remove(State(api), Path(name)).await
}

/// Make an API key of the team.
#[utoipa::path(
    post, path = "/v1/teams/{team}/api_keys", params(("team" = String, Path)),
    request_body = api_keys::CreateRequest, responses((status = 200, body = api_keys::Created))
)]
async fn create_api_key(
    State(api): State<Api>,
    caller: Extension<Caller>,
    Path(team): Path<String>,
    request: Json<api_keys::CreateRequest>,
) -> Result<Json<api_keys::Created>, ApiError> {
    check_team(&api, &team).await?;
    api_keys::create(State(api), caller, request).await
}
