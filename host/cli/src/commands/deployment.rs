//! `samovar deployment`: the deployments of a model.

mod life;
mod replicas;
mod scale;

use std::fmt;

use clap::Subcommand;
use jiff::Timestamp;
use samovar_client::text::printable;
use samovar_client::{Client, Target};
use samovar_types::api::deployments::{
    DeploymentGraph, DeploymentResponse, ListDeploymentsResponse,
};

use crate::commands::logs::{self, Follow};
use crate::confirm::Consent;
use crate::identifier;
use crate::named::{self, deployment_name};
use crate::output::{self, Format, or_dash, since, word};

/// Length of a reason in a list; `show` prints all of it.
const MAX_REASON_CHARS: usize = 60;

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
    /// Looks up the id of a deployment that is given by its name.
    async fn find(&mut self, client: &Client) -> anyhow::Result<()> {
        if !matches!(&*self.deployment, "production" | "development") {
            let found = named::deployment(client, &self.model, &self.deployment).await?;
            self.deployment = found.id.to_string();
        }
        Ok(())
    }

    /// The URL to call it at.
    fn target(&self) -> Target<'_> {
        Target::of_deployment(&self.deployment)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the deployment {} of {}", self.deployment, self.model)
    }
}

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
    /// Change a deployment's autoscaling settings; takes effect at once
    Scale {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        settings: scale::Settings,
    },
    /// List a deployment's replicas, or stop one
    Replicas {
        #[command(flatten)]
        place: Place,
        /// Stop this replica instead: at once if it is idle, otherwise after its request
        #[arg(long, value_name = "ID", value_parser = identifier)]
        kill: Option<String>,
    },
    /// Show a deployment's log
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

pub async fn run(client: &Client, mut action: Action, format: Format) -> anyhow::Result<()> {
    let now = Timestamp::now();
    if let Some(place) = action.place_mut() {
        place.find(client).await?;
    }
    match action {
        Action::List { model } => {
            let answer = client.deployments(&model).await?;
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
                    "no deployments: create one with `samovar push`",
                ),
            }
        }
        Action::Show(place) => {
            let answer = client.deployment(&place.model, &place.deployment).await?;
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
        Action::Logs { place, follow } => {
            logs::print(client, &place.model, &place.deployment, follow, format).await
        }
        Action::Delete { place, consent } => {
            consent.ask(&format!("delete {place}"))?;
            let answer = client
                .delete_deployment(&place.model, &place.deployment)
                .await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted {place}")),
            }
        }
    }
}

/// A reason, shortened for a row of a table.
fn short(reason: Option<&str>) -> String {
    let reason = printable(reason.unwrap_or_default());
    match reason.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}

fn environment(deployment: &DeploymentResponse) -> String {
    match &deployment.environment {
        None if deployment.is_production => "production".into(),
        None if deployment.is_development => "development".into(),
        other => or_dash(other.as_ref()),
    }
}

fn rows(answer: &ListDeploymentsResponse, now: Timestamp) -> Vec<Vec<String>> {
    let row = |deployment: &DeploymentResponse| {
        vec![
            deployment.id.to_string(),
            printable(&deployment.name),
            environment(deployment),
            word(&deployment.status),
            deployment.active_replica_count.to_string(),
            since(deployment.created_at, now),
            short(deployment.status_reason.as_deref()),
        ]
    };
    answer.deployments.iter().map(row).collect()
}

/// A graph with its backend and device.
fn graph_line(graph: &DeploymentGraph) -> String {
    let name = printable(&graph.name);
    let Some(backend) = &graph.backend else {
        return format!("{name}, not loaded yet");
    };
    let (backend, device) = (printable(backend), or_dash(graph.device.as_ref()));
    format!("{name} on {backend}, {device}")
}

/// Whether a deployment with `snapshot = true` has a snapshot.
pub fn init_snapshot(deployment: &DeploymentResponse) -> Option<String> {
    let snapshot = deployment.init_snapshot.as_ref()?;
    match snapshot.taken {
        true => Some("replicas start after `init`".into()),
        false => Some(format!(
            "none, so `init` runs in each replica: {}",
            or_dash(snapshot.reason.as_ref())
        )),
    }
}

fn properties(deployment: &DeploymentResponse, now: Timestamp) -> Vec<(String, String)> {
    let mut lines = vec![
        ("id", deployment.id.to_string()),
        ("name", printable(&deployment.name)),
        ("model", deployment.model_id.to_string()),
        ("environment", environment(deployment)),
        ("status", word(&deployment.status)),
        ("replicas", deployment.active_replica_count.to_string()),
        ("created", since(deployment.created_at, now)),
        ("bundle", deployment.bundle_digest.to_string()),
        ("isolation", word(&deployment.isolation)),
    ];
    if let Some(reason) = &deployment.status_reason {
        lines.insert(5, ("reason", printable(reason)));
    }
    for graph in &deployment.graphs {
        lines.push(("graph", graph_line(graph)));
    }
    if let Some(line) = init_snapshot(deployment) {
        lines.push(("snapshot", line));
    }
    lines.extend(deployment.labels.iter().map(|(key, value)| {
        let label = format!("{}={}", printable(key), printable(value));
        ("label", label)
    }));
    let lines = lines.into_iter();
    let mut lines: Vec<_> = lines
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    lines.extend(output::fields(&deployment.autoscaling_settings));
    lines
}

/// A deployment as the API shows it, for tests.
#[cfg(test)]
pub fn example(id: &str, status: &str) -> DeploymentResponse {
    serde_json::from_value(serde_json::json!({
        "id": id, "created_at": "2026-01-01T00:00:00Z", "name": "deployment-1", "model_id": "abcd1234",
        "is_production": false, "is_development": false, "status": status, "status_reason": null,
        "active_replica_count": 0, "environment": null, "labels": {}, "autoscaling_settings": {},
        "instance_type_name": "cpu", "request_backpressure_settings": { "policy": "QUEUE_ON_FULL" },
        "bundle_digest": "0".repeat(64), "isolation": "shared", "graphs": [], "init_snapshot": null,
    }))
    .unwrap()
}

#[cfg(test)]
mod tests {
    use samovar_types::api::deployments::InitSnapshot;
    use samovar_types::bundle::Isolation;

    use super::*;

    #[test]
    fn a_deployment_is_a_row_and_properties() {
        let graph = |name: &str, loaded: bool| DeploymentGraph {
            name: name.into(),
            backend: loaded.then(|| "rten".into()),
            device: loaded.then(|| "cpu".into()),
        };
        let deployment = DeploymentResponse {
            is_production: true,
            status_reason: Some("no import x".into()),
            labels: [("team".into(), "a".into())].into(),
            isolation: Isolation::Deployment.into(),
            graphs: vec![graph("g", true), graph("h", false)],
            init_snapshot: Some(InitSnapshot {
                taken: false,
                reason: Some("it calls wasi:nn".into()),
            }),
            ..example("dep12345", "FAILED")
        };
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        let deployments = vec![deployment.clone()];
        assert_eq!(
            rows(&ListDeploymentsResponse { deployments }, now),
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
        for (name, value) in [
            ("reason", "no import x"),
            ("graph", "g on rten, cpu"),
            ("graph", "h, not loaded yet"),
            (
                "snapshot",
                "none, so `init` runs in each replica: it calls wasi:nn",
            ),
            ("isolation", "deployment"),
            ("label", "team=a"),
            ("min_replica", "0"),
        ] {
            assert!(lines.contains(&(name.into(), value.into())), "{lines:?}");
        }
    }
}
