//! While one deployment does its worst, its neighbours are served: they wait for a run of it at most, never for all.

use anyhow::{Context, Result};
use samovar_client::Target;
use samovar_tests::onnx::looping;
use samovar_tests::{Server, eventually};
use samovar_types::api::async_requests::SubmitAsyncRequest;
use samovar_types::api::logs::LogsQuery;
use samovar_types::api::replicas::ReplicaStatus;
use samovar_types::async_request::AsyncStatus;
use samovar_types::names::PRODUCTION;
use serde_json::json;

use crate::open_inference::{infer, push_folder, sum};

/// Limits of a model whose requests may take long.
const PATIENT: &str = "[limits]\ntimeout = \"60s\"\n[autoscaling]\nmax_replica = 64\n";
/// Limits of a neighbour, which is not to wait until the other's requests have ended.
const NEIGHBOUR: &str = "[limits]\ntimeout = \"10s\"\n";

async fn get(server: &Server, model: &str, path: &str) -> Result<(u16, String)> {
    let url = server.at(&format!("/models/{model}/production{path}"));
    let answer = server.client().get(url).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn a_flood_of_log_lines_loses_no_line_of_a_neighbour() -> Result<()> {
    let server = Server::start()?;
    server.push_as("loud", "hostile", PATIENT)?;
    let quiet = server.push_as("quiet", "hostile", NEIGHBOUR)?;
    let id = quiet["deployment"]["id"].as_str().context("id")?;
    let client = server.client();
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let url = server.at("/models/loud/production/flood?100000");
            let flood = client.get(url).send();
            tokio::spawn(async move { flood.await?.error_for_status() })
        })
        .collect();
    // In the middle of it.
    let api = server.api();
    let one = LogsQuery {
        limit: Some(1),
        ..LogsQuery::default()
    };
    eventually("the flood has begun", async || {
        let read = api.environment_logs("loud", PRODUCTION, &one).await;
        read.is_ok_and(|read| read.logs.iter().any(|line| line.message.contains("xxx")))
    })
    .await?;
    for number in 0..40 {
        let path = format!("/stderr?line-{number}-of-quiet");
        assert_eq!(get(&server, "quiet", &path).await?.0, 200);
    }
    let of_quiet = LogsQuery {
        includes: vec!["of-quiet".into()],
        limit: Some(1000),
        ..LogsQuery::default()
    };
    let read = api.deployment_logs("quiet", id, &of_quiet).await?;
    let found: Vec<&str> = read.logs.iter().map(|line| &*line.message).collect();
    let wanted: Vec<String> = (0..40).map(|n| format!("line-{n}-of-quiet")).collect();
    assert_eq!(found, wanted);
    for flood in floods {
        flood.await??;
    }
    Ok(())
}

#[tokio::test]
async fn requests_that_sleep_leave_a_replica_for_others() -> Result<()> {
    let server = Server::start_with(&["--max-replicas", "8"])?;
    let sleeper = server.push_as("sleeper", "hostile", PATIENT)?;
    let id = sleeper["deployment"]["id"].as_str().context("id")?;
    server.push_as("neighbour", "hostile", NEIGHBOUR)?;
    let client = server.client();
    let sleeping: Vec<_> = (0..32)
        .map(|_| {
            let url = server.at("/models/sleeper/production/sleep?50000");
            let sleep = client.get(url).send();
            tokio::spawn(async move { sleep.await.map(|answer| answer.status()) })
        })
        .collect();
    let api = server.api();
    eventually("as many sleep as may", async || {
        let found = api.replicas("sleeper", id).await;
        found.is_ok_and(|found| {
            let states = found.replicas.iter().map(|one| &one.state);
            states
                .filter(|state| **state == ReplicaStatus::Busy)
                .count()
                >= 7
        })
    })
    .await?;
    for _ in 0..3 {
        assert_eq!(get(&server, "neighbour", "/").await?, (200, "ok".into()));
    }
    assert!(sleeping.iter().all(|one| !one.is_finished()));
    Ok(())
}

