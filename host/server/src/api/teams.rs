//! The same routes below the team's address: a server has one team, and everything is its.

use axum::Extension;
use samovar_types::api::api_keys::{CreateApiKeyRequest, CreateApiKeyResponse};
use samovar_types::api::models::{ListModelsQuery, ListModelsResponse, PushRequest, PushResponse};
use samovar_types::api::secrets::{
    DeleteSecretResponse, ListSecretsResponse, SecretResponse, SetSecretRequest,
};
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
    get, path = "/v1/teams/{team}/models", params(("team" = String, Path), ListModelsQuery),
    responses((status = 200, body = ListModelsResponse))
)]
async fn list_models(
    State(api): State<Api>,
    Path(team): Path<String>,
    query: Query<ListModelsQuery>,
) -> Result<Json<ListModelsResponse>, ApiError> {
    check_team(&api, &team).await?;
    models::list(State(api), query).await
}

/// Push a bundle for a model of the team.
#[utoipa::path(
    post, path = "/v1/teams/{team}/models", params(("team" = String, Path)),
    request_body = PushRequest, responses((status = 200, body = PushResponse))
)]
async fn push(
    State(api): State<Api>,
    Path(team): Path<String>,
    request: Json<PushRequest>,
) -> Result<Json<PushResponse>, ApiError> {
    check_team(&api, &team).await?;
    models::push(State(api), request).await
}

/// List the secrets of the team, without their values.
#[utoipa::path(
    get, path = "/v1/teams/{team}/secrets", params(("team" = String, Path)),
    responses((status = 200, body = ListSecretsResponse))
)]
async fn list_secrets(
    State(api): State<Api>,
    Path(team): Path<String>,
) -> Result<Json<ListSecretsResponse>, ApiError> {
    check_team(&api, &team).await?;
    secrets::list(State(api)).await
}

/// Set a secret of the team.
#[utoipa::path(
    post, path = "/v1/teams/{team}/secrets", params(("team" = String, Path)),
    request_body = SetSecretRequest, responses((status = 200, body = SecretResponse))
)]
async fn set_secret(
    State(api): State<Api>,
    Path(team): Path<String>,
    request: Json<SetSecretRequest>,
) -> Result<Json<SecretResponse>, ApiError> {
    check_team(&api, &team).await?;
    secrets::set(State(api), request).await
}

/// Delete a secret of the team.
#[utoipa::path(
    delete, path = "/v1/teams/{team}/secrets/{name}",
    params(("team" = String, Path), ("name" = String, Path)),
    responses((status = 200, body = DeleteSecretResponse))
)]
async fn delete_secret(
    State(api): State<Api>,
    Path((team, name)): Path<(String, String)>,
) -> Result<Json<DeleteSecretResponse>, ApiError> {
    check_team(&api, &team).await?;
    secrets::remove(State(api), Path(name)).await
}

/// Make an API key of the team.
#[utoipa::path(
    post, path = "/v1/teams/{team}/api_keys", params(("team" = String, Path)),
    request_body = CreateApiKeyRequest, responses((status = 200, body = CreateApiKeyResponse))
)]
async fn create_api_key(
    State(api): State<Api>,
    caller: Extension<Caller>,
    Path(team): Path<String>,
    request: Json<CreateApiKeyRequest>,
) -> Result<Json<CreateApiKeyResponse>, ApiError> {
    check_team(&api, &team).await?;
    api_keys::create(State(api), caller, request).await
}
