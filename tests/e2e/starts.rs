//! A start of a replica belongs to its deployment: it goes on without the request that it began for, and its failures and
//! nothing else keep others from starting.

use std::time::Duration;

use anyhow::{Context, Result};
use samovar_tests::onnx::relu;
use samovar_tests::withheld::Withheld;
use samovar_tests::{Server, eventually};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::replicas::ReplicaStatus;
use samovar_types::api::reported::Reported;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::names::PRODUCTION;
use serde_json::json;

/// The replicas of a model in production.
async fn replicas(server: &Server, model: &str) -> Result<Vec<(String, Reported<ReplicaStatus>)>> {
    let found = server.api().replicas(model, PRODUCTION).await?.into_inner();
    let all = found.replicas.into_iter();
    Ok(all.map(|one| (one.id, one.state)).collect())
}

async fn stop_all(server: &Server, model: &str) -> Result<()> {
    let client = server.api();
    for (id, _) in replicas(server, model).await? {
        client.terminate_replica(model, PRODUCTION, &id).await?;
    }
    eventually("there is none", async || {
        replicas(server, model).await.unwrap().is_empty()
    })
    .await
}

/// A model's first deployment.
async fn deployment(server: &Server, model: &str) -> Result<DeploymentResponse> {
    let list = server.api().deployments(model).await?.into_inner();
    list.deployments.into_iter().next().context("a deployment")
}

async fn status(server: &Server, model: &str) -> Result<Reported<DeploymentStatus>> {
    Ok(deployment(server, model).await?.status)
}

#[tokio::test]
async fn a_model_that_loads_longer_than_a_request_may_take_comes_up_all_the_same() -> Result<()> {
    let server = Server::start()?;
    let graph = relu();
    let manifest = "[limits]\ntimeout = \"1s\"\n[autoscaling]\nmax_replica = 2\n\
                    [graphs.default]\nfile = \"m.onnx\"\nbackend = \"rten\"\n";
    let folder = server.bundle("tensors", "tensors", manifest)?;
    std::fs::write(folder.join("m.onnx"), &graph)?;
    server.cli_json(&["push", folder.to_str().context("path")?])?;
    stop_all(&server, "tensors").await?;

    let withheld = Withheld::new(&server, graph)?;
    let url = server.at("/models/tensors/production/predict");
    let tensor = json!({ "name": "x", "ty": "f32", "dims": [1], "data": [0, 0, 0, 0] });
    let asked = json!({ "graph": "default", "inputs": [tensor] });
    let ask = async || -> Result<u16> {
        let answer = server.client().post(&url).json(&asked).send().await?;
        Ok(answer.status().as_u16())
    };
    // More of them than starts may fail in a row; together they make two starts, and none of these fails.
    let mut starting = Vec::new();
    for _ in 0..5 {
        let (one, two) = tokio::join!(ask(), ask());
        assert_eq!((one?, two?), (504, 504));
        let found = replicas(&server, "tensors").await?;
        assert!(
            found
                .iter()
                .all(|(_, state)| *state == ReplicaStatus::Starting)
        );
        if starting.is_empty() {
            starting.clone_from(&found);
        }
        assert_eq!(found, starting, "the starts went on");
    }
    // A client that hangs up does not end a start either.
    let hung_up = tokio::time::timeout(Duration::from_millis(100), ask()).await;
    assert!(hung_up.is_err());
    assert_eq!(replicas(&server, "tensors").await?, starting);
    assert_eq!(
        status(&server, "tensors").await?,
        DeploymentStatus::WakingUp
    );

    withheld.give()?;
    eventually("they are up without another request", async || {
        let found = replicas(&server, "tensors").await.unwrap();
        found.len() == starting.len()
            && found
                .iter()
                .zip(&starting)
                .all(|(now, before)| now.0 == before.0 && now.1 == ReplicaStatus::Idle)
    })
    .await?;
    assert_eq!(ask().await?, 200);
    assert_eq!(status(&server, "tensors").await?, DeploymentStatus::Active);
    Ok(())
}

#[tokio::test]
async fn a_start_that_takes_up_a_place_late_outlives_its_request() -> Result<()> {
    let server = Server::start()?;
    server.push(
        "init",
        "[limits]\ntimeout = \"3s\"\n[autoscaling]\nmax_replica = 1\n\
         [environment_variables]\nINIT_SLEEP = \"2000\"\n",
    )?;
    let at = |path: &str| server.at(&format!("/models/init/production{path}"));
    // The one that waits has a second left when the other has crashed, and its start takes two.
    let crashing = server.client().get(at("/trap?2000")).send();
    let crashing = tokio::spawn(crashing);
    eventually("it is busy", async || {
        let found = replicas(&server, "init").await.unwrap();
        found.iter().any(|(_, state)| *state == ReplicaStatus::Busy)
    })
    .await?;
    let waiting = server.client().get(at("/")).send().await?;
    assert_eq!(waiting.status(), 504);
    assert_eq!(crashing.await??.status(), 500);
    let started = replicas(&server, "init").await?;
    assert_eq!(started.len(), 1);
    let answer = server.client().get(at("/")).send().await?;
    assert_eq!(
        (answer.status().as_u16(), answer.text().await?),
        (200, "1".into())
    );
    assert_eq!(replicas(&server, "init").await?[0].0, started[0].0);
    Ok(())
}

#[tokio::test]
async fn requests_that_crash_cost_nobody_but_their_callers() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", "")?;
    let ask = async |path: &str| -> Result<u16> {
        let url = server.at(&format!("/models/hostile/production{path}"));
        Ok(server.client().get(url).send().await?.status().as_u16())
    };
    for round in 0..50 {
        assert_eq!(ask("/trap").await?, 500, "round {round}");
    }
    assert_eq!(ask("/").await?, 200);
    let storm = futures::future::join_all((0..40).map(|one| {
        let path = if one % 4 == 0 { "/" } else { "/trap" };
        let wanted = if one % 4 == 0 { 200 } else { 500 };
        let asked = ask(path);
        async move { anyhow::Ok((asked.await?, wanted)) }
    }));
    for answered in storm.await {
        let (found, wanted) = answered?;
        assert_eq!(found, wanted);
    }
    assert_eq!(ask("/").await?, 200);
    assert_eq!(status(&server, "hostile").await?, DeploymentStatus::Active);
    Ok(())
}

#[tokio::test]
async fn an_init_that_fails_with_a_long_text_is_told_shortly() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle(
        "init",
        "init",
        "[environment_variables]\nINIT_ERROR_BYTES = \"10000000\"\n",
    )?;
    let pushed = server.cli(&["push", folder.to_str().context("path")?])?;
    assert!(!pushed.status.success());
    let shown = deployment(&server, "init").await?;
    assert_eq!(shown.status, DeploymentStatus::DeployFailed);
    let reason = shown.status_reason.context("a reason")?;
    assert!(reason.contains("10000000 bytes"), "{} bytes", reason.len());
    assert!(reason.len() < 8 << 10, "{} bytes", reason.len());
    Ok(())
}