#[tokio::test]
async fn endless_runs_hold_up_no_other_model() -> Result<()> {
    let server = Server::start()?;
    let short = "[limits]\ntimeout = \"2s\"\n";
    push_folder(&server, "endless", &[("endless", looping())], short)?;
    push_folder(&server, "sum", &[("sum", sum())], NEIGHBOUR)?;
    let rounds = |rounds: u64| {
        json!({ "inputs": [
            {"name": "n", "shape": [1], "datatype": "INT64", "data": [rounds]},
            {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]},
        ]})
    };
    let (status, told) = infer(&server, "endless", &rounds(3)).await?;
    assert_eq!((status, &told["outputs"][0]["data"]), (200, &json!([-1.0])));
    // More of them than there are cores, and of their callers none is there any more.
    let cores = std::thread::available_parallelism()?.get();
    let endless = rounds(2_000_000_000);
    let runs = (0..cores + 2).map(|_| infer(&server, "endless", &endless));
    for run in futures::future::join_all(runs).await {
        assert_eq!(run?.0, 504);
    }
    let asked = json!({ "inputs": [
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
        {"name": "b", "shape": [1, 2], "datatype": "FP32", "data": [3, 4]},
    ]});
    for _ in 0..3 {
        let (status, told) = infer(&server, "sum", &asked).await?;
        assert_eq!(
            (status, &told["outputs"][0]["data"]),
            (200, &json!([4.0, 6.0]))
        );
    }
    Ok(())
}

#[tokio::test]
async fn slow_async_requests_leave_places_for_others() -> Result<()> {
    let server = Server::start_with(&["--max-replicas", "200"])?;
    let slow = format!("{PATIENT}[environment_variables]\nSLEEP_MS = \"50000\"\n");
    server.push_as("slow", "hostile", &slow)?;
    server.push_as("quick", "hostile", NEIGHBOUR)?;
    let client = server.api();
    let hand_in = async |model: &str| -> Result<String> {
        let request = SubmitAsyncRequest::new(serde_json::value::to_raw_value(&1)?);
        let submitted = client.submit_async(model, Target::Production, &request);
        Ok(submitted.await?.into_inner().request_id)
    };
    for _ in 0..80 {
        hand_in("slow").await?;
    }
    let queue = async || -> Result<(u64, u64)> {
        let status = client.async_queue_status("slow", Target::Production);
        let status = status.await?;
        Ok((status.num_queued_requests, status.num_in_progress_requests))
    };
    eventually("as many run as may", async || {
        queue().await.is_ok_and(|(_, running)| running >= 56)
    })
    .await?;
    let id = hand_in("quick").await?;
    eventually("the other's is done", async || {
        let shown = client.async_request("quick", &id).await;
        shown.is_ok_and(|shown| shown.status == AsyncStatus::Succeeded)
    })
    .await?;
    assert_eq!(queue().await?, (24, 56), "none of the slow ones has ended");
    Ok(())
}

/// A component with as many tables as there may be, which answers nothing: each replica takes eight slots.
fn heavy() -> Result<Vec<u8>> {
    let tables = "(core instance (instantiate $table))".repeat(31);
    let text = format!(
        r#"(component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $out))
            (core module $table (table 1 funcref))
            {tables}
            (core module $heavy (table 1 funcref) (func (export "handle") (param i32 i32)))
            (core instance $heavy (instantiate $heavy))
            (func $handle (param "request" (own $request)) (param "response-out" (own $out))
                (canon lift (core func $heavy "handle")))
            (instance $handler (export "handle" (func $handle)))
            (export "wasi:http/incoming-handler@0.2.0" (instance $handler)))"#
    );
    Ok(wat::parse_str(text)?)
}

#[tokio::test]
async fn components_at_their_maxima_take_their_slots_and_make_nobody_unhealthy() -> Result<()> {
    let server = Server::start_with(&["--max-replicas", "16"])?;
    let component = heavy()?;
    let heavy = ["heavy1", "heavy2", "heavy3"];
    for model in heavy {
        // They want more than there is, all together.
        let folder = server.bundle(
            model,
            "count",
            "[autoscaling]\nmin_replica = 2\nmax_replica = 4\n",
        )?;
        std::fs::write(folder.join("guest.wasm"), &component)?;
        server.cli_json(&["push", folder.to_str().context("a path")?])?;
    }
    for model in ["light1", "light2", "light3", "light4"] {
        server.push_as(model, "count", "")?;
    }
    for round in 0..10 {
        for model in ["light1", "light2", "light3", "light4"] {
            let (status, text) = get(&server, model, "/").await?;
            assert_eq!(status, 200, "round {round}, {model}: {text}");
        }
        for model in heavy {
            // It runs, and ends without an answer.
            let (status, text) = get(&server, model, "/").await?;
            assert_eq!(status, 500, "round {round}, {model}: {text}");
            assert!(text.contains("without an answer"), "{text}");
        }
    }
    for model in heavy.into_iter().chain(["light1", "light4"]) {
        let shown = server.cli_json(&["deployment", "show", model, "production"])?;
        assert_ne!(shown["status"], "UNHEALTHY", "{shown}");
    }
    Ok(())
}
