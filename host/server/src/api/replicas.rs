//! The replicas of a deployment: listed, and stopped one by one.

use jiff::{SignedDuration, Timestamp};
use samovar_runtime::{ReplicaInfo, ReplicaState, Stopping};
use serde::Serialize;
use utoipa::ToSchema;
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

/// The replicas of a deployment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Replicas {
    /// The oldest first.
    pub replicas: Vec<ReplicaShape>,
}

/// A replica.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Replica)]
pub struct ReplicaShape {
    /// Its id, as in logs.
    pub id: String,
    /// What it does.
    pub state: ReplicaStateShape,
    /// When it began to start.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// How many seconds ago that was.
    pub age_seconds: f64,
    /// Requests that it was given.
    pub requests_served: u64,
}

/// What a replica does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ReplicaState)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReplicaStateShape {
    /// It is made, and runs its `init`.
    Starting,
    /// It waits for a request.
    Idle,
    /// It serves one.
    Busy,
    /// It was told to stop, and serves its last one.
    Stopping,
}

/// A replica that was told to stop.
#[derive(Debug, Serialize, ToSchema)]
pub struct Terminated {
    /// Always true.
    pub success: bool,
    /// Whether it finishes a request, or its start, before it goes.
    pub finishes_first: bool,
}

impl ReplicaShape {
    fn of(replica: ReplicaInfo, now: Timestamp) -> Self {
        let age = SignedDuration::try_from(replica.age).unwrap_or(SignedDuration::MAX);
        Self {
            id: replica.id,
            state: match replica.state {
                ReplicaState::Starting => ReplicaStateShape::Starting,
                ReplicaState::Idle => ReplicaStateShape::Idle,
                ReplicaState::Busy => ReplicaStateShape::Busy,
                ReplicaState::Stopping => ReplicaStateShape::Stopping,
            },
            started_at: now.checked_sub(age).unwrap_or(now),
            age_seconds: replica.age.as_secs_f64(),
            requests_served: replica.served,
        }
    }
}

/// List the replicas of a deployment on this node.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}/replicas",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = Replicas))
)]
async fn list(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<Replicas>, ApiError> {
    let view = api.registry.model(&model).await?;
    let id = find(&view, &deployment)?.id;
    let now = Timestamp::now();
    let served = api.serving.served(view.model.id, id);
    let replicas = served.map_or_else(Vec::new, |served| served.pool.replicas());
    let replicas = replicas.into_iter();
    Ok(Json(Replicas {
        replicas: replicas.map(|one| ReplicaShape::of(one, now)).collect(),
    }))
}

/// Stop a replica. An idle one goes at once; a busy one finishes its request, for as long as the drain time, and serves no
/// other.
#[utoipa::path(
    delete, path = "/v1/models/{model}/deployments/{deployment}/replicas/{replica}",
    params(("model" = String, Path), ("deployment" = String, Path), ("replica" = String, Path)),
    responses((status = 200, body = Terminated))
)]
async fn terminate(
    State(api): State<Api>,
    Path((model, deployment, replica)): Path<(String, String, String)>,
) -> Result<Json<Terminated>, ApiError> {
    let view = api.registry.model(&model).await?;
    let id = find(&view, &deployment)?.id;
    let served = api.serving.served(view.model.id, id);
    let time = api.serving.drain_timeout();
    let stopping = served.and_then(|served| served.pool.stop_replica(&replica, time));
    let stopping = stopping.ok_or_else(|| {
        let shown: String = replica.chars().take(80).collect();
        ApiError::not_found(format!("deployment {id} has no replica {shown:?}"))
    })?;
    let act = Act::ReplicaTerminated {
        replica_id: replica,
    };
    api.registry.note(view.told_of(id, act)).await?;
    Ok(Json(Terminated {
        success: true,
        finishes_first: stopping == Stopping::Later,
    }))
}
