//! The audit log: who changed what, by pages.

use jiff::Timestamp;
use samovar_types::id::Id;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Pairs, Path, State};
use super::permission::{Action, Needs as _};
use crate::domain::audit::{Actor, Entry, is_id};
use crate::registry::{Page, RegistryError};
use crate::state::Order;

/// Entries of one page.
pub const MAX_ENTRIES: usize = 200;
const DEFAULT_ENTRIES: usize = 20;

/// The routes of the audit log.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(of_server).needs(Action::Manage))
        .routes(routes!(of_model).needs(Action::Manage))
}

/// A page of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditLogs {
    /// In the order that was asked for. There may be fewer than asked for although more follow.
    pub items: Vec<AuditEntryShape>,
    /// How to go on.
    pub pagination: Pagination,
}

/// How to go on after a page.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pagination {
    /// Whether there may be more.
    pub has_more: bool,
    /// What to ask for the next page with; null at the end.
    pub cursor: Option<String>,
}

/// An entry of the audit log.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = AuditLogEntry)]
pub struct AuditEntryShape {
    /// Its id.
    pub id: String,
    /// When it was done.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// What was done, as `MODEL_DEPLOYED`.
    pub event_type: String,
    /// The same with what it was done to, and the values before and after where there are any.
    #[schema(value_type = Object)]
    pub event_data: Value,
    /// `API`, or `SYSTEM` for what the server did by itself.
    pub source: &'static str,
    /// Who did it.
    pub actor: ActorShape,
    /// The program that asked for it, if it said so.
    pub client_name: Option<String>,
    /// Its version.
    pub client_version: Option<String>,
    /// Always null.
    pub client_session_id: Option<String>,
}

/// Who did it.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AuditLogActor)]
pub struct ActorShape {
    /// `API_KEY`, `BASETEN_SYSTEM` for the server itself, `ANYONE` where no key is asked for.
    #[serde(rename = "type")]
    pub actor_type: &'static str,
    /// Always null: nobody is asked for one.
    pub email: Option<String>,
    /// The public part of the key.
    pub api_key_prefix: Option<String>,
    /// What the key is called.
    pub api_key_name: Option<String>,
}

