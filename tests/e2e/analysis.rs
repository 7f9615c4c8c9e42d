//! A canary that is watched: a bad candidate goes back by itself and says why, copies of requests reach it unseen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use samovar_tests::canary::Canary;
use samovar_tests::onnx::relu;
use samovar_tests::{PATIENCE, Server, eventually};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Clients that call a path until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<u16>>>,
}

impl Load {
    fn start(server: &Server, url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..6).map(|_| {
            let (client, url, stop) = (server.client(), url.to_owned(), stop.clone());
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    // 0 where the answer broke off, which is what some of these tests are about.
                    let status = match client.get(&url).send().await {
                        Ok(answer) => {
                            let status = answer.status().as_u16();
                            answer.bytes().await.map_or(0, |_| status)
                        }
                        Err(_) => 0,
                    };
                    statuses.push(status);
                }
                statuses
            })
        });
        let clients = clients.collect();
        Self { stop, clients }
    }

    /// The statuses of all answers, 0 for those that broke off.
    async fn stop(self) -> Result<Vec<u16>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut statuses = Vec::new();
        for client in self.clients {
            statuses.extend(client.await?);
        }
        Ok(statuses)
    }
}

async fn is_back(server: &Server, canary: &Canary<'_>, path: &str, shown: &Value) -> Result<()> {
    assert_eq!(shown["last_promotion"]["status"], "FAILED", "{shown}");
    assert_eq!(shown["in_progress_promotion"], Value::Null);
    assert_eq!(shown["candidate_deployment"], Value::Null);
    assert_eq!(shown["current_deployment"]["id"], canary.old);
    for _ in 0..50 {
        let answer = server
            .client()
            .post(canary.url(path))
            .body("x")
            .send()
            .await?;
        assert_eq!(
            (answer.status().as_u16(), &*answer.text().await?),
            (200, "x")
        );
    }
    Ok(())
}

/// What an environment says of why its promotion was rolled back, which has all these parts.
fn told<'a>(shown: &'a Value, parts: &[&str]) -> Result<&'a str> {
    let told = shown["last_promotion"]["error_message"].as_str();
    let told = told.with_context(|| shown.to_string())?;
    for part in parts {
        assert!(told.contains(part), "{told}");
    }
    Ok(told)
}

#[tokio::test]
async fn a_candidate_that_fails_goes_back_and_says_why() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "bad", ["echo", "hostile"], "")?;
    // Fewer than the crashes in a row after which it counts as ill, which is a reason of its own.
    let analysis = json!({ "max_error_rate": 0.1, "min_requests": 5 });
    canary.set(40, json!({ "analysis": analysis })).await?;
    // It traps, answers an error of its own, breaks off in the middle.
    for path in ["/trap", "/status?503", "/late"] {
        let load = Load::start(&server, &canary.url(path));
        canary.promote(&canary.new).await?;
        let shown = canary.ended().await?;
        let statuses = load.stop().await?;
        let told = told(
            &shown,
            &[
                "rolled back in stage ",
                " of 10 (",
                "the candidate failed ",
                " requests, error rate ",
                "wanted at most 0.1",
            ],
        )?;
        is_back(&server, &canary, path, &shown).await?;
        let bad = statuses.iter().filter(|status| **status != 200).count();
        assert!(statuses.len() > 50, "{path}: too little load: {told}");
        assert!(
            bad * 2 < statuses.len(),
            "{path}: {bad} of {}",
            statuses.len()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_fails_goes_back_without_an_analysis() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "unwatched", ["echo", "hostile"], "")?;
    canary.set(40, json!({})).await?;
    for path in ["/trap", "/status?503"] {
        let load = Load::start(&server, &canary.url(path));
        canary.promote(&canary.new).await?;
        let shown = canary.ended().await?;
        let statuses = load.stop().await?;
        let parts = [
            "rolled back in stage ",
            "the candidate failed ",
            "the current deployment 0 of ",
            "far above 0.0000",
        ];
        let told = told(&shown, &parts)?;
        is_back(&server, &canary, path, &shown).await?;
        let bad = statuses.iter().filter(|status| **status != 200).count();
        assert!(
            bad * 2 < statuses.len(),
            "{path}: {bad} of {}: {told}",
            statuses.len()
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_stops_starting_never_takes_over() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("starts", "echo", "")?;
    let path = folder.to_str().context("path")?;
    server.cli_json(&["push", path])?;
    let graph = relu();
    let manifest = "[graphs.default]\nfile = \"m.onnx\"\nbackend = \"rten\"\n";
    server.bundle("starts", "tensors", manifest)?;
    std::fs::write(folder.join("m.onnx"), &graph)?;
    let pushed = server.cli_json(&["push", path])?;
    let id = pushed["deployment"]["id"].as_str().context("an id")?;
    // From here on no replica of it starts.
    let digest = hex::encode(Sha256::digest(&graph));
    let blobs = server.folder().join("data/blobs");
    std::fs::remove_file(blobs.join(&digest[..2]).join(&digest))?;
    let listed = server.cli_json(&["deployment", "replicas", "starts", id])?;
    for replica in listed["replicas"].as_array().context("replicas")? {
        let replica = replica["id"].as_str().context("an id")?;
        server.cli_json(&["deployment", "replicas", "starts", id, "--kill", replica])?;
    }
    let production = server.at("/v1/models/starts/environments/production");
    for settings in [
        json!({}),
        json!({ "ramp_up_while_promoting": true, "ramp_up_duration_seconds": 1 }),
    ] {
        let client = server.client();
        let body = json!({ "promotion_settings": settings });
        let set = client.patch(&production).json(&body).send().await?;
        assert_eq!(set.status(), 200);
        let body = json!({ "deployment_id": id });
        let url = format!("{production}/promote");
        let promoted = client.post(url).json(&body).send().await?;
        assert_eq!(promoted.status(), 200);
        let url = server.at("/models/starts/production/");
        let ended = async || -> Result<Value> {
            loop {
                let answer = client.post(&url).body("x").send().await?;
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.text().await?, "x");
                let shown: Value = client.get(&production).send().await?.json().await?;
                if shown["in_progress_promotion"].is_null() {
                    return Ok(shown);
                }
            }
        };
        let shown = tokio::time::timeout(PATIENCE, ended()).await??;
        assert_eq!(shown["last_promotion"]["status"], "FAILED", "{shown}");
        told(&shown, &["graph"])?;
        assert_ne!(shown["current_deployment"]["id"], id);
    }
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_is_slow_goes_back_and_says_why() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "slow", ["echo", "hostile"], "")?;
    let analysis = json!({ "max_p95_latency_ratio": 3, "min_requests": 10 });
    canary.set(40, json!({ "analysis": analysis })).await?;
    let load = Load::start(&server, &canary.url("/sleep?200"));
    canary.promote(&canary.new).await?;
    let shown = canary.ended().await?;
    let statuses = load.stop().await?;
    told(
        &shown,
        &[
            "rolled back in stage ",
            "the candidate's p95 latency is ",
            " ms over ",
            "wanted at most 3 times",
        ],
    )?;
    is_back(&server, &canary, "/sleep?200", &shown).await?;
    assert!(statuses.iter().all(|status| *status == 200));
    Ok(())
}

