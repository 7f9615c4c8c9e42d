//! The wait for the end of a promotion: what an environment's state says of it, drawn while it lasts.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use samovar_client::{ANSWER_TIMEOUT, Client, ClientError};
use serde_json::{Value, json};

use crate::commands::environment::{Place, deployment};
use crate::output::{self, cell};

/// The longest canary, and the time for its candidate to be built and get ready.
pub const PATIENCE: Duration = Duration::from_secs((24 + 1) * 3600);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Where the promotion of one deployment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    /// The deployment is being built.
    Building,
    /// Traffic moves, or will.
    Going { status: String, percent: u64 },
    /// The deployment took over.
    Succeeded,
    /// It did not, for this reason.
    Failed(String),
}

/// Reads it from the deployment and from the environment, which was asked for after it.
fn stand(deployment: &Value, environment: &Value) -> Stand {
    let id = &deployment["id"];
    let going = &environment["in_progress_promotion"];
    if going["deployment_id"] == *id {
        return Stand::Going {
            status: cell(&going["status"]),
            percent: going["percent_traffic_to_new_version"]
                .as_u64()
                .unwrap_or(0),
        };
    }
    if environment["current_deployment"]["id"] == *id {
        return Stand::Succeeded;
    }
    let last = &environment["last_promotion"];
    let reason = |value: &Value| match value {
        Value::Null => String::new(),
        reason => format!(": {}", cell(reason)),
    };
    if last["deployment_id"] == *id {
        return match last["status"].as_str() {
            Some("SUCCEEDED") => Stand::Failed(
                "it took over, and another deployment has taken its place since".into(),
            ),
            status => Stand::Failed(format!(
                "it ended {}{}",
                status.unwrap_or("without a word"),
                reason(&last["error_message"])
            )),
        };
    }
    let status = deployment["status"].as_str().unwrap_or_default();
    match status {
        "BUILDING" | "DEPLOYING" | "LOADING_MODEL" | "UPDATING" => Stand::Building,
        _ if deployment["status_reason"].is_null() => Stand::Failed(format!(
            "the deployment is {status}, but its promotion was called off or another went before it"
        )),
        _ => Stand::Failed(format!(
            "the deployment is {status}{}",
            reason(&deployment["status_reason"])
        )),
    }
}

/// Waits until a deployment has moved into an environment, and answers the environment then. A promotion that fails or is
/// called off is an error.
pub async fn until_ended(
    client: &Client,
    place: &Place,
    promoted: &Value,
) -> anyhow::Result<Value> {
    watch(client, place, promoted, Pace::AsSet).await
}

/// The same, but without any stages.
pub async fn at_once(client: &Client, place: &Place, promoted: &Value) -> anyhow::Result<Value> {
    watch(client, place, promoted, Pace::Forced).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    AsSet,
    Forced,
}

async fn watch(
    client: &Client,
    place: &Place,
    promoted: &Value,
    pace: Pace,
) -> anyhow::Result<Value> {
    let model = &place.model;
    let path = format!("/v1/models/{model}/deployments/{}", cell(&promoted["id"]));
    let mut shown = Shown::new();
    let begun = std::time::Instant::now();
    loop {
        let candidate = client.get(&path).await?;
        let environment = client.get(&place.path()).await?;
        let stand = stand(&candidate, &environment);
        match stand {
            Stand::Succeeded => {
                shown.end();
                return Ok(environment);
            }
            Stand::Failed(reason) => {
                shown.end();
                bail!(
                    "{} was not promoted to {} of {model}: {reason}",
                    deployment(promoted),
                    place.environment
                );
            }
            Stand::Going { .. } if pace == Pace::Forced => force(client, place).await?,
            _ => {}
        }
        shown.tell(&stand);
        if begun.elapsed() > PATIENCE {
            bail!(
                "the promotion to {} of {model} still goes on: see `samovar promotion show`",
                place.environment
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn force(client: &Client, place: &Place) -> anyhow::Result<()> {
    let path = format!("{}/force_roll_forward_promotion", place.path());
    let request = client.request(Method::POST, &path)?.json(&json!({}));
    match client.send(request.timeout(ANSWER_TIMEOUT)).await {
        // It ended by itself in this moment.
        Err(ClientError::Refused { status, .. }) if status.as_u16() == 409 => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What was told of it so far: a bar on a terminal, else a line for each change.
struct Shown {
    bar: Option<ProgressBar>,
    last: Option<Stand>,
}

impl Shown {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {bar:30} {pos:>3} % {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(100).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, last: None }
    }

    fn tell(&mut self, stand: &Stand) {
        if self.last.as_ref() == Some(stand) {
            return;
        }
        self.last = Some(stand.clone());
        let (status, percent) = match stand {
            Stand::Going { status, percent } => (status.as_str(), *percent),
            _ => ("BUILDING", 0),
        };
        match &self.bar {
            Some(bar) => {
                bar.set_position(percent);
                bar.set_message(status.to_owned());
            }
            None => output::note(&format!("{status} {percent} %\n")),
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(current: &str, going: Value, last: Value) -> Value {
        json!({
            "current_deployment": { "id": current },
            "in_progress_promotion": going,
            "last_promotion": last,
        })
    }

    #[test]
    fn each_stand_is_known() {
        let new = |status: &str| json!({ "id": "new", "status": status, "status_reason": null });
        let none = || Value::Null;
        let going = json!({ "deployment_id": "new", "status": "RAMPING_UP", "percent_traffic_to_new_version": 40 });
        assert_eq!(
            stand(&new("ACTIVE"), &environment("old", going, none())),
            Stand::Going {
                status: "RAMPING_UP".into(),
                percent: 40
            }
        );
        let moved = environment("new", none(), none());
        assert_eq!(stand(&new("ACTIVE"), &moved), Stand::Succeeded);
        let others = json!({ "deployment_id": "other", "status": "SUCCEEDED" });
        let waits = environment("old", none(), others);
        assert_eq!(stand(&new("BUILDING"), &waits), Stand::Building);
        for (deployment, environment, reason) in [
            (
                new("ACTIVE"),
                environment(
                    "old",
                    none(),
                    json!({ "deployment_id": "new", "status": "CANCELED" }),
                ),
                "CANCELED",
            ),
            (
                new("ACTIVE"),
                environment(
                    "old",
                    none(),
                    json!({ "deployment_id": "new", "status": "FAILED", "error_message": "5 % errors" }),
                ),
                "FAILED: 5 % errors",
            ),
            (
                json!({ "id": "new", "status": "DEPLOY_FAILED", "status_reason": "no graph" }),
                waits.clone(),
                "DEPLOY_FAILED: no graph",
            ),
            (new("ACTIVE"), waits, "called off"),
        ] {
            let Stand::Failed(found) = stand(&deployment, &environment) else {
                panic!("{reason}");
            };
            assert!(found.contains(reason), "{found}");
        }
    }
}
