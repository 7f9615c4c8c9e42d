//! Files of bundles by their digest.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::response::Response;
use samovar_store::blobs::{BlobError, PutOutcome};
use samovar_types::bundle::MAX_BLOB_BYTES;
use samovar_types::digest::Digest;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::error::ApiError;
use super::extract::{Path, State};
use super::permission::{Action, Needs as _};

/// The routes of blobs.
pub fn router() -> OpenApiRouter<super::Shared> {
    OpenApiRouter::new().routes(routes!(head, get, put).needs(Action::Manage))
}

/// Ask whether a blob is there, and how long it is.
#[utoipa::path(
    head, path = "/v1/blobs/{digest}", params(("digest" = String, Path, description = "SHA-256 of its bytes")),
    responses((status = 200, description = "It is there; Content-Length is its size"))
)]
async fn head(State(api): State<Api>, Path(digest): Path<String>) -> Result<Response, ApiError> {
    let digest = parse(&digest)?;
    api.blob_gc.expect(digest).await;
    match api.blobs.head(digest).await? {
        Some(size) => Ok(([(header::CONTENT_LENGTH, size)], ()).into_response()),
        None => Err(BlobError::NotFound { digest }.into()),
    }
}

/// Read a blob.
#[utoipa::path(
    get, path = "/v1/blobs/{digest}", params(("digest" = String, Path, description = "SHA-256 of its bytes")),
    responses((status = 200, content_type = "application/octet-stream", body = [u8]))
)]
async fn get(State(api): State<Api>, Path(digest): Path<String>) -> Result<Response, ApiError> {
    let (size, stream) = api.blobs.get_stream(parse(&digest)?).await?;
    let headers = [
        (header::CONTENT_LENGTH, size.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".into()),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Upload a blob. It is hashed while it comes; of another digest nothing is kept.
#[utoipa::path(
    put, path = "/v1/blobs/{digest}", params(("digest" = String, Path, description = "SHA-256 of its bytes")),
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses((status = 201, description = "It is stored"), (status = 200, description = "It was there"))
)]
async fn put(
    State(api): State<Api>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let digest = parse(&digest)?;
    api.blob_gc.expect(digest).await;
    let stream = body.into_data_stream();
    Ok(
        match api.blobs.put_stream(digest, MAX_BLOB_BYTES, stream).await? {
            PutOutcome::Created => StatusCode::CREATED,
            PutOutcome::AlreadyThere => StatusCode::OK,
        },
    )
}

fn parse(digest: &str) -> Result<Digest, ApiError> {
    digest
        .parse()
        .map_err(|e: samovar_types::digest::InvalidDigest| ApiError::bad_request(e.to_string()))
}
