//! Models: push, list, show, delete.

use std::sync::Arc;

use jiff::Timestamp;
use samovar_types::api::models::{
    DeleteModelResponse, ListModelsQuery, ListModelsResponse, ModelResponse, PushRequest,
    PushResponse, UpdateModelRequest,
};
use samovar_types::id::DeploymentId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, Query, State};
use super::permission::{Action, Needs as _};
use super::shapes::deployment_response;
use super::shapes::model_response;
use crate::domain::deployment::DeploymentKind;
use crate::domain::model::ModelView;
use crate::registry::{Push, PushTo, Pushed};
use crate::serving::blob_pins::BlobPin;

/// The routes of models.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, push).needs(Action::Manage))
        .routes(routes!(show, rename, delete).needs(Action::Manage))
        .routes(routes!(push_to).needs(Action::Manage))
}

/// List the models.
#[utoipa::path(get, path = "/v1/models", params(ListModelsQuery), responses((status = 200, body = ListModelsResponse)))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListModelsQuery>,
) -> Result<Json<ListModelsResponse>, ApiError> {
    let models = api.registry.models().await?;
    let wanted = models.iter().filter(|view| {
        query
            .name
            .as_ref()
            .is_none_or(|name| *name == view.model.name)
    });
    Ok(Json(ListModelsResponse {
        models: wanted.map(model_response).collect(),
    }))
}

/// Show a model, by id or name.
#[utoipa::path(get, path = "/v1/models/{model}", params(("model" = String, Path)), responses((status = 200, body = ModelResponse)))]
async fn show(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<ModelResponse>, ApiError> {
    Ok(Json(model_response(&api.registry.model(&model).await?)))
}

/// Push a bundle: a new deployment of the model of that name, which is made with the first.
#[utoipa::path(post, path = "/v1/models", request_body = PushRequest, responses((status = 200, body = PushResponse)))]
pub(super) async fn push(
    State(api): State<Api>,
    Json(request): Json<PushRequest>,
) -> Result<Json<PushResponse>, ApiError> {
    let name = request
        .name
        .clone()
        .unwrap_or_else(|| request.bundle.name.clone());
    deploy(api, PushTo::Named(name), request).await
}

/// Push a bundle: a new deployment of a model that there is.
#[utoipa::path(
    post, path = "/v1/models/{model}/deployments", params(("model" = String, Path)),
    request_body = PushRequest, responses((status = 200, body = PushResponse))
)]
async fn push_to(
    State(api): State<Api>,
    Path(model): Path<String>,
    Json(request): Json<PushRequest>,
) -> Result<Json<PushResponse>, ApiError> {
    deploy(api, PushTo::Existing(model), request).await
}

/// Stores the deployment, builds it, serves it.
async fn deploy(
    api: Api,
    to: PushTo,
    request: PushRequest,
) -> Result<Json<PushResponse>, ApiError> {
    request.bundle.validate()?;
    // Building asks too, but then there is a deployment already.
    api.guest_secrets.require(&request.bundle.secrets).await?;
    if request.development {
        return Ok(Json(api.push_development(to, request).await?));
    }
    let pin = api.blob_gc.pin(&request.bundle).await?;
    let push = Push {
        to,
        bundle: request.bundle,
        kind: DeploymentKind::Published,
        deployment_name: request.deployment_name,
        environment: request.environment,
        labels: request.labels.unwrap_or_default(),
    };
    let (view, id) = api.build_pushed(push, pin).await?;
    let deployment = view.deployment(id)?;
    Ok(Json(PushResponse {
        model: model_response(&view),
        deployment: deployment_response(&api, &view, deployment),
    }))
}

impl Api {
    /// Stores a deployment, whose blobs are pinned until then, and waits until it is built and served.
    pub(super) async fn build_pushed(
        &self,
        push: Push,
        pin: BlobPin,
    ) -> Result<(Arc<ModelView>, DeploymentId), ApiError> {
        let before = self.serving.builds().mark();
        let Pushed { view, id, rev } = self.registry.push(push, Timestamp::now()).await?;
        let model = view.model.id;
        self.reconciler.applied(model, rev).await?;
        // A deployment names them now, as the cache shows.
        drop(pin);
        Ok((self.deployments.built(model, id, before).await?, id))
    }
}

/// Rename a model. Its ids stay, so addresses by id do too.
#[utoipa::path(
    patch, path = "/v1/models/{model}", params(("model" = String, Path)), request_body = UpdateModelRequest,
    responses((status = 200, body = ModelResponse))
)]
async fn rename(
    State(api): State<Api>,
    Path(model): Path<String>,
    Json(update): Json<UpdateModelRequest>,
) -> Result<Json<ModelResponse>, ApiError> {
    let (view, ()) = api
        .change_model(&model, |view| view.rename(&update.name))
        .await?;
    Ok(Json(model_response(&view)))
}

/// Delete a model with all its deployments and environments.
#[utoipa::path(delete, path = "/v1/models/{model}", params(("model" = String, Path)), responses((status = 200, body = DeleteModelResponse)))]
async fn delete(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<DeleteModelResponse>, ApiError> {
    let (view, rev) = api.registry.delete_model(&model).await?;
    api.reconciler.applied(view.model.id, rev).await?;
    // The requests that are there may still need what it alone has.
    let deployments: Vec<DeploymentId> = view.deployments.keys().copied().collect();
    api.serving.drains().ended(&deployments).await;
    let bundles = view.deployments.values().map(|one| &one.bundle);
    api.blob_gc.collect(bundles).await?;
    Ok(Json(DeleteModelResponse {
        id: view.model.id,
        deleted: true,
    }))
}
