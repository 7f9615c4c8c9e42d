//! `samovar push`: builds a model, uploads what the server lacks, and deploys it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::HumanBytes;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, ClientError};
use super::output::{self, Format, cell};
use super::progress::spin;
use super::{identifier, ready, upload};
use crate::bundle::{Bundle, LocalBlob, LocalBundle};
use crate::client_config;
use crate::manifest::Manifest;

/// Deploying compiles the component first.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// What it is given.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A folder with a samovar.toml, a manifest, or a component (.wasm)
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Name of the model, instead of the manifest's
    #[arg(long, value_parser = identifier)]
    model: Option<String>,
    /// Name of the deployment, instead of a numbered one
    #[arg(long)]
    name: Option<String>,
    /// Environment to deploy to
    #[arg(long, value_parser = identifier)]
    environment: Option<String>,
    /// Label of the deployment; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Wait until the deployment is ready, should the server answer before it is
    #[arg(long)]
    wait: bool,
    /// Push what lies there without the manifest's build command
    #[arg(long)]
    no_build: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("wanted KEY=VALUE".into()),
    }
}

/// Does it.
pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let manifest = Manifest::load(&arguments.path)?;
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

    let body = body(&arguments, &local.bundle);
    let mut answer = match deploy(client, &body).await {
        Ok(answer) => answer,
        Err(error) => {
            // A blob that was there may have been cleaned away since: nothing held it yet.
            let missing = missing(&error, &local.blobs);
            if missing.is_empty() {
                return Err(error);
            }
            upload::upload(client, &missing).await?;
            sent.extend(missing);
            deploy(client, &body).await?
        }
    };
    if arguments.wait {
        let deployment = answer["deployment"].take();
        let waiting = ready::wait(client, deployment, DEPLOY_TIMEOUT);
        answer["deployment"] = spin("waiting for the deployment", waiting).await?;
    }
    ready::check(&answer["deployment"])?;
    report(client, &arguments, &local, &sent, answer, format)
}

async fn build(manifest: &Manifest, command: &str) -> anyhow::Result<()> {
    output::note(&format!("building: {command}\n"));
    // An empty root is the folder that we are in.
    let folder = Some(manifest.root.as_path()).filter(|root| !root.as_os_str().is_empty());
    let status = tokio::process::Command::new("sh")
        .args(["-c", command])
        .current_dir(folder.unwrap_or_else(|| ".".as_ref()))
        .stdin(Stdio::null())
        // Standard output is for our own answer.
        .stdout(std::io::stderr())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("running the build command `{command}`"))?;
    if !status.success() {
        bail!("the build command `{command}` failed: {status}");
    }
    Ok(())
}

fn body(arguments: &Arguments, bundle: &Bundle) -> Value {
    let mut body = Map::new();
    body.insert("bundle".into(), json!(bundle));
    let mut add = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            body.insert(key.into(), json!(value));
        }
    };
    add("name", &arguments.model);
    add("deployment_name", &arguments.name);
    add("environment", &arguments.environment);
    if !arguments.labels.is_empty() {
        let labels: BTreeMap<_, _> = arguments.labels.iter().cloned().collect();
        body.insert("labels".into(), json!(labels));
    }
    body.into()
}

async fn deploy(client: &Client, body: &Value) -> anyhow::Result<Value> {
    let request = client.request(Method::POST, "/v1/models")?;
    let answering = client.json(request.timeout(DEPLOY_TIMEOUT).json(body));
    spin("the server compiles and deploys", answering).await
}

/// The blobs of ours that the server says it lacks.
fn missing<'a>(error: &anyhow::Error, blobs: &'a [LocalBlob]) -> Vec<&'a LocalBlob> {
    let code = error
        .downcast_ref::<ClientError>()
        .and_then(ClientError::code);
    let Some(("missing_blobs", detail)) = code else {
        return Vec::new();
    };
    let named = detail["missing"].as_array().into_iter().flatten();
    let named: BTreeSet<_> = named.filter_map(Value::as_str).collect();
    blobs
        .iter()
        .filter(|blob| named.contains(blob.digest.to_string().as_str()))
        .collect()
}

