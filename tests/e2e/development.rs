//! The development deployment: its code is swapped while it is called, and no call notices.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use samovar_tests::{Server, eventually, guest};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const DEVELOPMENT: &str = "/v1/models/dev/deployments/development";

/// Uploads bytes, and answers them as a bundle names them.
async fn blob(server: &Server, bytes: Vec<u8>) -> Result<Value> {
    let digest = hex::encode(Sha256::digest(&bytes));
    let size = bytes.len();
    let url = server.at(&format!("/v1/blobs/{digest}"));
    let answer = server.client().put(url).body(bytes).send().await?;
    ensure!(answer.status().is_success(), "{}", answer.text().await?);
    Ok(json!({ "digest": digest, "size": size }))
}

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

async fn bundle(server: &Server, version: &str) -> Result<Value> {
    Ok(json!({
        "name": "dev",
        "component": blob(server, component(version)?).await?,
        "environment_variables": { "VERSION": version },
    }))
}

async fn call(server: &Server, method: Method, path: &str, body: Value) -> Result<(u16, Value)> {
    let request = server.client().request(method, server.at(path));
    let answer = request.json(&body).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn reload(server: &Server, bundle: Value) -> Result<(u16, Value)> {
    let path = format!("{DEVELOPMENT}/bundle");
    call(server, Method::PUT, &path, json!({ "bundle": bundle })).await
}

async fn show(server: &Server) -> Result<Value> {
    let (status, shown) = call(server, Method::GET, DEVELOPMENT, Value::Null).await?;
    ensure!(status == 200, "{shown}");
    Ok(shown)
}

/// A model with a development deployment of version `0`.
async fn start() -> Result<Server> {
    let server = Server::start()?;
    push(&server, "0").await?;
    Ok(server)
}

async fn push(server: &Server, version: &str) -> Result<Value> {
    let body = json!({ "bundle": bundle(server, version).await?, "development": true });
    let (status, pushed) = call(server, Method::POST, "/v1/models", body).await?;
    ensure!(status == 200, "{pushed}");
    Ok(pushed)
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
        let (status, answer) = reload(&server, bundle).await?;
        assert_eq!(
            (status, &answer["status"]),
            (200, &json!("RELOADED")),
            "{answer}"
        );
        newest.store(version, Ordering::SeqCst);
        let replicas = show(&server).await?["active_replica_count"].as_u64();
        assert!(replicas.context("replicas")? <= 1);
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
        show(&server).await.unwrap()["active_replica_count"] == 1
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let waits: Vec<_> = (0..4).map(|_| ask("/env?VERSION")).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (status, answer) = reload(&server, bundle(&server, "1").await?).await?;
    assert_eq!(status, 200, "{answer}");
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
        bundle["files"] = json!({ "labels.txt": blob(&server, text.into()).await? });
        let (status, answer) = reload(&server, bundle).await?;
        assert_eq!(status, 200, "{answer}");
        assert_eq!(read().await?, text);
    }
    let layouts = || std::fs::read_dir(server.folder().join("data/bundles"));
    eventually("old files are gone", async || {
        layouts().unwrap().count() == 1
    })
    .await?;
    let (status, _) = reload(&server, bundle(&server, "none").await?).await?;
    assert_eq!(status, 200);
    assert!(read().await?.starts_with("error"));
    Ok(())
}