#[tokio::test]
async fn a_candidate_is_not_blamed_for_what_clients_do_wrong_or_settings_allow() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "good", ["echo", "hostile"], "")?;
    let analysis = json!({ "max_error_rate": 0, "max_p95_latency_ratio": 1000, "min_requests": 5 });
    canary.set(3, json!({ "analysis": analysis })).await?;
    let load = Load::start(&server, &canary.url("/status?404"));
    canary.promote(&canary.new).await?;
    eventually("what is measured is shown", async || {
        let shown = canary.shown().await.unwrap();
        let stage = &shown["in_progress_promotion"]["analysis"];
        stage["candidate"]["requests"].as_u64() > Some(0)
            && stage["candidate"]["errors"] == 0
            && stage["current"]["p95_latency_ms"].is_number()
    })
    .await?;
    let shown = canary.ended().await?;
    let statuses = load.stop().await?;
    assert_eq!(shown["last_promotion"]["status"], "SUCCEEDED", "{shown}");
    assert_eq!(shown["current_deployment"]["id"], canary.new);
    assert!(statuses.contains(&404), "the candidate had its share");

    // With every answer an error, which the settings allow.
    let canary = Canary::push(&server, "allowed", ["echo", "hostile"], "")?;
    let analysis = json!({ "max_error_rate": 1 });
    canary.set(2, json!({ "analysis": analysis })).await?;
    let load = Load::start(&server, &canary.url("/status?500"));
    canary.promote(&canary.new).await?;
    let shown = canary.ended().await?;
    load.stop().await?;
    assert_eq!(shown["last_promotion"]["status"], "SUCCEEDED", "{shown}");
    Ok(())
}

/// The lines that a deployment wrote.
async fn lines(server: &Server, model: &str, deployment: &str) -> Result<Vec<String>> {
    let path = format!("/v1/models/{model}/deployments/{deployment}/logs?limit=1000");
    let answer = server.client().get(server.at(&path)).send().await?;
    let answer: Value = answer.json().await?;
    let lines = answer["logs"].as_array().context("logs")?;
    let text = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
    Ok(lines.iter().map(text).collect())
}

