//! Webhook secrets: list, make or rotate, delete. A value is shown once, when it is made.

use jiff::Timestamp;
use samovar_types::id::Id;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use utoipa::ToSchema;
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

/// A webhook secret without its value.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookSecret)]
pub struct WebhookSecretShape {
    /// Its id.
    pub id: Id,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Until when webhooks are signed with it; null for the current one.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
}

/// The webhook secrets that are valid.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookSecretList {
    /// The current one first.
    pub webhook_secrets: Vec<WebhookSecretShape>,
}

/// A new webhook secret. It has no debug form, so that its value gets into no message.
#[derive(Serialize, ToSchema)]
#[schema(as = NewWebhookSecret)]
pub struct Rotated {
    /// Its id.
    pub id: Id,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Its value, which is not shown again.
    pub secret: String,
}

/// What was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookSecretDeleted {
    /// Its id.
    pub id: Id,
    /// Always true.
    pub deleted: bool,
}

impl From<WebhookSecret> for WebhookSecretShape {
    fn from(secret: WebhookSecret) -> Self {
        Self {
            id: secret.id,
            created_at: secret.created_at,
            expires_at: secret.expires_at,
        }
    }
}

/// List the webhook secrets that are valid, without their values.
#[utoipa::path(get, path = "/v1/webhook_secrets", responses((status = 200, body = WebhookSecretList)))]
async fn list(State(api): State<Api>) -> Result<Json<WebhookSecretList>, ApiError> {
    let secrets = api.webhook_secrets.list(Timestamp::now()).await?;
    Ok(Json(WebhookSecretList {
        webhook_secrets: secrets.into_iter().map(WebhookSecretShape::from).collect(),
    }))
}

/// Make a webhook secret. One that is there already is valid for 24 hours more.
#[utoipa::path(post, path = "/v1/webhook_secrets", responses((status = 200, body = Rotated)))]
async fn rotate(State(api): State<Api>) -> Result<Json<Rotated>, ApiError> {
    let (secret, value) = api.webhook_secrets.rotate(Timestamp::now()).await?;
    Ok(Json(Rotated {
        id: secret.id,
        created_at: secret.created_at,
        secret: value.expose_secret().to_owned(),
    }))
}

/// Make a webhook secret invalid at once.
#[utoipa::path(
    delete, path = "/v1/webhook_secrets/{id}", params(("id" = String, Path)),
    responses((status = 200, body = WebhookSecretDeleted))
)]
async fn remove(
    State(api): State<Api>,
    Path(text): Path<String>,
) -> Result<Json<WebhookSecretDeleted>, ApiError> {
    let none = || {
        let shown: String = text.chars().take(80).collect();
        ApiError::not_found(format!("there is no webhook secret {shown:?}"))
    };
    let id: Id = text.parse().map_err(|_| none())?;
    if !api.webhook_secrets.delete(id, Timestamp::now()).await? {
        return Err(none());
    }
    Ok(Json(WebhookSecretDeleted { id, deleted: true }))
}
