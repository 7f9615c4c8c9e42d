//! The event stream of the server.

use serde::{Deserialize, Serialize};

use super::audit::AuditEntryResponse;
use super::reported::Reported;
use crate::deployment::DeploymentStatus;
use crate::engine::{ConcernedDeployment, EngineGraph};
use crate::id::{DeploymentId, ModelId};
use crate::promotion::PromotionStatus;

/// Options of the event stream.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct EventsQuery {
    /// Only events of this model, by id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The same as the header `Last-Event-ID`, for clients that cannot set headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_id: Option<String>,
}

/// The `data` of an event; its `type` is also the event's name. Values are those after the change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", schema(as = Event))]
pub enum EventData {
    /// The first event: every change from here on is reported.
    Ready,
    /// Some earlier changes are missing because the server no longer knows them: read the current state again.
    Reset,
    /// A model was created, renamed or deleted.
    Model {
        /// Id of the model.
        model_id: ModelId,
        /// Name of the model; null if it was deleted.
        name: Option<String>,
        /// Whether the model was deleted.
        deleted: bool,
    },
    /// A deployment was created, changed or deleted.
    Deployment {
        /// Id of the model.
        model_id: ModelId,
        /// Id of the deployment.
        deployment_id: DeploymentId,
        /// Name of the deployment; null if it was deleted.
        name: Option<String>,
        /// State of the deployment; null if it was deleted.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<DeploymentStatus>))]
        status: Option<Reported<DeploymentStatus>>,
        /// Reason for the state, if something went wrong.
        status_reason: Option<String>,
        /// Number of replicas.
        active_replica_count: usize,
        /// Whether the deployment was deleted.
        deleted: bool,
    },
    /// An environment was created, changed or deleted.
    Environment {
        /// Id of the model.
        model_id: ModelId,
        /// Name of the environment.
        environment: String,
        /// The deployment that its requests go to.
        current_deployment_id: Option<DeploymentId>,
        /// The deployment that is being promoted.
        candidate_deployment_id: Option<DeploymentId>,
        /// Whether the environment was deleted.
        deleted: bool,
    },
    /// A promotion began, advanced or ended.
    Promotion {
        /// Id of the model.
        model_id: ModelId,
        /// Name of the environment.
        environment: String,
        /// The deployment that is being promoted.
        deployment_id: DeploymentId,
        /// Status of the promotion.
        #[cfg_attr(feature = "openapi", schema(value_type = PromotionStatus))]
        status: Reported<PromotionStatus>,
        /// Percentage of requests that the promoted deployment gets.
        percent_traffic_to_new_version: u32,
        /// Reason of a failure.
        error_message: Option<String>,
    },
    /// The number of replicas or the state of a deployment changed. Sampled a few times a second, and not repeated after a reconnect.
    Replica {
        /// Id of the model.
        model_id: ModelId,
        /// Id of the deployment.
        deployment_id: DeploymentId,
        /// Number of replicas.
        active_replica_count: usize,
        /// State of the deployment.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<DeploymentStatus>))]
        status: Option<Reported<DeploymentStatus>>,
    },
    /// An engine, which is a process that runs graphs, started or ended. Not repeated after a reconnect.
    Engine {
        /// Backend of the engine.
        backend: String,
        /// Process id of the engine.
        process: Option<u32>,
        /// Whether the engine runs one suspect graph alone, because other engines ended while that graph ran in them.
        suspect: bool,
        /// Whether the process has ended.
        ended: bool,
        /// Why the engine ended: `idle`, `signal`, `exit`, `out_of_memory`, `overdue_run`, `overdue_load`, `abandoned_load`,
        /// `unresponsive` or `invalid_message`.
        reason: Option<String>,
        /// Description of the reason.
        message: Option<String>,
        /// The graphs that may have caused the end, at most 16.
        graphs: Vec<EngineGraph>,
        /// The deployment that the engine belongs to, and the deployments with one of these graphs; at most 32.
        deployments: Vec<ConcernedDeployment>,
    },
    /// A graph is in quarantine because it ended its own engine repeatedly, or may run again. Not repeated after a reconnect.
    Quarantine {
        /// The graph.
        graph: EngineGraph,
        /// Whether the quarantine has ended.
        ended: bool,
        /// Duration of the quarantine in seconds.
        seconds: Option<u64>,
        /// How often the graph ended its own engine recently.
        engine_ends: Option<usize>,
        /// The deployments with this graph, at most 32.
        deployments: Vec<ConcernedDeployment>,
    },
    /// An idle graph was unloaded to make room for another; its next run loads it again. Not told later.
    Eviction {
        /// The graph.
        graph: EngineGraph,
        /// The memory that it was counted with.
        bytes: u64,
        /// The deployments that have it, 32 at most.
        deployments: Vec<ConcernedDeployment>,
    },
    /// The audit log has a new entry.
    Audit {
        /// The entry.
        entry: Box<AuditEntryResponse>,
    },
}

impl EventData {
    /// The event's `type`, which is also its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Reset => "reset",
            Self::Model { .. } => "model",
            Self::Deployment { .. } => "deployment",
            Self::Environment { .. } => "environment",
            Self::Promotion { .. } => "promotion",
            Self::Replica { .. } => "replica",
            Self::Engine { .. } => "engine",
            Self::Quarantine { .. } => "quarantine",
            Self::Eviction { .. } => "eviction",
            Self::Audit { .. } => "audit",
        }
    }
}
