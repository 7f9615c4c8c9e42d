//! API keys.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::reported::Reported;
use crate::api_key::KeyType;
use crate::id::ModelId;

/// A key without its secret part.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = ApiKey))]
pub struct ApiKeyResponse {
    /// The public part of the key, before the dot.
    pub prefix: String,
    /// Name of the key, for lists.
    pub name: Option<String>,
    /// What the key allows.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "openapi", schema(value_type = KeyType))]
    pub key_type: Reported<KeyType>,
    /// The models that the key is limited to; null if it is not limited.
    pub model_ids: Option<Vec<ModelId>>,
    /// The server's only team.
    pub team_name: String,
    /// When the key was created.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created_at: Timestamp,
}

/// API keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListApiKeysResponse {
    /// The keys, oldest first.
    pub keys: Vec<ApiKeyResponse>,
}

/// Filters of a list of keys.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ListApiKeysQuery {
    /// Only keys of this type.
    #[serde(rename = "type")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_type: Option<KeyType>,
    /// Accepted for compatibility and ignored: a server has one user, who created all keys.
    #[serde(rename = "created_by_me")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub _created_by_me: Option<String>,
}

/// A new API key.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", schema(as = CreateApiKey))]
pub struct CreateApiKeyRequest {
    /// What the key allows.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// Name of the key, for lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Limits a key for calling models or reading metrics to these models, by id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_ids: Option<Vec<String>>,
    /// The server's only team; may be left out.
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

/// A created key. The type has no `Debug`, so that no log or error can contain the key.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = NewApiKey))]
pub struct CreateApiKeyResponse {
    /// The complete key. The server does not show it again.
    pub api_key: String,
    /// The public part of the key, before the dot.
    pub prefix: String,
}

/// A deleted key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteApiKeyResponse {
    /// The public part of the key, before the dot.
    pub prefix: String,
}
