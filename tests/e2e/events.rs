//! Whoever listens is told what happens, as it happens, and what it missed when it comes back.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use samovar_tests::{PATIENCE, Server, eventually};
use samovar_types::api::environments::UpdateEnvironmentRequest;
use samovar_types::api::promotions::PromoteRequest;
use samovar_types::names::PRODUCTION;
use samovar_types::promotion_settings::PromotionSettingsUpdate;
use samovar_types::settings::AutoscalingUpdate;
use serde_json::Value;

/// Events of a server as they come.
pub struct Events {
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
    /// The id of the last event that had one.
    last: String,
}

impl Events {
    /// Listens, and is told that it will be told.
    pub async fn of(server: &Server, query: &str, last: Option<&str>) -> Result<Self> {
        let mut request = server
            .client()
            .get(server.at(&format!("/v1/events{query}")));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await?;
        anyhow::ensure!(answer.status() == 200, "{}", answer.text().await?);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut events = Self {
            body: answer.bytes_stream().boxed(),
            text: String::new(),
            last: String::new(),
        };
        let ready = events.next().await?.context("an end")?;
        assert_eq!(ready["type"], "ready");
        Ok(events)
    }

    /// The data of the next event; nothing at the end.
    async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name))?;
                    Some(line.strip_prefix(' ').unwrap_or(line).to_owned())
                };
                let (id, name, data) = (field("id:"), field("event:"), field("data:"));
                self.text = rest.to_owned();
                if let Some(data) = data {
                    self.last = id.unwrap_or(std::mem::take(&mut self.last));
                    let data: Value = serde_json::from_str(&data)?;
                    assert_eq!(data["type"], name.context("an event without a name")?);
                    return Ok(Some(data));
                }
                continue;
            }
            let next = tokio::time::timeout(PATIENCE, self.body.next()).await;
            match next.context("nothing was told")? {
                Some(Ok(bytes)) => self.text.push_str(std::str::from_utf8(&bytes)?),
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }

    /// The events up to the first that is so.
    pub async fn up_to(&mut self, is: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let mut seen = Vec::new();
        loop {
            let Some(event) = self.next().await? else {
                bail!("the stream ended after {seen:?}");
            };
            seen.push(event);
            if is(&seen[seen.len() - 1]) {
                return Ok(seen);
            }
        }
    }
}

fn id_of(pushed: &Value) -> String {
    pushed["deployment"]["id"].as_str().unwrap().to_owned()
}

/// Begins to move production of `count` to a deployment.
async fn promote(server: &Server, id: &str) -> Result<()> {
    let request = PromoteRequest::new(id.parse()?);
    server.api().promote("count", PRODUCTION, &request).await?;
    Ok(())
}

#[tokio::test]
async fn the_life_of_a_model_is_told() -> Result<()> {
    let server = Server::start()?;
    let mut events = Events::of(&server, "", None).await?;
    let first = id_of(&server.push("count", "")?);
    let status = |id: &str, status: &str| {
        let (id, status) = (id.to_owned(), status.to_owned());
        move |event: &Value| {
            event["type"] == "deployment"
                && event["deployment_id"] == *id
                && event["status"] == *status
        }
    };
    let seen = events.up_to(status(&first, "BUILDING")).await?;
    assert_eq!(seen[0]["type"], "model", "{seen:?}");
    assert_eq!(seen[0]["name"], "count");
    let model = seen[0]["model_id"].as_str().context("id")?.to_owned();
    events
        .up_to(|event| event["type"] == "replica" && event["active_replica_count"] == 1)
        .await?;
    let api = server.api();
    let found = api.replicas("count", PRODUCTION).await?;
    let replica = &found.replicas.first().context("a replica")?.id;
    api.terminate_replica("count", PRODUCTION, replica).await?;
    events
        .up_to(|event| {
            event["type"] == "replica"
                && event["active_replica_count"] == 0
                && event["status"] == "SCALED_TO_ZERO"
        })
        .await?;

    let second = id_of(&server.push("count", "")?);
    promote(&server, &second).await?;
    let seen = events
        .up_to(|event| event["type"] == "promotion" && event["status"] == "SUCCEEDED")
        .await?;
    let promoted = |event: &Value| {
        event["type"] == "audit" && event["entry"]["event_type"] == "MODEL_DEPLOYMENT_PROMOTED"
    };
    assert!(seen.iter().any(promoted), "{seen:?}");
    let seen = events.up_to(|event| event["type"] == "environment").await?;
    assert_eq!(seen[seen.len() - 1]["current_deployment_id"], *second);

    api.deactivate("count", &first).await?;
    events.up_to(status(&first, "INACTIVE")).await?;
    server.cli_json(&["model", "delete", "count", "--yes"])?;
    let seen = events
        .up_to(|event| event["type"] == "model" && event["deleted"] == true)
        .await?;
    assert_eq!(seen[seen.len() - 1]["model_id"], *model);
    let gone = |event: &Value| event["type"] == "deployment" && event["deleted"] == true;
    events.up_to(gone).await?;
    Ok(())
}

#[tokio::test]
async fn stages_of_a_canary_are_told() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let second = id_of(&server.push("count", "")?);
    let mut events = Events::of(&server, "?model=count", None).await?;
    let request = UpdateEnvironmentRequest {
        promotion_settings: Some(PromotionSettingsUpdate {
            ramp_up_while_promoting: Some(true),
            ramp_up_duration_seconds: Some(5),
            ..PromotionSettingsUpdate::default()
        }),
        ..UpdateEnvironmentRequest::default()
    };
    let api = server.api();
    api.update_environment("count", PRODUCTION, &request)
        .await?;
    promote(&server, &second).await?;
    let seen = events
        .up_to(|event| event["type"] == "promotion" && event["status"] == "SUCCEEDED")
        .await?;
    let percents: Vec<u64> = seen
        .iter()
        .filter(|event| event["type"] == "promotion")
        .filter_map(|event| event["percent_traffic_to_new_version"].as_u64())
        .collect();
    assert!(percents.is_sorted(), "{percents:?}");
    assert!(percents.len() > 8, "{percents:?}");
    Ok(())
}

