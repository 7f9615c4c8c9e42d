//! Webhook secrets: list, make or rotate, delete. A value is shown once, when it is made.

use jiff::Timestamp;
use samovar_types::api::webhook_secrets::{
    DeleteWebhookSecretResponse, ListWebhookSecretsResponse, RotateWebhookSecretResponse,
    WebhookSecretResponse,
};
use samovar_types::id::WebhookSecretId;
use secrecy::ExposeSecret as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, State};
use super::permission::{Action, Needs as _};
use crate::domain::webhook_secret::WebhookSecret;

/// The routes of webhook secrets.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, rotate).needs(Action::Manage))
        .routes(routes!(remove).needs(Action::Manage))
}

impl From<WebhookSecret> for WebhookSecretResponse {
    fn from(secret: WebhookSecret) -> Self {
        Self {
            id: secret.id,
            created_at: secret.created_at,
            expires_at: secret.expires_at,
        }
    }
}

/// List the webhook secrets that are valid, without their values.
#[utoipa::path(get, path = "/v1/webhook_secrets", responses((status = 200, body = ListWebhookSecretsResponse)))]
async fn list(State(api): State<Api>) -> Result<Json<ListWebhookSecretsResponse>, ApiError> {
    let secrets = api.webhook_secrets.list(Timestamp::now()).await?;
    Ok(Json(ListWebhookSecretsResponse {
        webhook_secrets: secrets
            .into_iter()
            .map(WebhookSecretResponse::from)
            .collect(),
    }))
}

/// Make a webhook secret. One that is there already is valid for 24 hours more.
#[utoipa::path(post, path = "/v1/webhook_secrets", responses((status = 200, body = RotateWebhookSecretResponse)))]
async fn rotate(State(api): State<Api>) -> Result<Json<RotateWebhookSecretResponse>, ApiError> {
    let (secret, value) = api.webhook_secrets.rotate(Timestamp::now()).await?;
    Ok(Json(RotateWebhookSecretResponse {
        id: secret.id,
        created_at: secret.created_at,
        secret: value.expose_secret().to_owned(),
    }))
}

/// Make a webhook secret invalid at once.
#[utoipa::path(
    delete, path = "/v1/webhook_secrets/{id}", params(("id" = String, Path)),
    responses((status = 200, body = DeleteWebhookSecretResponse))
)]
async fn remove(
    State(api): State<Api>,
    Path(text): Path<String>,
) -> Result<Json<DeleteWebhookSecretResponse>, ApiError> {
    let none = || {
        let shown: String = text.chars().take(80).collect();
        ApiError::not_found(format!("there is no webhook secret {shown:?}"))
    };
    let id: WebhookSecretId = text.parse().map_err(|_| none())?;
    if !api.webhook_secrets.delete(id, Timestamp::now()).await? {
        return Err(none());
    }
    Ok(Json(DeleteWebhookSecretResponse { id, deleted: true }))
}
