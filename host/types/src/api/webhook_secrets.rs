//! Webhook secrets, which sign webhooks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::WebhookSecretId;

/// A webhook secret without its value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = WebhookSecret))]
pub struct WebhookSecretResponse {
    /// Id of the webhook secret.
    pub id: WebhookSecretId,
    /// When the webhook secret was created.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// When it stops signing webhooks; null for the current one.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// The valid webhook secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListWebhookSecretsResponse {
    /// The secrets, the current one first.
    pub webhook_secrets: Vec<WebhookSecretResponse>,
}

/// A new webhook secret. The type has no `Debug`, so that no log or error can contain the value.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = NewWebhookSecret))]
pub struct RotateWebhookSecretResponse {
    /// Id of the webhook secret.
    pub id: WebhookSecretId,
    /// When the webhook secret was created.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Value of the webhook secret. The server does not show it again.
    pub secret: String,
}

/// A deleted webhook secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteWebhookSecretResponse {
    /// Id of the webhook secret.
    pub id: WebhookSecretId,
    /// Always true.
    pub deleted: bool,
}
