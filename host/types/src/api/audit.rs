//! The audit log, page by page.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::query::QueryPairs;

/// A page of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditLogResponse {
    /// Entries in the requested order. A page can have fewer entries than requested although more follow.
    pub items: Vec<AuditEntryResponse>,
    /// How to read the next page.
    pub pagination: Pagination,
}

/// How to read the page after this one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pagination {
    /// Whether more entries may follow.
    pub has_more: bool,
    /// Value of `cursor` for the next page; null at the end.
    pub cursor: Option<String>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = AuditLogEntry))]
pub struct AuditEntryResponse {
    /// Id of the entry.
    pub id: String,
    /// When the change was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created: Timestamp,
    /// Type of the change, such as `MODEL_DEPLOYED`.
    pub event_type: String,
    /// Details of the change: what was changed, and its values before and after if there are any.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub event_data: Value,
    /// `API`, or `SYSTEM` for changes by the server itself.
    pub source: String,
    /// Who made the change.
    pub actor: AuditActor,
    /// The client program, if it sent its name.
    pub client_name: Option<String>,
    /// Version of the client program, if it sent one.
    pub client_version: Option<String>,
    /// Always null.
    pub client_session_id: Option<String>,
}

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = AuditLogActor))]
pub struct AuditActor {
    /// `API_KEY`, `BASETEN_SYSTEM` for the server itself, or `ANYONE` for a server without keys.
    #[serde(rename = "type")]
    pub actor_type: String,
    /// Always null: users have no e-mail addresses here.
    pub email: Option<String>,
    /// Public part of the key.
    pub api_key_prefix: Option<String>,
    /// Name of the key.
    pub api_key_name: Option<String>,
}

/// Filters of the audit log. Repeat a name to give a list; an entry must match every filter.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct AuditQuery {
    /// `cursor` of the previous page. Repeat the filters, too.
    pub cursor: Option<String>,
    /// Maximum number of entries, 1 to 200; 20 by default.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 200))]
    pub limit: Option<usize>,
    /// Order of the entries; newest first by default. With a cursor, the order of its first page.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub direction: Option<AuditDirection>,
    /// Only entries with this text in a name or an id, ignoring case.
    pub search: Option<String>,
    /// Only entries of these types.
    pub event_types: Vec<String>,
    /// Only entries of types in these groups.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub event_type_groups: Vec<AuditGroup>,
    /// Only changes by these actors: a key's prefix, `anyone` or `system`.
    pub user_ids: Vec<String>,
    /// Only changes of this model, by id or name. For a deleted model, use its id or the name that it had at that time.
    pub model: Option<String>,
    /// Only changes of these deployments.
    pub deployment_ids: Vec<String>,
    /// Accepted for compatibility. Samovar has no chains, so no entry matches.
    pub chain_deployment_ids: Vec<String>,
    /// Only changes of these environments.
    pub environment_names: Vec<String>,
    /// Only changes from this source.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub sources: Vec<AuditSource>,
    /// Only changes from this time on.
    pub start_epoch_millis: Option<i64>,
    /// Only changes before this time.
    pub end_epoch_millis: Option<i64>,
}

/// The order of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum AuditDirection {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// Source of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum AuditSource {
    /// A user interface; Samovar has none.
    Ui,
    /// The API.
    Api,
    /// A tool of an assistant; Samovar has none.
    Mcp,
    /// The server itself.
    System,
    /// Another source; Samovar has none.
    Other,
}

/// A group of types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AuditGroup {
    /// Pushes.
    Deployed,
    /// Promotions.
    Promoted,
    /// Activation and deactivation of deployments.
    ActivatedDeactivated,
    /// Autoscaling settings.
    AutoscalingSettings,
    /// Backpressure settings.
    RequestBackpressureSettings,
    /// Instance types; Samovar has only one.
    InstanceTypeChanged,
    /// Environments and their settings.
    EnvironmentSettings,
    /// Replicas stopped by users.
    ReplicaTerminated,
    /// Deletions.
    Deleted,
    /// Names and labels.
    Metadata,
    /// Secrets.
    Secrets,
    /// API keys.
    ApiKeys,
    /// A gateway; Samovar has none.
    Gateway,
    /// Bundles of development deployments.
    Code,
    /// Webhook secrets.
    WebhookSigningSecrets,
    /// Users; Samovar has none.
    UserManagement,
    /// Groups of users; Samovar has none.
    DirectoryGroupManagement,
    /// SSH; Samovar has none.
    Ssh,
}

impl AuditGroup {
    /// The types in this group.
    pub fn types(self) -> &'static [&'static str] {
        match self {
            Self::Deployed => &["MODEL_DEPLOYED"],
            Self::Promoted => &[
                "MODEL_DEPLOYMENT_PROMOTED",
                "MODEL_PROMOTION_CONTROL_ACTION",
                "MODEL_PROMOTION_ENDED",
            ],
            Self::ActivatedDeactivated => &[
                "MODEL_DEPLOYMENT_ACTIVATED",
                "MODEL_DEPLOYMENT_DEACTIVATED",
                "MODEL_DEPLOYMENT_RETRIED",
            ],
            Self::AutoscalingSettings => &["MODEL_DEPLOYMENT_AUTOSCALING_SETTINGS_CHANGED"],
            Self::RequestBackpressureSettings => {
                &["MODEL_DEPLOYMENT_REQUEST_BACKPRESSURE_SETTINGS_CHANGED"]
            }
            Self::EnvironmentSettings => &["ENVIRONMENT_CREATED", "ENVIRONMENT_UPDATED"],
            Self::ReplicaTerminated => &["REPLICA_TERMINATED"],
            Self::Deleted => &[
                "MODEL_DELETED",
                "MODEL_DEPLOYMENT_DELETED",
                "ENVIRONMENT_DELETED",
            ],
            Self::Metadata => &[
                "MODEL_RENAMED",
                "MODEL_DEPLOYMENT_RENAMED",
                "MODEL_DEPLOYMENT_LABELS_CHANGED",
            ],
            Self::Secrets => &["SECRET_UPDATED", "SECRET_DELETED"],
            Self::ApiKeys => &["API_KEY_CREATED", "API_KEY_DELETED"],
            Self::Code => &["MODEL_DEPLOYMENT_UPDATED"],
            Self::WebhookSigningSecrets => &[
                "WEBHOOK_SIGNING_SECRET_CREATED",
                "WEBHOOK_SIGNING_SECRET_ROTATED",
                "WEBHOOK_SIGNING_SECRET_DELETED",
            ],
            Self::InstanceTypeChanged
            | Self::Gateway
            | Self::UserManagement
            | Self::DirectoryGroupManagement
            | Self::Ssh => &[],
        }
    }
}

impl AuditQuery {
    /// The query parameters, as names and values.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        QueryPairs::default()
            .value("limit", self.limit)
            .value("cursor", self.cursor.as_ref())
            .words("direction", &self.direction)
            .value("search", self.search.as_ref())
            .values("event_types", &self.event_types)
            .words("event_type_groups", &self.event_type_groups)
            .values("user_ids", &self.user_ids)
            .value("model", self.model.as_ref())
            .values("deployment_ids", &self.deployment_ids)
            .values("chain_deployment_ids", &self.chain_deployment_ids)
            .values("environment_names", &self.environment_names)
            .words("sources", &self.sources)
            .value("start_epoch_millis", self.start_epoch_millis)
            .value("end_epoch_millis", self.end_epoch_millis)
            .into_vec()
    }
}