async fn shadows(canary: &Canary<'_>) -> Result<(u64, u64)> {
    let shown = canary.shown().await?;
    let counts = &shown["in_progress_promotion"]["shadow_requests"];
    let count = |name: &str| counts[name].as_u64().with_context(|| shown.to_string());
    Ok((count("sent")?, count("dropped")?))
}

#[tokio::test]
async fn copies_reach_the_candidate_and_no_client() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "shadow", ["echo", "routes"], "")?;
    canary.set(60, json!({ "shadow_percent": 50 })).await?;
    assert_eq!(canary.pause_in_stage(1).await?, 10);
    let mut answered = 0;
    for number in 0..200 {
        let body = format!("body {number}");
        let request = server.client().post(canary.url("/witness"));
        let answer = request.body(body.clone()).send().await?;
        assert_eq!(answer.status(), 200);
        let text = answer.text().await?;
        if text != body {
            assert_eq!(text, "witnessed");
            answered += 1;
        }
    }
    assert_eq!(answered, 20);
    let (sent, dropped) = shadows(&canary).await?;
    // Half of the 180 that the other deployment answered; with a candidate that is not busy, all are sent.
    assert_eq!(sent + dropped, 90);
    assert!(sent > 45, "{sent} sent, {dropped} dropped");
    let seen = |lines: &[String], shadow: &str| {
        let prefix = format!("shadow {shadow}: body ");
        let found = lines.iter().filter_map(|line| line.strip_prefix(&*prefix));
        let mut numbers: Vec<u64> = found.map(|number| number.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.len() as u64
    };
    eventually("every copy is seen", async || {
        let lines = lines(&server, "shadow", &canary.new).await.unwrap();
        seen(&lines, "1") == sent && seen(&lines, "no") == 20
    })
    .await?;

    // Too long to be copied, and passed on all the same.
    for _ in 0..10 {
        let long = "x".repeat((1 << 20) + 1);
        let request = server.client().post(canary.url("/witness"));
        let answer = request.body(long.clone()).send().await?;
        let text = answer.text().await?;
        assert!(text == long || text == "witnessed");
    }
    let after = shadows(&canary).await?;
    assert_eq!(after.0, sent);
    assert!(after.1 >= dropped + 4, "{after:?} after {dropped}");
    Ok(())
}

#[tokio::test]
async fn copies_end_with_the_promotion_and_do_not_hold_up_a_stop() -> Result<()> {
    let mut server = Server::start()?;
    {
        let canary = Canary::push(&server, "ends", ["echo", "hostile"], "")?;
        canary.set(60, json!({ "shadow_percent": 100 })).await?;
        for round in 0..2 {
            canary.pause_in_stage(1).await?;
            // The tenth goes to the candidate.
            for _ in 0..5 {
                let request = server.client().get(canary.url("/sleep?50000"));
                assert_eq!(request.send().await?.text().await?, "");
            }
            assert_eq!(shadows(&canary).await?, (5, 0));
            eventually("all run", async || {
                let path = format!("/v1/models/ends/deployments/{}", canary.new);
                let answer = server.client().get(server.at(&path)).send().await.unwrap();
                let shown: Value = answer.json().await.unwrap();
                shown["active_replica_count"].as_u64() >= Some(5)
            })
            .await?;
            if round == 0 {
                canary.control("cancel").await?;
                eventually("they are cancelled", async || {
                    let path = format!("/v1/usage?deployment={}", canary.new);
                    let answer = server.client().get(server.at(&path)).send().await.unwrap();
                    let usage: Value = answer.json().await.unwrap();
                    usage["usage"][0]["requests_cancelled"] == 5
                })
                .await?;
            }
        }
    }
    let begun = Instant::now();
    server.terminate();
    assert!(server.wait()?.success());
    assert!(
        begun.elapsed() < Duration::from_secs(40),
        "it waited for copies"
    );
    Ok(())
}

#[tokio::test]
async fn a_hook_without_stages_is_refused_in_words() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    let url = server.at("/v1/models/echo/environments/production");
    for (settings, named) in [
        (json!({ "shadow_percent": 10 }), "ramp_up_while_promoting"),
        (
            json!({ "analysis": { "max_error_rate": 0.1 } }),
            "ramp_up_while_promoting",
        ),
        (
            json!({ "ramp_up_while_promoting": true, "analysis": {} }),
            "max_error_rate",
        ),
        (
            json!({ "ramp_up_while_promoting": true, "analysis": { "max_error_rate": 2 } }),
            "analysis.max_error_rate: found 2, wanted 0 to 1",
        ),
    ] {
        let body = json!({ "promotion_settings": settings });
        let answer = server.client().patch(&url).json(&body).send().await?;
        assert_eq!(answer.status(), 400);
        let answer: Value = answer.json().await?;
        assert!(
            answer["error"].as_str().context("error")?.contains(named),
            "{answer}"
        );
    }
    Ok(())
}
