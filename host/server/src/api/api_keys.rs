//! API keys: list, make, delete. A key is shown whole once, when it is made.

use std::collections::BTreeSet;

use axum::Extension;
use axum::http::StatusCode;
use jiff::Timestamp;
use samovar_types::api::api_keys::{
    ApiKeyResponse, CreateApiKeyRequest, CreateApiKeyResponse, DeleteApiKeyResponse,
    ListApiKeysQuery, ListApiKeysResponse,
};
use samovar_types::api_key::check_new;
use samovar_types::error::ErrorCode;
use samovar_types::id::ModelId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, Query, State};
use super::permission::{Action, Needs as _};
use crate::control::access::Caller;
use crate::domain::api_key::ApiKey;
use crate::domain::organization;

/// The routes of API keys.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create).needs(Action::ManageApiKeys))
        .routes(routes!(remove).needs(Action::ManageApiKeys))
}

impl From<ApiKey> for ApiKeyResponse {
    fn from(key: ApiKey) -> Self {
        let models: Vec<ModelId> = key.model_ids.into_iter().collect();
        Self {
            prefix: key.prefix,
            name: key.name,
            key_type: key.key_type.into(),
            model_ids: (!models.is_empty()).then_some(models),
            team_name: organization::NAME.to_owned(),
            created_at: key.created_at,
        }
    }
}

/// List the API keys, without their secret parts.
#[utoipa::path(get, path = "/v1/api_keys", params(ListApiKeysQuery), responses((status = 200, body = ListApiKeysResponse)))]
async fn list(
    State(api): State<Api>,
    Query(query): Query<ListApiKeysQuery>,
) -> Result<Json<ListApiKeysResponse>, ApiError> {
    let mut keys: Vec<ApiKey> = api.registry.api_keys().await?.into_values().collect();
    keys.retain(|key| query.key_type.is_none_or(|wanted| wanted == key.key_type));
    keys.sort_by(|a, b| (a.created_at, &a.prefix).cmp(&(b.created_at, &b.prefix)));
    Ok(Json(ListApiKeysResponse {
        keys: keys.into_iter().map(ApiKeyResponse::from).collect(),
    }))
}

/// Make an API key. Only a key that may do everything makes another that may.
#[utoipa::path(post, path = "/v1/api_keys", request_body = CreateApiKeyRequest, responses((status = 200, body = CreateApiKeyResponse)))]
pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<CreateApiKeyRequest>,
) -> Result<Json<CreateApiKeyResponse>, ApiError> {
    let models = request.model_ids.unwrap_or_default();
    check_new(request.key_type, request.name.as_deref(), &models)?;
    if !caller.may_manage(request.key_type) {
        return Err(beyond(&caller));
    }
    if let Some(team) = &request.team_id {
        super::identity::check_team(&api, team).await?;
    }
    let mut model_ids = BTreeSet::new();
    for model in &models {
        model_ids.insert(api.registry.model(model).await?.model.id);
    }
    let now = Timestamp::now();
    let (key, plain) = ApiKey::generate(request.key_type, request.name, model_ids, now);
    let rev = api.registry.add_api_key(&key).await?;
    api.reconciler.observed(rev).await?;
    Ok(Json(CreateApiKeyResponse {
        api_key: plain.reveal().to_owned(),
        prefix: key.prefix,
    }))
}

/// Delete an API key, which is refused from then on. The last one that may do everything stays.
#[utoipa::path(
    delete, path = "/v1/api_keys/{prefix}", params(("prefix" = String, Path)),
    responses((status = 200, body = DeleteApiKeyResponse))
)]
async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(prefix): Path<String>,
) -> Result<Json<DeleteApiKeyResponse>, ApiError> {
    let keys = api.registry.api_keys().await?;
    let key = keys.get(&prefix).ok_or_else(|| none(&prefix))?;
    if !caller.may_manage(key.key_type) {
        return Err(beyond(&caller));
    }
    let deleted = api.registry.delete_api_key(&prefix).await?;
    let rev = deleted.ok_or_else(|| none(&prefix))?;
    api.reconciler.observed(rev).await?;
    Ok(Json(DeleteApiKeyResponse { prefix }))
}

fn none(prefix: &str) -> ApiError {
    let shown: String = prefix.chars().take(80).collect();
    ApiError::not_found(format!("there is no API key {shown:?}"))
}

fn beyond(caller: &Caller) -> ApiError {
    let prefix = match caller {
        Caller::Key(key) => &*key.prefix,
        Caller::Anyone => "",
    };
    let text = format!(
        "the API key {prefix} may not make or delete keys that may do everything: use one that may itself"
    );
    ApiError::new(StatusCode::FORBIDDEN, ErrorCode::Forbidden, text)
}
