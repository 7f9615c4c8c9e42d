//! API keys, which are shown whole once.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reported::Reported;
use crate::api_key::KeyType;
use crate::id::Id;

/// A key without its secret part.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ApiKey))]
pub struct ApiKeyResponse {
    /// The public part of the key, before the dot.
    pub prefix: String,
    /// What people call it.
    pub name: Option<String>,
    /// What it is for.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(value_type = KeyType))]
    pub key_type: Reported<KeyType>,
    /// The models it is limited to; null for all.
    pub model_ids: Option<Vec<Id>>,
    /// The server's one team.
    pub team_name: String,
    /// When the API key was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// Keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListApiKeysResponse {
    /// The oldest first.
    pub keys: Vec<ApiKeyResponse>,
}

/// Which keys are listed.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ListApiKeysQuery {
    /// Only keys of this type.
    #[serde(rename = "type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_type: Option<KeyType>,
    /// Taken because clients send it. A server has one user, who made them all.
    #[serde(rename = "created_by_me")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub _created_by_me: Option<String>,
}

/// What key is wanted.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", schema(as = CreateApiKey))]
pub struct CreateApiKeyRequest {
    /// What it is for.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The models that a key to invoke or to export metrics is limited to, by id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ids: Option<Vec<String>>,
    /// The server's one team, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub team_id: Option<String>,
}

impl CreateApiKeyRequest {
    /// A key of a type, without a name and for all models.
    pub fn new(key_type: KeyType) -> Self {
        Self {
            key_type,
            name: None,
            model_ids: None,
            team_id: None,
        }
    }
}

/// A new key. It has no debug form, so that it gets into no message.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = NewApiKey))]
pub struct CreateApiKeyResponse {
    /// The whole key, which is not shown again.
    pub api_key: String,
    /// The public part of the key, before the dot.
    pub prefix: String,
}

/// What was deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteApiKeyResponse {
    /// The public part of the key, before the dot.
    pub prefix: String,
}
