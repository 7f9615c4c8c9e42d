//! A canary that is watched: a bad candidate goes back by itself and says why, copies of requests reach it unseen.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use samovar_tests::canary::Canary;
use samovar_tests::onnx::relu;
use samovar_tests::{PATIENCE, Server, eventually};
use samovar_types::api::environments::{EnvironmentResponse, UpdateEnvironmentRequest};
use samovar_types::api::logs::LogsQuery;
use samovar_types::api::promotions::{PromoteRequest, PromotionResponse};
use samovar_types::api::usage::UsageParams;
use samovar_types::error::ErrorCode;
use samovar_types::names::PRODUCTION;
use samovar_types::promotion::PromotionStatus;
use samovar_types::promotion_settings::{AnalysisUpdate, PromotionSettingsUpdate};
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

/// The deployment that an environment points at.
fn current(shown: &EnvironmentResponse) -> &str {
    let current = shown.current_deployment.as_ref();
    current.map_or("none", |current| current.id.as_str())
}

/// The promotion of an environment that ended last.
fn last(shown: &EnvironmentResponse) -> Result<&PromotionResponse> {
    let last = shown.last_promotion.as_ref();
    last.with_context(|| format!("{shown:?}"))
}

async fn is_back(
    server: &Server,
    canary: &Canary<'_>,
    path: &str,
    shown: &EnvironmentResponse,
) -> Result<()> {
    assert_eq!(last(shown)?.status, PromotionStatus::Failed, "{shown:?}");
    assert!(shown.in_progress_promotion.is_none(), "{shown:?}");
    assert!(shown.candidate_deployment.is_none(), "{shown:?}");
    assert_eq!(current(shown), canary.old);
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
fn told<'a>(shown: &'a EnvironmentResponse, parts: &[&str]) -> Result<&'a str> {
    let told = last(shown)?.error_message.as_deref();
    let told = told.with_context(|| format!("{shown:?}"))?;
    for part in parts {
        assert!(told.contains(part), "{told}");
    }
    Ok(told)
}

/// Settings with which a candidate is judged.
fn judged(analysis: AnalysisUpdate) -> PromotionSettingsUpdate {
    PromotionSettingsUpdate {
        analysis: Some(Some(analysis)),
        ..PromotionSettingsUpdate::default()
    }
}

/// Settings with which so much of the requests is copied.
fn copied(percent: u32) -> PromotionSettingsUpdate {
    PromotionSettingsUpdate {
        shadow_percent: Some(Some(percent)),
        ..PromotionSettingsUpdate::default()
    }
}

#[tokio::test]
async fn a_candidate_that_fails_goes_back_and_says_why() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "bad", ["echo", "hostile"], "")?;
    // Fewer than the crashes in a row after which it counts as ill, which is a reason of its own.
    let analysis = AnalysisUpdate {
        max_error_rate: Some(0.1),
        min_requests: Some(5),
        ..AnalysisUpdate::default()
    };
    canary.set(40, judged(analysis)).await?;
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
    canary.set(40, PromotionSettingsUpdate::default()).await?;
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
    let (client, api) = (server.client(), server.api());
    for settings in [
        PromotionSettingsUpdate::default(),
        PromotionSettingsUpdate {
            ramp_up_while_promoting: Some(true),
            ramp_up_duration_seconds: Some(1),
            ..PromotionSettingsUpdate::default()
        },
    ] {
        let request = UpdateEnvironmentRequest {
            promotion_settings: Some(settings),
            ..UpdateEnvironmentRequest::default()
        };
        api.update_environment("starts", PRODUCTION, &request)
            .await?;
        let request = PromoteRequest::new(id.parse()?);
        api.promote("starts", PRODUCTION, &request).await?;
        let url = server.at("/models/starts/production/");
        let ended = async || -> Result<EnvironmentResponse> {
            loop {
                let answer = client.post(&url).body("x").send().await?;
                assert_eq!(answer.status(), 200);
                assert_eq!(answer.text().await?, "x");
                let shown = api.environment("starts", PRODUCTION).await?;
                if shown.in_progress_promotion.is_none() {
                    return Ok(shown.into_inner());
                }
            }
        };
        let shown = tokio::time::timeout(PATIENCE, ended()).await??;
        assert_eq!(last(&shown)?.status, PromotionStatus::Failed, "{shown:?}");
        told(&shown, &["graph"])?;
        assert_ne!(current(&shown), id);
    }
    Ok(())
}

