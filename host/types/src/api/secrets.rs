//! Secrets, without their values.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::SecretId;

/// A secret without its value.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = Secret))]
pub struct SecretResponse {
    /// Id of the secret.
    pub id: SecretId,
    /// Name of the secret, as in manifests.
    pub name: String,
    /// When the secret was first set.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
    /// The server's only team.
    pub team_name: String,
}

/// All secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListSecretsResponse {
    /// The secrets, ordered by name.
    pub secrets: Vec<SecretResponse>,
}

/// Name and value of a secret. The type has no `Debug`, so that no log or error can contain the value.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetSecretRequest {
    /// Name of the secret, as in manifests.
    pub name: String,
    /// Value of the secret. The server does not show it again.
    pub value: String,
}

/// A deleted secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteSecretResponse {
    /// Name of the secret.
    pub name: String,
}