fn report(
    client: &Client,
    arguments: &Arguments,
    local: &LocalBundle,
    sent: &[&LocalBlob],
    mut answer: Value,
    format: Format,
) -> anyhow::Result<()> {
    let url = url(client.url(), &answer, arguments.environment.as_deref());
    let uploaded: BTreeSet<_> = sent.iter().map(|blob| blob.digest.to_string()).collect();
    if format == Format::Json {
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("uploaded".into(), json!(uploaded));
            fields.insert("url".into(), json!(url));
        }
        return output::document(&answer);
    }
    let (new, old): (Vec<&LocalBlob>, Vec<&LocalBlob>) = local
        .blobs
        .iter()
        .partition(|blob| uploaded.contains(&blob.digest.to_string()));
    let deployment = &answer["deployment"];
    output::properties(&[
        ("uploaded", files(&new)),
        ("already there", files(&old)),
        ("model", cell(&answer["model"]["name"])),
        (
            "deployment",
            format!(
                "{} ({})",
                cell(&deployment["id"]),
                cell(&deployment["name"])
            ),
        ),
        ("status", cell(&deployment["status"])),
        ("url", url.clone()),
    ])?;
    let model = cell(&answer["model"]["name"]);
    let deployment = cell(&deployment["id"]);
    output::line(&format!(
        "\nnext:\n  samovar predict {model} --deployment {deployment} -d '{{}}'\n  samovar deployment logs {model} {deployment} -f"
    ))?;
    output::line(&match key(client) {
        Key::None => format!("  curl {url} -d '{{}}'"),
        Key::Environment => format!("  {}", curl(&url)),
        Key::File(file) => format!(
            "  {}\n  (SAMOVAR_API_KEY being the api_key of {})",
            curl(&url),
            file.display()
        ),
    })
}

/// Where the user has the key that a call needs.
enum Key {
    None,
    Environment,
    File(PathBuf),
}

fn key(client: &Client) -> Key {
    if !client.has_key() {
        return Key::None;
    }
    match (std::env::var_os("SAMOVAR_API_KEY"), client_config::path()) {
        (None, Ok(file)) => Key::File(file),
        _ => Key::Environment,
    }
}

fn curl(url: &str) -> String {
    format!("curl {url} -H \"Authorization: Bearer $SAMOVAR_API_KEY\" -d '{{}}'")
}

fn files(blobs: &[&LocalBlob]) -> String {
    let size = HumanBytes(blobs.iter().map(|blob| blob.size).sum());
    match blobs.len() {
        0 => "nothing".into(),
        1 => format!("1 file, {size}"),
        count => format!("{count} files, {size}"),
    }
}

/// Where the deployment that was just made is called.
fn url(server: &str, answer: &Value, environment: Option<&str>) -> String {
    let deployment = &answer["deployment"];
    let target = match environment {
        _ if deployment["is_production"] == true => "production".to_owned(),
        Some(environment) => format!("environments/{environment}"),
        None => format!("deployment/{}", cell(&deployment["id"])),
    };
    let model = cell(&answer["model"]["name"]);
    format!("{server}/models/{model}/{target}/predict")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Digest;
    use crate::cli::client::ErrorAnswer;
    use reqwest::StatusCode;

    #[test]
    fn the_address_is_the_deployments_own() {
        let answer = |is_production: bool| {
            json!({
                "model": {"name": "m"},
                "deployment": {"id": "dep12345", "is_production": is_production},
            })
        };
        let told =
            |is_production, environment| url("http://h", &answer(is_production), environment);
        assert_eq!(told(true, None), "http://h/models/m/production/predict");
        assert_eq!(
            told(false, None),
            "http://h/models/m/deployment/dep12345/predict"
        );
        assert_eq!(
            told(false, Some("staging")),
            "http://h/models/m/environments/staging/predict"
        );
    }

    #[test]
    fn only_blobs_of_ours_are_sent_again() {
        let blob = |text: &str| LocalBlob {
            digest: Digest::of(text.as_bytes()),
            path: text.into(),
            size: 1,
        };
        let blobs = [blob("a"), blob("b")];
        let refused = |code: &str| {
            let other = Digest::of(b"c").to_string();
            anyhow::Error::new(ClientError::Refused {
                status: StatusCode::CONFLICT,
                answer: Box::new(ErrorAnswer {
                    error_code: Some(code.into()),
                    detail: json!({"missing": [blobs[1].digest.to_string(), other]}),
                    ..ErrorAnswer::default()
                }),
            })
        };
        assert_eq!(missing(&refused("missing_blobs"), &blobs), [&blobs[1]]);
        assert!(missing(&refused("conflict"), &blobs).is_empty());
        assert!(missing(&anyhow::anyhow!("other"), &blobs).is_empty());
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("a").is_err() && label("=a").is_err());
    }

    #[tokio::test]
    async fn a_build_runs_in_the_manifests_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("samovar.toml");
        let manifest = Manifest::parse(&file, "name='m'\ncomponent='m.wasm'").unwrap();
        build(&manifest, "echo made > m.wasm").await.unwrap();
        assert!(folder.path().join("m.wasm").exists());
        let error = build(&manifest, "exit 3").await.unwrap_err().to_string();
        assert!(
            error.contains("`exit 3` failed") && error.contains('3'),
            "{error}"
        );
    }
}
