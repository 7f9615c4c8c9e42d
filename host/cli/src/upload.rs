//! Uploads the blobs of a bundle that the server lacks, a few at a time.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{HumanBytes, ProgressBar};
use samovar_bundle::collect::{LocalBlob, Source};
use samovar_client::{Client, ClientError};

use crate::output;
use crate::progress::Progress;

const PARALLEL: usize = 4;

/// The blobs that the server says it lacks.
pub async fn lacking<'a>(
    client: &Client,
    blobs: &'a [LocalBlob],
) -> anyhow::Result<Vec<&'a LocalBlob>> {
    let checked = stream::iter(blobs).map(|blob| async move {
        let is_there = client.has_blob(blob.digest).await?;
        Ok::<_, ClientError>((!is_there).then_some(blob))
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

async fn put(client: &Client, blob: &LocalBlob, bar: &ProgressBar) -> Result<(), ClientError> {
    match &blob.source {
        Source::File(path) => {
            let counter = bar.clone();
            let sent = move |bytes| counter.inc(bytes);
            client.upload_file(blob.digest, blob.size, path, sent).await
        }
        Source::Memory { bytes, .. } => client.upload(blob.digest, blob.size, bytes.clone()).await,
    }
}

fn name(blob: &LocalBlob) -> String {
    let path = blob.source.path();
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
