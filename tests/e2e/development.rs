//! The development deployment: its code is swapped while it is called, and no call notices.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use samovar_client::{ClientError, Received};
use samovar_tests::{PATIENCE, Server, eventually, guest};
use samovar_types::api::deployments::{DeploymentResponse, UpdateStatus};
use samovar_types::api::development::{ReloadRequest, ReloadResponse, ReloadStatus};
use samovar_types::api::models::{PushRequest, PushResponse};
use samovar_types::api::promotions::PromoteToProductionRequest;
use samovar_types::bundle::{Blob, Bundle};
use samovar_types::deployment::DeploymentStatus;
use samovar_types::digest::Digest;
use samovar_types::error::ErrorCode;
use samovar_types::names::DEVELOPMENT;
use samovar_types::settings::{AutoscalingSettings, AutoscalingUpdate, Limits};
use serde_json::{Value, json};

/// A component that answers `/env?VERSION`, its bytes other than those of any other version.
fn component(version: &str) -> Result<Vec<u8>> {
    let mut bytes = std::fs::read(guest("hostile"))?;
    let name = format!("version-{version}");
    let length = u8::try_from(name.len())?;
    // A custom section, which says nothing.
    bytes.extend([0, length + 1, length]);
    bytes.extend(name.as_bytes());
    Ok(bytes)
}

async fn bundle(server: &Server, version: &str) -> Result<Bundle> {
    let component = server.upload(&component(version)?).await?;
    Ok(Bundle {
        environment_variables: [("VERSION".to_owned(), version.to_owned())].into(),
        ..Bundle::new("dev", component)
    })
}

async fn reload(server: &Server, bundle: Bundle) -> Result<Received<ReloadResponse>, ClientError> {
    let request = ReloadRequest {
        bundle,
        labels: None,
    };
    server.api().reload("dev", &request, PATIENCE).await
}

async fn show(server: &Server) -> Result<DeploymentResponse> {
    let shown = server.api().deployment("dev", DEVELOPMENT).await?;
    Ok(shown.into_inner())
}

/// A push to the development deployment.
fn development(bundle: Bundle) -> PushRequest {
    PushRequest {
        development: true,
        ..PushRequest::new(bundle)
    }
}

/// The status of a refusal.
fn status_of(error: &ClientError) -> u16 {
    error.status().map_or(0, |status| status.as_u16())
}

/// A model with a development deployment of version `0`.
async fn start() -> Result<Server> {
    let server = Server::start()?;
    push(&server, "0").await?;
    Ok(server)
}

async fn push(server: &Server, version: &str) -> Result<PushResponse> {
    let request = development(bundle(server, version).await?);
    let pushed = server.api().push(&request, PATIENCE).await?;
    Ok(pushed.into_inner())
}

async fn version(server: &Server) -> Result<String> {
    let url = server.at("/models/dev/development/env?VERSION");
    let answer = server.client().get(url).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(answer.text().await?)
}

fn blobs(server: &Server) -> BTreeSet<String> {
    let folders = std::fs::read_dir(server.folder().join("data/blobs"));
    let folders = folders.into_iter().flatten().flatten();
    folders
        .flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten())
        .flatten()
        .map(|file| file.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn the_first_push_makes_it_and_the_next_swaps_its_code() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("dev", "echo", "")?;
    let path = folder.to_str().context("path")?;
    let first = server.cli_json(&["push", "--development", path])?;
    let deployment = &first["deployment"];
    assert_eq!(deployment["name"], "development");
    assert_eq!(deployment["is_development"], true);
    assert_eq!(deployment["environment"], Value::Null);
    assert_eq!(first["model"]["production_deployment_id"], Value::Null);
    assert_eq!(
        first["model"]["development_deployment_id"],
        deployment["id"]
    );
    let url = first["url"].as_str().context("url")?;
    assert!(url.ends_with("/models/dev/development/predict"), "{url}");
    let ask = || server.cli(&["predict", "dev", "--development", "-d", "x"]);
    assert_eq!(ask()?.stdout, b"x");

    std::fs::copy(guest("count"), folder.join("guest.wasm"))?;
    let second = server.cli_json(&["push", "--development", path])?;
    assert_eq!(second["deployment"]["id"], deployment["id"]);
    assert_ne!(
        second["deployment"]["bundle_digest"],
        deployment["bundle_digest"]
    );
    assert_eq!(ask()?.stdout, b"1");
    let told = server.cli(&["push", "--development", path])?;
    let text = String::from_utf8(told.stdout)?;
    for line in [
        "(development)",
        "samovar promote dev development",
        "--development",
    ] {
        assert!(text.contains(line), "{text}");
    }
    // The same code goes on with the replica that it had.
    assert_eq!(ask()?.stdout, b"2");

    // Production is for published deployments, and the first of those is not numbered after this one.
    let nothing = server
        .client()
        .get(server.at("/models/dev/production/predict"));
    assert_eq!(nothing.send().await?.status(), 404);
    let published = server.cli_json(&["push", path])?;
    assert_eq!(published["deployment"]["name"], "deployment-1");
    assert_eq!(published["deployment"]["is_production"], true);
    // What the old code alone had is gone.
    eventually("two blobs less", async || blobs(&server).len() == 1).await
}

