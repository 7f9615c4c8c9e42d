//! Secrets, without their values.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::Id;

/// A secret without its value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Secret))]
pub struct SecretResponse {
    /// Id of the secret.
    pub id: Id,
    /// What manifests call it.
    pub name: String,
    /// When it was first set.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// The server's one team.
    pub team_name: String,
}

/// All secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListSecretsResponse {
    /// Ordered by name.
    pub secrets: Vec<SecretResponse>,
}

/// What a secret is to be. It has no debug form, so that no value gets into a message.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetSecretRequest {
    /// What manifests call it.
    pub name: String,
    /// Value of the secret, which is not shown again.
    pub value: String,
}

/// What was deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteSecretResponse {
    /// Name of the secret.
    pub name: String,
}
