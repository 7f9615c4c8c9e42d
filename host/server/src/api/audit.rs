//! The audit log: who changed what, by pages.

use jiff::Timestamp;
use samovar_store::Order;
use samovar_types::api::audit::{
    AuditActor, AuditDirection, AuditEntryResponse, AuditLogResponse, AuditQuery, AuditSource,
    Pagination,
};
use samovar_types::id::ModelId;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Pairs, Path, State};
use super::permission::{Action, Needs as _};
use crate::domain::audit::{Actor, Entry, is_id};
use crate::registry::{Page, RegistryError};

/// Entries of one page.
pub const MAX_ENTRIES: usize = 200;
const DEFAULT_ENTRIES: usize = 20;

/// The routes of the audit log.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(of_server).needs(Action::Manage))
        .routes(routes!(of_model).needs(Action::Manage))
}

impl From<Entry> for AuditEntryResponse {
    fn from(entry: Entry) -> Self {
        let (name, version) = match entry.client {
            Some(client) => (Some(client.name), client.version),
            None => (None, None),
        };
        Self {
            source: source(&entry.actor).to_owned(),
            id: entry.id,
            created: entry.created,
            event_type: entry.event_type,
            event_data: entry.event_data.into(),
            actor: entry.actor.into(),
            client_name: name,
            client_version: version,
            client_session_id: None,
        }
    }
}

impl From<Actor> for AuditActor {
    fn from(actor: Actor) -> Self {
        let (actor_type, api_key_prefix, api_key_name) = match actor {
            Actor::System => ("BASETEN_SYSTEM", None, None),
            Actor::Anyone => ("ANYONE", None, None),
            Actor::ApiKey { prefix, name } => ("API_KEY", Some(prefix), name),
        };
        Self {
            actor_type: actor_type.to_owned(),
            email: None,
            api_key_prefix,
            api_key_name,
        }
    }
}

fn source(actor: &Actor) -> &'static str {
    match actor {
        Actor::System => "SYSTEM",
        Actor::Anyone | Actor::ApiKey { .. } => "API",
    }
}

fn parse(pairs: &Pairs) -> Result<AuditQuery, ApiError> {
    let mut query = AuditQuery::default();
    for (name, value) in pairs.iter() {
        let text = || value.to_owned();
        match name {
            "cursor" => query.cursor = Some(text()),
            "limit" => query.limit = Some(pairs.number(name, value, 1..=MAX_ENTRIES)?),
            "direction" => query.direction = Some(pairs.word(name, value)?),
            "search" => query.search = Some(value.to_lowercase()),
            "event_types" => query.event_types.push(text()),
            "event_type_groups" => query.event_type_groups.push(pairs.word(name, value)?),
            "user_ids" => query.user_ids.push(text()),
            "model" => query.model = Some(text()),
            "deployment_ids" => query.deployment_ids.push(text()),
            "chain_deployment_ids" => query.chain_deployment_ids.push(text()),
            "environment_names" => query.environment_names.push(text()),
            "sources" => query.sources.push(pairs.word(name, value)?),
            "start_epoch_millis" => {
                query.start_epoch_millis = Some(pairs.integer(name, value)?);
            }
            "end_epoch_millis" => query.end_epoch_millis = Some(pairs.integer(name, value)?),
            _ => return Err(pairs.unknown(name)),
        }
    }
    Ok(query)
}

fn page(query: &AuditQuery) -> Result<Page, ApiError> {
    let time = |millis: Option<i64>| {
        let time = millis.map(Timestamp::from_millisecond).transpose();
        time.map_err(|error| ApiError::bad_request(format!("epoch millis: {error}")))
    };
    let (order, after) = match &query.cursor {
        Some(cursor) => parse_cursor(cursor)?,
        None if query.direction == Some(AuditDirection::Asc) => (Order::Ascending, None),
        None => (Order::Descending, None),
    };
    Ok(Page {
        start: time(query.start_epoch_millis)?,
        end: time(query.end_epoch_millis)?,
        order,
        after,
        limit: query.limit.unwrap_or(DEFAULT_ENTRIES),
    })
}

fn wants(query: &AuditQuery, entry: &Entry) -> bool {
    fn among(wanted: &[String], found: Option<&str>) -> bool {
        wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|one| one == found))
    }
    let groups = &query.event_type_groups;
    let in_group = || {
        groups
            .iter()
            .any(|one| one.types().contains(&&*entry.event_type))
    };
    let came = match source(&entry.actor) {
        "SYSTEM" => AuditSource::System,
        _ => AuditSource::Api,
    };
    let facts = || entry.event_data.values().filter_map(Value::as_str);
    among(&query.event_types, Some(&entry.event_type))
        && (groups.is_empty() || in_group())
        && among(&query.user_ids, Some(entry.actor.id()))
        && among(&query.deployment_ids, entry.fact("deployment_id"))
        && among(&query.environment_names, entry.fact("environment_name"))
        && query.chain_deployment_ids.is_empty()
        && (query.sources.is_empty() || query.sources.contains(&came))
        && query.model.as_deref().is_none_or(|model| {
            entry.fact("model_id") == Some(model) || entry.fact("model_name") == Some(model)
        })
        && query
            .search
            .as_deref()
            .is_none_or(|search| facts().any(|fact| fact.to_lowercase().contains(search)))
}

