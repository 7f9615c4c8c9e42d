//! Uploads blobs of a bundle: those that the server lacks, a few at a time.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use reqwest::{Method, StatusCode, header};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::client::{ANSWER_TIMEOUT, Client, ClientError};
use crate::bundle::LocalBlob;

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
    // It draws nothing unless standard error is a terminal.
    let bars = MultiProgress::new();
    let result = stream::iter(blobs.iter().copied())
        .map(|blob| async {
            let name = name(blob);
            let bar = bars.add(bar(blob.size, name.clone()));
            put(client, blob, &bar)
                .await
                .with_context(|| format!("uploading {}", blob.path.display()))?;
            bar.finish_and_clear();
            if !std::io::stderr().is_terminal() {
                eprintln!("uploaded {name}, {}", indicatif::HumanBytes(blob.size));
            }
            anyhow::Ok(())
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await;
    // An error is told below the bars, not among them.
    let _ = bars.clear();
    result
}

async fn put(client: &Client, blob: &LocalBlob, bar: &ProgressBar) -> anyhow::Result<()> {
    let file = tokio::fs::File::open(&blob.path).await?;
    let found = file.metadata().await?.len();
    if found != blob.size {
        bail!(
            "the file changed while it was pushed: found {found} bytes, wanted {}; push again",
            blob.size
        );
    }
    // The server checks the digest; a file that grows now must not outgrow its announced length.
    let reader = ReaderStream::with_capacity(file.take(blob.size), 256 << 10);
    let counter = bar.clone();
    let counted = reader.inspect_ok(move |chunk| counter.inc(chunk.len() as u64));
    let request = client
        .request(Method::PUT, &path(blob))?
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, blob.size)
        .body(reqwest::Body::wrap_stream(counted));
    client.send(request).await?;
    Ok(())
}

fn path(blob: &LocalBlob) -> String {
    format!("/v1/blobs/{}", blob.digest)
}

fn name(blob: &LocalBlob) -> String {
    let name = blob.path.file_name().unwrap_or(blob.path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn bar(size: u64, name: String) -> ProgressBar {
    let template = "{wide_msg} {bytes:>10} / {total_bytes:10} {bytes_per_sec:>12} {bar:24}";
    // The default serves too, should a later version no longer know a word of the template.
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(size).with_style(style).with_message(name)
}
