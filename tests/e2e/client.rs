//! The client has a typed call for every route, and reads what a newer server may answer, too.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use samovar_client::{Client, Method, Received, Target};
use samovar_tests::recorder::Recorder;
use samovar_tests::{PATIENCE, Server, eventually};
use samovar_types::api::api_keys::CreateApiKeyRequest;
use samovar_types::api::async_requests::SubmitAsyncRequest;
use samovar_types::api::audit::AuditQuery;
use samovar_types::api::deployments::BackpressureUpdate;
use samovar_types::api::development::ReloadRequest;
use samovar_types::api::environments::{CreateEnvironmentRequest, UpdateEnvironmentRequest};
use samovar_types::api::logs::LogsQuery;
use samovar_types::api::models::PushRequest;
use samovar_types::api::promotions::{PromoteRequest, PromoteToProductionRequest};
use samovar_types::api::secrets::SetSecretRequest;
use samovar_types::api::usage::{UsageParams, UsageSummaryQuery};
use samovar_types::api_key::KeyType;
use samovar_types::async_request::AsyncStatus;
use samovar_types::bundle::Bundle;
use samovar_types::digest::Digest;
use samovar_types::id::DeploymentId;
use samovar_types::promotion::PromotionStatus;
use samovar_types::promotion_settings::PromotionSettingsUpdate;
use samovar_types::settings::{AutoscalingUpdate, BackpressurePolicy};
use samovar_types::usage::Resolution;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const MODEL: &str = "walked";
const STAGING: &str = "staging";

#[tokio::test]
async fn every_route_has_a_call() -> Result<()> {
    let server = Server::start()?;
    // What only the command line uploads: the files of a bundle.
    server.push_as(MODEL, "echo", "")?;
    let recorder = Recorder::start(&server.url).await?;
    let client = Client::new(&recorder.url, Some(server.key()))?;
    let config = read(client.config(MODEL, "production").await?)?.config;
    let bundle = config.and_then(|config| config.known().cloned());
    let walk = Walk {
        client: &client,
        bundle: bundle.context("a bundle")?,
    };
    walk.models().await?;
    walk.deployments().await?;
    walk.development().await?;
    walk.environments().await?;
    walk.promotions().await?;
    walk.inference().await?;
    walk.async_requests().await?;
    walk.replicas().await?;
    walk.keys_and_secrets().await?;
    walk.team().await?;
    walk.node().await?;
    walk.end().await?;

    let document = client.openapi().await?;
    let routes = routes(&document)?;
    ensure!(
        routes.len() > 90,
        "only {} routes are described",
        routes.len()
    );
    let mut missing = routes.clone();
    for (method, path) in recorder.requests() {
        missing.remove(&route_of(&routes, &method, &path)?);
    }
    ensure!(missing.is_empty(), "without a call: {missing:#?}");
    Ok(())
}

/// Routes that do not belong to the API, and so are not in its description.
const UNDESCRIBED: [(&str, &str); 3] = [
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/openapi.json"),
];

/// Methods and addresses, as the server describes them.
fn routes(document: &Value) -> Result<BTreeSet<(String, String)>> {
    let mut routes: BTreeSet<_> = UNDESCRIBED
        .iter()
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    for (path, item) in document["paths"].as_object().context("paths")? {
        let item = item.as_object().context("methods")?;
        let methods = item.keys().filter(|name| *name != "parameters");
        routes.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
    }
    Ok(routes)
}

/// The route that a request takes: of those that fit, the one with the fewest parameters.
fn route_of(
    routes: &BTreeSet<(String, String)>,
    method: &str,
    path: &str,
) -> Result<(String, String)> {
    let fits = |route: &str| {
        let mut parts = path.split('/');
        let same = route.split('/').all(|wanted| {
            let part = parts.next();
            part.is_some_and(|part| wanted.starts_with('{') || part == wanted)
        });
        same && parts.next().is_none()
    };
    let fitting = routes
        .iter()
        .filter(|(one, route)| one == method && fits(route));
    let closest = fitting.min_by_key(|(_, route)| route.matches('{').count());
    let closest = closest.with_context(|| format!("{method} {path} is no route"))?;
    Ok(closest.clone())
}

/// A value that no release has; it has the form of an id, so that only enums can refuse it.
const NEWER: &str = "newer000";

