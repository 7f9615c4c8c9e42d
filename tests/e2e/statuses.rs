//! Where a deployment stands is told while it is built, while it serves, while it is ill, and when it is off.

use anyhow::{Context, Result};
use samovar_tests::onnx::relu;
use samovar_tests::withheld::{Withheld, blob, put_file};
use samovar_tests::{PATIENCE, Server, eventually};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::reported::Reported;
use samovar_types::deployment::DeploymentStatus as Status;
use samovar_types::digest::Digest;
use samovar_types::error::ErrorCode;
use serde_json::{Value, json};

async fn deployment(server: &Server, model: &str) -> Result<DeploymentResponse> {
    let answer = server.api().deployments(model).await?.into_inner();
    answer
        .deployments
        .into_iter()
        .next()
        .context("none is left")
}

async fn status(server: &Server, model: &str) -> Reported<Status> {
    deployment(server, model).await.unwrap().status
}

async fn becomes(server: &Server, model: &str, wanted: Status) -> Result<()> {
    let what = format!("{wanted:?}");
    let waited = eventually(&what, async || status(server, model).await == wanted);
    match waited.await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("{:?}", status(server, model).await))),
    }
}

/// What builds a deployment.
#[derive(Clone, Copy)]
enum Build {
    Activate,
    Retry,
}

/// Has a deployment built, and answers at once. The task answers the code of the error, if there is one.
fn build(
    server: &Server,
    model: &'static str,
    id: &str,
    what: Build,
) -> tokio::task::JoinHandle<Option<ErrorCode>> {
    let (client, id) = (server.api(), id.to_owned());
    tokio::spawn(async move {
        let failed = match what {
            Build::Activate => client.activate(model, &id, PATIENCE).await.err(),
            Build::Retry => client.retry(model, &id, PATIENCE).await.err(),
        };
        failed.map(|error| error.code().unwrap_or(ErrorCode::InternalError))
    })
}

/// A model with a graph, pushed and at zero: its id, and the graph's bytes.
fn with_graph(server: &Server) -> Result<(String, Vec<u8>)> {
    let graph = relu();
    let manifest = "[graphs.default]\nfile = \"m.onnx\"\nbackend = \"rten\"\n";
    let folder = server.bundle("tensors", "tensors", manifest)?;
    std::fs::write(folder.join("m.onnx"), &graph)?;
    let pushed = server.cli_json(&["push", folder.to_str().context("path")?])?;
    let id = pushed["deployment"]["id"].as_str().context("an id")?;
    Ok((id.to_owned(), graph))
}

#[tokio::test]
async fn a_build_tells_how_far_it_is_and_can_be_stopped_anywhere() -> Result<()> {
    let server = Server::start()?;
    let (id, graph) = with_graph(&server)?;
    becomes(&server, "tensors", Status::Active).await?;
    let url = server.at("/models/tensors/production/predict");

    // Its component, which has to be compiled anew.
    server.api().deactivate("tensors", &id).await?;
    becomes(&server, "tensors", Status::Inactive).await?;
    assert_eq!(server.client().post(&url).send().await?.status(), 404);
    let server = {
        let artifacts = server.folder().join("data/artifacts");
        std::fs::remove_dir_all(artifacts)?;
        server.restart()?
    };
    let url = server.at("/models/tensors/production/predict");
    let component = std::fs::read(samovar_tests::guest("tensors"))?;
    let withheld = Withheld::new(&server, component)?;
    let building = build(&server, "tensors", &id, Build::Activate);
    becomes(&server, "tensors", Status::Building).await?;
    assert_eq!(server.client().post(&url).send().await?.status(), 503);
    server.cli_json(&["deployment", "deactivate", "tensors", &id])?;
    assert_eq!(building.await?, Some(ErrorCode::BuildStopped));
    let shown = deployment(&server, "tensors").await?;
    assert_eq!(shown.status, Status::BuildStopped);
    assert!(shown.status_reason.unwrap().contains("retry"));
    withheld.give()?;

    // Its graph, which is compared with its digest before anything is made of the bundle's files.
    let withheld = Withheld::new(&server, graph.clone())?;
    let building = build(&server, "tensors", &id, Build::Retry);
    becomes(&server, "tensors", Status::Building).await?;
    server.api().deactivate("tensors", &id).await?;
    assert_eq!(building.await?, Some(ErrorCode::BuildStopped));
    assert_eq!(status(&server, "tensors").await, Status::BuildStopped);
    withheld.give()?;

    // Built to its end at last.
    let answer = server.cli_json(&["deployment", "retry", "tensors", &id])?;
    assert_eq!(answer["retried"], true, "{answer}");
    assert_eq!(answer["deployment"]["status"], "ACTIVE", "{answer}");

    // At zero, and woken by a request.
    let listed = server.cli_json(&["deployment", "replicas", "tensors", &id])?;
    let replica = listed["replicas"][0]["id"].as_str().context("a replica")?;
    server.cli_json(&["deployment", "replicas", "tensors", &id, "--kill", replica])?;
    becomes(&server, "tensors", Status::ScaledToZero).await?;
    let loaded = || server.cli_json(&["status"]).unwrap()["loaded_graphs"].clone();
    assert_eq!(loaded(), json!([]), "graphs go with the last replica");
    let withheld = Withheld::new(&server, graph)?;
    server.cli_json(&["deployment", "wake", "tensors", &id])?;
    becomes(&server, "tensors", Status::WakingUp).await?;
    withheld.give()?;
    becomes(&server, "tensors", Status::Active).await?;
    assert_eq!(loaded()[0]["name"], "default");
    Ok(())
}

