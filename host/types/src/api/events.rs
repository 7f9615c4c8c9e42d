//! What happens, as server-sent events.

use serde::{Deserialize, Serialize};

use super::audit::AuditEntryResponse;
use super::reported::Reported;
use crate::deployment::DeploymentStatus;
use crate::engine::{ConcernedDeployment, EngineGraph};
use crate::id::Id;
use crate::promotion::PromotionStatus;

/// What is told.
#[derive(Clone, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct EventsQuery {
    /// Only of this model, by id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The same as the header `Last-Event-ID`, for clients that cannot set headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event_id: Option<String>,
}

/// The `data` of an event; its `type` is the event's name too. Values are those afterwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", schema(as = Event))]
pub enum EventData {
    /// The first: whatever happens from here on is told.
    Ready,
    /// Some of what happened before this is not told, because the server no longer knows it: read anew what matters.
    Reset,
    /// A model was made, renamed or deleted.
    Model {
        /// Its id.
        model_id: Id,
        /// Its name, while it is there.
        name: Option<String>,
        /// Whether it is gone.
        deleted: bool,
    },
    /// A deployment was made, changed or deleted.
    Deployment {
        /// Its model.
        model_id: Id,
        /// Its id.
        deployment_id: Id,
        /// Its name, while it is there.
        name: Option<String>,
        /// Where it stands, while it is there.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<DeploymentStatus>))]
        status: Option<Reported<DeploymentStatus>>,
        /// Why it stands there, when something went wrong.
        status_reason: Option<String>,
        /// Replicas now.
        active_replica_count: usize,
        /// Whether it is gone.
        deleted: bool,
    },
    /// An environment was made, changed or deleted.
    Environment {
        /// Its model.
        model_id: Id,
        /// Its name.
        environment: String,
        /// The deployment that its requests go to.
        current_deployment_id: Option<Id>,
        /// The deployment that is moving in.
        candidate_deployment_id: Option<Id>,
        /// Whether it is gone.
        deleted: bool,
    },
    /// A promotion began, went on or ended.
    Promotion {
        /// Its model.
        model_id: Id,
        /// The environment that moves.
        environment: String,
        /// The deployment that moves in.
        deployment_id: Id,
        /// Where it stands.
        #[cfg_attr(feature = "openapi", schema(value_type = PromotionStatus))]
        status: Reported<PromotionStatus>,
        /// Percentage of requests that the deployment gets.
        percent_traffic_to_new_version: u32,
        /// Why it failed.
        error_message: Option<String>,
    },
    /// A deployment has more or fewer replicas, or stands elsewhere because of what is seen of it. It is looked at a few
    /// times a second, and not told later.
    Replica {
        /// Its model.
        model_id: Id,
        /// The deployment.
        deployment_id: Id,
        /// Replicas now.
        active_replica_count: usize,
        /// Where the deployment stands.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<DeploymentStatus>))]
        status: Option<Reported<DeploymentStatus>>,
    },
    /// A process that runs graphs started or ended. Not told later.
    Engine {
        /// The backend that it was started for.
        backend: String,
        /// Its process.
        process: Option<u32>,
        /// Whether it ran one graph alone, because engines ended that this graph ran in.
        suspect: bool,
        /// Whether it is gone.
        ended: bool,
        /// Why it ended: `idle`, `signal`, `exit`, `out_of_memory`, `overdue_run`, `overdue_load`, `abandoned_load`,
        /// `unresponsive` or `invalid_message`.
        reason: Option<String>,
        /// The same in words.
        message: Option<String>,
        /// The graphs that may have ended it, 16 at most.
        graphs: Vec<EngineGraph>,
        /// The deployment that has it for itself and those that have one of these graphs, 32 at most.
        deployments: Vec<ConcernedDeployment>,
    },
    /// A graph ended its own engine repeatedly and is not run for a while, or may be run again. Not told later.
    Quarantine {
        /// The graph.
        graph: EngineGraph,
        /// Whether it may be run again.
        ended: bool,
        /// For how long it is not run.
        seconds: Option<u64>,
        /// How often it ended its own engine lately.
        engine_ends: Option<usize>,
        /// The deployments that have it, 32 at most.
        deployments: Vec<ConcernedDeployment>,
    },
    /// The audit log has a new entry.
    Audit {
        /// It.
        entry: Box<AuditEntryResponse>,
    },
}

impl EventData {
    /// Its `type`, which is the event's name too.
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
            Self::Audit { .. } => "audit",
        }
    }
}
