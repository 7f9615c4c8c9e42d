//! Models: push, list, show, delete.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::deployments;
use super::error::ApiError;
use crate::domain::bundle::Bundle;
use crate::domain::deployment::DeploymentStatus;
use crate::domain::digest::Digest;
use crate::domain::model::ModelView;
use crate::registry::{Push, PushTo};

/// What a push sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushRequest {
    name: Option<String>,
    bundle: Bundle,
    deployment_name: Option<String>,
    environment: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// `GET /v1/models?name=`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    name: Option<String>,
}

/// `GET /v1/models`
pub async fn list(
    State(api): State<Api>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let models = api.registry.models().await?;
    let wanted = models.iter().filter(|view| {
        query
            .name
            .as_ref()
            .is_none_or(|name| *name == view.model.name)
    });
    Ok(Json(
        json!({ "models": wanted.map(model_json).collect::<Vec<_>>() }),
    ))
}

/// `GET /v1/models/{model}`
pub async fn show(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(model_json(&api.registry.model(&model).await?)))
}

/// `POST /v1/models`
pub async fn push(
    State(api): State<Api>,
    request: Result<Json<PushRequest>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(request) = request.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let name = request
        .name
        .clone()
        .unwrap_or_else(|| request.bundle.name.clone());
    deploy(api, PushTo::Named(name), request).await
}

/// `POST /v1/models/{model}/deployments`
pub async fn push_to(
    State(api): State<Api>,
    Path(model): Path<String>,
    request: Result<Json<PushRequest>, JsonRejection>,
) -> Result<Json<Value>, ApiError> {
    let Json(request) = request.map_err(|e| ApiError::bad_request(e.body_text()))?;
    deploy(api, PushTo::Existing(model), request).await
}

/// Rehearses the bundle, stores the deployment, serves it. The work goes on to its end when the client hangs up.
async fn deploy(api: Api, to: PushTo, request: PushRequest) -> Result<Json<Value>, ApiError> {
    let task = tokio::spawn(async move {
        let PushRequest {
            bundle,
            deployment_name,
            environment,
            labels,
            name: _,
        } = request;
        bundle.validate()?;
        let _change = api.changes.lock().await;
        let missing = api.blobs.missing(&bundle.blobs()).await?;
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            let text = format!(
                "{} blobs of the bundle are not on the server; upload them first",
                names.len()
            );
            return Err(
                ApiError::conflict("missing_blobs", text).with_detail(json!({ "missing": names }))
            );
        }
        let rehearsed = api.serving.rehearse(&bundle).await?;
        let push = Push {
            to,
            bundle,
            deployment_name,
            environment,
            labels,
        };
        let (view, id) = api.registry.push(push, Timestamp::now()).await?;
        let deployment = api
            .registry
            .set_status(view.model.id, id, DeploymentStatus::Active, None)
            .await?;
        let view = api.registry.model(view.model.id.as_str()).await?;
        api.serving.set(view.clone()).await?;
        let served = api.serving.resolve(
            view.model.id,
            crate::domain::model::Target::Deployment(id.as_str()),
        );
        if let Ok(served) = served {
            served.pool.prewarm(1).await?;
        }
        drop(rehearsed);
        Ok(Json(json!({
            "model": model_json(&view),
            "deployment": deployments::json(&api, &view, &deployment),
        })))
    });
    task.await.map_err(ApiError::internal)?
}

/// `DELETE /v1/models/{model}`
pub async fn delete(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let task = tokio::spawn(async move {
        let change = api.changes.lock().await;
        let view = api.registry.delete_model(&model).await?;
        collect_garbage(&api, view.deployments.values().map(|one| &one.bundle)).await?;
        drop(change);
        api.serving.remove_model(&view).await;
        Ok(Json(json!({ "id": view.model.id, "deleted": true })))
    });
    task.await.map_err(ApiError::internal)?
}

/// Deletes the blobs of these bundles that no deployment names any more.
pub(super) async fn collect_garbage(
    api: &Api,
    bundles: impl Iterator<Item = &Bundle>,
) -> Result<(), ApiError> {
    let models = api.registry.models().await?;
    let used: BTreeSet<Digest> = models
        .iter()
        .flat_map(|view| view.deployments.values())
        .flat_map(|deployment| deployment.bundle.blobs().into_keys())
        .collect();
    for bundle in bundles {
        if !used.contains(&bundle.component.digest) {
            api.serving.forget(bundle.component.digest).await;
        }
        for digest in bundle
            .blobs()
            .into_keys()
            .filter(|digest| !used.contains(digest))
        {
            api.blobs.delete(digest).await?;
        }
    }
    Ok(())
}

/// A model as the API shows it.
pub(super) fn model_json(view: &ModelView) -> Value {
    json!({
        "id": view.model.id,
        "created_at": view.model.created_at,
        "name": view.model.name,
        "deployments_count": view.deployments.len(),
        "production_deployment_id": view.production().map(|deployment| deployment.id),
        "development_deployment_id": view.development().map(|deployment| deployment.id),
        "instance_type_name": "cpu",
        "team_name": null,
    })
}