/// A cursor tells the order of its page and the last entry of it.
fn cursor(order: Order, id: &str) -> String {
    match order {
        Order::Ascending => format!("A.{id}"),
        Order::Descending => format!("D.{id}"),
    }
}

fn parse_cursor(cursor: &str) -> Result<(Order, Option<String>), ApiError> {
    let parsed = match cursor.split_once('.') {
        Some(("A", id)) if is_id(id) => (Order::Ascending, id),
        Some(("D", id)) if is_id(id) => (Order::Descending, id),
        _ => {
            let shown: String = cursor.chars().take(80).collect();
            let text = format!("cursor: found {shown:?}, wanted the `cursor` of a page");
            return Err(ApiError::bad_request(text));
        }
    };
    Ok((parsed.0, Some(parsed.1.to_owned())))
}

/// Read the audit log of the server: who changed what, the last 90 days.
#[utoipa::path(get, path = "/v1/audit_logs", params(AuditQuery), responses((status = 200, body = AuditLogResponse)))]
async fn of_server(
    State(api): State<Api>,
    pairs: Pairs,
) -> Result<Json<AuditLogResponse>, ApiError> {
    let mut query = parse(&pairs)?;
    if let Some(model) = &query.model {
        match api.registry.model(model).await {
            // Whatever it was called before.
            Ok(view) => query.model = Some(view.model.id.to_string()),
            Err(RegistryError::NoModel { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    read(&api, &query, |_| true).await
}

/// Read the audit log of a model. One that is deleted goes by its id.
#[utoipa::path(
    get, path = "/v1/models/{model}/audit_logs", params(("model" = String, Path), AuditQuery),
    responses((status = 200, body = AuditLogResponse))
)]
async fn of_model(
    State(api): State<Api>,
    Path(model): Path<String>,
    pairs: Pairs,
) -> Result<Json<AuditLogResponse>, ApiError> {
    let query = parse(&pairs)?;
    let id = match (api.registry.model(&model).await, model.parse::<ModelId>()) {
        (Ok(view), _) => view.model.id,
        // It may have been there.
        (Err(RegistryError::NoModel { .. }), Ok(id)) => id,
        (Err(error), _) => return Err(error.into()),
    };
    read(&api, &query, |entry| {
        entry.fact("model_id") == Some(id.as_str())
    })
    .await
}

async fn read(
    api: &Api,
    query: &AuditQuery,
    also: impl Fn(&Entry) -> bool + Send + Sync,
) -> Result<Json<AuditLogResponse>, ApiError> {
    let page = page(query)?;
    let log = api.registry.audit_log();
    let read = log.page(&page, |entry| also(entry) && wants(query, entry));
    let read = read.await?;
    Ok(Json(AuditLogResponse {
        items: read.entries.into_iter().map(Into::into).collect(),
        pagination: Pagination {
            has_more: read.next.is_some(),
            cursor: read.next.map(|id| cursor(page.order, &id)),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::{Act, Author, Note};

    fn entry(act: Act, author: &Author) -> Entry {
        let note = Note {
            model: Some(("model000".parse().unwrap(), "Digits".into())),
            deployment: None,
            environment: Some("staging".into()),
            act,
        };
        Entry::new(note, author, Timestamp::UNIX_EPOCH, 0)
    }

    fn query(text: &str) -> Result<AuditQuery, ApiError> {
        parse(&Pairs::of(text))
    }

    #[test]
    fn each_filter_has_to_fit() {
        let entry = entry(Act::EnvironmentDeleted, &Author::SYSTEM);
        let fits_all = |text: &str| wants(&query(text).unwrap(), &entry);
        for fits in [
            "",
            "event_types=ENVIRONMENT_DELETED&event_types=MODEL_DELETED",
            "event_type_groups=DELETED",
            "user_ids=abcd1234&user_ids=system",
            "model=model000",
            "model=Digits&environment_names=staging",
            "search=dIGI",
            "sources=SYSTEM",
        ] {
            assert!(fits_all(fits), "{fits}");
        }
        for misses in [
            "event_types=MODEL_DELETED",
            "event_type_groups=SSH",
            "user_ids=anyone",
            "model=digits",
            "deployment_ids=abcd1234",
            "chain_deployment_ids=abcd1234",
            "environment_names=production",
            "search=letters",
            "sources=API&sources=UI",
        ] {
            assert!(!fits_all(misses), "{misses}");
        }
    }

    #[test]
    fn what_is_asked_wrongly_is_named() {
        let refused = |text: &str| {
            let page = query(text).and_then(|query| page(&query));
            page.unwrap_err().message
        };
        assert!(
            refused("limit=0").contains("limit"),
            "{}",
            refused("limit=0")
        );
        assert!(refused("limit=201").contains("1 to 200"));
        assert!(refused("limits=3").contains("limits"));
        assert!(refused("direction=up").contains("direction"));
        assert!(refused("event_type_groups=X").contains("event_type_groups"));
        assert!(refused("cursor=D./../x").contains("cursor"));
        assert!(refused("start_epoch_millis=999999999999999999").contains("millis"));
    }

    #[test]
    fn a_cursor_goes_on_in_the_order_of_its_page() {
        let id = "20261124T131415.000000-000-abcd1234";
        for order in [Order::Ascending, Order::Descending] {
            let text = format!("direction=DESC&cursor={}", cursor(order, id));
            let page = page(&query(&text).unwrap()).unwrap();
            assert_eq!((page.order, page.after.as_deref()), (order, Some(id)));
        }
    }
}
