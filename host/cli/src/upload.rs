//! Uploads blobs of a bundle: those that the server lacks, a few at a time.

use std::io::IsTerminal as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{HumanBytes, ProgressBar};
use reqwest::{Method, StatusCode, header};
use samovar_bundle::collect::{LocalBlob, Source};
use samovar_client::{ANSWER_TIMEOUT, Client, ClientError};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::output;
use crate::progress::Progress;

const PARALLEL: usize = 4;

/// The blobs that the server says it lacks.
pub async fn lacking<'a>(
    client: &Client,
    blobs: &'a [LocalBlob],
) -> anyhow::Result<Vec<&'a LocalBlob>> {
    let checked = stream::iter(blobs).map(|blob| async move {
        let request = client
            .request(Method::HEAD, &path(blob))?
            .timeout(ANSWER_TIMEOUT);
        match client.send(request).await {
            Ok(_) => Ok(None),
            Err(ClientError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => {
                Ok(Some(blob))
            }
            Err(error) => Err(anyhow::Error::new(error)),
        }
    });
    let found: Vec<_> = checked.buffered(PARALLEL).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// Uploads all of the blobs.
pub async fn upload(client: &Client, blobs: &[&LocalBlob]) -> anyhow::Result<()> {
    let progress = Progress::new();
    let uploads = stream::iter(blobs.iter().copied())
        .map(|blob| async {
            let name = name(blob);
            let bar = progress.bytes(blob.size, name.clone());
            put(client, blob, &bar)
                .await
                .with_context(|| format!("uploading {}", blob.source.path().display()))?;
            bar.finish_and_clear();
            if !std::io::stderr().is_terminal() {
                let size = HumanBytes(blob.size);
                output::note(&format!("uploaded {name}, {size}\n"));
            }
            anyhow::Ok(())
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>();
    progress.during(uploads).await
}

async fn put(client: &Client, blob: &LocalBlob, bar: &ProgressBar) -> anyhow::Result<()> {
    let body = match &blob.source {
        Source::File(path) => file(path, blob.size, bar).await?,
        Source::Memory { bytes, .. } => bytes.clone().into(),
    };
    let request = client
        .request(Method::PUT, &path(blob))?
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, blob.size)
        .body(body);
    client.send(request).await?;
    Ok(())
}

async fn file(path: &Path, size: u64, bar: &ProgressBar) -> anyhow::Result<reqwest::Body> {
    let file = tokio::fs::File::open(path).await?;
    let found = file.metadata().await?.len();
    if found != size {
        bail!(
            "the file changed while it was pushed: found {found} bytes, wanted {size}; push again"
        );
    }
    // The server checks the digest; a file that grows now must not outgrow its announced length.
    let reader = ReaderStream::with_capacity(file.take(size), 256 << 10);
    let counter = bar.clone();
    let counted = reader.inspect_ok(move |chunk| counter.inc(chunk.len() as u64));
    Ok(reqwest::Body::wrap_stream(counted))
}

fn path(blob: &LocalBlob) -> String {
    format!("/v1/blobs/{}", blob.digest)
}

fn name(blob: &LocalBlob) -> String {
    let path = blob.source.path();
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