#[tokio::test]
async fn a_candidate_that_is_slow_goes_back_and_says_why() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "slow", ["echo", "hostile"], "")?;
    let analysis = AnalysisUpdate {
        max_p95_latency_ratio: Some(3.0),
        min_requests: Some(10),
        ..AnalysisUpdate::default()
    };
    canary.set(40, judged(analysis)).await?;
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
    let analysis = AnalysisUpdate {
        max_error_rate: Some(0.0),
        max_p95_latency_ratio: Some(1000.0),
        min_requests: Some(5),
    };
    canary.set(3, judged(analysis)).await?;
    let load = Load::start(&server, &canary.url("/status?404"));
    canary.promote(&canary.new).await?;
    eventually("what is measured is shown", async || {
        let promotion = canary.in_progress().await.unwrap();
        promotion
            .and_then(|promotion| promotion.analysis)
            .is_some_and(|stage| {
                stage.candidate.requests > 0
                    && stage.candidate.errors == 0
                    && stage.current.p95_latency_ms.is_some()
            })
    })
    .await?;
    let shown = canary.ended().await?;
    let statuses = load.stop().await?;
    let status = &last(&shown)?.status;
    assert_eq!(*status, PromotionStatus::Succeeded, "{shown:?}");
    assert_eq!(current(&shown), canary.new);
    assert!(statuses.contains(&404), "the candidate had its share");

    // With every answer an error, which the settings allow.
    let canary = Canary::push(&server, "allowed", ["echo", "hostile"], "")?;
    let analysis = AnalysisUpdate {
        max_error_rate: Some(1.0),
        ..AnalysisUpdate::default()
    };
    canary.set(2, judged(analysis)).await?;
    let load = Load::start(&server, &canary.url("/status?500"));
    canary.promote(&canary.new).await?;
    let shown = canary.ended().await?;
    load.stop().await?;
    let status = &last(&shown)?.status;
    assert_eq!(*status, PromotionStatus::Succeeded, "{shown:?}");
    Ok(())
}

/// The lines that a deployment wrote.
async fn lines(server: &Server, model: &str, deployment: &str) -> Result<Vec<String>> {
    let query = LogsQuery {
        limit: Some(1000),
        ..LogsQuery::default()
    };
    let api = server.api();
    let answer = api.deployment_logs(model, deployment, &query).await?;
    let lines = answer.into_inner().logs;
    Ok(lines.into_iter().map(|line| line.message).collect())
}

async fn shadows(canary: &Canary<'_>) -> Result<(u64, u64)> {
    let promotion = canary.in_progress().await?.context("a promotion")?;
    let counts = promotion.shadow_requests.context("copies")?;
    Ok((counts.sent, counts.dropped))
}

#[tokio::test]
async fn copies_reach_the_candidate_and_no_client() -> Result<()> {
    let server = Server::start()?;
    let canary = Canary::push(&server, "shadow", ["echo", "routes"], "")?;
    canary.set(60, copied(50)).await?;
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
        canary.set(60, copied(100)).await?;
        let api = server.api();
        for round in 0..2 {
            canary.pause_in_stage(1).await?;
            // The tenth goes to the candidate.
            for _ in 0..5 {
                let request = server.client().get(canary.url("/sleep?50000"));
                assert_eq!(request.send().await?.text().await?, "");
            }
            assert_eq!(shadows(&canary).await?, (5, 0));
            eventually("all run", async || {
                let shown = api.deployment("ends", &canary.new).await.unwrap();
                shown.active_replica_count >= 5
            })
            .await?;
            if round == 0 {
                canary.cancel().await?;
                let params = UsageParams {
                    deployment: Some(canary.new.parse()?),
                    ..UsageParams::default()
                };
                eventually("they are cancelled", async || {
                    let used = api.usage(&params).await.unwrap();
                    let first = used.usage.first();
                    first.is_some_and(|first| first.counters.requests_cancelled == 5)
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
    let api = server.api();
    let rate = |max_error_rate| {
        judged(AnalysisUpdate {
            max_error_rate,
            ..AnalysisUpdate::default()
        })
    };
    let staged = |settings| PromotionSettingsUpdate {
        ramp_up_while_promoting: Some(true),
        ..settings
    };
    for (settings, named) in [
        (copied(10), "ramp_up_while_promoting"),
        (rate(Some(0.1)), "ramp_up_while_promoting"),
        (staged(rate(None)), "max_error_rate"),
        (
            staged(rate(Some(2.0))),
            "analysis.max_error_rate: found 2, wanted 0 to 1",
        ),
    ] {
        let request = UpdateEnvironmentRequest {
            promotion_settings: Some(settings),
            ..UpdateEnvironmentRequest::default()
        };
        let refused = api.update_environment("echo", PRODUCTION, &request).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::ClientError));
        assert!(refused.to_string().contains(named), "{refused}");
    }
    Ok(())
}
