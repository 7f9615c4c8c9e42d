//! What deployments used.

use jiff::{Timestamp, civil};
use serde::{Deserialize, Serialize};

use super::query::QueryPairs;
use super::reported::Reported;
use crate::id::Id;
use crate::usage::{Counters, Resolution};

/// Which days a summary is about: at most 31.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct UsageSummaryQuery {
    /// A date or a time; UTC unless it says otherwise.
    pub start_date: String,
    /// A date, which is included, or a time, which is not.
    pub end_date: String,
}

/// What was used, in the shape of a bill.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageSummaryResponse {
    /// What deployments used.
    pub dedicated_usage: DedicatedUsage,
    /// Always null: a server trains nothing.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub training_usage: Option<()>,
    /// Always null: a server has no models of its own.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub model_apis_usage: Option<()>,
}

/// A price. Samovar has none, so it is always 0, in no currency; amounts are what `minutes` and the counters tell.
pub type Cost = f64;

/// What all deployments used.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DedicatedUsage {
    /// Always 0: Samovar has no prices.
    pub subtotal: Cost,
    /// Always 0: Samovar has no prices.
    pub credits_used: Cost,
    /// Always 0: Samovar has no prices.
    pub total: Cost,
    /// Minutes of replicas; in each minute of a deployment, a partial one counts whole.
    pub minutes: u64,
    /// The same by deployments, ordered by name.
    pub breakdown: Vec<DedicatedItem>,
}

/// What one deployment used.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DedicatedItem {
    /// Which.
    pub billable_resource: BillableResource,
    /// Always 0: Samovar has no prices.
    pub subtotal: Cost,
    /// Always 0: Samovar has no prices.
    pub compute_cost: Cost,
    /// Always 0: Samovar has no prices.
    pub surcharge_cost: Cost,
    /// Minutes of its replicas.
    pub minutes: u64,
    /// Requests, however they ended.
    pub inference_requests: u64,
    /// The same by days on which anything was used, in order.
    pub daily: Vec<DailyUsage>,
}

/// What one deployment used on one day.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DailyUsage {
    /// The day, UTC.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = Date))]
    pub date: civil::Date,
    /// Always 0: Samovar has no prices.
    pub subtotal: Cost,
    /// Always 0: Samovar has no prices.
    pub compute_cost: Cost,
    /// Always 0: Samovar has no prices.
    pub surcharge_cost: Cost,
    /// Minutes of its replicas.
    pub minutes: u64,
    /// Requests, however they ended.
    pub inference_requests: u64,
}

/// A deployment, perhaps one that is no more.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BillableResource {
    /// Id of the deployment.
    pub id: Id,
    /// Always `MODEL_DEPLOYMENT`.
    pub kind: String,
    /// Whether it is no more.
    pub is_deleted: bool,
    /// Its name, or the last that it had.
    pub name: String,
    /// The model that the deployment belongs to.
    pub model_id: Id,
    /// The model's name, or the last that it had.
    pub model_name: String,
    /// What it runs on.
    pub instance_type: String,
    /// The environment that points at it now.
    pub environment_name: Option<String>,
}

/// Which usage is told.
#[derive(Clone, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct UsageParams {
    /// A date or a time; UTC unless it says otherwise. Without it, 7 days are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// A date, which is included, or a time, which is not. Without it, now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    /// Only the model of this id or name, which may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Only the deployment of this id, which may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Id>,
    /// How finely; by days without it.
    #[serde(default)]
    pub resolution: Resolution,
}

/// What was used.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageResponse {
    /// From when on.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub start: Timestamp,
    /// Until when.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub end: Timestamp,
    /// How finely.
    #[cfg_attr(feature = "openapi", schema(value_type = Resolution))]
    pub resolution: Reported<Resolution>,
    /// What anything was used by, ordered by time and deployment.
    pub usage: Vec<UsageEntry>,
}

/// What one deployment used in a minute, an hour or a day.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageEntry {
    /// When the minute, hour or day began.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub start: Timestamp,
    /// The model.
    pub model_id: Id,
    /// Its name, or the last that it had.
    pub model_name: String,
    /// The deployment.
    pub deployment_id: Id,
    /// Its name, or the last that it had.
    pub deployment_name: String,
    /// Whether the deployment is no more.
    pub is_deleted: bool,
    /// Requests, however they ended.
    pub requests: u64,
    /// Minutes of replicas; in each minute, a partial one counts whole.
    pub replica_minutes: u64,
    /// All the rest.
    #[serde(flatten)]
    pub counters: Counters,
}

impl UsageParams {
    /// What it adds to an address, by names and values.
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