#[tokio::test]
async fn whoever_comes_back_is_told_what_it_missed_once() -> Result<()> {
    let server = Server::start()?;
    let all = Events::of(&server, "", None).await?;
    let begin = all.last.clone();
    drop(all);
    server.push("count", "")?;
    server.push_as("other", "echo", "")?;
    let stored = |event: &Value| event["type"] != "replica";
    let deleted = |event: &Value| event["type"] == "model" && event["deleted"] == true;

    // Of one model alone, also when it comes back in the middle, also after a restart of the server.
    let mut one = Events::of(&server, "?model=count", Some(&begin)).await?;
    let active = |event: &Value| event["type"] == "deployment" && event["status"] != "BUILDING";
    let before = one.up_to(active).await?;
    assert_eq!(before[0]["name"], "count", "{before:?}");
    let left_off = one.last.clone();
    let count = before[0]["model_id"].clone();
    assert!(
        before
            .iter()
            .filter(|event| event["type"] != "audit")
            .all(|event| event["model_id"] == count)
    );
    server.cli_json(&["model", "delete", "count", "--yes"])?;
    let mut rest = one.up_to(deleted).await?;
    rest.retain(stored);
    let server = server.restart()?;
    let id = count.as_str().context("id")?;
    let query = format!("?model={id}&last_event_id={left_off}");
    let mut again = Events::of(&server, &query, None).await?;
    let mut told = again.up_to(deleted).await?;
    told.retain(stored);
    assert_eq!(told, rest);
    Ok(())
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_and_too_many_are() -> Result<()> {
    let server = Server::start()?;
    let status = async |path: &str| -> Result<u16> {
        let answer = server.client().get(server.at(path)).send().await?;
        Ok(answer.status().as_u16())
    };
    assert_eq!(status("/v1/events?last_event_id=x").await?, 400);
    assert_eq!(status("/v1/events?model=none").await?, 404);
    assert_eq!(status("/v1/events?modl=none").await?, 400);
    let without = reqwest::Client::builder().no_proxy().build()?;
    let answer = without.get(server.at("/v1/events")).send().await?;
    assert_eq!(answer.status(), 401);

    let mut listening = Vec::new();
    for _ in 0..100 {
        listening.push(Events::of(&server, "", None).await?);
    }
    assert_eq!(status("/v1/events").await?, 429);
    listening.pop();
    eventually("a place is free", async || {
        Events::of(&server, "", None).await.is_ok()
    })
    .await?;
    // From a history that is none.
    listening.clear();
    // The server hears of it a moment later.
    eventually("places are free", async || {
        Events::of(&server, "", None).await.is_ok()
    })
    .await?;
    let mut lost = Events::of(&server, "?last_event_id=999999-0", None).await?;
    let reset = lost.next().await?.context("an end")?;
    assert_eq!(reset["type"], "reset");
    server.push("count", "")?;
    lost.up_to(|event| event["type"] == "model").await?;
    Ok(())
}

#[tokio::test]
async fn listeners_do_not_hold_a_server_back_that_stops() -> Result<()> {
    let mut server = Server::start()?;
    let mut events = Events::of(&server, "", None).await?;
    let begun = std::time::Instant::now();
    server.terminate();
    while events.next().await?.is_some() {}
    assert!(server.wait()?.success());
    // Far from the minute that running requests have.
    assert!(begun.elapsed() < Duration::from_secs(20));
    Ok(())
}

#[tokio::test]
async fn a_key_that_is_deleted_is_told_no_more() -> Result<()> {
    let server = Server::start()?;
    let made = server.cli_json(&["key", "create", "--type", "manage-all"])?;
    let key = made["api_key"].as_str().context("key")?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let answer = client
        .get(server.at("/v1/events"))
        .bearer_auth(key)
        .send()
        .await?;
    assert_eq!(answer.status(), 200);
    let prefix = made["prefix"].as_str().context("prefix")?;
    server.cli_json(&["key", "delete", prefix, "--yes"])?;
    server.push("count", "")?;
    let text = tokio::time::timeout(PATIENCE, answer.text()).await??;
    assert!(!text.contains("MODEL_DEPLOYED"), "{text}");
    Ok(())
}

#[tokio::test]
async fn the_command_line_prints_events_as_lines() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let output = tokio::task::spawn_blocking({
        let (url, key) = (server.url.clone(), server.key());
        move || {
            std::process::Command::new(samovar_tests::binary())
                .env("SAMOVAR_URL", url)
                .env("SAMOVAR_API_KEY", key)
                .args(["--json", "events", "--model", "count", "--limit", "2"])
                .output()
        }
    });
    // It may not listen yet: something happens until it has seen enough.
    let client = server.api();
    let size = std::cell::Cell::new(1);
    eventually("it has seen enough", async || {
        size.set(size.get() % 50 + 1);
        let request = UpdateEnvironmentRequest {
            autoscaling_settings: Some(AutoscalingUpdate {
                max_replica: Some(size.get()),
                ..AutoscalingUpdate::default()
            }),
            ..UpdateEnvironmentRequest::default()
        };
        let updated = client.update_environment("count", PRODUCTION, &request);
        updated.await.unwrap();
        output.is_finished()
    })
    .await?;
    let output = output.await??;
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines.iter().all(|line| line["type"].is_string()), "{text}");
    Ok(())
}
