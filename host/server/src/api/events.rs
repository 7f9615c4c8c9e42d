//! What happens, as server-sent events.

use std::convert::Infallible;

use axum::Extension;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as SseEvent, Sse};
use futures::Stream;
use futures::stream::unfold;
use jiff::Timestamp;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::engine::{ConcernedDeployment, EngineGraph};
use samovar_types::error::{ErrorBody, ErrorCode};
use samovar_types::id::Id;
use samovar_types::promotion::PromotionStatus;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::audit::AuditEntryShape;
use super::error::ApiError;
use super::extract::{Query, State};
use super::permission::{Action, Needs as _};
use super::shapes::shown;
use crate::control::access::Caller;
use crate::control::feed::MAX_SUBSCRIBERS;
use crate::control::subscriber::{self, Begin, MAX_PENDING, Outlet, READ_TIMEOUT, Told};
use crate::domain::engine_events::EngineNote;
use crate::domain::events::{Event, EventId, What};
use crate::domain::observed::shown_reason;
use crate::registry::RegistryError;

/// The route of events.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new().routes(routes!(events).needs(Action::Manage))
}

/// What is told.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only of this model, by id or name.
    model: Option<String>,
    /// The same as the header `Last-Event-ID`, for clients that cannot set headers.
    last_event_id: Option<String>,
}

/// The `data` of an event; its `type` is the event's name too. Values are those afterwards.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(as = Event)]
pub enum EventShape {
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
        status: Option<DeploymentStatus>,
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
        status: PromotionStatus,
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
        status: Option<DeploymentStatus>,
    },
    /// A process that runs graphs started or ended. Not told later.
    Engine {
        /// The backend that it was started for.
        backend: &'static str,
        /// Its process.
        process: Option<u32>,
        /// Whether it ran one graph alone, because engines ended that this graph ran in.
        suspect: bool,
        /// Whether it is gone.
        ended: bool,
        /// Why it ended: `idle`, `signal`, `exit`, `out_of_memory`, `overdue_run`, `overdue_load`, `abandoned_load`,
        /// `unresponsive` or `invalid_message`.
        reason: Option<&'static str>,
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
        entry: Box<AuditEntryShape>,
    },
}

impl EventShape {
    fn name(&self) -> &'static str {
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

    /// Nothing for what belongs to no model although it should.
    fn of(api: &Api, event: &Event) -> Option<Self> {
        let observed = |id| Some(api.serving.observed(event.model?, id));
        Some(match &event.what {
            What::Missed => Self::Reset,
            What::Audit(entry) => Self::Audit {
                entry: Box::new((**entry).clone().into()),
            },
            What::Engine(note) => {
                let EngineNote {
                    backend,
                    process,
                    suspect,
                    end,
                    deployments,
                } = (**note).clone();
                Self::Engine {
                    backend,
                    process,
                    suspect,
                    ended: end.is_some(),
                    reason: end.as_ref().map(|end| end.reason),
                    message: end.as_ref().map(|end| end.message.clone()),
                    graphs: end.map(|end| end.graphs).unwrap_or_default(),
                    deployments,
                }
            }
            What::Quarantine(note) => Self::Quarantine {
                graph: note.graph.clone(),
                ended: note.begun.is_none(),
                seconds: note.begun.map(|begun| begun.seconds),
                engine_ends: note.begun.map(|begun| begun.ends),
                deployments: note.deployments.clone(),
            },
            What::Model { name } => Self::Model {
                model_id: event.model?,
                name: Some(name.clone()),
                deleted: false,
            },
            What::ModelDeleted => Self::Model {
                model_id: event.model?,
                name: None,
                deleted: true,
            },
            What::Deployment(deployment) => {
                let (stored, observed) = (deployment.status, observed(deployment.id)?);
                let reason = deployment.status_reason.as_deref();
                Self::Deployment {
                    model_id: deployment.model_id,
                    deployment_id: deployment.id,
                    name: Some(deployment.name.clone()),
                    status: Some(shown(api, deployment.id, stored, &observed)),
                    status_reason: shown_reason(stored, reason, &observed),
                    active_replica_count: observed.ready,
                    deleted: false,
                }
            }
            What::DeploymentDeleted { id } => Self::Deployment {
                model_id: event.model?,
                deployment_id: *id,
                name: None,
                status: None,
                status_reason: None,
                active_replica_count: observed(*id)?.ready,
                deleted: true,
            },
            What::Environment(environment) => Self::Environment {
                model_id: environment.model_id,
                environment: environment.name.clone(),
                current_deployment_id: environment.current_deployment_id,
                candidate_deployment_id: environment.candidate_deployment_id(),
                deleted: false,
            },
            What::EnvironmentDeleted { name } => Self::Environment {
                model_id: event.model?,
                environment: name.clone(),
                current_deployment_id: None,
                candidate_deployment_id: None,
                deleted: true,
            },
            What::Promotion {
                environment,
                promotion,
            } => Self::Promotion {
                model_id: event.model?,
                environment: environment.clone(),
                deployment_id: promotion.candidate_deployment_id,
                status: promotion.status,
                percent_traffic_to_new_version: promotion.percent(Timestamp::now()),
                error_message: promotion.error_message.clone(),
            },
            What::Replicas { deployment } => {
                let observed = observed(*deployment)?;
                let stored = api.serving.status(event.model?, *deployment);
                Self::Replica {
                    model_id: event.model?,
                    deployment_id: *deployment,
                    active_replica_count: observed.ready,
                    status: stored.map(|stored| shown(api, *deployment, stored, &observed)),
                }
            }
        })
    }
}

