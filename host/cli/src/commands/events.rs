//! `samovar events`: streams changes on the server.

use std::time::Duration;

use samovar_client::text::printable;
use samovar_client::{Client, ClientError, Event, StreamItem};
use samovar_types::api::events::EventData;
use samovar_types::api::reported::Reported;
use samovar_types::engine::{ConcernedDeployment, EngineGraph};

use crate::commands::audit;
use crate::identifier;
use crate::output::{self, Format, or_dash, word};

/// Pause before reconnecting.
const RETRY_DELAY: Duration = Duration::from_secs(1);
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Show only events of the model with this name or id
    #[arg(long, value_parser = identifier)]
    model: Option<String>,
    /// Exit after this number of events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Prints events until the user stops it. After a reconnect it continues with the next event.
pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let mut left = arguments.limit;
    let mut last: Option<String> = None;
    loop {
        let following = client.events(arguments.model.as_deref(), last.as_deref());
        let mut stream = match following.await {
            Ok(stream) => stream,
            // It was there before: it may be back soon.
            Err(ClientError::NoServer { .. } | ClientError::Broken { .. }) if last.is_some() => {
                tokio::time::sleep(RETRY_DELAY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        while let Some(StreamItem { id, event }) = stream.next().await? {
            if let Some(id) = id {
                last = Some(id);
            }
            // One without data tells only how far it is.
            let Some(event) = event.filter(|event| **event != EventData::Ready) else {
                continue;
            };
            match format {
                Format::Json => output::json_line(&event)?,
                Format::Text => output::line(&text(&event))?,
            }
            if let Some(count) = &mut left {
                *count -= 1;
                if *count == 0 {
                    return Ok(());
                }
            }
        }
        output::note("the server closed the stream; waiting for it to come back\n");
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

/// An event as text.
fn text(event: &Event) -> String {
    match event {
        Reported::Known(data) => known(data),
        Reported::Unknown(data) => printable(&data.to_string()),
    }
}

fn known(data: &EventData) -> String {
    match data {
        EventData::Ready => "ready".into(),
        EventData::Reset => {
            "the server no longer knows all events since the last one: read the current state again"
                .into()
        }
        EventData::Model {
            model_id,
            name,
            deleted,
        } => {
            let words = format!("model {model_id} {}", or_dash(name.as_ref()));
            with_end(words, *deleted)
        }
        EventData::Deployment {
            deployment_id,
            model_id,
            deleted: true,
            ..
        } => format!("deployment {deployment_id} of {model_id} deleted"),
        EventData::Deployment {
            deployment_id,
            model_id,
            status,
            status_reason,
            ..
        } => {
            let status = or_dash(status.as_ref().map(word));
            let reason = status_reason.as_ref();
            let reason =
                reason.map_or_else(String::new, |reason| format!(": {}", printable(reason)));
            format!("deployment {deployment_id} of {model_id} {status}{reason}")
        }
        EventData::Environment {
            environment,
            model_id,
            current_deployment_id,
            deleted,
            ..
        } => {
            let words = format!("environment {} of {model_id}", printable(environment));
            match deleted {
                true => with_end(words, true),
                false => format!("{words} → {}", or_dash(*current_deployment_id)),
            }
        }
        EventData::Promotion {
            environment,
            model_id,
            deployment_id,
            status,
            percent_traffic_to_new_version,
            ..
        } => format!(
            "promotion to {} of {model_id}: {deployment_id} has {percent_traffic_to_new_version} % {}",
            printable(environment),
            word(status)
        ),
        EventData::Replica {
            deployment_id,
            model_id,
            active_replica_count,
            status,
        } => format!(
            "deployment {deployment_id} of {model_id} has {active_replica_count} replicas {}",
            or_dash(status.as_ref().map(word))
        ),
        EventData::Engine { .. } => engine(data),
        EventData::Quarantine { .. } => quarantine(data),
        EventData::Eviction {
            graph: one,
            bytes,
            deployments,
        } => format!(
            "graph {} is unloaded to make room for another: {} MiB{}",
            graph(one),
            bytes >> 20,
            concerned(deployments)
        ),
        EventData::Audit { entry } => {
            let row = audit::row(entry);
            let words = row
                .into_iter()
                .filter(|word| word != "-" && !word.is_empty());
            format!("audit {}", words.collect::<Vec<_>>().join(" "))
        }
    }
}

fn with_end(words: String, deleted: bool) -> String {
    match deleted {
        true => format!("{words} deleted"),
        false => words,
    }
}

fn engine(data: &EventData) -> String {
    let EventData::Engine {
        backend,
        process,
        suspect,
        ended,
        message,
        graphs,
        deployments,
        ..
    } = data
    else {
        return String::new();
    };
    let kind = match suspect {
        true => "suspect's engine",
        false => "engine",
    };
    let name = format!("{kind} {} of {}", or_dash(*process), printable(backend));
    if !ended {
        return format!("{name} started{}", concerned(deployments));
    }
    let suspects: Vec<String> = graphs.iter().map(graph).collect();
    let suspects = match suspects.is_empty() {
        true => String::new(),
        false => format!("; suspects: {}", suspects.join(", ")),
    };
    format!(
        "{name} ended: {}{suspects}{}",
        or_dash(message.as_ref()),
        concerned(deployments)
    )
}

fn quarantine(data: &EventData) -> String {
    let EventData::Quarantine {
        graph: one,
        ended,
        seconds,
        engine_ends,
        deployments,
    } = data
    else {
        return String::new();
    };
    let (graph, concerned) = (graph(one), concerned(deployments));
    match ended {
        true => format!("graph {graph} may run again{concerned}"),
        false => format!(
            "graph {graph} is in quarantine for {} s because it ended its own engine {} times{concerned}",
            or_dash(*seconds),
            or_dash(*engine_ends),
        ),
    }
}

/// A graph, with the inputs of its last run.
fn graph(graph: &EngineGraph) -> String {
    let name = printable(&graph.name);
    let inputs: Vec<String> = graph.inputs.iter().map(|one| printable(one)).collect();
    match inputs.is_empty() {
        true => name,
        false => format!("{name} with {}", inputs.join(", ")),
    }
}

/// The deployments that an event of an engine concerns.
fn concerned(deployments: &[ConcernedDeployment]) -> String {
    let named = deployments.iter();
    let named: Vec<String> = named
        .map(|one| format!("{} of {}", one.deployment_id, one.model_id))
        .collect();
    match named.is_empty() {
        true => String::new(),
        false => format!(" (deployments: {})", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn events_are_told_in_words() {
        let told = |data: Value| text(&serde_json::from_value(data).unwrap());
        let deployment = json!({
            "type": "deployment", "model_id": "model000", "deployment_id": "deploy00", "deleted": false,
            "name": "n", "active_replica_count": 0, "status": "BUILD_FAILED", "status_reason": "no\u{1b}",
        });
        assert_eq!(
            told(deployment),
            "deployment deploy00 of model000 BUILD_FAILED: no\\u{1b}"
        );
        let gone =
            json!({ "type": "model", "model_id": "model000", "name": null, "deleted": true });
        assert_eq!(told(gone), "model model000 - deleted");
        let replica = json!({
            "type": "replica", "model_id": "model000", "deployment_id": "deploy00", "active_replica_count": 2, "status": "ACTIVE",
        });
        assert_eq!(
            told(replica),
            "deployment deploy00 of model000 has 2 replicas ACTIVE"
        );
        let ended = json!({
            "type": "engine", "backend": "rten", "process": 7, "suspect": false, "ended": true, "reason": "signal",
            "message": "it was killed by SIGABRT", "graphs": [{"name": "g", "digest": "0", "inputs": ["f32 [1, 2]"]}],
            "deployments": [{"model_id": "model000", "deployment_id": "deploy00"}],
        });
        assert_eq!(
            told(ended),
            "engine 7 of rten ended: it was killed by SIGABRT; suspects: g with f32 [1, 2] (deployments: deploy00 of model000)"
        );
        let quarantined = json!({
            "type": "quarantine", "graph": {"name": "g", "digest": "0", "inputs": []}, "ended": false, "seconds": 60, "engine_ends": 3,
            "deployments": [],
        });
        assert_eq!(
            told(quarantined),
            "graph g is in quarantine for 60 s because it ended its own engine 3 times"
        );
        let evicted = json!({
            "type": "eviction", "graph": {"name": "g", "digest": "0", "inputs": []}, "bytes": 3 << 20,
            "deployments": [{"model_id": "model000", "deployment_id": "deploy00"}],
        });
        assert_eq!(
            told(evicted),
            "graph g is unloaded to make room for another: 3 MiB (deployments: deploy00 of model000)"
        );
        let promotion = json!({
            "type": "promotion", "model_id": "model000", "environment": "production", "deployment_id": "deploy00",
            "status": "RAMPING_UP", "percent_traffic_to_new_version": 20, "error_message": null,
        });
        assert_eq!(
            told(promotion),
            "promotion to production of model000: deploy00 has 20 % RAMPING_UP"
        );
    }
}