impl From<Entry> for AuditEntryShape {
    fn from(entry: Entry) -> Self {
        let (name, version) = match entry.client {
            Some(client) => (Some(client.name), client.version),
            None => (None, None),
        };
        Self {
            source: source(&entry.actor),
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

impl From<Actor> for ActorShape {
    fn from(actor: Actor) -> Self {
        let (actor_type, api_key_prefix, api_key_name) = match actor {
            Actor::System => ("BASETEN_SYSTEM", None, None),
            Actor::Anyone => ("ANYONE", None, None),
            Actor::ApiKey { prefix, name } => ("API_KEY", Some(prefix), name),
        };
        Self {
            actor_type,
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

/// Which entries are wanted. Lists are given by repeating their name; each of several filters has to fit.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// Where the last page ended. The filters have to be given again.
    cursor: Option<String>,
    /// Entries at most, 1 to 200; 20 without it.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// The newest first without it; a cursor goes on as its page began.
    #[param(inline)]
    direction: Option<Direction>,
    /// Only with this text in a name or an id, in small or capital letters.
    search: Option<String>,
    /// Only of these types.
    event_types: Vec<String>,
    /// Only of types in these groups.
    #[param(inline)]
    event_type_groups: Vec<Group>,
    /// Only by these: a key's prefix, `anyone` or `system`.
    user_ids: Vec<String>,
    /// Only about this model, by id or name. One that is deleted goes by its id, or by the name that it had at that time.
    model: Option<String>,
    /// Only about these deployments.
    deployment_ids: Vec<String>,
    /// Taken for compatibility: there are no chains, so nothing is about one of them.
    chain_deployment_ids: Vec<String>,
    /// Only about these environments.
    environment_names: Vec<String>,
    /// Only what came this way.
    #[param(inline)]
    sources: Vec<Source>,
    /// Only from then on.
    start_epoch_millis: Option<i64>,
    /// Only before then.
    end_epoch_millis: Option<i64>,
}

/// The order of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Direction {
    Asc,
    Desc,
}

/// The way that a change came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Source {
    Ui,
    Api,
    Mcp,
    System,
    Other,
}

/// Types that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Group {
    Deployed,
    Promoted,
    ActivatedDeactivated,
    AutoscalingSettings,
    RequestBackpressureSettings,
    InstanceTypeChanged,
    EnvironmentSettings,
    ReplicaTerminated,
    Deleted,
    Metadata,
    Secrets,
    ApiKeys,
    Gateway,
    Code,
    WebhookSigningSecrets,
    UserManagement,
    DirectoryGroupManagement,
    Ssh,
}

impl Group {
    fn types(self) -> &'static [&'static str] {
        match self {
            Self::Deployed => &["MODEL_DEPLOYED"],
            Self::Promoted => &[
                "MODEL_DEPLOYMENT_PROMOTED",
                "MODEL_PROMOTION_CONTROL_ACTION",
                "MODEL_PROMOTION_ENDED",
            ],
            Self::ActivatedDeactivated => &[
                "MODEL_DEPLOYMENT_ACTIVATED",
                "MODEL_DEPLOYMENT_DEACTIVATED",
                "MODEL_DEPLOYMENT_RETRIED",
            ],
            Self::AutoscalingSettings => &["MODEL_DEPLOYMENT_AUTOSCALING_SETTINGS_CHANGED"],
            Self::RequestBackpressureSettings => {
                &["MODEL_DEPLOYMENT_REQUEST_BACKPRESSURE_SETTINGS_CHANGED"]
            }
            Self::EnvironmentSettings => &["ENVIRONMENT_CREATED", "ENVIRONMENT_UPDATED"],
            Self::ReplicaTerminated => &["REPLICA_TERMINATED"],
            Self::Deleted => &[
                "MODEL_DELETED",
                "MODEL_DEPLOYMENT_DELETED",
                "ENVIRONMENT_DELETED",
            ],
            Self::Metadata => &[
                "MODEL_RENAMED",
                "MODEL_DEPLOYMENT_RENAMED",
                "MODEL_DEPLOYMENT_LABELS_CHANGED",
            ],
            Self::Secrets => &["SECRET_UPDATED", "SECRET_DELETED"],
            Self::ApiKeys => &["API_KEY_CREATED", "API_KEY_DELETED"],
            Self::Code => &["MODEL_DEPLOYMENT_UPDATED"],
            Self::WebhookSigningSecrets => &[
                "WEBHOOK_SIGNING_SECRET_CREATED",
                "WEBHOOK_SIGNING_SECRET_ROTATED",
                "WEBHOOK_SIGNING_SECRET_DELETED",
            ],
            Self::InstanceTypeChanged
            | Self::Gateway
            | Self::UserManagement
            | Self::DirectoryGroupManagement
            | Self::Ssh => &[],
        }
    }
}

impl AuditQuery {
    fn parse(pairs: &Pairs) -> Result<Self, ApiError> {
        let mut query = Self::default();
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

    fn page(&self) -> Result<Page, ApiError> {
        let time = |millis: Option<i64>| {
            let time = millis.map(Timestamp::from_millisecond).transpose();
            time.map_err(|error| ApiError::bad_request(format!("epoch millis: {error}")))
        };
        let (order, after) = match &self.cursor {
            Some(cursor) => parse_cursor(cursor)?,
            None if self.direction == Some(Direction::Asc) => (Order::Ascending, None),
            None => (Order::Descending, None),
        };
        Ok(Page {
            start: time(self.start_epoch_millis)?,
            end: time(self.end_epoch_millis)?,
            order,
            after,
            limit: self.limit.unwrap_or(DEFAULT_ENTRIES),
        })
    }

    fn wants(&self, entry: &Entry) -> bool {
        fn among(wanted: &[String], found: Option<&str>) -> bool {
            wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|one| one == found))
        }
        let groups = &self.event_type_groups;
        let in_group = || {
            groups
                .iter()
                .any(|one| one.types().contains(&&*entry.event_type))
        };
        let came = match source(&entry.actor) {
            "SYSTEM" => Source::System,
            _ => Source::Api,
        };
        let facts = || entry.event_data.values().filter_map(Value::as_str);
        among(&self.event_types, Some(&entry.event_type))
            && (groups.is_empty() || in_group())
            && among(&self.user_ids, Some(entry.actor.id()))
            && among(&self.deployment_ids, entry.fact("deployment_id"))
            && among(&self.environment_names, entry.fact("environment_name"))
            && self.chain_deployment_ids.is_empty()
            && (self.sources.is_empty() || self.sources.contains(&came))
            && self.model.as_deref().is_none_or(|model| {
                entry.fact("model_id") == Some(model) || entry.fact("model_name") == Some(model)
            })
            && self
                .search
                .as_deref()
                .is_none_or(|search| facts().any(|fact| fact.to_lowercase().contains(search)))
    }
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
#[utoipa::path(get, path = "/v1/audit_logs", params(AuditQuery), responses((status = 200, body = AuditLogs)))]
async fn of_server(State(api): State<Api>, pairs: Pairs) -> Result<Json<AuditLogs>, ApiError> {
    let mut query = AuditQuery::parse(&pairs)?;
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
    responses((status = 200, body = AuditLogs))
)]
async fn of_model(
    State(api): State<Api>,
    Path(model): Path<String>,
    pairs: Pairs,
) -> Result<Json<AuditLogs>, ApiError> {
    let query = AuditQuery::parse(&pairs)?;
    let id = match (api.registry.model(&model).await, model.parse::<Id>()) {
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
) -> Result<Json<AuditLogs>, ApiError> {
    let page = query.page()?;
    let log = api.registry.audit_log();
    let read = log.page(&page, |entry| also(entry) && query.wants(entry));
    let read = read.await?;
    Ok(Json(AuditLogs {
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
        AuditQuery::parse(&Pairs::of(text))
    }

    #[test]
    fn each_filter_has_to_fit() {
        let entry = entry(Act::EnvironmentDeleted, &Author::SYSTEM);
        let wants = |text: &str| query(text).unwrap().wants(&entry);
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
            assert!(wants(fits), "{fits}");
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
            assert!(!wants(misses), "{misses}");
        }
    }

    #[test]
    fn what_is_asked_wrongly_is_named() {
        let refused = |text: &str| {
            let page = query(text).and_then(|query| query.page());
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
            let page = query(&text).unwrap().page().unwrap();
            assert_eq!((page.order, page.after.as_deref()), (order, Some(id)));
        }
    }
}
