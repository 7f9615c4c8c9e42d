//! Whatever a model does: its request, its start and the drain of its deployment end in time.

use std::time::Duration;

use anyhow::{Context, Result};
use samovar_tests::{Server, eventually};
use samovar_types::api::replicas::ReplicaStatus;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::names::PRODUCTION;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

/// Far longer than anything here may take, for a machine that is busy.
const SOON: Duration = Duration::from_secs(30);
/// An answer of this one never ends by itself.
const ENDLESS: &str = "[limits]\ntimeout = \"600s\"\n";

/// Begins to read an answer that has no end.
async fn endless(server: &Server, model: &str) -> Result<reqwest::Response> {
    let url = server.at(&format!("/models/{model}/production/slow"));
    let mut answer = server.client().get(url).send().await?;
    assert!(answer.chunk().await?.is_some());
    Ok(answer)
}

/// Reads until the answer breaks off, which it must.
async fn breaks_off(mut answer: reqwest::Response) -> Result<()> {
    let rest = async {
        loop {
            match answer.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => anyhow::bail!("the answer looks whole"),
                Err(_) => return Ok(()),
            }
        }
    };
    tokio::time::timeout(SOON, rest).await?
}

#[tokio::test]
async fn an_init_that_uses_up_the_executors_patience_is_stopped() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle(
        "init",
        "init",
        "[limits]\ntimeout = \"500ms\"\n[environment_variables]\nINIT_BUDGET = \"1\"\n",
    )?;
    let mut pushing =
        tokio::process::Command::from(server.command(&["push", folder.to_str().context("path")?]));
    let pushed = tokio::time::timeout(SOON, pushing.kill_on_drop(true).output()).await??;
    let told = String::from_utf8(pushed.stderr)?;
    assert!(told.contains("`init` took longer"), "{told}");
    Ok(())
}

#[tokio::test]
async fn an_outgoing_call_ends_with_the_request_that_made_it() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let authority = listener.local_addr()?.to_string();
    let server = Server::start()?;
    server.push(
        "hostile",
        &format!("[limits]\ntimeout = \"1s\"\n[network]\nallow = [\"{authority}\"]\n"),
    )?;
    let url = server.at(&format!("/models/hostile/production/fetch?{authority}"));
    let call = tokio::spawn(server.client().get(url).send());

    // It takes the call, answers nothing and keeps its side open.
    let (mut stream, _) = tokio::time::timeout(SOON, listener.accept()).await??;
    let mut received = Vec::new();
    let closed = async {
        let mut bytes = [0; 1024];
        // A connection that is reset has ended as well.
        while let Ok(count @ 1..) = stream.read(&mut bytes).await {
            received.extend_from_slice(&bytes[..count]);
        }
    };
    tokio::time::timeout(SOON, closed)
        .await
        .context("the connection stays open after the deadline")?;
    let received = String::from_utf8(received)?;
    assert!(received.starts_with("GET /healthz "), "{received}");

    let answer = tokio::time::timeout(SOON, call).await???;
    assert_eq!(answer.status(), 504);
    let error: Value = answer.json().await?;
    assert_eq!(error["error_code"], "timeout", "{error}");
    Ok(())
}

#[tokio::test]
async fn sigterm_ends_the_node_although_an_answer_has_no_end() -> Result<()> {
    let mut server = Server::start_with(&["--drain-timeout", "1s"])?;
    server.push("hostile", ENDLESS)?;
    // One has no end, one does not even begin.
    let answer = endless(&server, "hostile").await?;
    let url = server.at("/models/hostile/production/budget");
    let silent = tokio::spawn(server.client().get(url).send());
    let api = server.api();
    eventually("both are there", async || {
        let found = api.replicas("hostile", PRODUCTION).await.unwrap();
        let mut states = found.replicas.iter().map(|one| &one.state);
        found.replicas.len() == 2 && states.all(|state| *state == ReplicaStatus::Busy)
    })
    .await?;
    server.terminate();
    let ended = tokio::task::spawn_blocking(move || server.wait());
    breaks_off(answer).await?;
    let ended = tokio::time::timeout(SOON, ended).await???;
    assert!(ended.success(), "{ended}");
    if let Ok(answer) = silent.await? {
        assert!(answer.status().is_server_error(), "{}", answer.status());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_switched_off_killed_or_deleted_ends_after_the_drain_time() -> Result<()> {
    let server = Server::start_with(&["--drain-timeout", "500ms"])?;
    let api = server.api();
    for what in ["kill", "deactivate", "delete"] {
        server.push_as(what, "hostile", ENDLESS)?;
        let answer = endless(&server, what).await?;
        let end = async || -> Result<()> {
            match what {
                "kill" => {
                    let found = api.replicas(what, PRODUCTION).await?;
                    let replica = found.replicas.first().context("a replica")?;
                    api.terminate_replica(what, PRODUCTION, &replica.id).await?;
                }
                "deactivate" => {
                    let found = api.deployments(what).await?;
                    let id = found.deployments.first().context("an id")?.id;
                    api.deactivate(what, id.as_str()).await?;
                }
                _ => drop(api.delete_model(what).await?),
            }
            Ok(())
        };
        tokio::time::timeout(SOON, end()).await??;
        breaks_off(answer).await.context(what)?;
    }
    // The one whose replica was killed goes on.
    let url = server.at("/models/kill/production/");
    assert_eq!(server.client().get(url).send().await?.status(), 200);
    eventually("it is off for good", async || {
        let found = api.deployments("deactivate").await.unwrap();
        found.deployments[0].status == DeploymentStatus::Inactive
    })
    .await
}
