//! Secrets: list, set, delete. Their values go in and never come out.

use jiff::Timestamp;
use samovar_store::Rev;
use samovar_types::api::secrets::{
    DeleteSecretResponse, ListSecretsResponse, SecretResponse, SetSecretRequest,
};
use secrecy::SecretString;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, State};
use super::permission::{Action, Needs as _};
use crate::domain::organization;
use crate::domain::secret::Secret;

/// The routes of secrets.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, set).needs(Action::Manage))
        .routes(routes!(remove).needs(Action::Manage))
}

impl From<Secret> for SecretResponse {
    fn from(secret: Secret) -> Self {
        Self {
            id: secret.id,
            name: secret.name,
            created_at: secret.created_at,
            team_name: organization::NAME.to_owned(),
        }
    }
}

/// List the secrets, without their values.
#[utoipa::path(get, path = "/v1/secrets", responses((status = 200, body = ListSecretsResponse)))]
pub(super) async fn list(State(api): State<Api>) -> Result<Json<ListSecretsResponse>, ApiError> {
    let secrets = api.secrets.list().await?;
    Ok(Json(ListSecretsResponse {
        secrets: secrets.into_iter().map(SecretResponse::from).collect(),
    }))
}

/// Set a secret, whether it is there or not. Models that name it read the new value from the next request on.
#[utoipa::path(post, path = "/v1/secrets", request_body = SetSecretRequest, responses((status = 200, body = SecretResponse)))]
pub(super) async fn set(
    State(api): State<Api>,
    Json(request): Json<SetSecretRequest>,
) -> Result<Json<SecretResponse>, ApiError> {
    let value = SecretString::from(request.value);
    let now = Timestamp::now();
    let (secret, rev) = api.secrets.set(&request.name, &value, now).await?;
    api.wait_for_guests(rev).await?;
    Ok(Json(secret.into()))
}

/// Delete a secret. Models that name it read nothing there from the next request on.
#[utoipa::path(delete, path = "/v1/secrets/{name}", params(("name" = String, Path)), responses((status = 200, body = DeleteSecretResponse)))]
pub(super) async fn remove(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<DeleteSecretResponse>, ApiError> {
    let Some(rev) = api.secrets.delete(&name).await? else {
        let shown: String = name.chars().take(80).collect();
        return Err(ApiError::not_found(format!("there is no secret {shown:?}")));
    };
    api.wait_for_guests(rev).await?;
    Ok(Json(DeleteSecretResponse { name }))
}

impl Api {
    /// Waits until no request to this node that comes from now on meets a secret's value from before a commit. Other nodes
    /// follow the store.
    async fn wait_for_guests(&self, rev: Rev) -> Result<(), ApiError> {
        Ok(self.secrets_controller.applied(rev).await?)
    }
}
