//! Who changed what is told for every change, never for what was refused, and stays when models go.

use anyhow::{Context, Result};
use samovar_client::{Client, ClientError, Received};
use samovar_tests::python::Python;
use samovar_tests::{PATIENCE, Server};
use samovar_types::api::api_keys::CreateApiKeyRequest;
use samovar_types::api::audit::{AuditDirection, AuditEntryResponse, AuditQuery};
use samovar_types::api::deployments::BackpressureUpdate;
use samovar_types::api::environments::{CreateEnvironmentRequest, UpdateEnvironmentRequest};
use samovar_types::api::promotions::PromoteRequest;
use samovar_types::api::secrets::SetSecretRequest;
use samovar_types::api_key::KeyType;
use samovar_types::names::PRODUCTION;
use samovar_types::promotion_settings::PromotionSettingsUpdate;
use samovar_types::settings::{AutoscalingUpdate, BackpressurePolicy};
use serde_json::{Value, json};

/// Everything that the audit log tells, of one model or of all, the oldest first, read in small pages.
async fn told(client: &Client, model: Option<&str>) -> Result<Vec<AuditEntryResponse>> {
    let mut entries = Vec::new();
    let mut cursor = None;
    loop {
        let query = AuditQuery {
            direction: Some(AuditDirection::Asc),
            limit: Some(5),
            cursor,
            ..AuditQuery::default()
        };
        let page = match model {
            Some(model) => client.audit_log_of_model(model, &query).await?,
            None => client.audit_log(&query).await?,
        };
        let page = page.into_inner();
        entries.extend(page.items);
        cursor = page.pagination.cursor;
        if cursor.is_none() {
            return Ok(entries);
        }
    }
}

fn types(entries: &[AuditEntryResponse]) -> Vec<&str> {
    entries.iter().map(|one| &*one.event_type).collect()
}

/// Follows what the audit log tells from change to change.
struct Log<'a> {
    client: &'a Client,
    /// The public part of the key that makes the changes.
    prefix: String,
    seen: Vec<AuditEntryResponse>,
}

impl<'a> Log<'a> {
    async fn begin(client: &'a Client, key: &str) -> Result<Self> {
        let (prefix, _) = key.split_once('.').context("a key")?;
        Ok(Self {
            client,
            prefix: prefix.to_owned(),
            seen: told(client, None).await?,
        })
    }

    /// A change was answered: the log tells of it with these types, and with who made it.
    async fn tells<T>(
        &mut self,
        answer: Result<Received<T>, ClientError>,
        wanted: &[&str],
    ) -> Result<()> {
        let all = told(self.client, None).await?;
        let new = &all[self.seen.len()..];
        assert_eq!(types(new), *wanted, "{:?}", answer.err());
        for entry in new {
            assert_eq!(entry.actor.actor_type, "API_KEY", "{entry:?}");
            assert_eq!(
                entry.actor.api_key_prefix.as_ref(),
                Some(&self.prefix),
                "{entry:?}"
            );
            assert_eq!(entry.event_data["event_type"], *entry.event_type);
        }
        self.seen = all;
        Ok(())
    }

    async fn environments(&mut self) -> Result<()> {
        let (client, model) = (self.client, "count");
        let bounded = |max_replica| UpdateEnvironmentRequest {
            autoscaling_settings: Some(AutoscalingUpdate {
                max_replica: Some(max_replica),
                ..AutoscalingUpdate::default()
            }),
            ..UpdateEnvironmentRequest::default()
        };
        let staging = CreateEnvironmentRequest {
            name: "staging".into(),
            autoscaling_settings: bounded(2).autoscaling_settings,
            ..CreateEnvironmentRequest::default()
        };
        let made = client.create_environment(model, &staging).await;
        self.tells(made, &["ENVIRONMENT_CREATED"]).await?;
        // Refused: it is there.
        let again = client.create_environment(model, &staging).await;
        self.tells(again, &[]).await?;
        let request = bounded(3);
        let updated = client.update_environment(model, "staging", &request).await;
        self.tells(updated, &["ENVIRONMENT_UPDATED"]).await?;
        // Unchanged.
        let updated = client.update_environment(model, "staging", &request).await;
        self.tells(updated, &[]).await?;
        let deleted = client.delete_environment(model, "staging").await;
        self.tells(deleted, &["ENVIRONMENT_DELETED"]).await
    }

