//! Files of bundles by their digest.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Api;
use super::error::ApiError;
use crate::domain::bundle::MAX_BLOB_BYTES;
use crate::domain::digest::Digest;
use crate::state::blobs::{BlobError, PutOutcome};

/// `HEAD /v1/blobs/{digest}`
pub async fn head(
    State(api): State<Api>,
    Path(digest): Path<String>,
) -> Result<Response, ApiError> {
    let digest = parse(&digest)?;
    match api.blobs.head(digest).await? {
        Some(size) => Ok(([(header::CONTENT_LENGTH, size)], ()).into_response()),
        None => Err(BlobError::NotFound { digest }.into()),
    }
}

/// `GET /v1/blobs/{digest}`
pub async fn get(State(api): State<Api>, Path(digest): Path<String>) -> Result<Response, ApiError> {
    let (size, stream) = api.blobs.get_stream(parse(&digest)?).await?;
    let headers = [
        (header::CONTENT_LENGTH, size.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".into()),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// `PUT /v1/blobs/{digest}`
pub async fn put(
    State(api): State<Api>,
    Path(digest): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let digest = parse(&digest)?;
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
        .map_err(|e: crate::domain::digest::InvalidDigest| ApiError::bad_request(e.to_string()))
}