#[tokio::test]
async fn broken_code_leaves_the_old_one_serving_and_tells_why() -> Result<()> {
    let server = start().await?;
    let before = show(&server).await?;
    let kept = blobs(&server);
    let good = bundle(&server, "0").await?;
    let broken = async |change: Value| -> Result<Value> {
        let mut bundle = good.clone();
        for (name, value) in change.as_object().context("fields")? {
            bundle[name] = value.clone();
        }
        Ok(bundle)
    };
    let no_component = blob(&server, b"not wasm".to_vec()).await?;
    let no_graph = blob(&server, b"not a model".to_vec()).await?;
    let imports = blob(&server, std::fs::read(guest("foreign"))?).await?;
    let init = blob(&server, std::fs::read(guest("init"))?).await?;
    let mut graph = no_graph.clone();
    graph["file"] = json!("model.onnx");
    for (change, code, reason) in [
        (
            json!({ "component": no_component }),
            "component_refused",
            "not WebAssembly",
        ),
        (
            json!({ "component": imports }),
            "component_refused",
            "wasi:keyvalue/",
        ),
        (
            json!({ "graphs": { "default": graph } }),
            "graph_refused",
            "`default`",
        ),
        (
            json!({ "component": init, "environment_variables": { "INIT_ERROR": "no weights today" } }),
            "model_not_ready",
            "no weights today",
        ),
    ] {
        // Each failure took its blobs away, so they are sent again.
        for name in ["not wasm", "not a model"] {
            blob(&server, name.as_bytes().to_vec()).await?;
        }
        for name in ["foreign", "init"] {
            blob(&server, std::fs::read(guest(name))?).await?;
        }
        let (status, answer) = reload(&server, broken(change).await?).await?;
        assert_eq!(
            (status, &answer["error_code"]),
            (422, &json!(code)),
            "{answer}"
        );
        let error = answer["error"].as_str().context("error")?;
        assert!(error.contains(reason), "{error}");
        assert!(
            error.contains("the code that was there goes on serving"),
            "{error}"
        );
        assert_eq!(version(&server).await?, "0");
        let now = show(&server).await?;
        for field in [
            "id",
            "name",
            "status",
            "status_reason",
            "bundle_digest",
            "labels",
        ] {
            assert_eq!(now[field], before[field], "{field}");
        }
    }
    // By hand the blobs of the other broken bundles; those of the last one are gone by themselves.
    assert!(!blobs(&server).contains(init["digest"].as_str().context("digest")?));
    assert!(kept.is_subset(&blobs(&server)));

    let lacking = json!({ "digest": "0".repeat(64), "size": 1 });
    let (status, answer) = reload(&server, broken(json!({ "component": lacking })).await?).await?;
    assert_eq!(
        (status, &answer["error_code"]),
        (409, &json!("missing_blobs"))
    );
    assert_eq!(answer["detail"]["missing"], json!(["0".repeat(64)]));
    let (status, answer) = reload(&server, broken(json!({ "graphs": { "A": {} } })).await?).await?;
    assert_eq!(status, 400, "{answer}");
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
    stuck["component"] = blob(&server, std::fs::read(guest("init"))?).await?;
    stuck["environment_variables"] = json!({ "INIT_LOOP": "1" });
    stuck["limits"] = json!({ "timeout_ms": 3000 });
    let (first, second) = (server.clone(), server.clone());
    let failing = tokio::spawn(async move { reload(&first, stuck).await });
    eventually("it is UPDATING", async || {
        show(&server).await.unwrap()["status"] == "UPDATING"
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
    assert_eq!(failing.await??.0, 422);
    let (status, answer) = waiting.await??;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(version(&server).await?, "1");
    assert_eq!(show(&server).await?["status"], "ACTIVE");

    let reloads: Vec<_> = (2..8)
        .map(|number: u64| {
            let server = server.clone();
            tokio::spawn(async move {
                let bundle = bundle(&server, &number.to_string()).await?;
                reload(&server, bundle).await
            })
        })
        .collect();
    for one in reloads {
        let (status, answer) = one.await??;
        assert_eq!(status, 200, "{answer}");
    }
    let last = version(&server).await?.parse::<u64>()?;
    assert!((2..8).contains(&last));
    Ok(())
}

#[tokio::test]
async fn a_node_killed_in_a_reload_comes_back_with_the_old_code_or_the_new() -> Result<()> {
    let mut server = start().await?;
    let begun = Instant::now();
    let (status, _) = reload(&server, bundle(&server, "first").await?).await?;
    assert_eq!(status, 200);
    let whole = begun.elapsed();
    let mut served = "first".to_owned();
    let mut acknowledged = 0;
    for round in 1..=20u32 {
        let next = round.to_string();
        let new = bundle(&server, &next).await?;
        let url = server.at(&format!("{DEVELOPMENT}/bundle"));
        let request = server.client().put(url).json(&json!({ "bundle": new }));
        let reloading = tokio::spawn(request.send());
        // Another instant each round; none is waited for.
        tokio::time::sleep(whole * ((round * 7) % 20) / 16).await;
        server.kill()?;
        let answered = matches!(reloading.await?, Ok(answer) if answer.status() == 200);
        server = server.restart()?;
        let now = version(&server).await?;
        assert!(
            now == next || now == served && !answered,
            "{now} after {served}, {next} was sent: {answered}"
        );
        acknowledged += u32::from(answered);
        let shown = show(&server).await?;
        assert_eq!(shown["status"], "ACTIVE", "{shown}");
        assert_eq!(shown["name"], "development");
        served = now;
    }
    // And it goes on working, without what killed rounds left half-made.
    let (status, answer) = reload(&server, bundle(&server, "last").await?).await?;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(version(&server).await?, "last");
    eprintln!("{acknowledged} of 20 reloads were acknowledged before the kill");
    Ok(())
}

#[tokio::test]
async fn it_is_promoted_as_a_published_deployment_and_goes_on_by_itself() -> Result<()> {
    let server = Server::start()?;
    let mut first = bundle(&server, "1").await?;
    first["autoscaling"] = json!({ "max_replica": 5 });
    let body = json!({ "bundle": first, "development": true, "labels": { "team": "vision" } });
    let (status, pushed) = call(&server, Method::POST, "/v1/models", body).await?;
    assert_eq!(status, 200, "{pushed}");
    assert_eq!(
        pushed["deployment"]["autoscaling_settings"]["max_replica"],
        1
    );
    let promote = format!("{DEVELOPMENT}/promote");
    let (status, published) = call(&server, Method::POST, &promote, json!({})).await?;
    assert_eq!(status, 200, "{published}");
    assert_ne!(published["id"], pushed["deployment"]["id"]);
    let production = async |path: &str| -> Result<(u16, String)> {
        let url = server.at(&format!("/models/dev/production{path}"));
        let answer = server.client().get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    eventually("production answers", async || {
        production("/env?VERSION").await.unwrap() == (200, "1".into())
    })
    .await?;
    let id = published["id"].as_str().context("id")?;
    let path = format!("/v1/models/dev/deployments/{id}");
    let (_, shown) = call(&server, Method::GET, &path, Value::Null).await?;
    assert_eq!(shown["is_production"], true, "{shown}");
    assert_eq!(shown["is_development"], false);
    assert_eq!(shown["name"], "deployment-1");
    assert_eq!(shown["labels"]["team"], "vision");
    assert_eq!(shown["autoscaling_settings"]["max_replica"], 5);
    // Its code stays as it was pushed; the development deployment goes on.
    let (status, answer) = reload(&server, bundle(&server, "2").await?).await?;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(version(&server).await?, "2");
    assert_eq!(production("/env?VERSION").await?, (200, "1".into()));
    let (status, _) = call(&server, Method::PUT, &format!("{path}/bundle"), json!({})).await?;
    assert!(status == 404 || status == 405, "{status}");
    Ok(())
}

#[tokio::test]
async fn it_is_not_renamed_not_scaled_and_not_pushed_into_an_environment() -> Result<()> {
    let server = start().await?;
    let refused = async |method: Method, path: &str, body: Value, named: &str| -> Result<u16> {
        let (status, answer) = call(&server, method, path, body).await?;
        let error = answer["error"].as_str().context("error")?;
        assert!(error.contains(named), "{error}");
        Ok(status)
    };
    let name = json!({ "name": "mine" });
    assert_eq!(
        refused(Method::PATCH, DEVELOPMENT, name, "keeps its name").await?,
        409
    );
    let settings = format!("{DEVELOPMENT}/autoscaling_settings");
    for (body, named) in [
        (
            json!({ "max_replica": 2 }),
            "max_replica: found 2, wanted 1",
        ),
        (
            json!({ "min_replica": 1 }),
            "min_replica: found 1, wanted 0",
        ),
    ] {
        assert_eq!(refused(Method::PATCH, &settings, body, named).await?, 400);
    }
    let delay = json!({ "scale_down_delay": 60 });
    let (status, answer) = call(&server, Method::PATCH, &settings, delay).await?;
    assert_eq!((status, &answer["status"]), (200, &json!("ACCEPTED")));
    for field in [
        json!({ "environment": "production" }),
        json!({ "deployment_name": "mine" }),
    ] {
        let mut body = json!({ "bundle": bundle(&server, "1").await?, "development": true });
        for (name, value) in field.as_object().context("field")? {
            body[name] = value.clone();
        }
        let status = refused(
            Method::POST,
            "/v1/models/dev/deployments",
            body,
            "promote it",
        )
        .await?;
        assert_eq!(status, 400);
    }
    let name = json!({ "bundle": bundle(&server, "1").await?, "deployment_name": "development" });
    let status = refused(Method::POST, "/v1/models", name, "neither").await?;
    assert_eq!(status, 400);

    // One replica, however many call.
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let url = server.at("/models/dev/development/sleep?10");
            tokio::spawn(server.client().get(url).send())
        })
        .collect();
    for one in calls {
        assert_eq!(one.await??.status(), 200);
        let replicas = show(&server).await?["active_replica_count"].as_u64();
        assert!(replicas.context("replicas")? <= 1);
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
    let act = async |what: &str| -> Result<Value> {
        let path = format!("{DEVELOPMENT}/{what}");
        let (status, answer) = call(&server, Method::POST, &path, json!({})).await?;
        ensure!(status == 200, "{answer}");
        Ok(answer)
    };
    act("deactivate").await?;
    assert_eq!(status().await?, 404);
    act("activate").await?;
    assert_eq!(version(&server).await?, "0");
    assert_eq!(act("retry").await?["retried"], false);
    act("deactivate").await?;
    // Who sends new code wants it to serve.
    let (reloaded, answer) = reload(&server, bundle(&server, "1").await?).await?;
    assert_eq!(reloaded, 200, "{answer}");
    assert_eq!(version(&server).await?, "1");

    let id = show(&server).await?["id"].clone();
    let (deleted, _) = call(&server, Method::DELETE, DEVELOPMENT, Value::Null).await?;
    assert_eq!(deleted, 200);
    assert_eq!(status().await?, 404);
    let (missing, answer) = reload(&server, bundle(&server, "2").await?).await?;
    assert_eq!(missing, 404);
    assert!(
        answer["error"]
            .as_str()
            .context("error")?
            .contains("push one"),
        "{answer}"
    );
    let pushed = push(&server, "3").await?;
    assert_ne!(pushed["deployment"]["id"], id);
    assert_eq!(version(&server).await?, "3");
    Ok(())
}