    async fn deployment(&mut self, id: &str) -> Result<()> {
        let (client, model) = (self.client, "count");
        let renamed = client.rename_deployment(model, id, "mine").await;
        self.tells(renamed, &["MODEL_DEPLOYMENT_RENAMED"]).await?;
        let update = AutoscalingUpdate {
            max_replica: Some(4),
            ..AutoscalingUpdate::default()
        };
        let updated = client.update_autoscaling(model, id, &update).await;
        let wanted = ["MODEL_DEPLOYMENT_AUTOSCALING_SETTINGS_CHANGED"];
        self.tells(updated, &wanted).await?;
        let update = BackpressureUpdate {
            policy: Some(BackpressurePolicy::RejectOnFull),
        };
        let updated = client.update_backpressure(model, id, &update).await;
        let wanted = ["MODEL_DEPLOYMENT_REQUEST_BACKPRESSURE_SETTINGS_CHANGED"];
        self.tells(updated, &wanted).await?;
        let off = client.deactivate(model, id).await;
        self.tells(off, &["MODEL_DEPLOYMENT_DEACTIVATED"]).await?;
        let on = client.activate(model, id, PATIENCE).await;
        self.tells(on, &["MODEL_DEPLOYMENT_ACTIVATED"]).await?;
        // Nothing to retry.
        let retried = client.retry(model, id, PATIENCE).await;
        self.tells(retried, &[]).await
    }

    async fn promotion(&mut self, id: &str) -> Result<()> {
        let (client, model) = (self.client, "count");
        let request = UpdateEnvironmentRequest {
            promotion_settings: Some(PromotionSettingsUpdate {
                ramp_up_while_promoting: Some(true),
                ramp_up_duration_seconds: Some(3600),
                ..PromotionSettingsUpdate::default()
            }),
            ..UpdateEnvironmentRequest::default()
        };
        let updated = client.update_environment(model, PRODUCTION, &request).await;
        self.tells(updated, &["ENVIRONMENT_UPDATED"]).await?;
        let request = PromoteRequest::new(id.parse()?);
        let promoted = client.promote(model, PRODUCTION, &request).await;
        self.tells(promoted, &["MODEL_DEPLOYMENT_PROMOTED"]).await?;
        let cancelled = client.cancel_promotion(model, PRODUCTION).await;
        self.tells(cancelled, &["MODEL_PROMOTION_CONTROL_ACTION"])
            .await?;
        // There is none of that id.
        let none = client.terminate_replica(model, id, "zzzzz").await;
        self.tells(none, &[]).await?;
        // It has ended.
        let cancelled = client.force_cancel_promotion(model, PRODUCTION).await;
        self.tells(cancelled, &[]).await
    }

    async fn model(&mut self, id: &str) -> Result<()> {
        let client = self.client;
        let renamed = client.rename_model("count", "counted").await;
        self.tells(renamed, &["MODEL_RENAMED"]).await?;
        let deleted = client.delete_deployment("counted", id).await;
        self.tells(deleted, &["MODEL_DEPLOYMENT_DELETED"]).await
    }

    async fn secrets_and_keys(&mut self) -> Result<()> {
        let client = self.client;
        let request = SetSecretRequest {
            name: "HF_TOKEN".into(),
            value: "very-secret".into(),
        };
        let set = client.set_secret(&request).await;
        self.tells(set, &["SECRET_UPDATED"]).await?;
        let deleted = client.delete_secret("HF_TOKEN").await;
        self.tells(deleted, &["SECRET_DELETED"]).await?;
        let again = client.delete_secret("HF_TOKEN").await;
        self.tells(again, &[]).await?;
        let made = client.rotate_webhook_secret().await;
        self.tells(made, &["WEBHOOK_SIGNING_SECRET_CREATED"])
            .await?;
        let rotated = client.rotate_webhook_secret().await;
        self.tells(rotated, &["WEBHOOK_SIGNING_SECRET_ROTATED"])
            .await?;
        let request = CreateApiKeyRequest {
            name: Some("ci".into()),
            ..CreateApiKeyRequest::new(KeyType::WorkspaceInvoke)
        };
        let made = client.create_api_key(&request).await;
        self.tells(made, &["API_KEY_CREATED"]).await
    }
}

