//! `samovar events`: what happens, as it happens.

use std::time::Duration;

use futures::StreamExt as _;
use reqwest::Method;
use samovar_client::event_stream::EventReader;
use samovar_client::text::printable;
use samovar_client::{Client, ClientError};
use serde_json::Value;

use crate::commands::audit;
use crate::identifier;
use crate::output::{self, Format, cell};

/// How long before it asks again when the connection broke.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// What it is given.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only of the model of this name or id
    #[arg(long, value_parser = identifier)]
    model: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Prints events until it is stopped; when the connection breaks, it goes on where it was.
pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let mut left = arguments.limit;
    let mut last: Option<String> = None;
    loop {
        let path = match &arguments.model {
            Some(model) => format!("/v1/events?model={model}"),
            None => "/v1/events".to_owned(),
        };
        let mut request = client.request(Method::GET, &path)?;
        if let Some(last) = &last {
            request = request.header("last-event-id", last);
        }
        let response = match client.send(request).await {
            Ok(response) => response,
            // It was there before: it may be back soon.
            Err(ClientError::NoServer { .. } | ClientError::Broken { .. }) if last.is_some() => {
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut lines = EventReader::default();
        let mut body = response.bytes_stream();
        while let Some(Ok(bytes)) = body.next().await {
            lines.add(&bytes)?;
            while let Some(event) = lines.next_event() {
                if let Some(id) = event.id {
                    last = Some(id);
                }
                // One without data tells only how far it is.
                let Ok(data) = serde_json::from_str::<Value>(&event.data) else {
                    continue;
                };
                if data["type"] == "ready" {
                    continue;
                }
                match format {
                    Format::Json => output::json_line(&data)?,
                    Format::Text => output::line(&text(&data))?,
                }
                if let Some(count) = &mut left {
                    *count -= 1;
                    if *count == 0 {
                        return Ok(());
                    }
                }
            }
        }
        output::note("the server ended the stream; waiting for it to come back\n");
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// An event in words.
fn text(data: &Value) -> String {
    let gone = |words: String| match data["deleted"].as_bool() {
        Some(true) => format!("{words} deleted"),
        _ => words,
    };
    let model = cell(&data["model_id"]);
    match data["type"].as_str().unwrap_or_default() {
        "model" => gone(format!("model {model} {}", cell(&data["name"]))),
        "deployment" => {
            let words = format!("deployment {} of {model}", cell(&data["deployment_id"]));
            if data["deleted"] == true {
                return gone(words);
            }
            let reason = match data["status_reason"].as_str() {
                Some(reason) => format!(": {}", printable(reason)),
                None => String::new(),
            };
            format!("{words} {}{reason}", cell(&data["status"]))
        }
        "environment" => {
            let words = format!("environment {} of {model}", cell(&data["environment"]));
            if data["deleted"] == true {
                return gone(words);
            }
            format!("{words} → {}", cell(&data["current_deployment_id"]))
        }
        "promotion" => format!(
            "promotion to {} of {model}: {} has {} % {}",
            cell(&data["environment"]),
            cell(&data["deployment_id"]),
            cell(&data["percent_traffic_to_new_version"]),
            cell(&data["status"]),
        ),
        "replica" => format!(
            "deployment {} of {model} has {} replicas {}",
            cell(&data["deployment_id"]),
            cell(&data["active_replica_count"]),
            cell(&data["status"]),
        ),
        "engine" => engine(data),
        "quarantine" => quarantine(data),
        "audit" => {
            let row = audit::row(&data["entry"]);
            let words = row
                .into_iter()
                .filter(|word| word != "-" && !word.is_empty());
            format!("audit {}", words.collect::<Vec<_>>().join(" "))
        }
        "reset" => "some of what happened is no longer known to the server".into(),
        other => format!("{} {data}", printable(other)),
    }
}

fn engine(data: &Value) -> String {
    let (backend, process) = (cell(&data["backend"]), cell(&data["process"]));
    let kind = match data["suspect"].as_bool() {
        Some(true) => "suspect's engine",
        _ => "engine",
    };
    if data["ended"] != true {
        return format!("{kind} {process} of {backend} started{}", concerned(data));
    }
    let graphs = data["graphs"].as_array().into_iter().flatten();
    let graphs: Vec<String> = graphs.map(graph).collect();
    let graphs = match graphs.is_empty() {
        true => String::new(),
        false => format!("; suspects: {}", graphs.join(", ")),
    };
    let message = cell(&data["message"]);
    format!(
        "{kind} {process} of {backend} ended: {message}{graphs}{}",
        concerned(data)
    )
}

fn quarantine(data: &Value) -> String {
    let graph = graph(&data["graph"]);
    if data["ended"] == true {
        return format!("graph {graph} may be run again{}", concerned(data));
    }
    format!(
        "graph {graph} is not run for {} s because it ended its own engine {} times{}",
        cell(&data["seconds"]),
        cell(&data["engine_ends"]),
        concerned(data),
    )
}

/// A graph, with the inputs of its last run.
fn graph(data: &Value) -> String {
    let name = cell(&data["name"]);
    let inputs = data["inputs"].as_array().into_iter().flatten();
    let inputs: Vec<String> = inputs.map(cell).collect();
    match inputs.is_empty() {
        true => name,
        false => format!("{name} with {}", inputs.join(", ")),
    }
}

/// The deployments that an event of an engine concerns.
fn concerned(data: &Value) -> String {
    let deployments = data["deployments"].as_array().into_iter().flatten();
    let deployments: Vec<String> = deployments
        .map(|one| {
            let (model, deployment) = (cell(&one["model_id"]), cell(&one["deployment_id"]));
            format!("{deployment} of {model}")
        })
        .collect();
    match deployments.is_empty() {
        true => String::new(),
        false => format!(" (deployments: {})", deployments.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_told_in_words() {
        let told = |data: Value| text(&data);
        let deployment = json!({
            "type": "deployment", "model_id": "m", "deployment_id": "d", "deleted": false,
            "status": "BUILD_FAILED", "status_reason": "no\u{1b}",
        });
        assert_eq!(
            told(deployment),
            "deployment d of m BUILD_FAILED: no\\u{1b}"
        );
        let gone = json!({ "type": "model", "model_id": "m", "name": null, "deleted": true });
        assert_eq!(told(gone), "model m - deleted");
        let replica = json!({
            "type": "replica", "model_id": "m", "deployment_id": "d", "active_replica_count": 2, "status": "ACTIVE",
        });
        assert_eq!(told(replica), "deployment d of m has 2 replicas ACTIVE");
        let ended = json!({
            "type": "engine", "backend": "rten", "process": 7, "suspect": false, "ended": true, "reason": "signal",
            "message": "it was killed by SIGABRT", "graphs": [{"name": "g", "inputs": ["f32 [1, 2]"]}],
            "deployments": [{"model_id": "m", "deployment_id": "d"}],
        });
        assert_eq!(
            told(ended),
            "engine 7 of rten ended: it was killed by SIGABRT; suspects: g with f32 [1, 2] (deployments: d of m)"
        );
        let quarantined = json!({
            "type": "quarantine", "graph": {"name": "g", "inputs": []}, "ended": false, "seconds": 60, "engine_ends": 3,
            "deployments": [],
        });
        assert_eq!(
            told(quarantined),
            "graph g is not run for 60 s because it ended its own engine 3 times"
        );
        let promotion = json!({
            "type": "promotion", "model_id": "m", "environment": "production", "deployment_id": "d",
            "status": "RAMPING_UP", "percent_traffic_to_new_version": 20,
        });
        assert_eq!(
            told(promotion),
            "promotion to production of m: d has 20 % RAMPING_UP"
        );
    }
}
