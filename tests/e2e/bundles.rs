//! What was pushed can be read and taken away again, and pushed from there as the same bundle.

use std::process::Command;

use anyhow::{Context, Result};
use samovar_tests::{PATIENCE, Server};
use samovar_types::api::logs::LogsQuery;
use samovar_types::names::PRODUCTION;
use serde_json::Value;

async fn get(server: &Server, path: &str) -> Result<Value> {
    let answer = server.client().get(server.at(path)).send().await?;
    anyhow::ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(answer.json().await?)
}

#[tokio::test]
async fn a_bundle_comes_back_as_it_was_pushed() -> Result<()> {
    let server = Server::start()?;
    let manifest = "files = [\"a/labels.json\"]\n\n[limits]\ntimeout = \"1500ms\"\n\n\
        [environment_variables]\nMODE = \"a \\\"quoted\\\" one\"\n";
    let folder = server.bundle("count", "count", manifest)?;
    std::fs::create_dir_all(folder.join("a"))?;
    std::fs::write(folder.join("a/labels.json"), "[]")?;
    let pushed = server.cli_json(&["push", folder.to_str().context("path")?])?;
    let id = pushed["deployment"]["id"].as_str().context("id")?;
    let client = server.api();

    let both = client.config("count", id).await?.into_inner();
    let bundle = both.config.context("a bundle")?;
    let config = bundle.known().context("a bundle of this release")?;
    assert_eq!(config.limits.timeout_ms, 1500);
    assert_eq!(config.autoscaling.scale_down_delay, 900);
    let parsed = format!("/v1/models/count/deployments/{id}/config?output_format=parsed");
    let parsed = get(&server, &parsed).await?;
    assert_eq!(parsed["config"], serde_json::to_value(config)?);
    assert_eq!(parsed["raw_config"], Value::Null);

    let download = client.download("count", id).await?.into_inner();
    let url = download.download_url;
    assert!(url.starts_with(&server.url), "{url}");
    let archive = server.client().get(url).send().await?;
    assert_eq!(archive.headers()["content-type"], "application/x-tar");
    let bytes = archive.bytes().await?;
    let unpacked = server.folder().join("unpacked");
    std::fs::create_dir_all(&unpacked)?;
    let file = server.folder().join("bundle.tar");
    std::fs::write(&file, &bytes)?;
    let tar = Command::new("tar")
        .arg("-xf")
        .arg(&file)
        .arg("-C")
        .arg(&unpacked)
        .status()?;
    assert!(tar.success());
    let text = std::fs::read_to_string(unpacked.join("samovar.toml"))?;
    assert_eq!(both.raw_config, Some(text));
    let again = server.cli_json(&["push", unpacked.to_str().context("path")?])?;
    let digest = |pushed: &Value| pushed["deployment"]["bundle_digest"].clone();
    assert_eq!(digest(&again), digest(&pushed));
    assert_ne!(again["deployment"]["id"], *id);
    Ok(())
}

#[tokio::test]
async fn the_logs_of_an_environment_are_those_of_its_deployments() -> Result<()> {
    let server = Server::start()?;
    server.push("routes", "")?;
    let url = server.at("/models/routes/production/log");
    server.client().post(url).body("x").send().await?;
    let (api, model) = (server.api(), "routes");
    let all = LogsQuery::default();
    let begun = std::time::Instant::now();
    loop {
        let lines = api.environment_logs(model, PRODUCTION, &all).await?;
        let same = api.deployment_logs(model, PRODUCTION, &all).await?;
        if !lines.logs.is_empty() {
            assert_eq!(lines.logs, same.logs);
            break;
        }
        assert!(begun.elapsed() < PATIENCE);
    }
    let others = LogsQuery {
        includes: vec!["nobody-wrote-this".into()],
        ..LogsQuery::default()
    };
    let none = api.environment_logs(model, PRODUCTION, &others).await?;
    assert!(none.logs.is_empty(), "{none:?}");
    let client = server.client();
    let path = "/v1/models/routes/environments/production/logs";
    for wrong in ["search_pattern=(", "limit=0", "lines=3"] {
        let answer = client.get(server.at(&format!("{path}?{wrong}"))).send();
        assert_eq!(answer.await?.status(), 400, "{wrong}");
    }
    let answer = client.get(server.at("/v1/models/routes/environments/none/logs"));
    assert_eq!(answer.send().await?.status(), 404);
    Ok(())
}