#[tokio::test]
async fn every_changing_route_is_told_with_who_called() -> Result<()> {
    let server = Server::start()?;
    let first = server.push("count", "")?;
    let second = server.push("count", "")?;
    let id = |pushed: &Value| pushed["deployment"]["id"].as_str().unwrap().to_owned();
    let (first, second) = (id(&first), id(&second));
    let client = server.api();
    let model = client.model("count").await?.id.to_string();
    let mut log = Log::begin(&client, &server.key()).await?;
    assert_eq!(
        types(&log.seen),
        ["API_KEY_CREATED", "MODEL_DEPLOYED", "MODEL_DEPLOYED"]
    );
    assert_eq!(log.seen[0].actor.actor_type, "BASETEN_SYSTEM");
    log.environments().await?;
    log.deployment(&second).await?;
    log.promotion(&second).await?;
    log.model(&second).await?;
    log.secrets_and_keys().await?;
    let deleted = client.delete_model("counted").await;
    log.tells(deleted, &["MODEL_DELETED"]).await?;
    let seen = log.seen;

    // Deleted, it is still told of by its id, also after a restart.
    let server = server.restart()?;
    let client = server.api();
    let of_model = told(&client, Some(&model)).await?;
    let about = |entry: &&AuditEntryResponse| entry.event_data["model_id"] == *model;
    let wanted: Vec<AuditEntryResponse> = seen.iter().filter(about).cloned().collect();
    assert_eq!(of_model, wanted);
    assert_eq!(of_model.len(), 16, "{:?}", types(&of_model));
    let updated = &of_model[3].event_data;
    assert_eq!(updated["max_replica"], 3, "{updated}");
    assert_eq!(updated["previous_settings"]["max_replica"], 2, "{updated}");
    assert_eq!(of_model[0].event_data["deployment_id"], *first);
    let text = serde_json::to_string(&seen)?;
    let secret_part = server.key().split('.').nth(1).unwrap().to_owned();
    assert!(!text.contains("very-secret") && !text.contains(&secret_part));
    let query = AuditQuery::default();
    let gone = client.audit_log_of_model("counted", &query).await;
    assert!(gone.is_err_and(|error| error.is_not_found()));
    Ok(())
}

/// Every route that changes something. A new one belongs here, and into a test that it is told of.
const CHANGING: &[&str] = &[
    "delete /v1/api_keys/{prefix}",
    "delete /v1/models/{model}",
    "delete /v1/models/{model}/deployments/{deployment}",
    "delete /v1/models/{model}/deployments/{deployment}/replicas/{replica}",
    "delete /v1/models/{model}/environments/{environment}",
    "delete /v1/secrets/{name}",
    "delete /v1/teams/{team}/secrets/{name}",
    "delete /v1/webhook_secrets/{id}",
    "patch /v1/models/{model}",
    "patch /v1/models/{model}/deployments/{deployment}",
    "patch /v1/models/{model}/deployments/{deployment}/autoscaling_settings",
    "patch /v1/models/{model}/deployments/{deployment}/request_backpressure_settings",
    "patch /v1/models/{model}/environments/{environment}",
    "post /v1/api_keys",
    "post /v1/models",
    "post /v1/models/{model}/deployments",
    "post /v1/models/{model}/deployments/{deployment}/activate",
    "post /v1/models/{model}/deployments/{deployment}/deactivate",
    "post /v1/models/{model}/deployments/{deployment}/promote",
    "post /v1/models/{model}/deployments/{deployment}/retry",
    "post /v1/models/{model}/environments",
    "post /v1/models/{model}/environments/{environment}/activate",
    "post /v1/models/{model}/environments/{environment}/cancel_promotion",
    "post /v1/models/{model}/environments/{environment}/deactivate",
    "post /v1/models/{model}/environments/{environment}/force_cancel_promotion",
    "post /v1/models/{model}/environments/{environment}/force_roll_forward_promotion",
    "post /v1/models/{model}/environments/{environment}/pause_promotion",
    "post /v1/models/{model}/environments/{environment}/promote",
    "post /v1/models/{model}/environments/{environment}/resume_promotion",
    "post /v1/secrets",
    "post /v1/teams/{team}/api_keys",
    "post /v1/teams/{team}/models",
    "post /v1/teams/{team}/secrets",
    "post /v1/webhook_secrets",
    // Not told: bytes that nobody sees before a push names them, which is told.
    "put /v1/blobs/{digest}",
    "put /v1/models/{model}/deployments/development/bundle",
];

#[tokio::test]
async fn no_changing_route_is_unknown_here() -> Result<()> {
    let server = Server::start()?;
    let document = server.api().openapi().await?;
    let paths = document["paths"].as_object().context("paths")?;
    let mut found: Vec<String> = paths
        .iter()
        // Inference changes nothing that anybody set.
        .filter(|(path, _)| path.starts_with("/v1/"))
        .flat_map(|(path, item)| {
            let methods = item.as_object().into_iter().flatten();
            methods.map(move |(method, _)| format!("{method} {path}"))
        })
        .filter(|route| !route.starts_with("get ") && !route.starts_with("head "))
        .collect();
    found.sort();
    assert_eq!(found, CHANGING);
    Ok(())
}

#[tokio::test]
async fn a_replica_that_is_stopped_is_told() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let client = server.api();
    let listed = client.replicas("count", PRODUCTION).await?;
    let replica = &listed.replicas.first().context("a replica")?.id;
    client
        .terminate_replica("count", PRODUCTION, replica)
        .await?;
    let entries = told(&client, Some("count")).await?;
    assert_eq!(types(&entries), ["MODEL_DEPLOYED", "REPLICA_TERMINATED"]);
    let data = &entries[1].event_data;
    assert_eq!(data["replica_id"], **replica);
    assert_eq!(data["environment_name"], "production");
    Ok(())
}