/// Follow what happens, as server-sent events: models, deployments, environments, promotions, replicas, engines, and what
/// the audit log tells.
///
/// A client that comes back with `Last-Event-ID` is told what it missed, each event once; a `reset` says that some of it
/// is no longer known. The stream ends when the server stops.
#[utoipa::path(
    get, path = "/v1/events", params(EventsQuery, ("Last-Event-ID" = Option<String>, Header, description = "The last event that was read")),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventShape),
        (status = 429, description = "Too many follow already", body = ErrorBody)
    )
)]
async fn events(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<SseEvent, Infallible>> + Send>, ApiError> {
    let header = headers.get("last-event-id");
    let header = header.map(|value| value.to_str().unwrap_or("?").to_owned());
    let begin = begin(header.or(query.last_event_id).as_deref())?;
    let model = match &query.model {
        Some(model) => Some(known(&api, model).await?),
        None => None,
    };
    let Some(subscription) = api.feed.subscribe().await else {
        let text = format!("{MAX_SUBSCRIBERS} follow events already, which is the most");
        let status = StatusCode::TOO_MANY_REQUESTS;
        return Err(ApiError::new(status, ErrorCode::RateLimited, text));
    };
    let (sender, receiver) = mpsc::channel(MAX_PENDING);
    let wants = move |event: &Event| model.is_none_or(|model| event.concerns(model));
    let out = Outlet {
        sender,
        patience: READ_TIMEOUT,
    };
    let telling = subscriber::tell(api.feed.clone(), subscription, begin, wants, out);
    tokio::spawn(telling);
    let stream = unfold(
        (api, caller, receiver),
        async |(api, caller, mut receiver)| {
            loop {
                let told = receiver.recv().await?;
                // A key that was deleted meanwhile is told no more.
                if !api.access.knows(&caller) {
                    return None;
                }
                if let Some(event) = written(&api, told) {
                    return Some((Ok(event), (api, caller, receiver)));
                }
            }
        },
    );
    Ok(Sse::new(stream))
}

fn written(api: &Api, told: Told) -> Option<SseEvent> {
    let (id, shape) = match told {
        Told::Ready(id) => (Some(id), EventShape::Ready),
        Told::Event(event) => (event.id, EventShape::of(api, &event)?),
        // Of a block without data, clients keep the id.
        Told::Progress(id) => return Some(SseEvent::default().id(id.to_string())),
    };
    let mut event = SseEvent::default().event(shape.name());
    if let Some(id) = id {
        event = event.id(id.to_string());
    }
    // Plain values under text keys leave the writer nothing to fail on.
    event.json_data(&shape).ok()
}

fn begin(last: Option<&str>) -> Result<Begin, ApiError> {
    match last {
        None | Some("") => Ok(Begin::Now),
        Some(text) => match text.parse::<EventId>() {
            Ok(id) => Ok(Begin::After(id)),
            Err(error) => Err(ApiError::bad_request(format!("Last-Event-ID: {error}"))),
        },
    }
}

/// A model that is there, or the id of one that was or will be.
async fn known(api: &Api, model: &str) -> Result<Id, ApiError> {
    match (api.registry.model(model).await, model.parse::<Id>()) {
        (Ok(view), _) => Ok(view.model.id),
        (Err(RegistryError::NoModel { .. }), Ok(id)) => Ok(id),
        (Err(error), _) => Err(error.into()),
    }
}