/// Reads a response as if it came from a newer server: with another field in each object, and with another word in the
/// place of each word. The response must be readable, and the word kept.
fn read<T: DeserializeOwned + Serialize>(answer: Received<T>) -> Result<T> {
    let mut document: Value = serde_json::from_str(answer.json())?;
    for pointer in words(&document) {
        let mut newer = document.clone();
        *newer.pointer_mut(&pointer).context("a word")? = NEWER.into();
        let text = newer.to_string();
        let read = Received::<T>::read(text.as_bytes());
        let read = read.with_context(|| format!("{pointer} with another word: {text}"))?;
        let written = serde_json::to_string(&read.into_inner())?;
        ensure!(written.contains(NEWER), "{pointer} was lost: {written}");
    }
    add_fields(&mut document);
    let text = document.to_string();
    Received::<T>::read(text.as_bytes()).with_context(|| format!("with more fields: {text}"))?;
    Ok(answer.into_inner())
}

/// Where a document has strings that may be words of an enum.
fn words(document: &Value) -> Vec<String> {
    fn look(value: &Value, pointer: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                let name = name.replace('~', "~0").replace('/', "~1");
                look(value, &format!("{pointer}/{name}"), found);
            }),
            Value::Array(items) => items.iter().enumerate().for_each(|(place, item)| {
                look(item, &format!("{pointer}/{place}"), found);
            }),
            Value::String(text) if is_word(text) => found.push(pointer.to_owned()),
            _ => {}
        }
    }
    let mut found = Vec::new();
    look(document, "", &mut found);
    found
}

/// Whether a text is one word, and not a time or the hex digits of a digest.
fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.len() < 64
        && text.bytes().all(plain)
}

fn add_fields(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(add_fields);
            // A text, because values of labels are texts.
            fields.insert("a_newer_field".into(), NEWER.into());
        }
        Value::Array(items) => items.iter_mut().for_each(add_fields),
        _ => {}
    }
}

/// Calls of every route, for a model whose production is there.
struct Walk<'a> {
    client: &'a Client,
    bundle: Bundle,
}

