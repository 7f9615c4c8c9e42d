//! Deployments: list, show, delete.

use samovar_types::api::deployments::{
    DeleteDeploymentResponse, DeploymentResponse, ListDeploymentsQuery, ListDeploymentsResponse,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Json, Path, Query, State};
use super::permission::{Action, Needs as _};
use super::shapes::deployment_response;
use crate::domain::deployment::Deployment;
use crate::domain::model::{ModelView, Target};

/// The routes of deployments.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(list).needs(Action::Manage))
        .routes(routes!(show, delete).needs(Action::Manage))
}

/// List the deployments of a model.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments", params(("model" = String, Path), ListDeploymentsQuery),
    responses((status = 200, body = ListDeploymentsResponse))
)]
async fn list(
    State(api): State<Api>,
    Path(model): Path<String>,
    Query(query): Query<ListDeploymentsQuery>,
) -> Result<Json<ListDeploymentsResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let deployments = view.deployments.values().map(|one| &**one);
    let mut deployments: Vec<&Deployment> = deployments.collect();
    deployments.retain(|one| query.name.as_ref().is_none_or(|name| *name == one.name));
    deployments.sort_by_key(|deployment| (deployment.created_at, deployment.id));
    let shown = deployments
        .into_iter()
        .map(|deployment| deployment_response(&api, &view, deployment));
    Ok(Json(ListDeploymentsResponse {
        deployments: shown.collect(),
    }))
}

/// Show a deployment, by id or as `production` or `development`.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = DeploymentResponse))
)]
async fn show(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<DeploymentResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let deployment = find(&view, &deployment)?;
    Ok(Json(deployment_response(&api, &view, deployment)))
}

/// Delete a deployment that is behind no environment.
#[utoipa::path(
    delete, path = "/v1/models/{model}/deployments/{deployment}",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = DeleteDeploymentResponse))
)]
async fn delete(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Json<DeleteDeploymentResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let id = find(&view, &deployment)?.id;
    let (_, deleted) = api
        .change_model(&model, |view| view.delete_deployment(id))
        .await?;
    Ok(Json(DeleteDeploymentResponse {
        id,
        deleted: true,
        model_id: deleted.model_id,
    }))
}

/// A deployment by its id, or `production` or `development`.
pub(super) fn find<'v>(view: &'v ModelView, text: &str) -> Result<&'v Deployment, ApiError> {
    let target = match text {
        "production" => Target::Environment(text),
        "development" => Target::Development,
        id => Target::Deployment(id),
    };
    view.find(target)
        .map_err(|e| ApiError::not_found(e.to_string()))
}
