//! Pushes a bundle to the development deployment: uploads missing blobs, and reloads the deployment or creates it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use samovar_bundle::collect::{LocalBlob, LocalBundle};
use samovar_client::{Client, ClientError};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::development::{ReloadRequest, ReloadStatus, ReloadTimings};
use samovar_types::api::models::PushRequest;
use samovar_types::digest::Digest;
use serde::Serialize;

use crate::commands::push::{self, DEPLOY_TIMEOUT};
use crate::{ready, upload};

/// The effect of a push on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// The development deployment was created.
    Created,
    /// It serves a new bundle.
    Reloaded,
    /// It already served this bundle.
    Unchanged,
}

/// The result of a push.
pub struct Reloaded {
    pub status: Status,
    /// The server's timings; none for a new deployment.
    pub timings: Option<ReloadTimings>,
    /// Number of uploaded files, and their bytes.
    pub uploaded: (usize, u64),
    /// Time to find missing blobs and upload them.
    pub upload: Duration,
    /// Time until the new code served.
    pub activation: Duration,
}

/// Pushes a bundle and returns when the new code serves. `there` are blobs that the server had a moment ago.
pub async fn reload(
    client: &Client,
    model: &str,
    local: &LocalBundle,
    there: &BTreeSet<Digest>,
) -> anyhow::Result<Reloaded> {
    let begun = Instant::now();
    let unknown = local
        .blobs
        .iter()
        .filter(|blob| !there.contains(&blob.digest));
    let unknown: Vec<LocalBlob> = unknown.cloned().collect();
    let mut sent = upload::lacking(client, &unknown).await?;
    upload::upload(client, &sent).await?;
    let mut upload = begun.elapsed();

    let begun = Instant::now();
    let mut activation = Duration::ZERO;
    let swapped = match swap(client, model, local).await {
        Ok(swapped) => swapped,
        Err(error) => {
            // What was there may have been taken away since.
            let missing = push::missing(&error, &local.blobs);
            if missing.is_empty() {
                return Err(error.into());
            }
            activation += begun.elapsed();
            let begun = Instant::now();
            upload::upload(client, &missing).await?;
            sent.extend(missing);
            upload += begun.elapsed();
            swap(client, model, local).await?
        }
    };
    activation += begun.elapsed();
    ready::check(&swapped.deployment)?;
    Ok(Reloaded {
        status: swapped.status,
        timings: swapped.timings,
        uploaded: (sent.len(), sent.iter().map(|blob| blob.size).sum()),
        upload,
        activation,
    })
}

struct Swapped {
    status: Status,
    deployment: DeploymentResponse,
    timings: Option<ReloadTimings>,
}

async fn swap(client: &Client, model: &str, local: &LocalBundle) -> Result<Swapped, ClientError> {
    let request = ReloadRequest {
        bundle: local.bundle.clone(),
        labels: None,
    };
    match client.reload(model, &request, DEPLOY_TIMEOUT).await {
        Ok(answer) => Ok(Swapped {
            // Whatever a newer server says else of it, the deployment serves this bundle now.
            status: match answer.status == ReloadStatus::Unchanged {
                true => Status::Unchanged,
                false => Status::Reloaded,
            },
            deployment: answer.deployment.clone(),
            timings: Some(answer.timings.clone()),
        }),
        Err(error) if error.is_not_found() => {
            let request = PushRequest {
                name: Some(model.to_owned()),
                development: true,
                ..PushRequest::new(request.bundle)
            };
            let answer = push::deploy(client, &request).await?;
            Ok(Swapped {
                status: Status::Created,
                deployment: answer.into_inner().deployment,
                timings: None,
            })
        }
        Err(error) => Err(error),
    }
}
