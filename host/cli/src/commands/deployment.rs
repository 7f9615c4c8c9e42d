//! `samovar deployment`: the deployments of a model.

mod life;
mod replicas;
mod scale;

use std::fmt;

use clap::Subcommand;
use jiff::Timestamp;
use samovar_client::Client;
use samovar_client::text::printable;
use serde_json::Value;

use crate::commands::logs::{self, Follow};
use crate::confirm::Consent;
use crate::identifier;
use crate::named::{self, deployment_name};
use crate::output::{self, Format, cell, since};

/// As much of a reason as a list shows; `show` tells it whole.
const MAX_REASON_CHARS: usize = 60;

/// A deployment's place.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    model: String,
    /// The deployment's id or name, or `production`, or `development`
    #[arg(value_parser = deployment_name)]
    deployment: String,
}

impl Place {
    /// Finds the id of a deployment that is given by its name.
    async fn find(&mut self, client: &Client) -> anyhow::Result<()> {
        if !matches!(&*self.deployment, "production" | "development") {
            let found = named::deployment(client, &self.model, &self.deployment).await?;
            self.deployment = cell(&found["id"]);
        }
        Ok(())
    }

    fn path(&self) -> String {
        format!("/v1/models/{}/deployments/{}", self.model, self.deployment)
    }

    fn wake_path(&self) -> String {
        let target = match &*self.deployment {
            target @ ("production" | "development") => target.to_owned(),
            id => format!("deployment/{id}"),
        };
        format!("/models/{}/{target}/wake", self.model)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the deployment {} of {}", self.deployment, self.model)
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List a model's deployments
    List {
        /// The model's name or id
        #[arg(value_parser = identifier)]
        model: String,
    },
    /// Show a deployment
    Show(#[command(flatten)] Place),
    #[command(flatten)]
    Life(life::Action),
    /// Change how many replicas a deployment keeps, and when; it holds at once
    Scale {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        settings: scale::Settings,
    },
    /// List a deployment's replicas
    Replicas {
        #[command(flatten)]
        place: Place,
        /// Stop this one instead: at once when it is idle, else after its request
        #[arg(long, value_name = "ID", value_parser = identifier)]
        kill: Option<String>,
    },
    /// Read a deployment's logs
    Logs {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        follow: Follow,
    },
    /// Delete a deployment
    Delete {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        consent: Consent,
    },
}

impl Action {
    fn place_mut(&mut self) -> Option<&mut Place> {
        match self {
            Self::List { .. } => None,
            Self::Show(place)
            | Self::Scale { place, .. }
            | Self::Replicas { place, .. }
            | Self::Logs { place, .. }
            | Self::Delete { place, .. } => Some(place),
            Self::Life(action) => Some(action.place_mut()),
        }
    }
}

/// Does it.
pub async fn run(client: &Client, mut action: Action, format: Format) -> anyhow::Result<()> {
    let now = Timestamp::now();
    if let Some(place) = action.place_mut() {
        place.find(client).await?;
    }
    match action {
        Action::List { model } => {
            let answer = client
                .get(&format!("/v1/models/{model}/deployments"))
                .await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::table(
                    &[
                        "ID",
                        "NAME",
                        "ENVIRONMENT",
                        "STATUS",
                        "REPLICAS",
                        "CREATED",
                        "REASON",
                    ],
                    rows(&answer, now),
                    "no deployments: add one with `samovar push`",
                ),
            }
        }
        Action::Show(place) => {
            let answer = client.get(&place.path()).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::properties(&properties(&answer, now)),
            }
        }
        Action::Life(action) => life::run(client, action, format).await,
        Action::Scale { place, settings } => scale::run(client, &place, &settings, format).await,
        Action::Replicas { place, kill } => {
            replicas::run(client, &place, kill.as_deref(), format).await
        }
        Action::Logs { place, follow } => logs::print(client, &place.path(), follow, format).await,
        Action::Delete { place, consent } => {
            consent.ask(&format!("delete {place}"))?;
            let answer = client.delete(&place.path()).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted {place}")),
            }
        }
    }
}

/// As much of a reason as a row has room for.
fn short(reason: &Value) -> String {
    let Value::String(reason) = reason else {
        return String::new();
    };
    let reason = printable(reason);
    match reason.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}