#[tokio::test]
async fn sixteen_clients_notice_no_reload() -> Result<()> {
    let server = Arc::new(start().await?);
    let going = Arc::new(AtomicBool::new(true));
    let newest = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..16u64)
        .map(|number| {
            let (server, going, newest) = (server.clone(), going.clone(), newest.clone());
            tokio::spawn(async move {
                let client = server.client();
                let mut answers = 0u64;
                while going.load(Ordering::SeqCst) {
                    let begun = newest.load(Ordering::SeqCst);
                    // Some hold the only replica for a while, so that others wait for it.
                    if answers % 16 == number {
                        let url = server.at("/models/dev/development/sleep?20");
                        let answer = client.get(url).send().await?;
                        ensure!(answer.status() == 200, "{}", answer.text().await?);
                        ensure!(answer.text().await? == "slept");
                    }
                    let url = server.at("/models/dev/development/env?VERSION");
                    let answer = client.get(url).send().await?;
                    let status = answer.status();
                    let text = answer.text().await?;
                    ensure!(status == 200, "{status}: {text}");
                    // Never older than what served when it was sent.
                    ensure!(text.parse::<u64>()? >= begun, "{text} after {begun}");
                    answers += 1;
                }
                anyhow::Ok(answers)
            })
        })
        .collect();
    for version in 1..=12u64 {
        let bundle = bundle(&server, &version.to_string()).await?;
        let answer = reload(&server, bundle).await?;
        assert_eq!(answer.status, ReloadStatus::Reloaded, "{answer:?}");
        newest.store(version, Ordering::SeqCst);
        assert!(show(&server).await?.active_replica_count <= 1);
    }
    going.store(false, Ordering::SeqCst);
    let mut answers = 0;
    for client in clients {
        answers += client.await??;
    }
    assert!(answers > 16, "{answers}");
    assert_eq!(version(&server).await?, "12");
    eventually("only the newest blob is kept", async || {
        blobs(&server).len() == 1
    })
    .await
}

