//! Models and deployments as the API shows them.

use samovar_runtime::Snapshot;
use samovar_types::api::deployments::{
    BackpressureSettings, DeploymentGraph, DeploymentResponse, InitSnapshot,
};
use samovar_types::api::models::ModelResponse;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::DeploymentId;

use super::Api;
use crate::domain::deployment::{Deployment, DeploymentKind};
use crate::domain::model::ModelView;
use crate::domain::observed::{Observed, shown_reason, shown_status};
use crate::domain::organization;

fn init_snapshot(snapshot: Snapshot) -> InitSnapshot {
    match snapshot {
        Snapshot::Taken => InitSnapshot {
            taken: true,
            reason: None,
        },
        Snapshot::Refused(reason) => InitSnapshot {
            taken: false,
            reason: Some(reason),
        },
    }
}

/// A model as it is now.
pub(super) fn model_response(view: &ModelView) -> ModelResponse {
    ModelResponse {
        id: view.model.id,
        created_at: view.model.created_at,
        name: view.model.name.clone(),
        deployments_count: view.deployments.len(),
        production_deployment_id: view.production().map(|deployment| deployment.id),
        development_deployment_id: view.development().map(|deployment| deployment.id),
        instance_type_name: "cpu".to_owned(),
        team_name: organization::NAME.to_owned(),
    }
}

/// A deployment of a model as it is now.
pub(super) fn deployment_response(
    api: &Api,
    view: &ModelView,
    deployment: &Deployment,
) -> DeploymentResponse {
    let observed = api.serving.observed(view.model.id, deployment.id);
    let (stored, reason) = (deployment.status, deployment.status_reason.as_deref());
    let seen = api.serving.seen(view.model.id, deployment.id);
    let environment = view.environment_of(deployment.id);
    let environment = environment.map(|environment| environment.name.clone());
    DeploymentResponse {
        id: deployment.id,
        created_at: deployment.created_at,
        name: deployment.name.clone(),
        model_id: deployment.model_id,
        is_production: environment.as_deref() == Some("production"),
        is_development: deployment.kind == DeploymentKind::Development,
        status: shown(api, deployment.id, stored, &observed).into(),
        status_reason: shown_reason(stored, reason, &observed),
        active_replica_count: observed.ready,
        autoscaling_settings: deployment.autoscaling(),
        instance_type_name: "cpu".to_owned(),
        environment,
        labels: deployment.labels.clone(),
        request_backpressure_settings: BackpressureSettings {
            policy: deployment.backpressure.into(),
        },
        bundle_digest: deployment.bundle_digest,
        isolation: deployment.bundle.isolation.into(),
        graphs: deployment
            .bundle
            .graphs
            .keys()
            .map(|name| {
                let graph = seen.graphs.iter().find(|one| one.name == *name);
                DeploymentGraph {
                    name: name.clone(),
                    backend: graph.map(|one| one.backend.to_owned()),
                    device: graph.map(|one| one.device.to_string()),
                }
            })
            .collect(),
        init_snapshot: seen.snapshot.map(init_snapshot),
    }
}

/// What a deployment's status is to everybody: what is stored says that it may run, what is seen of it whether it does.
pub(super) fn shown(
    api: &Api,
    id: DeploymentId,
    stored: DeploymentStatus,
    observed: &Observed,
) -> DeploymentStatus {
    match api.dev_reload.is_reloading(id) {
        true => DeploymentStatus::Updating,
        false => shown_status(stored, observed),
    }
}
