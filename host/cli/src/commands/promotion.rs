//! `samovar promote`, `samovar promotion` and `samovar rollback`: an environment on its way to another deployment.

use anyhow::bail;
use clap::Subcommand;
use jiff::Timestamp;
use reqwest::Method;
use samovar_client::{ANSWER_TIMEOUT, Client};
use samovar_types::names::PRODUCTION;
use serde_json::{Value, json};

use crate::commands::environment::{Place, deployment};
use crate::named::{self, deployment_name};
use crate::output::{self, Format, cell, since};
use crate::{identifier, promotion_wait as waiting};

/// What `promote` is given.
#[derive(Debug, clap::Args)]
pub struct Promote {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    model: String,
    /// The deployment that moves in: its id, its name, or `development`
    #[arg(value_parser = deployment_name)]
    deployment: String,
    /// The environment that it moves into
    #[arg(long, value_name = "ENVIRONMENT", default_value = PRODUCTION, value_parser = identifier)]
    to: String,
    /// Leave the deployment that is there its replicas
    #[arg(long)]
    keep_previous: bool,
    /// Wait until the promotion has ended
    #[arg(long)]
    wait: bool,
}

/// The environment of a promotion.
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

/// What to do with a promotion.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show the promotion that goes on, or the last one
    Show(#[command(flatten)] Where),
    /// Call it off: all traffic goes back at once
    Cancel(#[command(flatten)] Where),
    /// Halt a canary in its stage
    Pause(#[command(flatten)] Where),
    /// Go on with a canary that was halted
    Resume(#[command(flatten)] Where),
    /// Call it off, whatever it waits for
    ForceCancel(#[command(flatten)] Where),
    /// Finish it now: all traffic goes to the new deployment
    ForceRollForward(#[command(flatten)] Where),
}

/// Promotes a deployment.
pub async fn promote(client: &Client, arguments: Promote, format: Format) -> anyhow::Result<()> {
    let Promote { model, to, .. } = &arguments;
    let named = named::deployment(client, model, &arguments.deployment).await?;
    let place = Place {
        model: model.clone(),
        environment: to.clone(),
    };
    let promoted = begin(client, &place, &named, arguments.keep_previous).await?;
    let moving = deployment(&promoted);
    if format == Format::Text {
        if promoted["id"] != named["id"] {
            let made = format!("made {moving} of the bundle of {}\n", deployment(&named));
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
            let current = deployment(&environment["current_deployment"]);
            output::line(&format!("{to} of {model} is {current} now"))?;
            if environment["previous_deployment_id"].is_null() {
                return Ok(());
            }
            output::line(&format!(
                "\nnext:\n  samovar rollback {model} {to}    goes back"
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

/// Begins a promotion; answers the deployment that moves in, which may be a fresh one.
async fn begin(
    client: &Client,
    place: &Place,
    named: &Value,
    keep_previous: bool,
) -> anyhow::Result<Value> {
    let body = json!({
        "deployment_id": named["id"],
        "scale_down_previous_deployment": !keep_previous,
    });
    act(client, &format!("{}/promote", place.path()), &body).await
}

async fn act(client: &Client, path: &str, body: &Value) -> anyhow::Result<Value> {
    let request = client.request(Method::POST, path)?.json(body);
    client.json(request.timeout(ANSWER_TIMEOUT)).await
}

/// Does something with a promotion.
pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    let (route, at, done) = match &action {
        Action::Show(at) => return show(client, &at.place(), format).await,
        Action::Cancel(at) => ("cancel_promotion", at, "called off: all traffic is back"),
        Action::Pause(at) => ("pause_promotion", at, "halted in its stage"),
        Action::Resume(at) => ("resume_promotion", at, "goes on"),
        Action::ForceCancel(at) => (
            "force_cancel_promotion",
            at,
            "called off: all traffic is back",
        ),
        Action::ForceRollForward(at) => (
            "force_roll_forward_promotion",
            at,
            "finished: all traffic goes to the new deployment",
        ),
    };
    let place = at.place();
    let answer = act(client, &format!("{}/{route}", place.path()), &json!({})).await?;
    if format == Format::Json {
        return output::document(&answer);
    }
    let (model, environment) = (&place.model, &place.environment);
    output::line(&format!(
        "the promotion to {environment} of {model} is {done}"
    ))?;
    if let Action::Pause(_) = action {
        output::line(&format!(
            "\nnext:\n  samovar promotion resume {model} {environment}\n  samovar promotion cancel {model} {environment}"
        ))?;
    }
    Ok(())
}

async fn show(client: &Client, place: &Place, format: Format) -> anyhow::Result<()> {
    let environment = client.get(&place.path()).await?;
    let promotion = match &environment["in_progress_promotion"] {
        Value::Null => &environment["last_promotion"],
        going => going,
    };
    if format == Format::Json {
        return output::document(&json!({
            "environment": environment["name"],
            "current_deployment": environment["current_deployment"],
            "candidate_deployment": environment["candidate_deployment"],
            "in_progress_promotion": environment["in_progress_promotion"],
            "last_promotion": environment["last_promotion"],
        }));
    }
    if promotion.is_null() {
        return output::line(&format!(
            "nothing was promoted to {} of {} yet: `samovar promote {} DEPLOYMENT --to {}`",
            place.environment, place.model, place.model, place.environment
        ));
    }
    output::properties(&properties(&environment, promotion, Timestamp::now()))
}

fn properties(
    environment: &Value,
    promotion: &Value,
    now: Timestamp,
) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("status", cell(&promotion["status"])),
        (
            "traffic",
            format!("{} %", cell(&promotion["percent_traffic_to_new_version"])),
        ),
        ("to", cell(&promotion["deployment_id"])),
        ("current", deployment(&environment["current_deployment"])),
        ("began", since(&promotion["created_at"], now)),
    ];
    if let Some(stage) = promotion["stage"].as_u64() {
        let since = since(&promotion["stage_started_at"], now);
        lines.push(("stage", format!("{stage} of 10, {since}")));
    }
    if let Some(at) = promotion["next_stage_at"]
        .as_str()
        .and_then(|at| at.parse().ok())
    {
        let seconds = now.duration_until(at).as_secs().max(0);
        lines.push(("next stage", format!("in {seconds} s")));
    }
    for (name, side) in [
        ("candidate in this stage", "candidate"),
        ("current in this stage", "current"),
    ] {
        let side = &promotion["analysis"][side];
        if side.is_object() {
            lines.push((name, measured(side)));
        }
    }
    let shadows = &promotion["shadow_requests"];
    if shadows.is_object() {
        let text = format!(
            "{} sent, {} not",
            cell(&shadows["sent"]),
            cell(&shadows["dropped"])
        );
        lines.push(("copied requests", text));
    }
    if !promotion["error_message"].is_null() {
        lines.push(("reason", cell(&promotion["error_message"])));
    }
    lines
}

/// What one side did in a stage: `120 requests, 3 errors, p95 4.1 ms`.
fn measured(side: &Value) -> String {
    let mut text = format!(
        "{} requests, {} errors",
        cell(&side["requests"]),
        cell(&side["errors"])
    );
    if let Some(ms) = side["p95_latency_ms"].as_f64() {
        text += &format!(", p95 {ms:.1} ms");
    }
    text
}

/// Goes back to what an environment had before: calls off the promotion that goes on, or else brings the deployment back
/// that was there, at once and without a canary.
pub async fn rollback(client: &Client, at: Where, format: Format) -> anyhow::Result<()> {
    let place = at.place();
    let (model, environment) = (&place.model, &place.environment);
    let before = client.get(&place.path()).await?;
    if !before["in_progress_promotion"].is_null() {
        act(
            client,
            &format!("{}/cancel_promotion", place.path()),
            &json!({}),
        )
        .await?;
        let environment = client.get(&place.path()).await?;
        return match format {
            Format::Json => {
                output::document(&json!({ "rollback": "CANCELED", "environment": environment }))
            }
            Format::Text => output::line(&format!(
                "called the promotion to {} off: all traffic goes to {}",
                place.environment,
                deployment(&environment["current_deployment"])
            )),
        };
    }
    let Some(id) = before["previous_deployment_id"].as_str() else {
        bail!(
            "{environment} of {model} had no other deployment before that is still there: see `samovar deployment list \
             {model}`, then `samovar promote {model} DEPLOYMENT --to {environment}`"
        );
    };
    let path = format!("/v1/models/{model}/deployments/{id}");
    let mut previous = client.get(&path).await?;
    if matches!(
        previous["status"].as_str(),
        Some("INACTIVE" | "DEACTIVATING")
    ) {
        if format == Format::Text {
            output::note(&format!(
                "{} is off: activating it\n",
                deployment(&previous)
            ));
        }
        let request = client.request(Method::POST, &format!("{path}/activate"))?;
        client.json(request.timeout(waiting::PATIENCE)).await?;
        previous = client.get(&path).await?;
    }
    let promoted = begin(client, &place, &previous, false).await?;
    let environment = waiting::at_once(client, &place, &promoted).await?;
    match format {
        Format::Json => {
            output::document(&json!({ "rollback": "PROMOTED", "environment": environment }))
        }
        Format::Text => output::line(&format!(
            "{} of {model} is {} again; {} was there\n\nnext:\n  samovar deployment list {model}\n  samovar rollback {model} {}    undoes this",
            place.environment,
            deployment(&environment["current_deployment"]),
            deployment(&before["current_deployment"]),
            place.environment,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promotion_is_told_with_what_comes_next_and_what_went_wrong() {
        let environment = json!({ "current_deployment": { "id": "dep12345", "name": "one" } });
        let promotion = json!({
            "status": "RAMPING_UP", "percent_traffic_to_new_version": 20, "deployment_id": "dep67890",
            "created_at": "2026-01-01T00:00:00Z", "next_stage_at": "2026-01-01T00:01:30Z", "error_message": null,
            "stage": 2, "stage_started_at": "2026-01-01T00:00:30Z",
            "analysis": { "candidate": { "requests": 120, "errors": 3, "p95_latency_ms": 4.14 },
                          "current": { "requests": 480, "errors": 0, "p95_latency_ms": null } },
            "shadow_requests": { "sent": 48, "dropped": 2 },
        });
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
            ("copied requests", "48 sent, 2 not"),
        ] {
            assert!(lines.contains(&(name, value.into())), "{lines:?}");
        }
        let failed =
            json!({ "status": "FAILED", "error_message": "it crashed", "next_stage_at": null });
        let lines = properties(&environment, &failed, now);
        assert!(lines.contains(&("reason", "it crashed".into())));
    }
}
