//! What webhooks are signed with.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::Id;

/// A webhook secret without its value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = WebhookSecret))]
pub struct WebhookSecretResponse {
    /// Id of the webhook secret.
    pub id: Id,
    /// When the webhook secret was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Until when webhooks are signed with it; null for the current one.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = DateTime))]
    pub expires_at: Option<Timestamp>,
}

/// The webhook secrets that are valid.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListWebhookSecretsResponse {
    /// The current one first.
    pub webhook_secrets: Vec<WebhookSecretResponse>,
}

/// A new webhook secret. It has no debug form, so that its value gets into no message.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = NewWebhookSecret))]
pub struct RotateWebhookSecretResponse {
    /// Id of the webhook secret.
    pub id: Id,
    /// When the webhook secret was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// Value of the webhook secret, which is not shown again.
    pub secret: String,
}

/// What was deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteWebhookSecretResponse {
    /// Id of the webhook secret.
    pub id: Id,
    /// Always true.
    pub deleted: bool,
}
