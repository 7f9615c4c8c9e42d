//! `snapshot = true`: what `init` left in its memory is there when a replica starts; where that cannot be, it is said why.

use anyhow::{Context as _, Result};
use samovar_tests::Server;
use samovar_types::api::logs::LogsQuery;
use samovar_types::names::PRODUCTION;
use serde_json::Value;

/// The manifest of the guest, whose file `mode` says what its `init` does beside filling a table.
fn push(server: &Server, model: &str, mode: &str, manifest: &str) -> Result<Value> {
    let manifest = format!("files = [\"mode\"]\nsnapshot = true\n{manifest}");
    let folder = server.bundle(model, "snapshot", &manifest)?;
    std::fs::write(folder.join("mode"), mode)?;
    server.cli_json(&["push", folder.to_str().context("path")?])
}

/// What the guest answers of the square of a number: the square, its requests, the mode that it reads again.
async fn ask(server: &Server, model: &str) -> Result<String> {
    let url = server.at(&format!("/models/{model}/production/predict"));
    let answer = server.client().post(url).body("12").send().await?;
    Ok(answer.error_for_status()?.text().await?)
}

/// The replicas in which `init` was seen to fill its table.
async fn filled(server: &Server, model: &str) -> Result<Vec<String>> {
    let query = LogsQuery::default();
    let api = server.api();
    let read = api.deployment_logs(model, PRODUCTION, &query).await?;
    let lines = read.into_inner().logs.into_iter();
    let filled = lines.filter(|line| line.message.contains("the table is filled"));
    Ok(filled.map(|line| line.replica).collect())
}

fn stop_replicas(server: &Server, model: &str) -> Result<()> {
    let replicas = server.cli_json(&["deployment", "replicas", model, "production"])?;
    for replica in replicas["replicas"].as_array().context("no replicas")? {
        let id = replica["id"].as_str().context("no id")?;
        server.cli_json(&["deployment", "replicas", model, "production", "--kill", id])?;
    }
    Ok(())
}

#[tokio::test]
async fn init_runs_at_the_push_and_in_no_replica() -> Result<()> {
    let server = Server::start()?;
    let pushed = push(&server, "kept", "fast", "")?;
    let snapshot = &pushed["deployment"]["init_snapshot"];
    assert_eq!(snapshot["taken"], true, "{pushed}");
    assert_eq!(ask(&server, "kept").await?, "144 1 fast");
    assert_eq!(ask(&server, "kept").await?, "144 2 fast");
    // What one replica did is in no other.
    stop_replicas(&server, "kept")?;
    assert_eq!(ask(&server, "kept").await?, "144 1 fast");
    assert_eq!(filled(&server, "kept").await?, ["snapshot"]);

    // Nor does a restart of the node run it, nor a second deployment of the same.
    let server = server.restart()?;
    assert_eq!(ask(&server, "kept").await?, "144 1 fast");
    let again = push(&server, "kept", "fast", "")?;
    assert_eq!(again["deployment"]["init_snapshot"]["taken"], true);
    assert_eq!(filled(&server, "kept").await?, ["snapshot"]);

    // Another file may be another memory.
    let other = push(&server, "kept", "other", "")?;
    let id = other["deployment"]["id"].as_str().context("no id")?;
    server.cli_json(&["promote", "kept", id, "--wait"])?;
    assert_eq!(ask(&server, "kept").await?, "144 1 other");
    Ok(())
}

#[tokio::test]
async fn an_init_that_cannot_be_kept_runs_in_each_replica_and_says_why() -> Result<()> {
    let server = Server::start()?;
    for (mode, why) in [
        ("clock", "wasi:clocks/wall-clock"),
        ("environment", "environment variables"),
        ("graph", "wasi:nn"),
        ("print", "handle(s) of the host open"),
        ("file", "handle(s) of the host open"),
        ("random", "wasi:random/random"),
    ] {
        let pushed = push(&server, mode, mode, "")?;
        let snapshot = &pushed["deployment"]["init_snapshot"];
        assert_eq!(snapshot["taken"], false, "{pushed}");
        let reason = snapshot["reason"].as_str().unwrap();
        assert!(reason.contains(why), "{mode}: {reason}");
        assert_eq!(ask(&server, mode).await?, format!("144 1 {mode}"));
        let filled = filled(&server, mode).await?;
        assert_ne!(filled.last().unwrap(), "snapshot", "{filled:?}");
        let folder = server.folder().join("bundles").join(mode);
        let told = server.cli(&["push", folder.to_str().unwrap()])?;
        let told = String::from_utf8(told.stdout)?;
        assert!(told.contains("`init` runs in each replica"), "{told}");
        assert!(told.contains(why), "{told}");
    }
    let shown = server.cli_json(&["deployment", "show", "clock", "production"])?;
    assert_eq!(shown["init_snapshot"]["taken"], false);
    Ok(())
}

#[tokio::test]
async fn a_secret_is_in_no_snapshot() -> Result<()> {
    let server = Server::start()?;
    server.set_secret("SECRET", "not-for-the-disk")?;
    let pushed = push(&server, "config", "config", "secrets = [\"SECRET\"]\n")?;
    let reason = pushed["deployment"]["init_snapshot"]["reason"].clone();
    assert!(
        reason.as_str().unwrap().contains("`init` calls wasi:"),
        "{reason}"
    );
    assert_eq!(ask(&server, "config").await?, "144 1 config");
    let artifacts = server.folder().join("data/artifacts");
    let mut seen = 0;
    for folder in std::fs::read_dir(artifacts)? {
        for file in std::fs::read_dir(folder?.path())? {
            let bytes = std::fs::read(file?.path())?;
            let secret = b"not-for-the-disk";
            assert!(!bytes.windows(secret.len()).any(|found| found == secret));
            seen += 1;
        }
    }
    assert!(seen > 0);
    Ok(())
}

#[tokio::test]
async fn an_init_that_fails_or_does_not_end_fails_the_push_as_ever() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("error", "snapshot", "files = [\"mode\"]\nsnapshot = true\n")?;
    std::fs::write(folder.join("mode"), "error")?;
    let refused = server.cli(&["push", folder.to_str().unwrap()])?;
    assert!(!refused.status.success());
    let text = String::from_utf8(refused.stderr)?;
    assert!(text.contains("on purpose"), "{text}");

    let manifest = "files = [\"mode\"]\nsnapshot = true\n[limits]\ntimeout = \"1s\"\n";
    let folder = server.bundle("loop", "snapshot", manifest)?;
    std::fs::write(folder.join("mode"), "loop")?;
    let refused = server.cli(&["push", folder.to_str().unwrap()])?;
    assert!(!refused.status.success());
    let text = String::from_utf8(refused.stderr)?;
    assert!(text.contains("`init` took longer than"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_component_without_an_init_is_served_as_it_is() -> Result<()> {
    let server = Server::start()?;
    let pushed = server.push("count", "snapshot = true\n")?;
    let snapshot = &pushed["deployment"]["init_snapshot"];
    assert_eq!(snapshot["reason"], "the component exports no `init`");
    let url = server.at("/models/count/production/predict");
    let answer = server.client().get(url).send().await?;
    assert_eq!(answer.text().await?, "1");
    Ok(())
}
