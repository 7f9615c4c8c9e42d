//! What a deployment runs: its manifest, and where its bundle is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reported::Reported;
use crate::bundle::Bundle;

/// What is asked of a manifest.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ConfigQuery {
    /// Which form is wanted; both without it.
    #[cfg_attr(feature = "openapi", param(inline))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_format: Option<ConfigFormat>,
}

/// A form of a manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConfigFormat {
    /// As TOML.
    Raw,
    /// As JSON.
    Parsed,
    /// Both.
    #[default]
    Both,
}

/// What a deployment runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigResponse {
    /// The bundle with every default filled in.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Bundle>))]
    pub config: Option<Reported<Bundle, Value>>,
    /// A `samovar.toml` that says the same: pushed with the bundle's files, it makes the same bundle again.
    pub raw_config: Option<String>,
}

/// Where a bundle is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DownloadResponse {
    /// Its archive, for the same key.
    pub download_url: String,
}
