//! `samovar push`: builds a model, uploads missing files, and deploys it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use samovar_bundle::collect::{LocalBlob, LocalBundle};
use samovar_bundle::manifest::Manifest;
use samovar_client::{Client, ClientError, Received};
use samovar_types::api::models::{PushRequest, PushResponse};
use samovar_types::bundle::Bundle;
use samovar_types::names::PRODUCTION;

use crate::build::{Build, Group};
use crate::commands::environment::Place;
use crate::output::{self, Format};
use crate::progress::spin;
use crate::pushed::{Made, Report, Target};
use crate::{identifier, promotion_wait, ready, upload};

/// Timeout of the request that deploys, which includes compiling the component.
pub const DEPLOY_TIMEOUT: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A folder with a samovar.toml, a manifest, a component (.wasm), or an ONNX model (.onnx)
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Name of the model, instead of the manifest's
    #[arg(long, value_parser = identifier)]
    model: Option<String>,
    /// Name of the deployment [default: deployment-1, deployment-2, …]
    #[arg(long)]
    name: Option<String>,
    /// Promote the deployment to this environment once it is built
    #[arg(long, value_parser = identifier)]
    environment: Option<String>,
    /// Promote the deployment to production, unless --environment names another environment
    #[arg(long)]
    promote: bool,
    /// Push to the development deployment: create it, or replace its bundle
    #[arg(long, conflicts_with_all = ["name", "environment", "promote"])]
    development: bool,
    /// Label of the deployment; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Wait until the deployment is ready and its promotion has ended
    #[arg(long)]
    wait: bool,
    /// Do not run the manifest's build command
    #[arg(long)]
    no_build: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("wanted KEY=VALUE".into()),
    }
}

pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let mut manifest = Manifest::load(&arguments.path)?;
    manifest.serve_as(arguments.model.as_deref());
    if let Some(command) = manifest.build.as_ref().filter(|_| !arguments.no_build) {
        build(&manifest, command).await?;
    }
    // What it finds, `build` may just have made.
    let hashing = tokio::task::spawn_blocking(move || LocalBundle::from_manifest(&manifest));
    let local = spin("hashing the files", hashing)
        .await
        .context("hashing the files")??;
    let mut sent = upload::lacking(client, &local.blobs).await?;
    upload::upload(client, &sent).await?;

    let request = request(&arguments, &local.bundle);
    let begun = Instant::now();
    let answer = match deploy(client, &request).await {
        Ok(answer) => answer,
        Err(error) => {
            // A blob that was there may have been cleaned away since: nothing held it yet.
            let missing = missing(&error, &local.blobs);
            if missing.is_empty() {
                return Err(error.into());
            }
            upload::upload(client, &missing).await?;
            sent.extend(missing);
            deploy(client, &request).await?
        }
    };
    let took = begun.elapsed();
    let mut made = Made::from(&answer);
    if arguments.wait {
        let waiting = ready::wait(client, made.deployment, DEPLOY_TIMEOUT);
        made.deployment = spin("waiting for the deployment", waiting).await?;
    }
    ready::check(&made.deployment)?;
    if let Some(environment) = arguments.environment().filter(|_| arguments.wait) {
        let place = Place {
            model: made.model.id.to_string(),
            environment: environment.to_owned(),
        };
        promotion_wait::until_ended(client, &place, &made.deployment).await?;
        let id = made.deployment.id;
        made.deployment = client.deployment(&place.model, id.as_str()).await?;
    }
    let report = Report {
        local: &local,
        sent: &sent,
        target: match arguments.environment() {
            _ if arguments.development => Target::Development,
            Some(environment) => Target::Environment(environment),
            None => Target::Deployment,
        },
        took,
    };
    report.print(client, &made, format)
}

impl Arguments {
    /// The environment to promote the deployment to.
    fn environment(&self) -> Option<&str> {
        let named = self.environment.as_deref();
        named.or_else(|| self.promote.then_some(PRODUCTION))
    }
}

async fn build(manifest: &Manifest, command: &str) -> anyhow::Result<()> {
    output::note(&format!("building: {command}\n"));
    let status = Build::start(manifest, command, Group::Ours)?.wait().await?;
    if !status.success() {
        bail!("the build command `{command}` failed: {status}");
    }
    Ok(())
}

fn request(arguments: &Arguments, bundle: &Bundle) -> PushRequest {
    let labels: BTreeMap<_, _> = arguments.labels.iter().cloned().collect();
    PushRequest {
        name: arguments.model.clone(),
        deployment_name: arguments.name.clone(),
        development: arguments.development,
        environment: arguments.environment().map(str::to_owned),
        labels: (!labels.is_empty()).then_some(labels),
        ..PushRequest::new(bundle.clone())
    }
}

/// Deploys, and returns when that is done.
pub async fn deploy(
    client: &Client,
    request: &PushRequest,
) -> Result<Received<PushResponse>, ClientError> {
    let answering = client.push(request, DEPLOY_TIMEOUT);
    spin("the server compiles and deploys", answering).await
}

/// The blobs that the server says it lacks.
pub fn missing<'a>(error: &ClientError, blobs: &'a [LocalBlob]) -> Vec<&'a LocalBlob> {
    let named = error.missing_blobs();
    blobs
        .iter()
        .filter(|blob| named.contains(&blob.digest))
        .collect()
}

#[cfg(test)]
mod tests {
    use samovar_bundle::collect::Source;
    use samovar_client::{ErrorAnswer, StatusCode};
    use samovar_types::digest::Digest;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_blobs_of_ours_are_sent_again() {
        let blob = |text: &str| LocalBlob {
            digest: Digest::of(text.as_bytes()),
            source: Source::File(text.into()),
            size: 1,
        };
        let blobs = [blob("a"), blob("b")];
        let refused = |code: &str| {
            let other = Digest::of(b"c").to_string();
            ClientError::Refused {
                status: StatusCode::CONFLICT,
                answer: Box::new(ErrorAnswer {
                    error_code: Some(code.into()),
                    detail: json!({"missing": [blobs[1].digest.to_string(), other]}),
                    ..ErrorAnswer::default()
                }),
            }
        };
        assert_eq!(missing(&refused("missing_blobs"), &blobs), [&blobs[1]]);
        assert!(missing(&refused("conflict"), &blobs).is_empty());
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("a").is_err() && label("=a").is_err());
    }

    #[tokio::test]
    async fn a_build_that_fails_ends_the_push() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("samovar.toml");
        let manifest = Manifest::parse(&file, "name='m'\ncomponent='m.wasm'").unwrap();
        build(&manifest, "true").await.unwrap();
        let error = build(&manifest, "exit 3").await.unwrap_err().to_string();
        assert!(
            error.contains("`exit 3` failed") && error.contains('3'),
            "{error}"
        );
    }
}