#[tokio::test]
async fn what_runs_and_what_waits_finishes_on_the_old_code() -> Result<()> {
    let server = start().await?;
    let ask = |path: &str| {
        let url = server.at(&format!("/models/dev/development{path}"));
        let request = server.client().get(url);
        tokio::spawn(async move { anyhow::Ok(request.send().await?.text().await?) })
    };
    let runs = ask("/sleep?8000");
    eventually("it runs", async || {
        show(&server).await.unwrap().active_replica_count == 1
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits: Vec<_> = (0..4).map(|_| ask("/env?VERSION")).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    reload(&server, bundle(&server, "1").await?).await?;
    assert!(!runs.is_finished(), "the reload waited for it");
    // The new code does not wait for the old.
    assert_eq!(version(&server).await?, "1");
    assert!(!runs.is_finished());
    assert_eq!(runs.await??, "slept");
    for one in waits {
        // On a slow machine one may come so late that it meets the new code.
        let answer = one.await??;
        assert!(answer == "0" || answer == "1", "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn files_go_with_the_code() -> Result<()> {
    let server = start().await?;
    let read = async || -> Result<String> {
        let url = server.at("/models/dev/development/read?/labels.txt");
        Ok(server.client().get(url).send().await?.text().await?)
    };
    for text in ["one", "two", "three"] {
        let mut bundle = bundle(&server, text).await?;
        let file = server.upload(text.as_bytes()).await?;
        bundle.files = [("labels.txt".to_owned(), file)].into();
        reload(&server, bundle).await?;
        assert_eq!(read().await?, text);
    }
    let layouts = || std::fs::read_dir(server.folder().join("data/bundles"));
    eventually("old files are gone", async || {
        layouts().unwrap().count() == 1
    })
    .await?;
    reload(&server, bundle(&server, "none").await?).await?;
    assert!(read().await?.starts_with("error"));
    Ok(())
}

#[tokio::test]
async fn broken_code_leaves_the_old_one_serving_and_tells_why() -> Result<()> {
    let server = start().await?;
    let before = show(&server).await?;
    let kept = blobs(&server);
    let good = bundle(&server, "0").await?;
    let with = |component: Blob| Bundle {
        component,
        ..good.clone()
    };
    let no_component = server.upload(b"not wasm").await?;
    let no_graph = server.upload(b"not a model").await?;
    let imports = server.upload(&std::fs::read(guest("foreign"))?).await?;
    let init = server.upload(&std::fs::read(guest("init"))?).await?;
    let mut graph = serde_json::to_value(no_graph)?;
    graph["file"] = json!("model.onnx");
    let graph = Bundle {
        graphs: [("default".to_owned(), serde_json::from_value(graph)?)].into(),
        ..good.clone()
    };
    let error = ("INIT_ERROR".to_owned(), "no weights today".to_owned());
    let fails = Bundle {
        environment_variables: [error].into(),
        ..with(init)
    };
    for (broken, code, reason) in [
        (
            with(no_component),
            ErrorCode::ComponentRefused,
            "not WebAssembly",
        ),
        (with(imports), ErrorCode::ComponentRefused, "wasi:keyvalue/"),
        (graph, ErrorCode::GraphRefused, "`default`"),
        (fails, ErrorCode::ModelNotReady, "no weights today"),
    ] {
        // Each failure took its blobs away, so they are sent again.
        for name in ["not wasm", "not a model"] {
            server.upload(name.as_bytes()).await?;
        }
        for name in ["foreign", "init"] {
            server.upload(&std::fs::read(guest(name))?).await?;
        }
        let refused = reload(&server, broken).await.err().context("it serves")?;
        assert_eq!(refused.code(), Some(code), "{refused}");
        assert_eq!(status_of(&refused), 422, "{refused}");
        let error = refused.to_string();
        assert!(error.contains(reason), "{error}");
        assert!(
            error.contains("the code that was there goes on serving"),
            "{error}"
        );
        assert_eq!(version(&server).await?, "0");
        let now = show(&server).await?;
        assert_eq!(
            (now.id, &now.name, &now.status, &now.status_reason),
            (
                before.id,
                &before.name,
                &before.status,
                &before.status_reason
            )
        );
        assert_eq!(
            (now.bundle_digest, &now.labels),
            (before.bundle_digest, &before.labels)
        );
    }
    // By hand the blobs of the other broken bundles; those of the last one are gone by themselves.
    assert!(!blobs(&server).contains(&init.digest.to_string()));
    assert!(kept.is_subset(&blobs(&server)));

    let lacking = Blob {
        digest: "0".repeat(64).parse::<Digest>()?,
        size: 1,
    };
    let refused = reload(&server, with(lacking)).await.err();
    let refused = refused.context("it serves")?;
    assert_eq!(refused.code(), Some(ErrorCode::MissingBlobs));
    assert_eq!(status_of(&refused), 409);
    assert_eq!(refused.missing_blobs(), [lacking.digest]);
    let mut wrong = json!({ "bundle": good });
    wrong["bundle"]["graphs"] = json!({ "A": {} });
    let url = server.at("/v1/models/dev/deployments/development/bundle");
    let answer = server.client().put(url).json(&wrong).send().await?;
    assert_eq!(answer.status(), 400, "{}", answer.text().await?);
    assert_eq!(version(&server).await?, "0");

    // The command line says the same, with exit code 1.
    let folder = server.bundle("dev", "foreign", "")?;
    let told = server.cli(&["push", "--development", folder.to_str().context("path")?])?;
    assert_eq!(told.status.code(), Some(1));
    let error = String::from_utf8(told.stderr)?;
    assert!(
        error.contains("wasi:keyvalue/") && error.contains("goes on serving"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn it_is_updating_while_it_is_tried_and_others_take_turns() -> Result<()> {
    let server = Arc::new(start().await?);
    let mut stuck = bundle(&server, "0").await?;
    stuck.component = server.upload(&std::fs::read(guest("init"))?).await?;
    stuck.environment_variables = [("INIT_LOOP".to_owned(), "1".to_owned())].into();
    stuck.limits = Limits {
        timeout_ms: 3000,
        ..Limits::default()
    };
    let (first, second) = (server.clone(), server.clone());
    let failing = tokio::spawn(async move { reload(&first, stuck).await });
    eventually("it is UPDATING", async || {
        show(&server).await.unwrap().status == DeploymentStatus::Updating
    })
    .await?;
    assert_eq!(
        version(&server).await?,
        "0",
        "the old code serves meanwhile"
    );
    // It waits for its turn, and finds what the first left.
    let good = bundle(&server, "1").await?;
    let waiting = tokio::spawn(async move { reload(&second, good).await });
    let failed = failing.await?.err().context("it serves")?;
    assert_eq!(status_of(&failed), 422, "{failed}");
    waiting.await??;
    assert_eq!(version(&server).await?, "1");
    assert_eq!(show(&server).await?.status, DeploymentStatus::Active);

    let reloads: Vec<_> = (2..8)
        .map(|number: u64| {
            let server = server.clone();
            tokio::spawn(async move {
                let bundle = bundle(&server, &number.to_string()).await?;
                anyhow::Ok(reload(&server, bundle).await?)
            })
        })
        .collect();
    for one in reloads {
        one.await??;
    }
    let last = version(&server).await?.parse::<u64>()?;
    assert!((2..8).contains(&last));
    Ok(())
}

#[tokio::test]
async fn a_node_killed_in_a_reload_comes_back_with_the_old_code_or_the_new() -> Result<()> {
    let mut server = start().await?;
    let begun = Instant::now();
    reload(&server, bundle(&server, "first").await?).await?;
    let whole = begun.elapsed();
    let mut served = "first".to_owned();
    let mut acknowledged = 0;
    for round in 1..=20u32 {
        let next = round.to_string();
        let request = ReloadRequest {
            bundle: bundle(&server, &next).await?,
            labels: None,
        };
        let client = server.api();
        let reloading = tokio::spawn(async move { client.reload("dev", &request, PATIENCE).await });
        // Another instant each round; none is waited for.
        tokio::time::sleep(whole * ((round * 7) % 20) / 16).await;
        server.kill()?;
        let answered = reloading.await?.is_ok();
        server = server.restart()?;
        let now = version(&server).await?;
        assert!(
            now == next || now == served && !answered,
            "{now} after {served}, {next} was sent: {answered}"
        );
        acknowledged += u32::from(answered);
        let shown = show(&server).await?;
        assert_eq!(shown.status, DeploymentStatus::Active, "{shown:?}");
        assert_eq!(shown.name, "development");
        served = now;
    }
    // And it goes on working, without what killed rounds left half-made.
    reload(&server, bundle(&server, "last").await?).await?;
    assert_eq!(version(&server).await?, "last");
    eprintln!("{acknowledged} of 20 reloads were acknowledged before the kill");
    Ok(())
}

#[tokio::test]
async fn it_is_promoted_as_a_published_deployment_and_goes_on_by_itself() -> Result<()> {
    let server = Server::start()?;
    let client = server.api();
    let mut first = bundle(&server, "1").await?;
    first.autoscaling = AutoscalingSettings {
        max_replica: 5,
        ..AutoscalingSettings::default()
    };
    let request = PushRequest {
        labels: Some([("team".to_owned(), "vision".to_owned())].into()),
        ..development(first)
    };
    let pushed = client.push(&request, PATIENCE).await?;
    assert_eq!(pushed.deployment.autoscaling_settings.max_replica, 1);
    let request = PromoteToProductionRequest::default();
    let published = client.promote_to_production("dev", DEVELOPMENT, &request);
    let published = published.await?;
    assert_ne!(published.id, pushed.deployment.id);
    let production = async |path: &str| -> Result<(u16, String)> {
        let url = server.at(&format!("/models/dev/production{path}"));
        let answer = server.client().get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    eventually("production answers", async || {
        production("/env?VERSION").await.unwrap() == (200, "1".into())
    })
    .await?;
    let id = published.id.as_str();
    let shown = client.deployment("dev", id).await?;
    assert!(shown.is_production && !shown.is_development, "{shown:?}");
    assert_eq!(shown.name, "deployment-1");
    assert_eq!(shown.labels["team"], "vision");
    assert_eq!(shown.autoscaling_settings.max_replica, 5);
    // Its code stays as it was pushed; the development deployment goes on.
    reload(&server, bundle(&server, "2").await?).await?;
    assert_eq!(version(&server).await?, "2");
    assert_eq!(production("/env?VERSION").await?, (200, "1".into()));
    let url = server.at(&format!("/v1/models/dev/deployments/{id}/bundle"));
    let answer = server.client().put(url).json(&json!({})).send().await?;
    let status = answer.status();
    assert!(status == 404 || status == 405, "{status}");
    Ok(())
}

#[tokio::test]
async fn it_is_not_renamed_not_scaled_and_not_pushed_into_an_environment() -> Result<()> {
    let server = start().await?;
    let client = server.api();
    let refused = |error: Option<ClientError>, status: u16, named: &str| {
        let error = error.unwrap();
        assert_eq!(status_of(&error), status, "{error}");
        assert!(error.to_string().contains(named), "{error}");
    };
    let renamed = client.rename_deployment("dev", DEVELOPMENT, "mine").await;
    refused(renamed.err(), 409, "keeps its name");
    let update = |min_replica, max_replica| AutoscalingUpdate {
        min_replica,
        max_replica,
        ..AutoscalingUpdate::default()
    };
    for (update, named) in [
        (update(None, Some(2)), "max_replica: found 2, wanted 1"),
        (update(Some(1), None), "min_replica: found 1, wanted 0"),
    ] {
        let updated = client.update_autoscaling("dev", DEVELOPMENT, &update);
        refused(updated.await.err(), 400, named);
    }
    let delay = AutoscalingUpdate {
        scale_down_delay: Some(60),
        ..AutoscalingUpdate::default()
    };
    let updated = client.update_autoscaling("dev", DEVELOPMENT, &delay);
    assert_eq!(updated.await?.status, UpdateStatus::Accepted);
    let bundle = bundle(&server, "1").await?;
    for request in [
        PushRequest {
            environment: Some("production".into()),
            ..development(bundle.clone())
        },
        PushRequest {
            deployment_name: Some("mine".into()),
            ..development(bundle.clone())
        },
    ] {
        let pushed = client.push_to_model("dev", &request, PATIENCE).await;
        refused(pushed.err(), 400, "promote it");
    }
    let request = PushRequest {
        deployment_name: Some(DEVELOPMENT.into()),
        ..PushRequest::new(bundle)
    };
    let pushed = client.push(&request, PATIENCE).await;
    refused(pushed.err(), 400, "neither");

    // One replica, however many call.
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let url = server.at("/models/dev/development/sleep?10");
            tokio::spawn(server.client().get(url).send())
        })
        .collect();
    for one in calls {
        assert_eq!(one.await??.status(), 200);
        assert!(show(&server).await?.active_replica_count <= 1);
    }
    Ok(())
}

#[tokio::test]
async fn it_is_switched_off_and_on_and_deleted_and_made_anew() -> Result<()> {
    let server = start().await?;
    let status = async || -> Result<u16> {
        let url = server.at("/models/dev/development/env?VERSION");
        Ok(server.client().get(url).send().await?.status().as_u16())
    };
    let client = server.api();
    client.deactivate("dev", DEVELOPMENT).await?;
    assert_eq!(status().await?, 404);
    client.activate("dev", DEVELOPMENT, PATIENCE).await?;
    assert_eq!(version(&server).await?, "0");
    let retried = client.retry("dev", DEVELOPMENT, PATIENCE).await?;
    assert!(!retried.retried);
    client.deactivate("dev", DEVELOPMENT).await?;
    // Who sends new code wants it to serve.
    reload(&server, bundle(&server, "1").await?).await?;
    assert_eq!(version(&server).await?, "1");

    let id = show(&server).await?.id;
    client.delete_deployment("dev", DEVELOPMENT).await?;
    assert_eq!(status().await?, 404);
    let missing = reload(&server, bundle(&server, "2").await?).await.err();
    let missing = missing.context("it is there")?;
    assert!(missing.is_not_found(), "{missing}");
    assert!(missing.to_string().contains("push one"), "{missing}");
    let pushed = push(&server, "3").await?;
    assert_ne!(pushed.deployment.id, id);
    assert_eq!(version(&server).await?, "3");
    Ok(())
}
