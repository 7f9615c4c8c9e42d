//! Who changed what is told for every change, never for what was refused, and stays when models go.

use anyhow::{Context, Result};
use reqwest::Method;
use samovar_tests::Server;
use samovar_tests::python::Python;
use serde_json::{Value, json};

async fn call(server: &Server, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
    let request = server.client().request(method, server.at(path));
    let answer = request.json(&body).send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.unwrap_or(Value::Null)))
}

/// Everything that the audit log tells, the oldest first, read in small pages.
async fn told(server: &Server, path: &str) -> Result<Vec<Value>> {
    let mut entries = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = format!("{path}?direction=ASC&limit=5{cursor}");
        let (status, mut answer) = call(server, Method::GET, &page, Value::Null).await?;
        assert_eq!(status, 200, "{answer}");
        let items = answer["items"].take();
        entries.extend(items.as_array().context("items")?.clone());
        match answer["pagination"]["cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(entries),
        }
    }
}

fn types(entries: &[Value]) -> Vec<&str> {
    let types = entries.iter().map(|one| one["event_type"].as_str());
    types.map(Option::unwrap_or_default).collect()
}

#[tokio::test]
async fn every_changing_route_is_told_with_who_called() -> Result<()> {
    let server = Server::start()?;
    let first = server.push("count", "")?;
    let second = server.push("count", "")?;
    let id = |pushed: &Value| pushed["deployment"]["id"].as_str().unwrap().to_owned();
    let (first, second) = (id(&first), id(&second));
    let model = server.cli_json(&["model", "show", "count"])?["id"]
        .as_str()
        .context("id")?
        .to_owned();
    let base = "/v1/models/count";
    let deployment = format!("{base}/deployments/{second}");
    let production = format!("{base}/environments/production");
    use Method as M;
    let calls: &[(Method, String, Value, &[&str])] = &[
        (
            M::POST,
            format!("{base}/environments"),
            json!({ "name": "staging", "autoscaling_settings": { "max_replica": 2 } }),
            &["ENVIRONMENT_CREATED"],
        ),
        // Refused: it is there.
        (
            M::POST,
            format!("{base}/environments"),
            json!({ "name": "staging" }),
            &[],
        ),
        (
            M::PATCH,
            format!("{base}/environments/staging"),
            json!({ "autoscaling_settings": { "max_replica": 3 } }),
            &["ENVIRONMENT_UPDATED"],
        ),
        // Unchanged.
        (
            M::PATCH,
            format!("{base}/environments/staging"),
            json!({ "autoscaling_settings": { "max_replica": 3 } }),
            &[],
        ),
        (
            M::DELETE,
            format!("{base}/environments/staging"),
            Value::Null,
            &["ENVIRONMENT_DELETED"],
        ),
        (
            M::PATCH,
            deployment.clone(),
            json!({ "name": "mine" }),
            &["MODEL_DEPLOYMENT_RENAMED"],
        ),
        (
            M::PATCH,
            format!("{deployment}/autoscaling_settings"),
            json!({ "max_replica": 4 }),
            &["MODEL_DEPLOYMENT_AUTOSCALING_SETTINGS_CHANGED"],
        ),
        (
            M::PATCH,
            format!("{deployment}/request_backpressure_settings"),
            json!({ "policy": "REJECT_ON_FULL" }),
            &["MODEL_DEPLOYMENT_REQUEST_BACKPRESSURE_SETTINGS_CHANGED"],
        ),
        (
            M::POST,
            format!("{deployment}/deactivate"),
            Value::Null,
            &["MODEL_DEPLOYMENT_DEACTIVATED"],
        ),
        (
            M::POST,
            format!("{deployment}/activate"),
            Value::Null,
            &["MODEL_DEPLOYMENT_ACTIVATED"],
        ),
        // Nothing to retry.
        (M::POST, format!("{deployment}/retry"), Value::Null, &[]),
        (
            M::PATCH,
            production.clone(),
            json!({ "promotion_settings": { "ramp_up_while_promoting": true, "ramp_up_duration_seconds": 3600 } }),
            &["ENVIRONMENT_UPDATED"],
        ),
        (
            M::POST,
            format!("{production}/promote"),
            json!({ "deployment_id": second }),
            &["MODEL_DEPLOYMENT_PROMOTED"],
        ),
        (
            M::POST,
            format!("{production}/cancel_promotion"),
            Value::Null,
            &["MODEL_PROMOTION_CONTROL_ACTION"],
        ),
        // There is none of that id.
        (
            M::DELETE,
            format!("{deployment}/replicas/zzzzz"),
            Value::Null,
            &[],
        ),
        // It has ended.
        (
            M::POST,
            format!("{production}/force_cancel_promotion"),
            Value::Null,
            &[],
        ),
        (
            M::PATCH,
            base.to_owned(),
            json!({ "name": "counted" }),
            &["MODEL_RENAMED"],
        ),
        (
            M::DELETE,
            format!("/v1/models/counted/deployments/{second}"),
            Value::Null,
            &["MODEL_DEPLOYMENT_DELETED"],
        ),
        (
            M::POST,
            "/v1/secrets".into(),
            json!({ "name": "HF_TOKEN", "value": "very-secret" }),
            &["SECRET_UPDATED"],
        ),
        (
            M::DELETE,
            "/v1/secrets/HF_TOKEN".into(),
            Value::Null,
            &["SECRET_DELETED"],
        ),
        (M::DELETE, "/v1/secrets/HF_TOKEN".into(), Value::Null, &[]),
        (
            M::POST,
            "/v1/webhook_secrets".into(),
            Value::Null,
            &["WEBHOOK_SIGNING_SECRET_CREATED"],
        ),
        (
            M::POST,
            "/v1/webhook_secrets".into(),
            Value::Null,
            &["WEBHOOK_SIGNING_SECRET_ROTATED"],
        ),
        (
            M::POST,
            "/v1/api_keys".into(),
            json!({ "type": "WORKSPACE_INVOKE", "name": "ci" }),
            &["API_KEY_CREATED"],
        ),
        (
            M::DELETE,
            "/v1/models/counted".into(),
            Value::Null,
            &["MODEL_DELETED"],
        ),
    ];
    let mut seen = told(&server, "/v1/audit_logs").await?;
    assert_eq!(
        types(&seen),
        ["API_KEY_CREATED", "MODEL_DEPLOYED", "MODEL_DEPLOYED"]
    );
    assert_eq!(seen[0]["actor"]["type"], "BASETEN_SYSTEM");
    for (method, path, body, wanted) in calls {
        let (_, answer) = call(&server, method.clone(), path, body.clone()).await?;
        let all = told(&server, "/v1/audit_logs").await?;
        let new = &all[seen.len()..];
        assert_eq!(types(new), *wanted, "{method} {path}: {answer}");
        for entry in new {
            let prefix = server.key().split('.').next().unwrap().to_owned();
            assert_eq!(entry["actor"]["type"], "API_KEY", "{entry}");
            assert_eq!(entry["actor"]["api_key_prefix"], prefix, "{entry}");
            assert_eq!(entry["event_data"]["event_type"], entry["event_type"]);
        }
        seen = all;
    }

    // Deleted, it is still told of by its id, also after a restart.
    let server = server.restart()?;
    let of_model = told(&server, &format!("/v1/models/{model}/audit_logs")).await?;
    let about = |entry: &&Value| entry["event_data"]["model_id"] == *model;
    let wanted: Vec<Value> = seen.iter().filter(about).cloned().collect();
    assert_eq!(of_model, wanted);
    assert_eq!(of_model.len(), 16, "{:?}", types(&of_model));
    let updated = &of_model[3]["event_data"];
    assert_eq!(updated["max_replica"], 3, "{updated}");
    assert_eq!(updated["previous_settings"]["max_replica"], 2, "{updated}");
    assert_eq!(of_model[0]["event_data"]["deployment_id"], *first);
    let text = serde_json::to_string(&seen)?;
    let secret_part = server.key().split('.').nth(1).unwrap().to_owned();
    assert!(!text.contains("very-secret") && !text.contains(&secret_part));
    let (status, _) = call(
        &server,
        Method::GET,
        "/v1/models/counted/audit_logs",
        Value::Null,
    )
    .await?;
    assert_eq!(status, 404);
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
    let (_, document) = call(&server, Method::GET, "/openapi.json", Value::Null).await?;
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
    let base = "/v1/models/count/deployments/production/replicas";
    let (_, replicas) = call(&server, Method::GET, base, Value::Null).await?;
    let replica = replicas["replicas"][0]["id"].as_str().context("replica")?;
    let path = format!("{base}/{replica}");
    let (status, answer) = call(&server, Method::DELETE, &path, Value::Null).await?;
    assert_eq!(status, 200, "{answer}");
    let entries = told(&server, "/v1/models/count/audit_logs").await?;
    assert_eq!(types(&entries), ["MODEL_DEPLOYED", "REPLICA_TERMINATED"]);
    let data = &entries[1]["event_data"];
    assert_eq!(data["replica_id"], replica);
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
    let entries = told(&server, "/v1/models/count/audit_logs").await?;
    assert_eq!(
        types(&entries),
        [
            "MODEL_DEPLOYED",
            "MODEL_DEPLOYMENT_UPDATED",
            "MODEL_DEPLOYMENT_LABELS_CHANGED"
        ]
    );
    let updated = &entries[1];
    assert_eq!(updated["actor"]["type"], "API_KEY");
    let data = &updated["event_data"];
    assert_ne!(data["bundle_digest"], data["previous_bundle_digest"]);
    Ok(())
}

