//! Models: push, list, show, delete.

use std::collections::BTreeMap;

use jiff::Timestamp;
use samovar_types::bundle::Bundle;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, Query, State};
use super::permission::{Action, Needs as _};
use super::shapes::{DeploymentShape, ModelShape};
use crate::domain::deployment::DeploymentKind;
use crate::registry::{Push, PushTo};

/// The routes of models.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, push).needs(Action::Manage))
        .routes(routes!(show, rename, delete).needs(Action::Manage))
        .routes(routes!(push_to).needs(Action::Manage))
}

/// What a push sends. The bundle's blobs have to be on the server already.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PushRequest {
    /// The model's name; the bundle's without it.
    name: Option<String>,
    /// What is deployed.
    #[serde(deserialize_with = "samovar_types::strict::deserialize")]
    pub bundle: Bundle,
    /// The deployment's name; `deployment-N` without it.
    pub(super) deployment_name: Option<String>,
    /// Whether this is for the development deployment, which is made with the first such push and reloaded by the others.
    #[serde(default)]
    development: bool,
    /// The environment that it goes to. Without it, the first deployment of a model goes to production.
    pub(super) environment: Option<String>,
    /// What the pusher notes.
    pub(super) labels: Option<BTreeMap<String, String>>,
}

/// What a push made.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pushed {
    /// The model as it is now.
    pub model: ModelShape,
    /// The new deployment.
    pub deployment: DeploymentShape,
}

/// Which models are listed.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only the model of this name.
    name: Option<String>,
}

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub struct Models {
    /// Ordered by name.
    pub models: Vec<ModelShape>,
}

/// A thing that is deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelDeleted {
    /// Its id.
    pub id: samovar_types::id::Id,
    /// Always true.
    pub deleted: bool,
}

/// List the models.
#[utoipa::path(get, path = "/v1/models", params(ListQuery), responses((status = 200, body = Models)))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Models>, ApiError> {
    let models = api.registry.models().await?;
    let wanted = models.iter().filter(|view| {
        query
            .name
            .as_ref()
            .is_none_or(|name| *name == view.model.name)
    });
    Ok(Json(Models {
        models: wanted.map(ModelShape::of).collect(),
    }))
}

/// Show a model, by id or name.
#[utoipa::path(get, path = "/v1/models/{model}", params(("model" = String, Path)), responses((status = 200, body = ModelShape)))]
async fn show(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<ModelShape>, ApiError> {
    Ok(Json(ModelShape::of(&api.registry.model(&model).await?)))
}

/// Push a bundle: a new deployment of the model of that name, which is made with the first.
#[utoipa::path(post, path = "/v1/models", request_body = PushRequest, responses((status = 200, body = Pushed)))]
pub(super) async fn push(
    State(api): State<Api>,
    Json(request): Json<PushRequest>,
) -> Result<Json<Pushed>, ApiError> {
    let name = request
        .name
        .clone()
        .unwrap_or_else(|| request.bundle.name.clone());
    deploy(api, PushTo::Named(name), request).await
}

/// Push a bundle: a new deployment of a model that there is.
#[utoipa::path(
    post, path = "/v1/models/{model}/deployments", params(("model" = String, Path)),
    request_body = PushRequest, responses((status = 200, body = Pushed))
)]
async fn push_to(
    State(api): State<Api>,
    Path(model): Path<String>,
    Json(request): Json<PushRequest>,
) -> Result<Json<Pushed>, ApiError> {
    deploy(api, PushTo::Existing(model), request).await
}

/// Stores the deployment, builds it, serves it.
async fn deploy(api: Api, to: PushTo, request: PushRequest) -> Result<Json<Pushed>, ApiError> {
    request.bundle.validate()?;
    // Building asks too, but then there is a deployment already.
    api.guest_secrets.require(&request.bundle.secrets).await?;
    if request.development {
        return Ok(Json(api.push_development(to, request).await?));
    }
    let kept = api.garbage.keep(&request.bundle).await?;
    let push = Push {
        to,
        bundle: request.bundle,
        kind: DeploymentKind::Published,
        deployment_name: request.deployment_name,
        environment: request.environment,
        labels: request.labels.unwrap_or_default(),
    };
    let (view, id) = api.registry.push(push, Timestamp::now()).await?;
    // A deployment names them now.
    drop(kept);
    api.builder.apply(view.clone()).await?;
    let view = api.builder.build(&view, id).await?;
    let deployment = view.deployment(id)?.clone();
    Ok(Json(Pushed {
        model: ModelShape::of(&view),
        deployment: DeploymentShape::of(&api, &view, &deployment),
    }))
}

/// What may be changed of a model.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelUpdate {
    /// Its new name.
    name: String,
}

/// Rename a model. Its ids stay, so addresses by id do too.
#[utoipa::path(
    patch, path = "/v1/models/{model}", params(("model" = String, Path)), request_body = ModelUpdate,
    responses((status = 200, body = ModelShape))
)]
async fn rename(
    State(api): State<Api>,
    Path(model): Path<String>,
    Json(update): Json<ModelUpdate>,
) -> Result<Json<ModelShape>, ApiError> {
    let view = api
        .change_model(&model, |view| view.rename(&update.name))
        .await?;
    Ok(Json(ModelShape::of(&view)))
}

/// Delete a model with all its deployments and environments.
#[utoipa::path(delete, path = "/v1/models/{model}", params(("model" = String, Path)), responses((status = 200, body = ModelDeleted)))]
async fn delete(
    State(api): State<Api>,
    Path(model): Path<String>,
) -> Result<Json<ModelDeleted>, ApiError> {
    let view = api.registry.delete_model(&model).await?;
    // The requests that are there may still need what it alone has.
    api.serving.remove_model(&view).await;
    let bundles = view.deployments.values().map(|one| &one.bundle);
    api.garbage.collect(bundles).await?;
    Ok(Json(ModelDeleted {
        id: view.model.id,
        deleted: true,
    }))
}