#[tokio::test]
async fn a_build_whose_graphs_load_says_so() -> Result<()> {
    let server = Server::start()?;
    let (id, _) = with_graph(&server)?;
    server.api().deactivate("tensors", &id).await?;
    becomes(&server, "tensors", Status::Inactive).await?;
    // What rten makes of a graph is kept, and read when the graph is loaded again.
    let kept = kept_models(&server.folder().join("data/optimized/rten"))?;
    let [kept] = &kept[..] else {
        anyhow::bail!("{kept:?} are kept, wanted one");
    };
    let bytes = std::fs::read(kept)?;
    let withheld = Withheld::file(kept.clone(), bytes)?;
    let building = build(&server, "tensors", &id, Build::Activate);
    becomes(&server, "tensors", Status::LoadingModel).await?;
    let url = server.at("/models/tensors/production/predict");
    assert_eq!(server.client().post(&url).send().await?.status(), 503);
    withheld.give()?;
    assert_eq!(building.await?, None);
    becomes(&server, "tensors", Status::Active).await
}

/// The models below a folder.
fn kept_models(folder: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(kept_models(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "onnx") {
            found.push(path);
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_retry_lets_an_unhealthy_deployment_start_again() -> Result<()> {
    let server = Server::start()?;
    let (id, graph) = with_graph(&server)?;
    let path = blob(&server, &graph);
    std::fs::remove_file(&path)?;
    let listed = server.cli_json(&["deployment", "replicas", "tensors", &id])?;
    let replica = listed["replicas"][0]["id"].as_str().context("a replica")?;
    server.cli_json(&["deployment", "replicas", "tensors", &id, "--kill", replica])?;
    // The pauses between starts grow to a minute: by then it is on its third.
    let url = server.at("/models/tensors/production/predict");
    eventually("starts have failed", async || {
        let _ = server.client().post(&url).send().await;
        status(&server, "tensors").await == Status::Unhealthy
    })
    .await?;
    put_file(&path, &graph)?;
    let answer = server.api().retry("tensors", &id, PATIENCE).await?;
    assert!(answer.retried, "{answer:?}");
    assert_ne!(answer.deployment.status, Status::Unhealthy, "{answer:?}");
    // With the first request, and no pause before it.
    let tensor = json!({ "name": "x", "ty": "f32", "dims": [1], "data": [0, 0, 0, 0] });
    let asked = json!({ "graph": "default", "inputs": [tensor] });
    let answer = server.client().post(&url).json(&asked).send().await?;
    assert_eq!(answer.status(), 200, "{}", answer.text().await?);
    assert_eq!(status(&server, "tensors").await, Status::Active);
    Ok(())
}

#[tokio::test]
async fn a_first_replica_on_its_way_is_told_and_goes_with_its_deployment() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let folder = server.bundle(
        "init",
        "init",
        "[environment_variables]\nINIT_LOOP = \"1\"\n",
    )?;
    // Behind production, and another that is not.
    let manifest = folder.join("samovar.toml");
    let text = std::fs::read_to_string(&manifest)?;
    std::fs::write(&manifest, text.replace("INIT_LOOP", "NOTHING"))?;
    let path = folder.to_str().context("path")?;
    server.cli_json(&["push", path])?;
    std::fs::write(&manifest, text)?;
    let mut pushing = std::process::Command::new(samovar_tests::binary())
        .env("SAMOVAR_URL", &server.url)
        .env("SAMOVAR_API_KEY", server.key())
        .env("SAMOVAR_CONFIG", server.folder().join("config.toml"))
        .args(["--json", "push", path])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let api = server.api();
    let second = async || -> Result<Option<DeploymentResponse>> {
        let list = api.deployments("init").await?.into_inner();
        Ok(list.deployments.into_iter().nth(1))
    };
    eventually("its first replica starts", async || {
        let second = second().await.unwrap();
        second.is_some_and(|one| one.status == Status::Deploying)
    })
    .await?;
    let id = second().await?.context("it is there")?.id.to_string();
    server.cli_json(&["deployment", "delete", "--yes", "init", &id])?;
    assert!(!pushing.wait()?.success());
    assert!(second().await?.is_none());
    assert_eq!(status(&server, "init").await, Status::Active);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_built_says_why() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("refused", "count", "")?;
    std::fs::write(folder.join("guest.wasm"), b"\0asm\x01\0\0\0")?;
    let pushed = server.cli(&["push", folder.to_str().context("path")?])?;
    assert!(!pushed.status.success());
    assert_eq!(status(&server, "refused").await, Status::BuildFailed);
    let folder = server.bundle(
        "init",
        "init",
        "[environment_variables]\nINIT_ERROR = \"no weights\"\n",
    )?;
    server.cli(&["push", folder.to_str().context("path")?])?;
    let shown = deployment(&server, "init").await?;
    assert_eq!(shown.status, Status::DeployFailed);
    let listed = server.cli(&["deployment", "list", "init"])?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(
        listed.contains("DEPLOY_FAILED") && listed.contains("no weights"),
        "{listed}"
    );
    Ok(())
}

#[tokio::test]
async fn a_deployment_whose_files_are_gone_has_failed_until_they_are_back() -> Result<()> {
    let server = Server::start()?;
    let (id, graph) = with_graph(&server)?;
    std::fs::remove_file(blob(&server, &graph))?;
    let server = server.restart()?;
    let shown = deployment(&server, "tensors").await?;
    assert_eq!(shown.status, Status::Failed, "{shown:?}");
    let digest = Digest::of(&graph).to_string();
    assert!(shown.status_reason.unwrap().contains(&digest));
    let url = server.at("/models/tensors/production/predict");
    let answer = server.client().post(&url).send().await?;
    assert_eq!(answer.status(), 503);
    assert!(answer.text().await?.contains(&digest));
    server.upload(&graph).await?;
    server.cli_json(&["deployment", "retry", "tensors", &id])?;
    assert_eq!(status(&server, "tensors").await, Status::ScaledToZero);
    server.cli_json(&["deployment", "wake", "tensors", &id])?;
    becomes(&server, "tensors", Status::Active).await
}

#[tokio::test]
async fn what_is_switched_off_finishes_first() -> Result<()> {
    let server = Server::start()?;
    let pushed = server.push("hostile", "")?;
    let id = pushed["deployment"]["id"].as_str().context("an id")?;
    let url = server.at("/models/hostile/production");
    let request = server.client().get(format!("{url}/sleep?3000"));
    let running = tokio::spawn(async move { request.send().await?.text().await });
    let replicas = || server.cli_json(&["deployment", "replicas", "hostile", id]);
    eventually("it runs", async || {
        replicas().unwrap()["replicas"][0]["state"] == "BUSY"
    })
    .await?;
    server.cli_json(&["deployment", "deactivate", "hostile", id])?;
    assert_eq!(status(&server, "hostile").await, Status::Deactivating);
    assert_eq!(
        server
            .client()
            .get(format!("{url}/"))
            .send()
            .await?
            .status(),
        404
    );
    assert_eq!(running.await??, "slept");
    becomes(&server, "hostile", Status::Inactive).await?;
    assert_eq!(replicas()?["replicas"], json!([]));
    server.cli_json(&["deployment", "activate", "hostile", id])?;
    assert_eq!(status(&server, "hostile").await, Status::Active);
    assert_eq!(
        server
            .client()
            .get(format!("{url}/"))
            .send()
            .await?
            .status(),
        200
    );
    Ok(())
}

#[tokio::test]
async fn three_failed_starts_in_a_row_make_it_unhealthy_until_one_succeeds() -> Result<()> {
    let server = Server::start()?;
    let (id, graph) = with_graph(&server)?;
    let path = blob(&server, &graph);
    let kill = || -> Result<()> {
        let listed = server.cli_json(&["deployment", "replicas", "tensors", &id])?;
        let replica = listed["replicas"][0]["id"].as_str().context("a replica")?;
        server.cli_json(&["deployment", "replicas", "tensors", &id, "--kill", replica])?;
        Ok(())
    };
    std::fs::remove_file(&path)?;
    kill()?;
    let url = server.at("/models/tensors/production/predict");
    let tensor = json!({ "name": "x", "ty": "f32", "dims": [1], "data": [0, 0, 0, 0] });
    let asked = json!({ "graph": "default", "inputs": [tensor] });
    let ask = async || -> Result<(u16, Value)> {
        let answer = server.client().post(&url).json(&asked).send().await?;
        Ok((
            answer.status().as_u16(),
            answer.json().await.unwrap_or_default(),
        ))
    };
    // Whoever keeps it warm tries too.
    let body = loop {
        let (status, body) = ask().await?;
        assert_eq!(status, 503, "{body}");
        if body["error_code"] != "model_not_ready" {
            break body;
        }
    };
    assert_eq!(body["error_code"], "model_unavailable", "{body}");
    let told = body["error"].as_str().unwrap();
    assert!(
        told.contains("starts of a replica in a row failed"),
        "{body}"
    );
    assert_eq!(status(&server, "tensors").await, Status::Unhealthy);
    eventually("the log says it too", async || {
        let read = server.cli(&["deployment", "logs", "tensors", &id]).unwrap();
        String::from_utf8_lossy(&read.stdout).contains("did not start")
    })
    .await?;
    put_file(&path, &graph)?;
    eventually("a start succeeds", async || ask().await.unwrap().0 == 200).await?;
    assert_eq!(status(&server, "tensors").await, Status::Active);
    Ok(())
}
