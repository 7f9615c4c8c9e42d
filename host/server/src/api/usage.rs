//! What deployments used: the billing summary, and every counter by minutes, hours or days.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use samovar_store::usage::UsageQuery;
use samovar_types::api::usage::{
    BillableResource, Cost, DailyUsage, DedicatedItem, DedicatedUsage, UsageEntry, UsageParams,
    UsageResponse, UsageSummaryQuery, UsageSummaryResponse,
};
use samovar_types::id::DeploymentId;
use samovar_types::usage::{DeploymentUsage, Owner, Resolution, UsageBucket, by_deployment};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Query, State};
use super::permission::{Action, Needs as _};
use crate::domain::model::ModelView;
use crate::domain::usage_window::{Asked, MAX_SUMMARY_DAYS, MAX_USAGE_DAYS, Window, timestamp};

/// Longest wait for the newest usage to be written down; an answer is given without it then.
const MAX_FLUSH: Duration = Duration::from_secs(2);

/// The routes of usage.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(usage_summary).needs(Action::Manage))
        .routes(routes!(usage).needs(Action::Manage))
}

const FREE: Cost = 0.0;

/// Summarise what deployments used, those that are gone included. Costs are 0: Samovar has no prices.
#[utoipa::path(get, path = "/v1/billing/usage_summary", params(UsageSummaryQuery), responses((status = 200, body = UsageSummaryResponse)))]
async fn usage_summary(
    State(api): State<Api>,
    Query(query): Query<UsageSummaryQuery>,
) -> Result<Json<UsageSummaryResponse>, ApiError> {
    let start = asked("start_date", Some(&query.start_date));
    let end = asked("end_date", Some(&query.end_date));
    let window = Window::read(start, end, Timestamp::now(), MAX_SUMMARY_DAYS)?;
    let days = UsageQuery {
        from: window.from,
        to: window.to,
        model: None,
        deployment: None,
        resolution: Resolution::Day,
    };
    let buckets = read(&api, &days).await?;
    let living = Living::of(&api.registry.models().await?);
    Ok(Json(summary(by_deployment(buckets), &living)))
}

/// Read what deployments used, those that are gone included.
#[utoipa::path(get, path = "/v1/usage", params(UsageParams), responses((status = 200, body = UsageResponse)))]
async fn usage(
    State(api): State<Api>,
    Query(query): Query<UsageParams>,
) -> Result<Json<UsageResponse>, ApiError> {
    let start = asked("start", query.start.as_deref());
    let end = asked("end", query.end.as_deref());
    let window = Window::read(start, end, Timestamp::now(), MAX_USAGE_DAYS)?;
    let buckets = UsageQuery {
        from: window.from,
        to: window.to,
        model: query.model,
        deployment: query.deployment,
        resolution: query.resolution,
    };
    let buckets = read(&api, &buckets).await?;
    let living = Living::of(&api.registry.models().await?);
    let entries = buckets.into_iter().map(|bucket| entry(bucket, &living));
    Ok(Json(UsageResponse {
        start: timestamp(window.from),
        end: timestamp(window.to),
        resolution: query.resolution.into(),
        usage: entries.collect(),
    }))
}

fn asked<'a>(field: &'static str, text: Option<&'a str>) -> Asked<'a> {
    Asked { field, text }
}

async fn read(api: &Api, query: &UsageQuery) -> Result<Vec<UsageBucket>, ApiError> {
    // So that an answer has what was used until now. Without it, it has what was used until a second ago.
    match tokio::time::timeout(MAX_FLUSH, api.usage.flush()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the answer lacks the newest usage"),
        Err(_) => {
            tracing::debug!("the disk or the store is slow: the answer lacks the newest usage");
        }
    }
    Ok(api.usage.log().query(query).await?)
}

/// The deployments that there are, and the environments that point at them.
struct Living(HashMap<DeploymentId, (Owner, Option<String>)>);

impl Living {
    fn of(models: &[ModelView]) -> Self {
        let deployments = models.iter().flat_map(|view| {
            view.deployments.values().map(|deployment| {
                let owner = Owner {
                    model_id: view.model.id,
                    model_name: view.model.name.clone(),
                    deployment_id: deployment.id,
                    deployment_name: deployment.name.clone(),
                };
                let environment = view.environment_of(deployment.id);
                let environment = environment.map(|environment| environment.name.clone());
                (deployment.id, (owner, environment))
            })
        });
        Self(deployments.collect())
    }

    /// The names of now, or the last ones.
    fn owner<'a>(&'a self, last: &'a Owner) -> &'a Owner {
        let living = self.0.get(&last.deployment_id);
        living.map_or(last, |(owner, _)| owner)
    }
}

fn summary(usages: Vec<DeploymentUsage>, living: &Living) -> UsageSummaryResponse {
    UsageSummaryResponse {
        dedicated_usage: DedicatedUsage {
            subtotal: FREE,
            credits_used: FREE,
            total: FREE,
            minutes: usages.iter().map(|usage| usage.replica_minutes).sum(),
            breakdown: usages.iter().map(|usage| item(usage, living)).collect(),
        },
        training_usage: None,
        model_apis_usage: None,
    }
}

fn item(usage: &DeploymentUsage, living: &Living) -> DedicatedItem {
    let owner = living.owner(&usage.owner);
    let alive = living.0.get(&owner.deployment_id);
    let daily = usage.parts.iter().map(|day| DailyUsage {
        date: TimeZone::UTC.to_datetime(timestamp(day.start)).date(),
        subtotal: FREE,
        compute_cost: FREE,
        surcharge_cost: FREE,
        minutes: day.replica_minutes,
        inference_requests: day.counters.requests(),
    });
    DedicatedItem {
        billable_resource: BillableResource {
            id: owner.deployment_id,
            kind: "MODEL_DEPLOYMENT".to_owned(),
            is_deleted: alive.is_none(),
            name: owner.deployment_name.clone(),
            model_id: owner.model_id,
            model_name: owner.model_name.clone(),
            instance_type: "cpu".to_owned(),
            environment_name: alive.and_then(|(_, environment)| environment.clone()),
        },
        subtotal: FREE,
        compute_cost: FREE,
        surcharge_cost: FREE,
        minutes: usage.replica_minutes,
        inference_requests: usage.counters.requests(),
        daily: daily.collect(),
    }
}

fn entry(bucket: UsageBucket, living: &Living) -> UsageEntry {
    let owner = living.owner(&bucket.owner);
    UsageEntry {
        start: timestamp(bucket.start),
        model_id: owner.model_id,
        model_name: owner.model_name.clone(),
        deployment_id: owner.deployment_id,
        deployment_name: owner.deployment_name.clone(),
        is_deleted: !living.0.contains_key(&owner.deployment_id),
        requests: bucket.counters.requests(),
        replica_minutes: bucket.replica_minutes,
        counters: bucket.counters,
    }
}
