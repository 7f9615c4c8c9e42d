//! Logs of deployments, and of environments.

use jiff::Timestamp;
use regex::{Regex, RegexBuilder};
use samovar_types::api::logs::{LogDirection, LogsQuery, LogsResponse};
use samovar_types::id::DeploymentId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::deployments::find;
use super::error::ApiError;
use super::extract::{Json, Pairs, Path, State};
use super::permission::{Action, Needs as _};
use crate::telemetry::logs::{LogQuery, MAX_LINES};

/// The longest window of one question for logs, in milliseconds: 7 days.
pub const MAX_LOG_WINDOW_MS: i64 = 7 * 24 * 3600 * 1000;
/// Texts that lines have to contain, and texts that they must not.
pub const MAX_TEXTS: usize = 8;
/// Longest pattern, and the memory that it may take.
pub const MAX_PATTERN_BYTES: usize = 1000;
const MAX_PATTERN_MEMORY: usize = 1 << 20;
const DEFAULT_LOG_WINDOW_MS: i64 = 30 * 60 * 1000;
const DEFAULT_LOG_LINES: usize = 500;

/// The routes of logs.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(of_deployment).needs(Action::Manage))
        .routes(routes!(of_environment).needs(Action::Manage))
}

fn parse(pairs: &Pairs) -> Result<LogsQuery, ApiError> {
    let mut query = LogsQuery::default();
    for (name, value) in pairs.iter() {
        let text = || value.to_owned();
        match name {
            "start_epoch_millis" => {
                query.start_epoch_millis = Some(pairs.integer(name, value)?);
            }
            "end_epoch_millis" => query.end_epoch_millis = Some(pairs.integer(name, value)?),
            "direction" => query.direction = Some(pairs.word(name, value)?),
            "limit" => query.limit = Some(pairs.number(name, value, 1..=MAX_LINES)?),
            "min_level" => query.min_level = Some(pairs.word(name, value)?),
            "replica" => query.replica = Some(text()),
            "request_id" => query.request_id = Some(text()),
            "component" => query.component = Some(text()),
            "search_pattern" => query.search_pattern = Some(text()),
            "includes" => query.includes.push(text()),
            "excludes" => query.excludes.push(text()),
            _ => return Err(pairs.unknown(name)),
        }
    }
    Ok(query)
}

fn checked(asked: LogsQuery, now: Timestamp) -> Result<LogQuery, ApiError> {
    // A line written in this very millisecond belongs to "until now".
    let end = asked
        .end_epoch_millis
        .unwrap_or(now.as_millisecond().saturating_add(1));
    let start = asked
        .start_epoch_millis
        .unwrap_or(end.saturating_sub(DEFAULT_LOG_WINDOW_MS));
    if start >= end || end.saturating_sub(start) > MAX_LOG_WINDOW_MS {
        return Err(ApiError::bad_request(format!(
            "start_epoch_millis {start} to end_epoch_millis {end}: wanted a window of 1 to {MAX_LOG_WINDOW_MS} ms"
        )));
    }
    for (name, texts) in [("includes", &asked.includes), ("excludes", &asked.excludes)] {
        if texts.len() > MAX_TEXTS {
            let text = format!("{name}: found {}, wanted at most {MAX_TEXTS}", texts.len());
            return Err(ApiError::bad_request(text));
        }
    }
    let timestamp = |ms: i64| {
        Timestamp::from_millisecond(ms).map_err(|_| {
            ApiError::bad_request(format!("{ms} is no time in milliseconds since 1970"))
        })
    };
    Ok(LogQuery {
        start: timestamp(start)?,
        end: timestamp(end)?,
        min_level: asked.min_level.map(|level| level.name().to_owned()),
        replica: asked.replica,
        request_id: asked.request_id,
        includes: asked.includes,
        excludes: asked.excludes,
        pattern: asked.search_pattern.as_deref().map(pattern).transpose()?,
        limit: asked.limit.unwrap_or(DEFAULT_LOG_LINES),
    })
}

