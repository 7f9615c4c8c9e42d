//! What a deployment used is told exactly, also after a restart, a kill and its deletion.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use samovar_tests::onnx::{Node, Value as Port, model};
use samovar_tests::{PATIENCE, Server, eventually};
use samovar_types::api::usage::{UsageParams, UsageSummaryQuery, UsageSummaryResponse};
use serde_json::{Value, json};

const MANIFEST: &str =
    "[autoscaling]\nmax_replica = 1\n[limits]\ntimeout = \"1s\"\nbody = \"1KiB\"\n";

/// A counter of a model, over all of its days.
pub async fn sum(server: &Server, model: &str, counter: &str) -> Result<u64> {
    let params = UsageParams {
        model: Some(model.to_owned()),
        ..UsageParams::default()
    };
    let answer = server.api().usage(&params).await?;
    let days = answer.usage.iter();
    days.map(|day| {
        let day = serde_json::to_value(day)?;
        let count = day[counter].as_u64();
        count.with_context(|| format!("{counter}: {day}"))
    })
    .sum()
}

/// What was used between two dates, in the shape of a bill.
async fn summary(server: &Server, start: &str, end: &str) -> Result<UsageSummaryResponse> {
    let query = UsageSummaryQuery {
        start_date: start.to_owned(),
        end_date: end.to_owned(),
    };
    let answer = server.api().usage_summary(&query).await?;
    Ok(answer.into_inner())
}

