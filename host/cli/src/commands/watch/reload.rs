//! Brings a bundle onto the development deployment: uploads what the server lacks, swaps the code, and makes the
//! deployment when there is none.

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

/// What a watch changed on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// The development deployment was made.
    Created,
    /// It serves another bundle than before.
    Reloaded,
    /// It served that bundle already.
    Unchanged,
}

/// How it went.
pub struct Reloaded {
    /// Whether it changed anything.
    pub status: Status,
    /// What the server says of its time; nothing for a deployment that was made.
    pub timings: Option<ReloadTimings>,
    /// Files that were sent, and their bytes.
    pub uploaded: (usize, u64),
    /// Looking which are lacking, and sending them.
    pub upload: Duration,
    /// Until the new code served.
    pub activation: Duration,
}

/// Does it; answers when the new code serves. `there` are blobs that the server had a moment ago.
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

/// What the server answered.
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
            status: match answer.status {
                ReloadStatus::Reloaded => Status::Reloaded,
                ReloadStatus::Unchanged => Status::Unchanged,
            },
            deployment: answer.deployment,
            timings: Some(answer.timings),
        }),
        Err(error) if error.is_not_found() => {
            let request = PushRequest {
                name: Some(model.to_owned()),
                bundle: request.bundle,
                deployment_name: None,
                development: true,
                environment: None,
                labels: None,
            };
            let answer = push::deploy(client, &request).await?;
            Ok(Swapped {
                status: Status::Created,
                deployment: answer.deployment,
                timings: None,
            })
        }
        Err(error) => Err(error),
    }
}