fn pattern(text: &str) -> Result<Regex, ApiError> {
    if text.len() > MAX_PATTERN_BYTES {
        let found = text.len();
        return Err(ApiError::bad_request(format!(
            "search_pattern: found {found} bytes, wanted at most {MAX_PATTERN_BYTES}"
        )));
    }
    let built = RegexBuilder::new(text)
        .size_limit(MAX_PATTERN_MEMORY)
        .dfa_size_limit(MAX_PATTERN_MEMORY)
        .build();
    built.map_err(|error| ApiError::bad_request(format!("search_pattern: {error}")))
}

/// Read the log of a deployment.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}/logs",
    params(("model" = String, Path), ("deployment" = String, Path), LogsQuery),
    responses((status = 200, body = LogsResponse))
)]
async fn of_deployment(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    pairs: Pairs,
) -> Result<Json<LogsResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let id = find(&view, &deployment)?.id;
    read(&api, &[id], parse(&pairs)?).await
}

/// Read the logs of the deployment that an environment points at, and of the one that is moving in.
#[utoipa::path(
    get, path = "/v1/models/{model}/environments/{environment}/logs",
    params(("model" = String, Path), ("environment" = String, Path), LogsQuery),
    responses((status = 200, body = LogsResponse))
)]
async fn of_environment(
    State(api): State<Api>,
    Path((model, environment)): Path<(String, String)>,
    pairs: Pairs,
) -> Result<Json<LogsResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let environment = view.environment(&environment)?;
    let candidate = environment.candidate_deployment_id();
    let deployments = environment
        .current_deployment_id
        .into_iter()
        .chain(candidate);
    let deployments: Vec<DeploymentId> = deployments.collect();
    read(&api, &deployments, parse(&pairs)?).await
}

async fn read(
    api: &Api,
    deployments: &[DeploymentId],
    asked: LogsQuery,
) -> Result<Json<LogsResponse>, ApiError> {
    let direction = asked.direction.unwrap_or(LogDirection::Asc);
    let has_lines = asked.component.is_none();
    let query = checked(asked, Timestamp::now())?;
    let mut lines = Vec::new();
    for id in deployments.iter().filter(|_| has_lines) {
        let read = api.logs.read(id.as_str(), query.clone()).await;
        lines.extend(read.map_err(ApiError::internal)?);
    }
    // Of several deployments: each has its newest lines, so the newest of all are among them.
    lines.sort_by_key(|line| line.timestamp);
    lines.drain(..lines.len().saturating_sub(query.limit));
    if direction == LogDirection::Desc {
        lines.reverse();
    }
    Ok(Json(LogsResponse { logs: lines }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<LogQuery, ApiError> {
        checked(parse(&Pairs::of(text))?, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_is_asked_is_read() {
        let query = asked(
            "start_epoch_millis=5&end_epoch_millis=10&limit=7&min_level=WARNING&includes=a&includes=b\
             &excludes=c&search_pattern=%5Ex%2B&direction=desc",
        )
        .unwrap();
        assert_eq!(query.limit, 7);
        assert_eq!(query.min_level.as_deref(), Some("WARNING"));
        assert_eq!(query.includes, ["a", "b"]);
        assert!(query.pattern.unwrap().is_match("xx"));
    }

    #[test]
    fn what_is_asked_wrongly_is_named() {
        let refused = |text: &str| asked(text).unwrap_err().message;
        assert!(refused("limit=0").contains("1 to 1000"));
        assert!(refused("min_level=LOUD").contains("min_level"));
        assert!(refused("lines=1").contains("lines"));
        assert!(refused("start_epoch_millis=5&end_epoch_millis=5").contains("window"));
        assert!(refused(&"includes=x&".repeat(9)).contains("at most 8"));
        assert!(refused("search_pattern=(").contains("search_pattern"));
        let huge = format!("search_pattern={}", "x{999}".repeat(100));
        assert!(refused(&huge).contains("search_pattern"));
        let long = format!("search_pattern={}", "x".repeat(1001));
        assert!(refused(&long).contains("at most 1000"));
    }
}
