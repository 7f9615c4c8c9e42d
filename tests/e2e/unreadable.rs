//! A stored document that cannot be read is reported, and everything else goes on.

use std::ffi::OsStr;

use anyhow::{Context, Result, ensure};
use samovar_tests::python::Python;
use samovar_tests::{Server, eventually};
use serde_json::Value;

async fn get(server: &Server, path: &str) -> Result<(u16, Value)> {
    let answer = server.client().get(server.at(path)).send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.unwrap_or_default()))
}

#[tokio::test]
async fn a_damaged_document_is_reported_and_stops_no_other_model() -> Result<()> {
    let Some(python) = Python::with("the module sqlite3") else {
        return Ok(());
    };
    let mut server = Server::start()?;
    server.push_as("good", "echo", "")?;
    let folder = server.bundle("bad", "echo", "")?;
    let path = folder.to_str().context("path")?;
    let pushed = server.cli_json(&["push", "--development", path])?;
    let id = pushed["deployment"]["id"]
        .as_str()
        .context("an id")?
        .to_owned();
    server.terminate();
    ensure!(server.wait()?.success());

    let file = server.folder().join("data/state.db");
    let damaged = "{\"id\":7}";
    python.run(
        "damage_document.py",
        &[file.as_os_str(), OsStr::new(&id), OsStr::new(damaged)],
    )?;

    let server = server.start_again()?;
    let answer = server.client().post(server.at("/models/good/production/"));
    ensure!(answer.body("x").send().await?.text().await? == "x");
    let (_, status) = get(&server, "/v1/status").await?;
    let told = status["unreadable_documents"]
        .as_array()
        .context("a list")?;
    let told = told
        .iter()
        .find(|one| one["key"].as_str().is_some_and(|key| key.ends_with(&id)));
    let reason = told.context("it is reported")?["reason"].as_str();
    ensure!(
        reason.is_some_and(|reason| reason.contains("integer `7`")),
        "{status}"
    );
    ensure!(
        server
            .log()
            .iter()
            .any(|line| line.contains(&id) && line.contains("cannot be read")),
        "{:?}",
        server.log()
    );
    // Its model is there, and takes the next push.
    let (code, shown) = get(&server, "/v1/models/bad/deployments").await?;
    ensure!(
        code == 200 && shown["deployments"] == serde_json::json!([]),
        "{shown}"
    );
    server.push_as("bad", "echo", "")?;
    let answer = server.client().post(server.at("/models/bad/production/"));
    ensure!(answer.body("x").send().await?.text().await? == "x");
    Ok(())
}

#[tokio::test]
async fn a_node_says_that_it_lives_and_that_it_is_ready() -> Result<()> {
    let server = Server::start()?;
    // Without a key.
    let client = reqwest::Client::builder().no_proxy().build()?;
    let alive = client.get(server.at("/healthz")).send().await?;
    ensure!(alive.status() == 200);
    eventually("it is ready", async || {
        let answer = client.get(server.at("/readyz")).send().await.unwrap();
        let status = answer.status();
        let shown: Value = answer.json().await.unwrap();
        assert_eq!(shown["ready"], status == 200, "{shown}");
        status == 200
    })
    .await
}