impl Walk<'_> {
    fn push_request(&self) -> PushRequest {
        PushRequest {
            labels: Some([("team".to_owned(), "a".to_owned())].into()),
            ..PushRequest::new(self.bundle.clone())
        }
    }

    /// Makes another deployment of the model.
    async fn deployment(&self) -> Result<DeploymentId> {
        let request = self.push_request();
        let pushed = self.client.push_to_model(MODEL, &request, PATIENCE);
        Ok(read(pushed.await?)?.deployment.id)
    }

    async fn models(&self) -> Result<()> {
        let client = self.client;
        let content = "a file";
        let digest = Digest::of(content.as_bytes());
        ensure!(!client.has_blob(digest).await?);
        client.upload(digest, content.len() as u64, content).await?;
        ensure!(client.has_blob(digest).await?);
        ensure!(client.blob(digest).await?.text().await? == content);

        let request = PushRequest {
            name: Some("other".into()),
            ..self.push_request()
        };
        let pushed = read(client.push(&request, PATIENCE).await?)?;
        ensure!(pushed.model.name == "other");
        ensure!(read(client.models().await?)?.models.len() == 2);
        let renamed = read(client.rename_model("other", "another").await?)?;
        ensure!(renamed.id == pushed.model.id);
        ensure!(read(client.model("another").await?)?.name == "another");
        ensure!(read(client.delete_model("another").await?)?.deleted);
        Ok(())
    }

    async fn deployments(&self) -> Result<()> {
        let client = self.client;
        let id = self.deployment().await?;
        let id = id.as_str();
        ensure!(read(client.deployments(MODEL).await?)?.deployments.len() == 2);
        let renamed = read(client.rename_deployment(MODEL, id, "second").await?)?;
        ensure!(renamed.name == "second");
        ensure!(read(client.deployment(MODEL, id).await?)?.name == "second");
        ensure!(!read(client.deactivate(MODEL, id).await?)?.no_op);
        ensure!(!read(client.activate(MODEL, id, PATIENCE).await?)?.no_op);
        ensure!(!read(client.retry(MODEL, id, PATIENCE).await?)?.retried);
        let update = AutoscalingUpdate {
            max_replica: Some(2),
            ..AutoscalingUpdate::default()
        };
        read(client.update_autoscaling(MODEL, id, &update).await?)?;
        let update = BackpressureUpdate {
            policy: Some(BackpressurePolicy::RejectOnFull),
        };
        let settings = read(client.update_backpressure(MODEL, id, &update).await?)?;
        ensure!(settings.policy == BackpressurePolicy::RejectOnFull);
        let place = read(client.download(MODEL, id).await?)?;
        ensure!(place.download_url.contains(id), "{}", place.download_url);
        ensure!(!client.bundle(MODEL, id).await?.bytes().await?.is_empty());
        read(
            client
                .deployment_logs(MODEL, id, &LogsQuery::default())
                .await?,
        )?;
        ensure!(read(client.delete_deployment(MODEL, id).await?)?.deleted);
        Ok(())
    }

    async fn development(&self) -> Result<()> {
        let request = PushRequest {
            development: true,
            ..self.push_request()
        };
        let pushed = self.client.push_to_model(MODEL, &request, PATIENCE);
        ensure!(read(pushed.await?)?.deployment.is_development);
        let request = ReloadRequest {
            bundle: self.bundle.clone(),
            labels: None,
        };
        read(self.client.reload(MODEL, &request, PATIENCE).await?)?;
        Ok(())
    }

    async fn environments(&self) -> Result<()> {
        let client = self.client;
        let request = CreateEnvironmentRequest {
            name: STAGING.into(),
            ..CreateEnvironmentRequest::default()
        };
        read(client.create_environment(MODEL, &request).await?)?;
        let request = PushRequest {
            environment: Some(STAGING.into()),
            ..self.push_request()
        };
        read(client.push_to_model(MODEL, &request, PATIENCE).await?)?;
        eventually("the deployment moves in", async || {
            let shown = client.environment(MODEL, STAGING).await;
            shown.is_ok_and(|shown| shown.current_deployment.is_some())
        })
        .await?;
        read(client.environment(MODEL, STAGING).await?)?;
        ensure!(read(client.environments(MODEL).await?)?.environments.len() == 2);
        ensure!(!read(client.deactivate_environment(MODEL, STAGING).await?)?.no_op);
        let activated = client.activate_environment(MODEL, STAGING, PATIENCE);
        ensure!(!read(activated.await?)?.no_op);
        let query = LogsQuery::default();
        read(client.environment_logs(MODEL, STAGING, &query).await?)?;
        Ok(())
    }

    /// Begins to move production elsewhere, and waits until traffic moves.
    async fn ramp_up(&self) -> Result<()> {
        let request = PromoteRequest::new(self.deployment().await?);
        read(self.client.promote(MODEL, "production", &request).await?)?;
        eventually("traffic moves", async || {
            let shown = self.client.environment(MODEL, "production").await;
            shown.is_ok_and(|shown| {
                let promotion = shown.in_progress_promotion.as_ref();
                promotion.is_some_and(|one| one.status == PromotionStatus::RampingUp)
            })
        })
        .await
    }

    async fn promotions(&self) -> Result<()> {
        let client = self.client;
        let promotion = PromotionSettingsUpdate {
            ramp_up_while_promoting: Some(true),
            ..PromotionSettingsUpdate::default()
        };
        let request = UpdateEnvironmentRequest {
            promotion_settings: Some(promotion),
            ..UpdateEnvironmentRequest::default()
        };
        let updated = client.update_environment(MODEL, "production", &request);
        read(updated.await?)?;
        self.ramp_up().await?;
        read(client.pause_promotion(MODEL, "production").await?)?;
        read(client.environment(MODEL, "production").await?)?;
        read(client.resume_promotion(MODEL, "production").await?)?;
        read(client.cancel_promotion(MODEL, "production").await?)?;
        self.ramp_up().await?;
        read(client.force_cancel_promotion(MODEL, "production").await?)?;
        self.ramp_up().await?;
        let forced = client.force_roll_forward_promotion(MODEL, "production");
        read(forced.await?)?;
        let request = PromoteToProductionRequest::default();
        let id = self.deployment().await?;
        let promoted = client.promote_to_production(MODEL, id.as_str(), &request);
        ensure!(read(promoted.await?)?.id == id);
        read(client.cancel_promotion(MODEL, "production").await?)?;
        Ok(())
    }

    /// The deployment of production.
    async fn production(&self) -> Result<String> {
        let shown = self.client.deployment(MODEL, "production").await?;
        Ok(read(shown)?.id.to_string())
    }

    async fn inference(&self) -> Result<()> {
        let id = self.production().await?;
        for target in targets(&id) {
            read(self.client.wake(MODEL, target).await?)?;
            let call = async |method: Method, path: &str| -> Result<String> {
                let request = self.client.inference(method, MODEL, target, path)?;
                let answer = self.client.send(request.body("said")).await?;
                Ok(answer.text().await?)
            };
            ensure!(call(Method::POST, "/predict").await? == "said", "{target}");
            for method in [Method::GET, Method::PUT, Method::DELETE, Method::PATCH] {
                call(method, "/sync/path").await?;
            }
            ensure!(
                call(Method::POST, "/sync/path").await? == "said",
                "{target}"
            );
        }
        Ok(())
    }

    async fn async_requests(&self) -> Result<()> {
        let client = self.client;
        let id = self.production().await?;
        let request = SubmitAsyncRequest::new(serde_json::value::to_raw_value("said")?);
        for target in targets(&id) {
            let submitted = client.submit_async(MODEL, target, &request).await?;
            let id = read(submitted)?.request_id;
            read(client.async_queue_status(MODEL, target).await?)?;
            eventually("the request is answered", async || {
                let shown = client.async_request(MODEL, &id).await;
                shown.is_ok_and(|shown| shown.status == AsyncStatus::Succeeded)
            })
            .await?;
            read(client.async_request(MODEL, &id).await?)?;
            let result = client.async_result(MODEL, &id).await?;
            ensure!(result.text().await? == "\"said\"");
            ensure!(!read(client.cancel_async(MODEL, &id).await?)?.canceled);
        }
        Ok(())
    }

    async fn replicas(&self) -> Result<()> {
        let client = self.client;
        let listed = read(client.replicas(MODEL, "production").await?)?;
        let one = listed.replicas.first().context("a replica")?;
        let ended = client.terminate_replica(MODEL, "production", &one.id);
        ensure!(read(ended.await?)?.success);
        Ok(())
    }

    async fn keys_and_secrets(&self) -> Result<()> {
        let client = self.client;
        let made = read(client.create_api_key(&a_key()).await?)?;
        ensure!(read(client.api_keys().await?)?.keys.len() == 2);
        let deleted = read(client.delete_api_key(&made.prefix).await?)?;
        ensure!(deleted.prefix == made.prefix);
        ensure!(read(client.set_secret(&a_secret()).await?)?.name == "TOKEN");
        ensure!(read(client.secrets().await?)?.secrets.len() == 1);
        ensure!(read(client.delete_secret("TOKEN").await?)?.name == "TOKEN");
        let made = read(client.rotate_webhook_secret().await?)?;
        let listed = read(client.webhook_secrets().await?)?.webhook_secrets;
        ensure!(listed.iter().any(|one| one.id == made.id));
        ensure!(read(client.delete_webhook_secret(made.id).await?)?.deleted);
        Ok(())
    }

    async fn team(&self) -> Result<()> {
        let client = self.client;
        let teams = read(client.teams().await?)?.teams;
        let team = teams.first().context("a team")?.id;
        ensure!(read(client.team(team).await?)?.default);
        let request = PushRequest {
            name: Some("of-the-team".into()),
            ..self.push_request()
        };
        read(client.push_to_team(team, &request, PATIENCE).await?)?;
        ensure!(read(client.models_of_team(team).await?)?.models.len() == 2);
        read(client.set_secret_of_team(team, &a_secret()).await?)?;
        ensure!(read(client.secrets_of_team(team).await?)?.secrets.len() == 1);
        read(client.delete_secret_of_team(team, "TOKEN").await?)?;
        read(client.create_api_key_of_team(team, &a_key()).await?)?;
        Ok(())
    }

    async fn node(&self) -> Result<()> {
        let client = self.client;
        client.check_alive().await?;
        ensure!(read(client.readiness().await?)?.ready);
        ensure!(client.metrics().await?.contains("# EOF"));
        read(client.user().await?)?;
        read(client.organization().await?)?;
        read(client.instance_types().await?)?;
        read(client.status().await?)?;
        read(client.backends().await?)?;
        let page = read(client.audit_log(&AuditQuery::default()).await?)?;
        ensure!(!page.items.is_empty());
        let query = AuditQuery::default();
        read(client.audit_log_of_model(MODEL, &query).await?)?;
        let params = UsageParams {
            resolution: Resolution::Hour,
            ..UsageParams::default()
        };
        ensure!(!read(client.usage(&params).await?)?.usage.is_empty());
        let today = page.items[0].created.strftime("%Y-%m-%d").to_string();
        let query = UsageSummaryQuery {
            start_date: today.clone(),
            end_date: today,
        };
        read(client.usage_summary(&query).await?)?;
        let mut stream = client.events(None, None).await?;
        let first = stream.next().await?.context("an event")?;
        read(first.event.context("ready")?)?;
        Ok(())
    }

    async fn end(&self) -> Result<()> {
        read(self.client.delete_environment(MODEL, STAGING).await?)?;
        read(self.client.delete_model(MODEL).await?)?;
        Ok(())
    }
}

/// Each way to say which deployment is called.
fn targets(deployment: &str) -> [Target<'_>; 4] {
    [
        Target::Production,
        Target::Environment(STAGING),
        Target::Development,
        Target::Deployment(deployment),
    ]
}

fn a_key() -> CreateApiKeyRequest {
    CreateApiKeyRequest {
        name: Some("ci".into()),
        model_ids: Some(vec![MODEL.into()]),
        ..CreateApiKeyRequest::new(KeyType::WorkspaceInvoke)
    }
}

fn a_secret() -> SetSecretRequest {
    SetSecretRequest {
        name: "TOKEN".into(),
        value: "hidden".into(),
    }
}
