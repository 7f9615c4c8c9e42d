//! `samovar environment`: the environments of a model and their settings.

use clap::Subcommand;
use jiff::Timestamp;
use reqwest::Method;
use samovar_client::{ANSWER_TIMEOUT, Client};
use serde_json::{Value, json};

use crate::confirm::Consent;
use crate::failure::UsageError;
use crate::identifier;
use crate::output::{self, Format, cell, since};
use crate::settings::Settings;

/// An environment's place.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    pub model: String,
    /// The environment's name
    #[arg(value_parser = identifier)]
    pub environment: String,
}

impl Place {
    /// Where the server has it.
    pub fn path(&self) -> String {
        format!(
            "/v1/models/{}/environments/{}",
            self.model, self.environment
        )
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// List a model's environments
    List {
        /// The model's name or id
        #[arg(value_parser = identifier)]
        model: String,
    },
    /// Show an environment and its settings
    Show(#[command(flatten)] Place),
    /// Create an environment that points at nothing yet
    Create {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change the settings of an environment
    Update {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        settings: Settings,
    },
    /// Delete an environment; its deployments stay
    Delete {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        consent: Consent,
    },
}

/// Does it.
pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    match action {
        Action::List { model } => list(client, &model, format).await,
        Action::Show(place) => {
            let answer = client.get(&place.path()).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => shown(client, &place, &answer),
            }
        }
        Action::Create { place, settings } => {
            let mut body = settings.body();
            body.insert("name".into(), json!(place.environment));
            let path = format!("/v1/models/{}/environments", place.model);
            let request = client.request(Method::POST, &path)?.json(&body);
            let answer = client.json(request.timeout(ANSWER_TIMEOUT)).await?;
            if format == Format::Json {
                return output::document(&answer);
            }
            output::line(&format!(
                "created the environment {} of {}\n\nnext:\n  samovar promote {} DEPLOYMENT --to {}",
                place.environment, place.model, place.model, place.environment
            ))
        }
        Action::Update { place, settings } => {
            let body = settings.body();
            if body.is_empty() {
                return Err(UsageError {
                    problem: "found no setting to change".into(),
                    hint: Some("`samovar environment update --help` lists them".into()),
                }
                .into());
            }
            let request = client.request(Method::PATCH, &place.path())?.json(&body);
            let answer = client.json(request.timeout(ANSWER_TIMEOUT)).await?;
            if format == Format::Json {
                return output::document(&answer);
            }
            output::line(&cell(&answer["message"]))?;
            shown(client, &place, &answer["environment"])
        }
        Action::Delete { place, consent } => {
            let what = format!("the environment {} of {}", place.environment, place.model);
            consent.ask(&format!("delete {what}"))?;
            let answer = client.delete(&place.path()).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted {what}; its deployments stay")),
            }
        }
    }
}

async fn list(client: &Client, model: &str, format: Format) -> anyhow::Result<()> {
    let path = format!("/v1/models/{model}/environments");
    let answer = client.get(&path).await?;
    match format {
        Format::Json => output::document(&answer),
        Format::Text => output::table(
            &["NAME", "DEPLOYMENT", "STATUS", "REPLICAS", "PROMOTION"],
            rows(&answer),
            "no environments",
        ),
    }
}

/// A deployment as `id (name)`.
pub fn deployment(deployment: &Value) -> String {
    match deployment {
        Value::Null => "-".into(),
        one => format!("{} ({})", cell(&one["id"]), cell(&one["name"])),
    }
}

/// A promotion in a word or two.
pub fn promotion(environment: &Value) -> String {
    match &environment["in_progress_promotion"] {
        Value::Null => "-".into(),
        going => format!(
            "{} {} % to {}",
            cell(&going["status"]),
            cell(&going["percent_traffic_to_new_version"]),
            cell(&going["deployment_id"])
        ),
    }
}

fn rows(answer: &Value) -> Vec<Vec<String>> {
    let environments = answer["environments"].as_array().into_iter().flatten();
    environments
        .map(|one| {
            let current = &one["current_deployment"];
            vec![
                cell(&one["name"]),
                deployment(current),
                cell(&current["status"]),
                cell(&current["active_replica_count"]),
                promotion(one),
            ]
        })
        .collect()
}

fn shown(client: &Client, place: &Place, environment: &Value) -> anyhow::Result<()> {
    let mut lines = properties(environment, Timestamp::now());
    let target = match place.environment.as_str() {
        "production" => "production".to_owned(),
        name => format!("environments/{name}"),
    };
    let url = format!("{}/models/{}/{target}/predict", client.url(), place.model);
    lines.push(("url".into(), url));
    let lines: Vec<(&str, String)> = lines
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()))
        .collect();
    output::properties(&lines)
}

fn properties(environment: &Value, now: Timestamp) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = [
        ("name", cell(&environment["name"])),
        ("created", since(&environment["created_at"], now)),
        ("deployment", deployment(&environment["current_deployment"])),
        ("status", cell(&environment["current_deployment"]["status"])),
        ("previous", cell(&environment["previous_deployment_id"])),
        ("promotion", promotion(environment)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for section in ["autoscaling_settings", "promotion_settings"] {
        let settings = environment[section].as_object().into_iter().flatten();
        // Settings of settings follow by their full names.
        for (name, value) in settings {
            match value.as_object() {
                Some(fields) => lines.extend(
                    fields
                        .iter()
                        .map(|(field, value)| (format!("{name}.{field}"), cell(value))),
                ),
                None => lines.push((name.clone(), cell(value))),
            }
        }
    }
    let policy = &environment["request_backpressure_settings"]["policy"];
    lines.push(("backpressure".into(), cell(policy)));
    let origins = environment["cors_settings"]["allowed_origins"].as_array();
    let origins: Vec<String> = origins.into_iter().flatten().map(cell).collect();
    if !origins.is_empty() {
        lines.push(("allowed origins".into(), origins.join(", ")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_a_row_and_properties() {
        let environment = json!({
            "name": "production", "created_at": "2026-01-01T00:00:00Z",
            "current_deployment": {
                "id": "dep12345", "name": "deployment-1", "status": "ACTIVE", "active_replica_count": 2,
            },
            "previous_deployment_id": null,
            "in_progress_promotion": {
                "status": "RAMPING_UP", "percent_traffic_to_new_version": 30, "deployment_id": "dep67890",
            },
            "autoscaling_settings": { "min_replica": 1 },
            "promotion_settings": { "ramp_up_duration_seconds": 600, "analysis": { "min_requests": 100 } },
            "request_backpressure_settings": { "policy": "QUEUE_ON_FULL" },
        });
        assert_eq!(
            rows(&json!({ "environments": [environment] })),
            [[
                "production",
                "dep12345 (deployment-1)",
                "ACTIVE",
                "2",
                "RAMPING_UP 30 % to dep67890"
            ]]
        );
        let now = "2026-01-01T00:03:00Z".parse().unwrap();
        let lines = properties(&environment, now);
        for (name, value) in [
            ("previous", "-"),
            ("min_replica", "1"),
            ("ramp_up_duration_seconds", "600"),
            ("analysis.min_requests", "100"),
            ("backpressure", "QUEUE_ON_FULL"),
        ] {
            assert!(lines.contains(&(name.into(), value.into())), "{lines:?}");
        }
        let empty = json!({ "environments": [{ "name": "staging", "current_deployment": null }] });
        assert_eq!(rows(&empty), [["staging", "-", "-", "-", "-"]]);
    }
}