#[tokio::test]
async fn a_reload_is_told() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("count", "count", "")?;
    let path = folder.to_str().context("path")?;
    server.cli_json(&["push", "--development", path])?;
    std::fs::copy(samovar_tests::guest("echo"), folder.join("guest.wasm"))?;
    server.cli_json(&["push", "--development", "--label", "a=b", path])?;
    let entries = told(&server.api(), Some("count")).await?;
    assert_eq!(
        types(&entries),
        [
            "MODEL_DEPLOYED",
            "MODEL_DEPLOYMENT_UPDATED",
            "MODEL_DEPLOYMENT_LABELS_CHANGED"
        ]
    );
    let updated = &entries[1];
    assert_eq!(updated.actor.actor_type, "API_KEY");
    let data = &updated.event_data;
    assert_ne!(data["bundle_digest"], data["previous_bundle_digest"]);
    Ok(())
}

#[tokio::test]
async fn what_the_server_does_by_itself_is_told_without_a_user() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    server.push("count", "")?;
    let second = server.push("count", "")?;
    let id = second["deployment"]["id"].as_str().context("id")?;
    let client = server.api();
    let request = PromoteRequest::new(id.parse()?);
    client.promote("count", PRODUCTION, &request).await?;
    samovar_tests::eventually("the end of the promotion", async || {
        let entries = told(&client, Some("count")).await.unwrap();
        types(&entries).contains(&"MODEL_PROMOTION_ENDED")
    })
    .await?;
    let entries = told(&client, None).await?;
    let mut ended = entries.iter();
    let ended = ended.find(|one| one.event_type == "MODEL_PROMOTION_ENDED");
    let ended = ended.context("the end")?;
    assert_eq!(ended.actor.actor_type, "BASETEN_SYSTEM");
    assert_eq!(ended.source, "SYSTEM");
    assert_eq!(ended.event_data["status"], "SUCCEEDED");
    let begun = &entries[2];
    assert_eq!(begun.event_type, "MODEL_DEPLOYMENT_PROMOTED");
    assert_eq!(begun.actor.actor_type, "ANYONE");
    Ok(())
}

#[tokio::test]
async fn the_command_line_shows_who_did_what() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    server.push_as("other", "echo", "")?;
    let output = server.cli(&["audit", "--model", "count", "--since", "1h"])?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].starts_with("TIME"), "{text}");
    assert!(lines[1].contains("(first start)"), "{text}");
    assert!(lines[1].contains("MODEL_DEPLOYED"), "{text}");
    let shown = |args: &[&str]| -> Result<Vec<AuditEntryResponse>> {
        let mut shown = server.cli_json(&[&["audit"], args].concat())?;
        Ok(serde_json::from_value(shown["items"].take())?)
    };
    let all = shown(&["--limit", "2"])?;
    assert_eq!(types(&all), ["MODEL_DEPLOYED"; 2]);
    assert_eq!(all[0].client_name.as_deref(), Some("samovar"));
    let by_system = shown(&["--actor", "system"])?;
    assert_eq!(types(&by_system), ["API_KEY_CREATED"]);
    let none = server.cli(&["audit", "--type", "MODEL_DELETED"])?;
    assert_eq!(String::from_utf8(none.stdout)?, "no changes\n");

    // By its name of now, a model is told of whatever it was called; one that is gone by what it was called.
    let of = |model: &str| -> Result<Vec<String>> {
        let entries = shown(&["--model", model])?;
        Ok(entries.into_iter().map(|one| one.event_type).collect())
    };
    server.cli_json(&["model", "rename", "count", "counted"])?;
    assert_eq!(of("counted")?, ["MODEL_RENAMED", "MODEL_DEPLOYED"]);
    server.cli_json(&["model", "delete", "counted", "--yes"])?;
    assert_eq!(of("counted")?, ["MODEL_DELETED", "MODEL_RENAMED"]);
    assert_eq!(of("count")?, ["MODEL_DEPLOYED"]);
    Ok(())
}

#[tokio::test]
async fn the_official_client_reads_the_audit_log_and_the_teams_routes() -> Result<()> {
    let Some(python) = Python::with("the package baseten") else {
        return Ok(());
    };
    let server = Server::start()?;
    server.push("count", "")?;
    let seen = python
        .json("audit_client.py", &[&*server.url, &server.key(), "count"])
        .with_context(|| format!("{:?}", server.log()))?;
    assert_eq!(seen["untyped"], json!([]), "{seen}");
    Ok(())
}
