//! `samovar environment`: the environments of a model and their settings.

use clap::Subcommand;
use jiff::Timestamp;
use samovar_client::text::printable;
use samovar_client::{Client, Target};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::environments::{EnvironmentResponse, ListEnvironmentsResponse};
#[cfg(test)]
use samovar_types::api::promotions::PromotionResponse;

use crate::confirm::Consent;
use crate::failure::UsageError;
use crate::identifier;
use crate::output::{self, Format, or_dash, since, word};
use crate::settings::Settings;

#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    pub model: String,
    /// The environment's name
    #[arg(value_parser = identifier)]
    pub environment: String,
}

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
    /// Create an environment without a deployment
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
    /// Delete an environment, but not its deployments
    Delete {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        consent: Consent,
    },
}

pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    match action {
        Action::List { model } => list(client, &model, format).await,
        Action::Show(place) => {
            let answer = client.environment(&place.model, &place.environment).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => shown(client, &place, &answer),
            }
        }
        Action::Create { place, settings } => {
            let request = settings.create(&place.environment)?;
            let answer = client.create_environment(&place.model, &request).await?;
            if format == Format::Json {
                return output::document(&answer);
            }
            output::line(&format!(
                "created environment {} of {}\n\nnext:\n  samovar promote {} DEPLOYMENT --to {}",
                place.environment, place.model, place.model, place.environment
            ))
        }
        Action::Update { place, settings } => {
            let Some(request) = settings.update()? else {
                return Err(UsageError {
                    problem: "no setting to change was given".into(),
                    hint: Some("`samovar environment update --help` lists them".into()),
                }
                .into());
            };
            let answer = client
                .update_environment(&place.model, &place.environment, &request)
                .await?;
            if format == Format::Json {
                return output::document(&answer);
            }
            output::line(&printable(&answer.message))?;
            shown(client, &place, &answer.environment)
        }
        Action::Delete { place, consent } => {
            let what = format!("environment {} of {}", place.environment, place.model);
            consent.ask(&format!("delete {what}"))?;
            let answer = client
                .delete_environment(&place.model, &place.environment)
                .await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("deleted {what}, but not its deployments")),
            }
        }
    }
}

async fn list(client: &Client, model: &str, format: Format) -> anyhow::Result<()> {
    let answer = client.environments(model).await?;
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
pub fn deployment(deployment: Option<&DeploymentResponse>) -> String {
    match deployment {
        None => "-".into(),
        Some(one) => format!("{} ({})", one.id, printable(&one.name)),
    }
}

/// A short description of a promotion.
fn promotion(environment: &EnvironmentResponse) -> String {
    match &environment.in_progress_promotion {
        None => "-".into(),
        Some(going) => format!(
            "{} {} % to {}",
            word(&going.status),
            going.percent_traffic_to_new_version,
            going.deployment_id
        ),
    }
}

fn rows(answer: &ListEnvironmentsResponse) -> Vec<Vec<String>> {
    let row = |one: &EnvironmentResponse| {
        let current = one.current_deployment.as_ref();
        vec![
            printable(&one.name),
            deployment(current),
            or_dash(current.map(|current| word(&current.status))),
            or_dash(current.map(|current| current.active_replica_count)),
            promotion(one),
        ]
    };
    answer.environments.iter().map(row).collect()
}

fn shown(client: &Client, place: &Place, environment: &EnvironmentResponse) -> anyhow::Result<()> {
    let mut lines = properties(environment, Timestamp::now());
    let target = Target::of_environment(&place.environment);
    let url = client.inference_url(&place.model, target);
    lines.push(("url".into(), format!("{url}/predict")));
    output::properties(&lines)
}

fn properties(environment: &EnvironmentResponse, now: Timestamp) -> Vec<(String, String)> {
    let current = environment.current_deployment.as_ref();
    let mut lines: Vec<(String, String)> = [
        ("name", printable(&environment.name)),
        ("created", since(environment.created_at, now)),
        ("deployment", deployment(current)),
        (
            "status",
            or_dash(current.map(|current| word(&current.status))),
        ),
        ("previous", or_dash(environment.previous_deployment_id)),
        ("promotion", promotion(environment)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    lines.extend(output::fields(&environment.autoscaling_settings));
    lines.extend(output::fields(&environment.promotion_settings));
    let policy = word(&environment.request_backpressure_settings.policy);
    lines.push(("backpressure".into(), policy));
    let origins = environment.cors_settings.allowed_origins.iter();
    let origins: Vec<String> = origins.map(|one| printable(&one.to_string())).collect();
    if !origins.is_empty() {
        lines.push(("allowed origins".into(), origins.join(", ")));
    }
    lines
}

/// An environment as the API shows it, for tests.
#[cfg(test)]
pub fn example(
    current: Option<DeploymentResponse>,
    going: Option<PromotionResponse>,
    last: Option<PromotionResponse>,
) -> EnvironmentResponse {
    serde_json::from_value(serde_json::json!({
        "name": "production", "created_at": "2026-01-01T00:00:00Z", "model_id": "abcd1234",
        "current_deployment": current, "candidate_deployment": null, "previous_deployment_id": null,
        "in_progress_promotion": going, "last_promotion": last,
        "autoscaling_settings": { "min_replica": 1 },
        "promotion_settings": { "ramp_up_duration_seconds": 600, "analysis": { "min_requests": 100 } },
        "request_backpressure_settings": { "policy": "QUEUE_ON_FULL" },
        "cors_settings": { "allowed_origins": [] },
        "instance_type": {
            "id": "cpu", "name": "cpu", "memory_limit_mib": 1, "millicpu_limit": 1000, "gpu_count": 0,
            "gpu_type": null, "gpu_memory_limit_mib": null,
        },
    }))
    .unwrap()
}

/// A promotion as the API shows it, for tests.
#[cfg(test)]
pub fn example_promotion(deployment: &str, status: &str) -> PromotionResponse {
    serde_json::from_value(serde_json::json!({
        "status": status, "percent_traffic_to_new_version": 30, "error_message": null,
        "deployment_id": deployment, "previous_deployment_id": null, "created_at": "2026-01-01T00:00:00Z",
        "stage": null, "stage_started_at": null, "next_stage_at": null, "ended_at": null,
        "analysis": null, "shadow_requests": null, "rolling_deploy": false,
    }))
    .unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::deployment;

    #[test]
    fn an_environment_is_a_row_and_properties() {
        let current = DeploymentResponse {
            active_replica_count: 2,
            ..deployment::example("dep12345", "ACTIVE")
        };
        let going = example_promotion("dep67890", "RAMPING_UP");
        let environment = example(Some(current), Some(going), None);
        let environments = vec![environment.clone()];
        assert_eq!(
            rows(&ListEnvironmentsResponse { environments }),
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
        let environments = vec![example(None, None, None)];
        assert_eq!(
            rows(&ListEnvironmentsResponse { environments }),
            [["production", "-", "-", "-", "-"]]
        );
    }
}