#[tokio::test]
async fn what_the_server_does_by_itself_is_told_without_a_user() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    server.push("count", "")?;
    let second = server.push("count", "")?;
    let id = second["deployment"]["id"].as_str().context("id")?;
    let path = "/v1/models/count/environments/production/promote";
    let (status, answer) =
        call(&server, Method::POST, path, json!({ "deployment_id": id })).await?;
    assert_eq!(status, 200, "{answer}");
    samovar_tests::eventually("the end of the promotion", async || {
        let entries = told(&server, "/v1/models/count/audit_logs").await.unwrap();
        types(&entries).contains(&"MODEL_PROMOTION_ENDED")
    })
    .await?;
    let entries = told(&server, "/v1/audit_logs").await?;
    let ended = entries
        .iter()
        .find(|one| one["event_type"] == "MODEL_PROMOTION_ENDED");
    let ended = ended.context("the end")?;
    assert_eq!(ended["actor"]["type"], "BASETEN_SYSTEM");
    assert_eq!(ended["source"], "SYSTEM");
    assert_eq!(ended["event_data"]["status"], "SUCCEEDED");
    let begun = &entries[2];
    assert_eq!(begun["event_type"], "MODEL_DEPLOYMENT_PROMOTED");
    assert_eq!(begun["actor"]["type"], "ANYONE");
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
    let all = server.cli_json(&["audit", "--limit", "2"])?;
    assert_eq!(
        types(all["items"].as_array().context("items")?),
        ["MODEL_DEPLOYED"; 2]
    );
    assert_eq!(all["items"][0]["client_name"], "samovar");
    let by_system = server.cli_json(&["audit", "--actor", "system"])?;
    assert_eq!(
        types(by_system["items"].as_array().context("items")?),
        ["API_KEY_CREATED"]
    );
    let none = server.cli(&["audit", "--type", "MODEL_DELETED"])?;
    assert_eq!(String::from_utf8(none.stdout)?, "no changes\n");

    // By its name of now, a model is told of whatever it was called; one that is gone by what it was called.
    let of = |model: &str| -> Result<Vec<String>> {
        let told = server.cli_json(&["audit", "--model", model])?;
        let items = told["items"].as_array().context("items")?;
        Ok(types(items).into_iter().map(str::to_owned).collect())
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
