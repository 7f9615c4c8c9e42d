//! Usage of deployments.

use jiff::{Timestamp, civil};
use serde::{Deserialize, Serialize};

use super::query::QueryPairs;
use super::reported::Reported;
use crate::id::{DeploymentId, ModelId};
use crate::usage::{Counters, Resolution};

/// Days of a summary, at most 31.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct UsageSummaryQuery {
    /// Begin: a date, or a time, which is in UTC unless it has an offset.
    pub start_date: String,
    /// End: a date, which is included, or a time, which is not.
    pub end_date: String,
}

/// Usage in the form of a bill.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageSummaryResponse {
    /// Usage of deployments.
    pub dedicated_usage: DedicatedUsage,
    /// Always null: a server trains nothing.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub training_usage: Option<()>,
    /// Always null: a server has no models of its own.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub model_apis_usage: Option<()>,
}

/// A price. Always 0, because Samovar has no prices; see `minutes` and the counters for usage.
pub type Cost = f64;

/// Usage of all deployments.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DedicatedUsage {
    /// Always 0: Samovar has no prices.
    pub subtotal: Cost,
    /// Always 0: Samovar has no prices.
    pub credits_used: Cost,
    /// Always 0: Samovar has no prices.
    pub total: Cost,
    /// Replica minutes. Partial minutes of a deployment are rounded up.
    pub minutes: u64,
    /// Usage by deployment, ordered by name.
    pub breakdown: Vec<DedicatedItem>,
}

/// Usage of one deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DedicatedItem {
    /// The deployment.
    pub billable_resource: BillableResource,
    /// Always 0: Samovar has no prices.
    pub subtotal: Cost,
    /// Always 0: Samovar has no prices.
    pub compute_cost: Cost,
    /// Always 0: Samovar has no prices.
    pub surcharge_cost: Cost,
    /// Replica minutes.
    pub minutes: u64,
    /// Number of requests with any outcome.
    pub inference_requests: u64,
    /// Usage by day, for days with usage, in order.
    pub daily: Vec<DailyUsage>,
}

/// Usage of one deployment on one day.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DailyUsage {
    /// The day in UTC.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = Date))]
    pub date: civil::Date,
    /// Always 0: Samovar has no prices.
    pub subtotal: Cost,
    /// Always 0: Samovar has no prices.
    pub compute_cost: Cost,
    /// Always 0: Samovar has no prices.
    pub surcharge_cost: Cost,
    /// Replica minutes.
    pub minutes: u64,
    /// Number of requests with any outcome.
    pub inference_requests: u64,
}

/// A deployment, which may be deleted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BillableResource {
    /// Id of the deployment.
    pub id: DeploymentId,
    /// Always `MODEL_DEPLOYMENT`.
    pub kind: String,
    /// Whether it was deleted.
    pub is_deleted: bool,
    /// Its name, or its last name.
    pub name: String,
    /// The model that the deployment belongs to.
    pub model_id: ModelId,
    /// Name of the model, or its last name.
    pub model_name: String,
    /// Instance type; the server has only one.
    pub instance_type: String,
    /// Environment that points at it now.
    pub environment_name: Option<String>,
}

/// Filters of usage.
#[derive(Clone, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct UsageParams {
    /// Begin: a date, or a time, which is in UTC unless it has an offset. By default 7 days before the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// End: a date, which is included, or a time, which is not. By default now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Only this model, by id or name; it may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Only the deployment with this id; it may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
    /// Length of the intervals; days by default.
    #[serde(default)]
    pub resolution: Resolution,
}

/// Usage by interval and deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageResponse {
    /// Begin of the whole time.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub start: Timestamp,
    /// End of the whole time.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub end: Timestamp,
    /// Length of the intervals.
    #[cfg_attr(feature = "openapi", schema(value_type = Resolution))]
    pub resolution: Reported<Resolution>,
    /// One row per interval and deployment with usage, ordered by both.
    pub usage: Vec<UsageEntry>,
}

/// Usage of one deployment in a minute, an hour or a day.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageEntry {
    /// Begin of the minute, hour or day.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub start: Timestamp,
    /// Id of the model.
    pub model_id: ModelId,
    /// Name of the model, or its last name.
    pub model_name: String,
    /// Id of the deployment.
    pub deployment_id: DeploymentId,
    /// Name of the deployment, or its last name.
    pub deployment_name: String,
    /// Whether the deployment was deleted.
    pub is_deleted: bool,
    /// Number of requests with any outcome.
    pub requests: u64,
    /// Replica minutes. Partial minutes are rounded up.
    pub replica_minutes: u64,
    /// All other counters.
    #[serde(flatten)]
    pub counters: Counters,
}

impl UsageParams {
    /// The query parameters, as names and values.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        QueryPairs::default()
            .words("resolution", [&self.resolution])
            .value("start", self.start.as_ref())
            .value("end", self.end.as_ref())
            .value("model", self.model.as_ref())
            .value("deployment", self.deployment)
            .into_vec()
    }
}
