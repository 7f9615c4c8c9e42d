//! `samovar promote`, `samovar promotion` and `samovar rollback`: moves an environment to another deployment.

use anyhow::bail;
use clap::Subcommand;
use jiff::Timestamp;
use samovar_client::text::printable;
use samovar_client::{Client, Received};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::environments::EnvironmentResponse;
use samovar_types::api::promotions::{PromoteRequest, PromotionResponse, SideAnalysis};
use samovar_types::names::PRODUCTION;
use serde::Serialize;
use serde_json::json;

use crate::commands::environment::{Place, deployment};
use crate::named::{self, deployment_name};
use crate::output::{self, Format, since, word};
use crate::{identifier, promotion_wait as waiting};

#[derive(Debug, clap::Args)]
pub struct Promote {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    model: String,
    /// The deployment to promote: its id, its name, or `development`
    #[arg(value_parser = deployment_name)]
    deployment: String,
    /// The environment to move to the deployment
    #[arg(long, value_name = "ENVIRONMENT", default_value = PRODUCTION, value_parser = identifier)]
    to: String,
    /// Keep the replicas of the previous deployment
    #[arg(long)]
    keep_previous: bool,
    /// Wait until the promotion has ended
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Where {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    model: String,
    /// The environment's name
    #[arg(default_value = PRODUCTION, value_parser = identifier)]
    environment: String,
}

impl Where {
    fn place(&self) -> Place {
        Place {
            model: self.model.clone(),
            environment: self.environment.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show the running promotion, or the last one
    Show(#[command(flatten)] Where),
    /// Cancel the promotion: all traffic goes back at once
    Cancel(#[command(flatten)] Where),
    /// Pause a canary in its stage
    Pause(#[command(flatten)] Where),
    /// Resume a paused canary
    Resume(#[command(flatten)] Where),
    /// The same as cancel
    ForceCancel(#[command(flatten)] Where),
    /// Finish the promotion now: all traffic goes to the new deployment
    ForceRollForward(#[command(flatten)] Where),
}

pub async fn promote(client: &Client, arguments: Promote, format: Format) -> anyhow::Result<()> {
    let Promote { model, to, .. } = &arguments;
    let named = named::deployment(client, model, &arguments.deployment).await?;
    let place = Place {
        model: model.clone(),
        environment: to.clone(),
    };
    let promoted = begin(client, &place, &named, arguments.keep_previous).await?;
    let moving = deployment(Some(&promoted));
    if format == Format::Text {
        if promoted.id != named.id {
            let made = format!(
                "created deployment {moving} from the bundle of {}\n",
                deployment(Some(&named))
            );
            output::note(&made);
        }
        output::note(&format!("promoting {moving} to {to} of {model}\n"));
    }
    if !arguments.wait {
        return match format {
            Format::Json => output::document(&json!({ "deployment": promoted })),
            Format::Text => output::line(&next(&place)),
        };
    }
    let environment = waiting::until_ended(client, &place, &promoted).await?;
    match format {
        Format::Json => {
            output::document(&json!({ "deployment": promoted, "environment": environment }))
        }
        Format::Text => {
            let current = deployment(environment.current_deployment.as_ref());
            output::line(&format!("{to} of {model} is now {current}"))?;
            if environment.previous_deployment_id.is_none() {
                return Ok(());
            }
            output::line(&format!(
                "\nnext:\n  samovar rollback {model} {to}    brings back the previous deployment"
            ))
        }
    }
}

fn next(place: &Place) -> String {
    let Place { model, environment } = place;
    format!(
        "next:\n  samovar promotion show {model} {environment}\n  samovar promotion cancel {model} {environment}"
    )
}

/// Begins a promotion. Returns the deployment that moves in, which may be a new one.
async fn begin(
    client: &Client,
    place: &Place,
    named: &DeploymentResponse,
    keep_previous: bool,
) -> anyhow::Result<Received<DeploymentResponse>> {
    let request = PromoteRequest {
        scale_down_previous_deployment: !keep_previous,
        ..PromoteRequest::new(named.id)
    };
    let promoted = client.promote(&place.model, &place.environment, &request);
    Ok(promoted.await?)
}

pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    const BACK: &str = "canceled: all traffic is back";
    let place = match &action {
        Action::Show(at) => return show(client, &at.place(), format).await,
        Action::Cancel(at)
        | Action::Pause(at)
        | Action::Resume(at)
        | Action::ForceCancel(at)
        | Action::ForceRollForward(at) => at.place(),
    };
    let (model, environment) = (&*place.model, &*place.environment);
    let (answer, done) = match &action {
        Action::Cancel(_) => {
            let answer = client.cancel_promotion(model, environment).await?;
            return tell(&answer, &place, BACK, format);
        }
        Action::Pause(_) => (
            client.pause_promotion(model, environment).await?,
            "paused in its stage",
        ),
        Action::Resume(_) => (
            client.resume_promotion(model, environment).await?,
            "resumed",
        ),
        Action::ForceRollForward(_) => (
            client
                .force_roll_forward_promotion(model, environment)
                .await?,
            "finished: all traffic goes to the new deployment",
        ),
        Action::Show(_) | Action::ForceCancel(_) => (
            client.force_cancel_promotion(model, environment).await?,
            BACK,
        ),
    };
    tell(&answer, &place, done, format)?;
    match (action, format) {
        (Action::Pause(_), Format::Text) => output::line(&format!(
            "\nnext:\n  samovar promotion resume {model} {environment}\n  samovar promotion cancel {model} {environment}"
        )),
        _ => Ok(()),
    }
}

fn tell(answer: &impl Serialize, place: &Place, done: &str, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => output::document(answer),
        Format::Text => output::line(&format!(
            "the promotion to {} of {} is {done}",
            place.environment, place.model
        )),
    }
}

/// The promotions of an environment.
#[derive(Serialize)]
struct Shown<'a> {
    environment: &'a str,
    current_deployment: Received<Option<DeploymentResponse>>,
    candidate_deployment: Received<Option<DeploymentResponse>>,
    in_progress_promotion: Received<Option<PromotionResponse>>,
    last_promotion: Received<Option<PromotionResponse>>,
}

impl<'a> From<&'a Received<EnvironmentResponse>> for Shown<'a> {
    fn from(environment: &'a Received<EnvironmentResponse>) -> Self {
        Self {
            environment: &environment.name,
            current_deployment: environment
                .part("current_deployment", |one| &one.current_deployment),
            candidate_deployment: environment
                .part("candidate_deployment", |one| &one.candidate_deployment),
            in_progress_promotion: environment
                .part("in_progress_promotion", |one| &one.in_progress_promotion),
            last_promotion: environment.part("last_promotion", |one| &one.last_promotion),
        }
    }
}

async fn show(client: &Client, place: &Place, format: Format) -> anyhow::Result<()> {
    let environment = client.environment(&place.model, &place.environment).await?;
    if format == Format::Json {
        return output::document(&Shown::from(&environment));
    }
    let going = environment.in_progress_promotion.as_ref();
    let Some(promotion) = going.or(environment.last_promotion.as_ref()) else {
        return output::line(&format!(
            "no promotion to {} of {} yet: start one with `samovar promote {} DEPLOYMENT --to {}`",
            place.environment, place.model, place.model, place.environment
        ));
    };
    output::properties(&properties(&environment, promotion, Timestamp::now()))
}

fn properties(
    environment: &EnvironmentResponse,
    promotion: &PromotionResponse,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("status", word(&promotion.status)),
        (
            "traffic",
            format!("{} %", promotion.percent_traffic_to_new_version),
        ),
        ("to", promotion.deployment_id.to_string()),
        (
            "current",
            deployment(environment.current_deployment.as_ref()),
        ),
        ("began", since(promotion.created_at, now)),
    ];
    if let (Some(stage), Some(started)) = (promotion.stage, promotion.stage_started_at) {
        lines.push(("stage", format!("{stage} of 10, {}", since(started, now))));
    }
    if let Some(at) = promotion.next_stage_at {
        let seconds = now.duration_until(at).as_secs().max(0);
        lines.push(("next stage", format!("in {seconds} s")));
    }
    if let Some(analysis) = &promotion.analysis {
        lines.push(("candidate in this stage", measured(&analysis.candidate)));
        lines.push(("current in this stage", measured(&analysis.current)));
    }
    if let Some(shadows) = &promotion.shadow_requests {
        let text = format!("{} sent, {} dropped", shadows.sent, shadows.dropped);
        lines.push(("copied requests", text));
    }
    if let Some(reason) = &promotion.error_message {
        lines.push(("reason", printable(reason)));
    }
    lines
}

/// The measurements of one deployment in a stage: `120 requests, 3 errors, p95 4.1 ms`.
fn measured(side: &SideAnalysis) -> String {
    let mut text = format!("{} requests, {} errors", side.requests, side.errors);
    if let Some(ms) = side.p95_latency_ms {
        text += &format!(", p95 {ms:.1} ms");
    }
    text
}

/// Cancels the running promotion, or else brings back the environment's previous deployment, at once and without a canary.
pub async fn rollback(client: &Client, at: Where, format: Format) -> anyhow::Result<()> {
    let place = at.place();
    let (model, environment) = (&place.model, &place.environment);
    let before = client.environment(model, environment).await?;
    if before.in_progress_promotion.is_some() {
        client.cancel_promotion(model, environment).await?;
        let after = client.environment(model, environment).await?;
        return match format {
            Format::Json => {
                output::document(&json!({ "rollback": "CANCELED", "environment": after }))
            }
            Format::Text => output::line(&format!(
                "canceled the promotion to {environment}: all traffic goes to {}",
                deployment(after.current_deployment.as_ref())
            )),
        };
    }
    let Some(id) = before.previous_deployment_id else {
        bail!(
            "{environment} of {model} has no previous deployment, or it was deleted: choose one from `samovar deployment list \
             {model}`, then run `samovar promote {model} DEPLOYMENT --to {environment}`"
        );
    };
    let mut previous = client.deployment(model, id.as_str()).await?;
    if previous.status.known().is_some_and(|known| known.is_off()) {
        if format == Format::Text {
            output::note(&format!(
                "{} is inactive: activating it\n",
                deployment(Some(&previous))
            ));
        }
        client
            .activate(model, id.as_str(), waiting::PATIENCE)
            .await?;
        previous = client.deployment(model, id.as_str()).await?;
    }
    let promoted = begin(client, &place, &previous, false).await?;
    let environment = waiting::at_once(client, &place, &promoted).await?;
    match format {
        Format::Json => {
            output::document(&json!({ "rollback": "PROMOTED", "environment": environment }))
        }
        Format::Text => output::line(&format!(
            "{} of {model} is {} again instead of {}\n\nnext:\n  samovar deployment list {model}\n  samovar rollback {model} {}    undoes this",
            place.environment,
            deployment(environment.current_deployment.as_ref()),
            deployment(before.current_deployment.as_ref()),
            place.environment,
        )),
    }
}

#[cfg(test)]
mod tests {
    use samovar_types::api::promotions::{ShadowRequests, StageAnalysis};

    use super::*;
    use crate::commands::deployment;
    use crate::commands::environment::{example, example_promotion};

    #[test]
    fn a_promotion_is_told_with_what_comes_next_and_what_went_wrong() {
        let current = DeploymentResponse {
            name: "one".into(),
            ..deployment::example("dep12345", "ACTIVE")
        };
        let environment = example(Some(current), None, None);
        let side = |requests, errors, p95_latency_ms| SideAnalysis {
            requests,
            errors,
            error_rate: None,
            p95_latency_ms,
        };
        let promotion = PromotionResponse {
            percent_traffic_to_new_version: 20,
            next_stage_at: Some("2026-01-01T00:01:30Z".parse().unwrap()),
            stage: Some(2),
            stage_started_at: Some("2026-01-01T00:00:30Z".parse().unwrap()),
            analysis: Some(StageAnalysis {
                candidate: side(120, 3, Some(4.14)),
                current: side(480, 0, None),
            }),
            shadow_requests: Some(ShadowRequests {
                sent: 48,
                dropped: 2,
            }),
            ..example_promotion("dep67890", "RAMPING_UP")
        };
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let lines = properties(&environment, &promotion, now);
        for (name, value) in [
            ("traffic", "20 %"),
            ("current", "dep12345 (one)"),
            ("next stage", "in 30 s"),
            (
                "candidate in this stage",
                "120 requests, 3 errors, p95 4.1 ms",
            ),
            ("current in this stage", "480 requests, 0 errors"),
            ("copied requests", "48 sent, 2 dropped"),
        ] {
            assert!(lines.contains(&(name, value.into())), "{lines:?}");
        }
        let failed = PromotionResponse {
            error_message: Some("it crashed".into()),
            ..example_promotion("dep67890", "FAILED")
        };
        let lines = properties(&environment, &failed, now);
        assert!(lines.contains(&("reason", "it crashed".into())));
    }
}
