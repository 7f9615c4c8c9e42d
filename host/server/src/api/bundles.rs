//! What was pushed, to read and to take away: the manifest of a deployment, and its bundle as an archive.

use axum::body::Body;
use axum::http::{HeaderMap, Uri, header};
use axum::response::IntoResponse as _;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use samovar_bundle::manifest::render::{Folder, folder};
use samovar_store::blobs::BlobError;
use samovar_types::api::bundles::{ConfigFormat, ConfigQuery, ConfigResponse, DownloadResponse};
use samovar_types::digest::Digest;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::deployments::find;
use super::error::ApiError;
use super::extract::{Json, Path, Query, State};
use super::permission::{Action, Needs as _};
use super::tar;

/// The routes of bundles.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new()
        .routes(routes!(config).needs(Action::Manage))
        .routes(routes!(download).needs(Action::Manage))
        .routes(routes!(bundle).needs(Action::Manage))
}

/// Show what a deployment runs.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}/config",
    params(("model" = String, Path), ("deployment" = String, Path), ConfigQuery),
    responses((status = 200, body = ConfigResponse))
)]
async fn config(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    Query(query): Query<ConfigQuery>,
) -> Result<Json<ConfigResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let bundle = &find(&view, &deployment)?.bundle;
    let form = query.output_format.unwrap_or_default();
    Ok(Json(ConfigResponse {
        config: (form != ConfigFormat::Raw).then(|| bundle.clone().into()),
        raw_config: (form != ConfigFormat::Parsed).then(|| folder(bundle).manifest.1),
    }))
}

/// Say where the bundle of a deployment can be read.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}/download",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, body = DownloadResponse))
)]
async fn download(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Json<DownloadResponse>, ApiError> {
    let view = api.registry.model(&model).await?;
    let (model, deployment) = (view.model.id, find(&view, &deployment)?.id);
    let path = format!("/v1/models/{model}/deployments/{deployment}/bundle");
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // A proxy before this server ends TLS and says so.
    let scheme = match text("x-forwarded-proto") {
        Some("https") => "https",
        _ => "http",
    };
    let host = uri.authority().map(|host| host.as_str());
    let download_url = match host.or_else(|| text("host")) {
        Some(host) => format!("{scheme}://{host}{path}"),
        None => path,
    };
    Ok(Json(DownloadResponse { download_url }))
}

/// Read the bundle of a deployment: a tar archive of a folder that can be pushed again.
#[utoipa::path(
    get, path = "/v1/models/{model}/deployments/{deployment}/bundle",
    params(("model" = String, Path), ("deployment" = String, Path)),
    responses((status = 200, content_type = "application/x-tar", body = [u8]))
)]
async fn bundle(
    State(api): State<Api>,
    Path((model, deployment)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let view = api.registry.model(&model).await?;
    let deployment = find(&view, &deployment)?;
    let name = format!("{}-{}.tar", view.model.name, deployment.id);
    let Folder { manifest, blobs } = folder(&deployment.bundle);
    let (path, text) = manifest;
    let text = Bytes::from(text);
    let mut parts = vec![
        Part::Bytes(tar::head(&path, text.len() as u64)),
        Part::Bytes(text.clone()),
        Part::Bytes(tar::padding(text.len() as u64)),
    ];
    for (path, blob) in blobs {
        parts.push(Part::Bytes(tar::head(&path, blob.size)));
        parts.push(Part::Blob(blob.digest, blob.size));
        parts.push(Part::Bytes(tar::padding(blob.size)));
    }
    parts.push(Part::Bytes(tar::end()));
    let length: u64 = parts.iter().map(Part::size).sum();
    let blobs = api.blobs.clone();
    let body = stream::iter(parts).then(move |part| {
        let blobs = blobs.clone();
        async move {
            match part {
                Part::Bytes(bytes) => Ok::<_, BlobError>(stream::iter([Ok(bytes)]).boxed()),
                Part::Blob(digest, _) => Ok(blobs.get_stream(digest).await?.1.boxed()),
            }
        }
    });
    let headers = [
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_TYPE, "application/x-tar".into()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    Ok((headers, Body::from_stream(body.try_flatten())).into_response())
}

/// A piece of an archive.
enum Part {
    Bytes(Bytes),
    Blob(Digest, u64),
}

impl Part {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob(_, size) => *size,
        }
    }
}
