//! Brings a bundle onto the development deployment: uploads what the server lacks, swaps the code, and makes the
//! deployment when there is none.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use samovar_bundle::collect::{LocalBlob, LocalBundle};
use samovar_client::{Client, ClientError};
use samovar_types::digest::Digest;
use serde_json::{Value, json};

use crate::commands::push::{self, DEPLOY_TIMEOUT};
use crate::{ready, upload};

/// How it went.
pub struct Reloaded {
    /// CREATED, RELOADED or UNCHANGED.
    pub status: String,
    /// What the server says of its time.
    pub timings: Value,
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
    let answer = match swap(client, model, local).await {
        Ok(answer) => answer,
        Err(error) => {
            // What was there may have been taken away since.
            let missing = push::missing(&error, &local.blobs);
            if missing.is_empty() {
                return Err(error);
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
    ready::check(&answer["deployment"])?;
    Ok(Reloaded {
        status: answer["status"].as_str().unwrap_or("CREATED").to_owned(),
        timings: answer["timings"].clone(),
        uploaded: (sent.len(), sent.iter().map(|blob| blob.size).sum()),
        upload,
        activation,
    })
}

async fn swap(client: &Client, model: &str, local: &LocalBundle) -> anyhow::Result<Value> {
    let path = format!("/v1/models/{model}/deployments/development/bundle");
    let request = client.request(Method::PUT, &path)?.timeout(DEPLOY_TIMEOUT);
    let bundle = json!({ "bundle": local.bundle });
    match client.json(request.json(&bundle)).await {
        Err(error) if is_not_there(&error) => {
            let body = json!({ "bundle": local.bundle, "name": model, "development": true });
            push::deploy(client, &body).await
        }
        answered => answered,
    }
}

fn is_not_there(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<ClientError>();
    matches!(error, Some(ClientError::Refused { status, .. }) if *status == StatusCode::NOT_FOUND)
}
