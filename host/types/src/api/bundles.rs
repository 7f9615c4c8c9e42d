//! The manifest and the bundle of a deployment.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::reported::Reported;
use crate::bundle::Bundle;

/// Options for reading a manifest.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct ConfigQuery {
    /// Format to return; both by default.
    #[cfg_attr(feature = "openapi", param(inline))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_format: Option<ConfigFormat>,
}

/// Format of a manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum ConfigFormat {
    /// TOML.
    Raw,
    /// JSON.
    Parsed,
    /// Both formats.
    #[default]
    Both,
}

/// The manifest of a deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigResponse {
    /// The bundle as JSON, with all defaults.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Bundle>))]
    pub config: Option<Reported<Bundle, Value>>,
    /// The same as a `samovar.toml`; pushing it with the bundle's files gives the same bundle.
    pub raw_config: Option<String>,
}

/// Where to download a bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DownloadResponse {
    /// URL of the bundle's archive; use the same key.
    pub download_url: String,
}