fn environment(deployment: &Value) -> String {
    match &deployment["environment"] {
        Value::Null if deployment["is_production"] == true => "production".into(),
        Value::Null if deployment["is_development"] == true => "development".into(),
        other => cell(other),
    }
}

fn rows(answer: &Value, now: Timestamp) -> Vec<Vec<String>> {
    let deployments = answer["deployments"].as_array().into_iter().flatten();
    deployments
        .map(|deployment| {
            vec![
                cell(&deployment["id"]),
                cell(&deployment["name"]),
                environment(deployment),
                cell(&deployment["status"]),
                cell(&deployment["active_replica_count"]),
                since(&deployment["created_at"], now),
                short(&deployment["status_reason"]),
            ]
        })
        .collect()
}

/// A graph and what runs it.
fn graph_line(graph: &Value) -> String {
    let name = printable(graph["name"].as_str().unwrap_or_default());
    if graph["backend"].is_null() {
        return format!("{name}, not loaded yet");
    }
    let (backend, device) = (cell(&graph["backend"]), cell(&graph["device"]));
    format!("{name} on {backend}, {device}")
}

/// What became of a deployment's wish to keep the memory after `init`.
pub fn init_snapshot(deployment: &Value) -> Option<String> {
    let snapshot = &deployment["init_snapshot"];
    match snapshot["taken"].as_bool()? {
        true => Some("replicas start after `init`".into()),
        false => Some(format!(
            "none, `init` runs in each replica: {}",
            cell(&snapshot["reason"])
        )),
    }
}

fn properties(deployment: &Value, now: Timestamp) -> Vec<(&str, String)> {
    let mut lines = vec![
        ("id", cell(&deployment["id"])),
        ("name", cell(&deployment["name"])),
        ("model", cell(&deployment["model_id"])),
        ("environment", environment(deployment)),
        ("status", cell(&deployment["status"])),
        ("replicas", cell(&deployment["active_replica_count"])),
        ("created", since(&deployment["created_at"], now)),
        ("bundle", cell(&deployment["bundle_digest"])),
        ("isolation", cell(&deployment["isolation"])),
    ];
    if !deployment["status_reason"].is_null() {
        lines.insert(5, ("reason", cell(&deployment["status_reason"])));
    }
    for graph in deployment["graphs"].as_array().into_iter().flatten() {
        lines.push(("graph", graph_line(graph)));
    }
    if let Some(line) = init_snapshot(deployment) {
        lines.push(("snapshot", line));
    }
    let labels = deployment["labels"].as_object().into_iter().flatten();
    lines.extend(labels.map(|(key, value)| {
        let label = format!("{}={}", printable(key), cell(value));
        ("label", label)
    }));
    let settings = deployment["autoscaling_settings"].as_object();
    for (name, value) in settings.into_iter().flatten() {
        lines.push((name, cell(value)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_is_a_row_and_properties() {
        let deployment = json!({
            "id": "dep12345", "created_at": "2026-01-01T00:00:00Z", "name": "deployment-1", "model_id": "abcd1234",
            "is_production": true, "is_development": false, "status": "FAILED", "status_reason": "no import x",
            "active_replica_count": 0, "environment": null, "labels": {"team": "a"},
            "autoscaling_settings": {"min_replica": 0}, "bundle_digest": "00ff",
            "isolation": "deployment",
            "graphs": [{"name": "g", "backend": "rten", "device": "cpu"}, {"name": "h", "backend": null, "device": null}],
            "init_snapshot": {"taken": false, "reason": "it calls wasi:nn"},
        });
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        assert_eq!(
            rows(&json!({"deployments": [deployment]}), now),
            [[
                "dep12345",
                "deployment-1",
                "production",
                "FAILED",
                "0",
                "2 h ago",
                "no import x"
            ]]
        );
        let lines = properties(&deployment, now);
        for line in [
            ("reason", "no import x"),
            ("graph", "g on rten, cpu"),
            ("graph", "h, not loaded yet"),
            (
                "snapshot",
                "none, `init` runs in each replica: it calls wasi:nn",
            ),
            ("isolation", "deployment"),
            ("label", "team=a"),
            ("min_replica", "0"),
        ] {
            assert!(lines.contains(&(line.0, line.1.into())), "{lines:?}");
        }
    }
}
