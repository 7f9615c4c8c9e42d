//! What was pushed can be read and taken away again, and pushed from there as the same bundle.

use std::process::Command;

use anyhow::{Context, Result};
use samovar_tests::{PATIENCE, Server};
use serde_json::{Value, json};

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
    let base = format!("/v1/models/count/deployments/{id}");

    let both = get(&server, &format!("{base}/config")).await?;
    assert_eq!(both["config"]["limits"]["timeout_ms"], 1500);
    assert_eq!(both["config"]["autoscaling"]["scale_down_delay"], 900);
    let parsed = get(&server, &format!("{base}/config?output_format=parsed")).await?;
    assert_eq!(parsed["config"], both["config"]);
    assert_eq!(parsed["raw_config"], Value::Null);

    let download = get(&server, &format!("{base}/download")).await?;
    let url = download["download_url"].as_str().context("url")?;
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
    assert_eq!(both["raw_config"], text);
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
    let path = "/v1/models/routes/environments/production/logs";
    let of_deployment = "/v1/models/routes/deployments/production/logs";
    let begun = std::time::Instant::now();
    loop {
        let lines = get(&server, path).await?;
        let same = get(&server, of_deployment).await?;
        if lines["logs"]
            .as_array()
            .is_some_and(|logs| !logs.is_empty())
        {
            assert_eq!(lines, same);
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{lines}");
    }
    let none = get(&server, &format!("{path}?includes=nobody-wrote-this")).await?;
    assert_eq!(none, json!({ "logs": [] }));
    let client = server.client();
    for wrong in ["search_pattern=(", "limit=0", "lines=3"] {
        let answer = client.get(server.at(&format!("{path}?{wrong}"))).send();
        assert_eq!(answer.await?.status(), 400, "{wrong}");
    }
    let answer = client.get(server.at("/v1/models/routes/environments/none/logs"));
    assert_eq!(answer.send().await?.status(), 404);
    Ok(())
}
