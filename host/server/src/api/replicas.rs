//! The replicas of a deployment: listed, and stopped one by one.

use jiff::{SignedDuration, Timestamp};
use samovar_runtime::{ReplicaInfo, ReplicaState, StopOutcome};
use samovar_types::api::replicas::{
    ListReplicasResponse, ReplicaResponse, ReplicaStatus, TerminateReplicaResponse,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::deployments::find;
use super::error::ApiError;
use super::extract::{Json, Path, State};
use super::permission::{Action, Needs as _};
use crate::domain::audit::Act;

/// The routes of replicas.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list).needs(Action::Manage))
        .routes(routes!(terminate).needs(Action::Manage))
}

fn status(state: ReplicaState) -> ReplicaStatus {
    match state {
        ReplicaState::Starting => ReplicaStatus::Starting,
        ReplicaState::Idle => ReplicaStatus::Idle,
        ReplicaState::Busy => ReplicaStatus::Busy,
        ReplicaState::Stopping => ReplicaStatus::Stopping,
    }
}

fn replica(replica: ReplicaInfo, now: Timestamp) -> ReplicaResponse {
    let age = SignedDuration::try_from(replica.age).unwrap_or(SignedDuration::MAX);
    ReplicaResponse {
        id: replica.id,
        state: status(replica.state).into(),
        started_at: now.checked_sub(age).unwrap_or(now),
        age_seconds: replica.age.as_secs_f64(),
        requests_served: replica.served,
    }
}

/// List the replicas of a deployment on this node.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}/replicas",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = ListReplicasResponse))
)]
async fn list(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<ListReplicasResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let id = find(&view, &deployment)?.id;
    let now = Timestamp::now();
    let served = api.serving.served(view.model.id, id);
    let replicas = served.map_or_else(Vec::new, |served| served.pool.replicas());
    let replicas = replicas.into_iter();
    Ok(Json(ListReplicasResponse {
        replicas: replicas.map(|one| replica(one, now)).collect(),
    }))
}

/// Stop a replica. An idle one goes at once; a busy one finishes its request, for as long as the drain time, and serves no
/// other.
#[utoipa::path(
    delete, path = "/v1/models/{model}/deployments/{deployment}/replicas/{replica}",
    params(("model" = String, Path), ("deployment" = String, Path), ("replica" = String, Path)),
    responses((status = 200, body = TerminateReplicaResponse))
)]
async fn terminate(
    State(api): State<Api>,
    Path((model, deployment, replica)): Path<(String, String, String)>,
) -> Result<Json<TerminateReplicaResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let id = find(&view, &deployment)?.id;
    let served = api.serving.served(view.model.id, id);
    let time = api.serving.drain_timeout();
    let found = served.filter(|served| {
        let mut replicas = served.pool.replicas().into_iter();
        replicas.any(|one| one.id == replica)
    });
    let served = found.ok_or_else(|| {
        let shown: String = replica.chars().take(80).collect();
        ApiError::not_found(format!("deployment {id} has no replica {shown:?}"))
    })?;
    // First, so that none is stopped without a trace when this is cut off between the two.
    let act = Act::ReplicaTerminated {
        replica_id: replica.clone(),
    };
    api.registry.note(view.told_of(id, act)).await?;
    // It may have ended meanwhile.
    let stopping = served.pool.stop_replica(&replica, time);
    Ok(Json(TerminateReplicaResponse {
        success: true,
        finishes_first: stopping == Some(StopOutcome::Draining),
    }))
}
