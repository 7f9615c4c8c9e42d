//! The audit log, page by page.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::query::QueryPairs;

/// A page of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditLogResponse {
    /// In the order that was asked for. There may be fewer than asked for although more follow.
    pub items: Vec<AuditEntryResponse>,
    /// How to go on.
    pub pagination: Pagination,
}

/// How to go on after a page.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pagination {
    /// Whether there may be more.
    pub has_more: bool,
    /// What to ask for the next page with; null at the end.
    pub cursor: Option<String>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = AuditLogEntry))]
pub struct AuditEntryResponse {
    /// Id of the entry.
    pub id: String,
    /// When it was done.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub created: Timestamp,
    /// What was done, as `MODEL_DEPLOYED`.
    pub event_type: String,
    /// The same with what it was done to, and the values before and after where there are any.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub event_data: Value,
    /// `API`, or `SYSTEM` for what the server did by itself.
    pub source: String,
    /// Who did it.
    pub actor: AuditActor,
    /// The program that asked for it, if it said so.
    pub client_name: Option<String>,
    /// Version of the entry.
    pub client_version: Option<String>,
    /// Always null.
    pub client_session_id: Option<String>,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = AuditLogActor))]
pub struct AuditActor {
    /// `API_KEY`, `BASETEN_SYSTEM` for the server itself, `ANYONE` where no key is asked for.
    #[serde(rename = "type")]
    pub actor_type: String,
    /// Always null: nobody is asked for one.
    pub email: Option<String>,
    /// The public part of the key.
    pub api_key_prefix: Option<String>,
    /// What the key is called.
    pub api_key_name: Option<String>,
}

/// Which entries are wanted. Lists are given by repeating their name; each of several filters has to fit.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct AuditQuery {
    /// Where the last page ended. The filters have to be given again.
    pub cursor: Option<String>,
    /// Entries at most, 1 to 200; 20 without it.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 200))]
    pub limit: Option<usize>,
    /// The newest first without it; a cursor goes on as its page began.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub direction: Option<AuditDirection>,
    /// Only with this text in a name or an id, in small or capital letters.
    pub search: Option<String>,
    /// Only of these types.
    pub event_types: Vec<String>,
    /// Only of types in these groups.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub event_type_groups: Vec<AuditGroup>,
    /// Only by these: a key's prefix, `anyone` or `system`.
    pub user_ids: Vec<String>,
    /// Only about this model, by id or name. One that is deleted goes by its id, or by the name that it had at that time.
    pub model: Option<String>,
    /// Only about these deployments.
    pub deployment_ids: Vec<String>,
    /// Taken for compatibility: there are no chains, so nothing is about one of them.
    pub chain_deployment_ids: Vec<String>,
    /// Only about these environments.
    pub environment_names: Vec<String>,
    /// Only what came this way.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub sources: Vec<AuditSource>,
    /// Only from then on.
    pub start_epoch_millis: Option<i64>,
    /// Only before then.
    pub end_epoch_millis: Option<i64>,
}

/// The order of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum AuditDirection {
    /// The oldest first.
    Asc,
    /// The newest first.
    Desc,
}

/// The way that a change came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum AuditSource {
    /// A user interface; there is none.
    Ui,
    /// The API.
    Api,
    /// A tool of an assistant; there is none.
    Mcp,
    /// The server itself.
    System,
    /// Any other way; there is none.
    Other,
}

/// Types that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AuditGroup {
    /// Pushes.
    Deployed,
    /// Promotions.
    Promoted,
    /// Deployments switched on and off.
    ActivatedDeactivated,
    /// Numbers of replicas.
    AutoscalingSettings,
    /// What happens to requests that find every replica busy.
    RequestBackpressureSettings,
    /// Instance types; there is one.
    InstanceTypeChanged,
    /// Environments and their settings.
    EnvironmentSettings,
    /// Replicas ended by hand.
    ReplicaTerminated,
    /// What was deleted.
    Deleted,
    /// Names and labels.
    Metadata,
    /// Secrets.
    Secrets,
    /// API keys.
    ApiKeys,
    /// A gateway; there is none.
    Gateway,
    /// Bundles of development deployments.
    Code,
    /// Webhook secrets.
    WebhookSigningSecrets,
    /// Users; there are none.
    UserManagement,
    /// Groups of users; there are none.
    DirectoryGroupManagement,
    /// SSH; there is none.
    Ssh,
}

impl AuditGroup {
    /// The types of events that belong to it.
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
    /// What it adds to an address, by names and values.
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