/// Waits until a counter is this, and sees that it is no more.
async fn counts(server: &Server, model: &str, counter: &str, wanted: u64) -> Result<()> {
    let begun = std::time::Instant::now();
    loop {
        let found = sum(server, model, counter).await?;
        if found == wanted {
            return Ok(());
        }
        ensure!(
            found < wanted && begun.elapsed() < PATIENCE,
            "{counter} of {model}: found {found}, wanted {wanted}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn ask(server: &Server, model: &str, path: &str) -> Result<StatusCode> {
    let url = server.at(&format!("/models/{model}/production{path}"));
    let answer = server.client().get(url).send().await?;
    let status = answer.status();
    let _ = answer.bytes().await;
    Ok(status)
}

#[tokio::test]
async fn requests_are_counted_by_how_they_ended_and_once() -> Result<()> {
    let mut server = Server::start_with(&["--max-queued-requests", "1"])?;
    server.push("hostile", MANIFEST)?;
    for (path, status, times) in [("/", 200, 5), ("/trap", 500, 3), ("/loop", 504, 2)] {
        for _ in 0..times {
            assert_eq!(
                ask(&server, "hostile", path).await?.as_u16(),
                status,
                "{path}"
            );
        }
    }
    // One runs, one waits, the others are turned away; who waits may get the replica just before its own end.
    let asked = [(); 5].map(|()| {
        let request = server
            .client()
            .get(server.at("/models/hostile/production/sleep?60000"));
        tokio::spawn(async move { request.send().await?.json::<Value>().await })
    });
    let mut codes = BTreeMap::new();
    for answer in asked {
        let answer = answer.await??;
        let code = answer["error_code"].as_str().context("no code")?.to_owned();
        *codes.entry(code).or_insert(0) += 1;
    }
    let ended = |code: &str| codes.get(code).copied().unwrap_or(0);
    assert!(
        ended("rate_limited") >= 1 && ended("timeout") >= 1,
        "{codes:?}"
    );
    let long = server
        .client()
        .post(server.at("/models/hostile/production/"));
    let long = long.body(vec![b'x'; 2000]).send().await?;
    assert_eq!(long.status(), 413);

    let mut counted = BTreeMap::from([
        ("requests", 5 + 3 + 2 + 5 + 1),
        ("requests_ok", 5),
        ("requests_trapped", 3),
        ("requests_timeout", 2 + ended("timeout")),
        ("requests_queue_timeout", ended("model_unavailable")),
        ("requests_rejected", ended("rate_limited")),
        ("requests_too_large", 1),
        ("requests_cancelled", 0),
        ("requests_host_failed", 0),
    ]);
    for (counter, wanted) in &counted {
        counts(&server, "hostile", counter, *wanted).await?;
    }
    // Two endless loops ran for a second each.
    let cpu_us = sum(&server, "hostile", "guest_cpu_us").await?;
    assert!(cpu_us > 1_000_000, "{cpu_us} us");
    assert_eq!(sum(&server, "hostile", "inference_us").await?, 0);
    let replica_ms = sum(&server, "hostile", "replica_ms").await?;
    assert!(replica_ms > 2000, "{replica_ms} ms");

    // One more, which is written down because the node stops.
    assert_eq!(ask(&server, "hostile", "/").await?, 200);
    server.terminate();
    assert!(server.wait()?.success());
    let server = server.restart()?;
    for counter in ["requests", "requests_ok"] {
        *counted.entry(counter).or_default() += 1;
    }
    for (counter, wanted) in counted {
        assert_eq!(
            sum(&server, "hostile", counter).await?,
            wanted,
            "{counter} after a restart"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_hangs_up_is_counted_as_such() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", "")?;
    let url = server.at("/models/hostile/production/slow");
    let mut answer = server.client().get(url).send().await?;
    assert!(answer.chunk().await?.is_some());
    drop(answer);
    counts(&server, "hostile", "requests_cancelled", 1).await?;
    assert_eq!(sum(&server, "hostile", "requests").await?, 1);
    Ok(())
}

#[tokio::test]
async fn bytes_are_those_of_the_bodies() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    let mut sent = 0;
    for size in [0_usize, 1, 1000, 3_000_000] {
        let request = server.client().post(server.at("/models/echo/production/"));
        let answer = request.body(vec![b'x'; size]).send().await?;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.bytes().await?.len(), size);
        sent += size as u64;
    }
    for counter in ["bytes_in", "bytes_out"] {
        counts(&server, "echo", counter, sent).await?;
    }
    Ok(())
}

#[tokio::test]
async fn inference_has_a_time_of_its_own() -> Result<()> {
    let server = Server::start()?;
    let port = |name| Port {
        name,
        ty: 1,
        dims: &[None, Some(2)],
    };
    let node = Node {
        op: "Add",
        inputs: &["a", "b"],
        output: "out",
        attribute: None,
    };
    let graph = model(14, &[node], &[port("a"), port("b")], &[port("out")]);
    let manifest = "[graphs.add]\nfile = \"add.onnx\"\nbackend = \"rten\"\n";
    let folder = server.bundle("tensors", "tensors", manifest)?;
    std::fs::write(folder.join("add.onnx"), graph)?;
    server.cli_json(&["push", folder.to_str().context("path")?])?;
    let rows = 50_000;
    let tensor = |name| json!({ "name": name, "ty": "f32", "dims": [rows, 2], "data": vec![0_u8; rows * 8] });
    let asked = json!({ "graph": "add", "inputs": [tensor("a"), tensor("b")] });
    let url = server.at("/models/tensors/production/predict");
    let answer = server.client().post(url).json(&asked).send().await?;
    assert_eq!(answer.status(), 200, "{}", answer.text().await?);
    answer.bytes().await?;
    counts(&server, "tensors", "requests_ok", 1).await?;
    let inference_us = sum(&server, "tensors", "inference_us").await?;
    assert!((1..60_000_000).contains(&inference_us), "{inference_us} us");
    assert!(sum(&server, "tensors", "guest_cpu_us").await? > 0);
    Ok(())
}

#[tokio::test]
async fn what_is_deleted_stays_on_the_bill() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let listed = server.cli_json(&["deployment", "list", "count"])?;
    let id = listed["deployments"][0]["id"]
        .as_str()
        .context("no id")?
        .to_owned();
    for _ in 0..4 {
        assert_eq!(ask(&server, "count", "/x").await?, 200);
    }
    counts(&server, "count", "requests", 4).await?;
    let used = server.api().usage(&UsageParams::default()).await?;
    let first = used.usage.first().context("no usage")?;
    let today = first.start.strftime("%Y-%m-%d").to_string();
    let before = summary(&server, "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z").await?;
    assert_eq!(before.dedicated_usage.minutes, 0);
    let bill = summary(&server, &today, &today).await?;
    assert!(bill.training_usage.is_none());
    let found = bill.dedicated_usage;
    let item = found.breakdown.first().context("no deployment")?;
    let resource = &item.billable_resource;
    assert_eq!(resource.id.as_str(), id, "{found:?}");
    assert_eq!(resource.kind, "MODEL_DEPLOYMENT");
    assert!(!resource.is_deleted);
    assert_eq!(resource.environment_name.as_deref(), Some("production"));
    assert_eq!(item.inference_requests, 4);
    assert_eq!(item.daily[0].date.to_string(), today);
    assert_eq!(item.daily[0].inference_requests, 4);
    assert_eq!(found.minutes, item.minutes);
    assert!((1..=3).contains(&item.minutes), "{item:?}");

    server.cli_json(&["model", "delete", "count", "--yes"])?;
    let found = summary(&server, &today, &today).await?.dedicated_usage;
    let resource = &found.breakdown[0].billable_resource;
    assert!(resource.is_deleted, "{found:?}");
    assert_eq!(resource.model_name, "count");
    let server = server.restart()?;
    let params = UsageParams {
        deployment: Some(id.parse()?),
        ..UsageParams::default()
    };
    let used = server.api().usage(&params).await?;
    assert!(used.usage[0].is_deleted);
    assert_eq!(sum(&server, "count", "requests_ok").await?, 4);
    Ok(())
}

#[tokio::test]
async fn a_kill_loses_nothing_that_is_two_seconds_old() -> Result<()> {
    let mut server = Server::start()?;
    server.push("count", "")?;
    for _ in 0..7 {
        assert_eq!(ask(&server, "count", "/x").await?, 200);
    }
    // Nobody asks for usage, which would write it down: it is written by itself.
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.kill()?;
    let server = server.restart()?;
    assert_eq!(sum(&server, "count", "requests_ok").await?, 7);
    Ok(())
}

#[tokio::test]
async fn wrong_questions_are_answered_in_words() -> Result<()> {
    let server = Server::start()?;
    for (path, text) in [
        ("/v1/billing/usage_summary", "start_date"),
        (
            "/v1/billing/usage_summary?start_date=2026-01-01&end_date=2026-02-01",
            "more than 31 days",
        ),
        (
            "/v1/billing/usage_summary?start_date=2026-01-01&end_date=soon",
            "end_date: found \"soon\"",
        ),
        (
            "/v1/billing/usage_summary?start_date=2026-01-09&end_date=2026-01-01",
            "start_date is after end_date",
        ),
        ("/v1/usage?start=2020-01-01", "more than 366 days"),
        ("/v1/usage?resolution=year", "resolution"),
        ("/v1/usage?models=m", "models"),
        ("/v1/usage?deployment=x", "is not an id"),
    ] {
        let answer = server.client().get(server.at(path)).send().await?;
        assert_eq!(answer.status(), 400, "{path}");
        let answer: Value = answer.json().await?;
        let error = answer["error"].as_str().context("no error")?;
        assert!(error.contains(text), "{path}: {error}");
    }
    let keyless = reqwest::get(server.at("/v1/usage")).await?;
    assert_eq!(keyless.status(), 401);
    Ok(())
}

#[tokio::test]
async fn the_command_line_shows_a_table_csv_and_json() -> Result<()> {
    let server = Server::start()?;
    let output = |args: &[&str]| -> Result<String> {
        let output = server.cli(args)?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    assert_eq!(output(&["usage"])?, "no usage in that time\n");
    server.push("count", "")?;
    server.push("echo", "")?;
    for model in ["count", "count", "count", "echo"] {
        assert_eq!(ask(&server, model, "/x").await?, 200);
    }
    eventually("all are counted", async || {
        sum(&server, "count", "requests_ok").await.unwrap() == 3
            && sum(&server, "echo", "requests_ok").await.unwrap() == 1
    })
    .await?;
    let table = output(&["usage", "--by", "deployment"])?;
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        lines[0][..3],
        ["MODEL", "DEPLOYMENT", "REQUESTS"],
        "{table}"
    );
    assert_eq!((lines[1][0], lines[1][2]), ("count", "3"), "{table}");
    assert_eq!((lines[2][0], lines[2][2]), ("echo", "1"), "{table}");

    let csv = output(&["usage", "--model", "count", "--by", "deployment", "--csv"])?;
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(rows.len(), 2, "{csv}");
    let value = |name: &str| {
        let place = rows[0].iter().position(|column| *column == name);
        place.map(|place| rows[1][place])
    };
    assert_eq!(value("model_name"), Some("count"));
    assert_eq!(value("requests_ok"), Some("3"));

    let found = server.cli_json(&["usage", "--by", "minute"])?;
    let entries = found["usage"].as_array().context("no usage")?;
    let requests: u64 = entries
        .iter()
        .filter_map(|entry| entry["requests"].as_u64())
        .sum();
    assert_eq!(requests, 4, "{found}");
    let both = server.cli(&["--json", "usage", "--csv"])?;
    assert_eq!(both.status.code(), Some(2));
    Ok(())
}
