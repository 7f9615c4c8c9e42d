//! What happens, as server-sent events.

use std::convert::Infallible;

use axum::Extension;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event as SseEvent, Sse};
use futures::Stream;
use futures::stream::unfold;
use jiff::Timestamp;
use samovar_types::api::events::{EventData, EventsQuery};
use samovar_types::error::{ErrorBody, ErrorCode};
use samovar_types::id::ModelId;
use tokio::sync::mpsc;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Query, State};
use super::permission::{Action, Needs as _};
use super::shapes::shown;
use crate::control::access::Caller;
use crate::domain::engine_events::EngineNote;
use crate::domain::events::{Event, EventId, What};
use crate::domain::observed::shown_reason;
use crate::events::bus::MAX_SUBSCRIBERS;
use crate::events::stream::{self as subscriber, Begin, MAX_PENDING, Outlet, READ_TIMEOUT, Told};
use crate::registry::RegistryError;

/// The route of events.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new().routes(routes!(events).needs(Action::Manage))
}

/// Nothing for what belongs to no model although it should.
fn event_data(api: &Api, event: &Event) -> Option<EventData> {
    let observed = |id| Some(api.serving.observed(event.model?, id));
    Some(match &event.what {
        What::Missed => EventData::Reset,
        What::Audit(entry) => EventData::Audit {
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
            EventData::Engine {
                backend: backend.to_owned(),
                process,
                suspect,
                ended: end.is_some(),
                reason: end.as_ref().map(|end| end.reason.to_owned()),
                message: end.as_ref().map(|end| end.message.clone()),
                graphs: end.map(|end| end.graphs).unwrap_or_default(),
                deployments,
            }
        }
        What::Quarantine(note) => EventData::Quarantine {
            graph: note.graph.clone(),
            ended: note.begun.is_none(),
            seconds: note.begun.map(|begun| begun.seconds),
            engine_ends: note.begun.map(|begun| begun.ends),
            deployments: note.deployments.clone(),
        },
        What::Eviction(note) => EventData::Eviction {
            graph: note.graph.clone(),
            bytes: note.bytes,
            deployments: note.deployments.clone(),
        },
        What::Model { name } => EventData::Model {
            model_id: event.model?,
            name: Some(name.clone()),
            deleted: false,
        },
        What::ModelDeleted => EventData::Model {
            model_id: event.model?,
            name: None,
            deleted: true,
        },
        What::Deployment(deployment) => {
            let (stored, observed) = (deployment.status, observed(deployment.id)?);
            let reason = deployment.status_reason.as_deref();
            EventData::Deployment {
                model_id: deployment.model_id,
                deployment_id: deployment.id,
                name: Some(deployment.name.clone()),
                status: Some(shown(api, deployment.id, stored, &observed).into()),
                status_reason: shown_reason(stored, reason, &observed),
                active_replica_count: observed.ready,
                deleted: false,
            }
        }
        What::DeploymentDeleted { id } => EventData::Deployment {
            model_id: event.model?,
            deployment_id: *id,
            name: None,
            status: None,
            status_reason: None,
            active_replica_count: observed(*id)?.ready,
            deleted: true,
        },
        What::Environment(environment) => EventData::Environment {
            model_id: environment.model_id,
            environment: environment.name.clone(),
            current_deployment_id: environment.current_deployment_id,
            candidate_deployment_id: environment.candidate_deployment_id(),
            deleted: false,
        },
        What::EnvironmentDeleted { name } => EventData::Environment {
            model_id: event.model?,
            environment: name.clone(),
            current_deployment_id: None,
            candidate_deployment_id: None,
            deleted: true,
        },
        What::Promotion {
            environment,
            promotion,
        } => EventData::Promotion {
            model_id: event.model?,
            environment: environment.clone(),
            deployment_id: promotion.candidate_deployment_id,
            status: promotion.status.into(),
            percent_traffic_to_new_version: promotion.percent(Timestamp::now()),
            error_message: promotion.error_message.clone(),
        },
        What::Replicas { deployment } => {
            let observed = observed(*deployment)?;
            let stored = api.serving.status(event.model?, *deployment);
            EventData::Replica {
                model_id: event.model?,
                deployment_id: *deployment,
                active_replica_count: observed.ready,
                status: stored.map(|stored| shown(api, *deployment, stored, &observed).into()),
            }
        }
    })
}

/// Follow what happens, as server-sent events: models, deployments, environments, promotions, replicas, engines, and what
/// the audit log tells.
///
/// A client that comes back with `Last-Event-ID` is told what it missed, each event once; a `reset` says that some of it
/// is no longer known. The stream ends when the server stops.
#[utoipa::path(
    get, path = "/v1/events", params(EventsQuery, ("Last-Event-ID" = Option<String>, Header, description = "The last event that was read")),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventData),
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
    let Some(subscription) = api.bus.subscribe().await else {
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
    let telling = subscriber::tell(api.bus.clone(), subscription, begin, wants, out);
    tokio::spawn(telling);
    let stream = unfold(
        (api, caller, receiver),
        async |(api, caller, mut receiver)| {
            loop {
                let told = receiver.recv().await?;
                // A key that was deleted in the meantime gets no more events.
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
        Told::Ready(id) => (Some(id), EventData::Ready),
        Told::Event(event) => (event.id, event_data(api, &event)?),
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
async fn known(api: &Api, model: &str) -> Result<ModelId, ApiError> {
    match (api.registry.model(model).await, model.parse::<ModelId>()) {
        (Ok(view), _) => Ok(view.model.id),
        (Err(RegistryError::NoModel { .. }), Ok(id)) => Ok(id),
        (Err(error), _) => Err(error.into()),
    }
}
