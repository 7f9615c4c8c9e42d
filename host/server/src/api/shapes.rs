//! Models and deployments as the API shows them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use samovar_runtime::Snapshot;
use samovar_types::bundle::Isolation;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::digest::Digest;
use samovar_types::id::Id;
use samovar_types::settings::{AutoscalingSettings, BackpressurePolicy};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use crate::domain::deployment::{Deployment, DeploymentKind};
use crate::domain::model::ModelView;
use crate::domain::observed::{Observed, shown_reason, shown_status};

/// A model.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Model)]
pub struct ModelShape {
    /// Its id.
    pub id: Id,
    /// When it was first pushed.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Its name.
    pub name: String,
    /// Deployments that it has.
    pub deployments_count: usize,
    /// The deployment in production.
    pub production_deployment_id: Option<Id>,
    /// The development deployment.
    pub development_deployment_id: Option<Id>,
    /// What it runs on.
    pub instance_type_name: &'static str,
    /// A server has one team, `default`.
    pub team_name: &'static str,
}

/// A deployment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Deployment)]
pub struct DeploymentShape {
    /// Its id.
    pub id: Id,
    /// When it was pushed.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Its name.
    pub name: String,
    /// Its model.
    pub model_id: Id,
    /// Whether it is what production points at.
    pub is_production: bool,
    /// Whether it is the model's development deployment.
    pub is_development: bool,
    /// Where it stands.
    pub status: DeploymentStatus,
    /// Why it stands there, when something went wrong.
    pub status_reason: Option<String>,
    /// Replicas that can serve now.
    pub active_replica_count: usize,
    /// How many replicas it keeps.
    pub autoscaling_settings: AutoscalingSettings,
    /// What it runs on.
    pub instance_type_name: &'static str,
    /// The environment that points at it.
    pub environment: Option<String>,
    /// What its pusher noted.
    pub labels: BTreeMap<String, String>,
    /// What happens to requests that find every replica busy.
    pub request_backpressure_settings: Backpressure,
    /// The bundle's digest.
    pub bundle_digest: Digest,
    /// With whom its graphs share a process, as its manifest says. `serve --engines per-deployment` separates all.
    pub isolation: Isolation,
    /// Its graphs.
    pub graphs: Vec<GraphShape>,
    /// What became of the wish to keep the memory after `init`; null without one, and until it was tried on this node.
    pub init_snapshot: Option<InitSnapshot>,
}

/// A graph of a deployment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeploymentGraph)]
pub struct GraphShape {
    /// Its name in the manifest.
    pub name: String,
    /// `rten` or `onnxruntime`; null until it was loaded on this node.
    pub backend: Option<&'static str>,
    /// What it runs on: `cpu`, or `cuda:0` and so on; null until it was loaded on this node.
    pub device: Option<String>,
}

/// What became of the wish to keep the memory after `init`.
#[derive(Debug, Serialize, ToSchema)]
pub struct InitSnapshot {
    /// Whether replicas start with it.
    pub taken: bool,
    /// Why not; each replica runs `init` then.
    pub reason: Option<String>,
}

impl InitSnapshot {
    fn of(snapshot: Snapshot) -> Self {
        match snapshot {
            Snapshot::Taken => Self {
                taken: true,
                reason: None,
            },
            Snapshot::Refused(reason) => Self {
                taken: false,
                reason: Some(reason),
            },
        }
    }
}

/// What happens to requests that find every replica busy.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Backpressure {
    /// Whether they wait or are refused.
    pub policy: BackpressurePolicy,
}

impl ModelShape {
    /// A model as it is now.
    pub fn of(view: &ModelView) -> Self {
        Self {
            id: view.model.id,
            created_at: view.model.created_at,
            name: view.model.name.clone(),
            deployments_count: view.deployments.len(),
            production_deployment_id: view.production().map(|deployment| deployment.id),
            development_deployment_id: view.development().map(|deployment| deployment.id),
            instance_type_name: "cpu",
            team_name: "default",
        }
    }
}

impl DeploymentShape {
    /// A deployment of a model as it is now.
    pub fn of(api: &Api, view: &ModelView, deployment: &Deployment) -> Self {
        let observed = api.serving.observed(view.model.id, deployment.id);
        let (stored, reason) = (deployment.status, deployment.status_reason.as_deref());
        let seen = api.serving.seen(view.model.id, deployment.id);
        let environment = view.environment_of(deployment.id);
        let environment = environment.map(|environment| environment.name.clone());
        Self {
            id: deployment.id,
            created_at: deployment.created_at,
            name: deployment.name.clone(),
            model_id: deployment.model_id,
            is_production: environment.as_deref() == Some("production"),
            is_development: deployment.kind == DeploymentKind::Development,
            status: shown(api, deployment.id, stored, &observed),
            status_reason: shown_reason(stored, reason, &observed),
            active_replica_count: observed.ready,
            autoscaling_settings: deployment.autoscaling(),
            instance_type_name: "cpu",
            environment,
            labels: deployment.labels.clone(),
            request_backpressure_settings: Backpressure {
                policy: deployment.backpressure,
            },
            bundle_digest: deployment.bundle_digest,
            isolation: deployment.bundle.isolation,
            graphs: deployment
                .bundle
                .graphs
                .keys()
                .map(|name| {
                    let graph = seen.graphs.iter().find(|one| one.name == *name);
                    GraphShape {
                        name: name.clone(),
                        backend: graph.map(|one| one.backend),
                        device: graph.map(|one| one.device.to_string()),
                    }
                })
                .collect(),
            init_snapshot: seen.snapshot.map(InitSnapshot::of),
        }
    }
}

/// What a deployment's status is to everybody: what is stored says that it may run, what is seen of it whether it does.
pub(super) fn shown(
    api: &Api,
    id: Id,
    stored: DeploymentStatus,
    observed: &Observed,
) -> DeploymentStatus {
    match api.reloader.is_reloading(id) {
        true => DeploymentStatus::Updating,
        false => shown_status(stored, observed),
    }
}
