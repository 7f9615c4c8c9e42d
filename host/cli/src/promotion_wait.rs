//! Waits for the end of a promotion, and shows its progress.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use samovar_client::text::printable;
use samovar_client::{Client, Received, StatusCode};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::environments::EnvironmentResponse;
use samovar_types::promotion::PromotionStatus;

use crate::commands::environment::{Place, deployment};
use crate::output::{self, word};

/// The longest canary, plus time to build its candidate and start it.
pub const PATIENCE: Duration = Duration::from_secs((24 + 1) * 3600);
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The state of one deployment's promotion.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    /// The deployment is being built.
    Building,
    /// Traffic moves, or will move.
    Going { status: String, percent: u64 },
    /// The deployment gets all traffic.
    Succeeded,
    /// The promotion ended otherwise, for this reason.
    Failed(String),
}

/// Derives the state from the deployment, and from the environment, which was read after it.
fn stand(deployment: &DeploymentResponse, environment: &EnvironmentResponse) -> Stand {
    let id = deployment.id;
    let going = environment.in_progress_promotion.as_ref();
    if let Some(going) = going.filter(|going| going.deployment_id == id) {
        return Stand::Going {
            status: word(&going.status),
            percent: going.percent_traffic_to_new_version.into(),
        };
    }
    let current = environment.current_deployment.as_ref();
    if current.is_some_and(|current| current.id == id) {
        return Stand::Succeeded;
    }
    let reason = |reason: Option<&String>| match reason {
        None => String::new(),
        Some(reason) => format!(": {}", printable(reason)),
    };
    let last = environment.last_promotion.as_ref();
    if let Some(last) = last.filter(|last| last.deployment_id == id) {
        return Stand::Failed(match last.status == PromotionStatus::Succeeded {
            true => "its promotion succeeded, but another deployment has replaced it since".into(),
            false => format!(
                "it ended {}{}",
                word(&last.status),
                reason(last.error_message.as_ref())
            ),
        });
    }
    let status = &deployment.status;
    match &deployment.status_reason {
        _ if status.known().is_some_and(|known| known.is_unfinished()) => Stand::Building,
        None => Stand::Failed(format!(
            "the deployment is {}, but its promotion was canceled or replaced by another one",
            word(status)
        )),
        told => Stand::Failed(format!(
            "the deployment is {}{}",
            word(status),
            reason(told.as_ref())
        )),
    }
}

/// Waits until a deployment has moved into an environment, and returns the environment. A promotion that fails or is canceled is
/// an error.
pub async fn until_ended(
    client: &Client,
    place: &Place,
    promoted: &DeploymentResponse,
) -> anyhow::Result<Received<EnvironmentResponse>> {
    watch(client, place, promoted, Pace::AsSet).await
}

/// The same for a promotion without stages.
pub async fn at_once(
    client: &Client,
    place: &Place,
    promoted: &DeploymentResponse,
) -> anyhow::Result<Received<EnvironmentResponse>> {
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
    promoted: &DeploymentResponse,
    pace: Pace,
) -> anyhow::Result<Received<EnvironmentResponse>> {
    let model = &place.model;
    let mut shown = Shown::new();
    let begun = std::time::Instant::now();
    loop {
        let candidate = client.deployment(model, promoted.id.as_str()).await?;
        let environment = client.environment(model, &place.environment).await?;
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
                    deployment(Some(promoted)),
                    place.environment
                );
            }
            Stand::Going { .. } if pace == Pace::Forced => force(client, place).await?,
            _ => {}
        }
        shown.tell(&stand);
        if begun.elapsed() > PATIENCE {
            bail!(
                "the promotion to {} of {model} is still running: see `samovar promotion show`",
                place.environment
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn force(client: &Client, place: &Place) -> anyhow::Result<()> {
    let forced = client.force_roll_forward_promotion(&place.model, &place.environment);
    match forced.await {
        // It ended in this moment.
        Err(error) if error.status() == Some(StatusCode::CONFLICT) => Ok(()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Shows the progress: a bar on a terminal, otherwise a line for each change.
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
    use samovar_types::api::promotions::PromotionResponse;

    use super::*;
    use crate::commands::deployment::example as deployed;
    use crate::commands::environment::{example, example_promotion};

    const OLD: &str = "old00000";
    const NEW: &str = "new00000";

    fn environment(
        current: &str,
        going: Option<PromotionResponse>,
        last: Option<PromotionResponse>,
    ) -> EnvironmentResponse {
        example(Some(deployed(current, "ACTIVE")), going, last)
    }

    #[test]
    fn each_stand_is_known() {
        let new = |status: &str| deployed(NEW, status);
        let going = PromotionResponse {
            percent_traffic_to_new_version: 40,
            ..example_promotion(NEW, "RAMPING_UP")
        };
        assert_eq!(
            stand(&new("ACTIVE"), &environment(OLD, Some(going), None)),
            Stand::Going {
                status: "RAMPING_UP".into(),
                percent: 40
            }
        );
        let moved = environment(NEW, None, None);
        assert_eq!(stand(&new("ACTIVE"), &moved), Stand::Succeeded);
        let others = example_promotion("other000", "SUCCEEDED");
        let waits = environment(OLD, None, Some(others));
        assert_eq!(stand(&new("BUILDING"), &waits), Stand::Building);
        let ended = |status: &str, error: Option<&str>| {
            let last = PromotionResponse {
                error_message: error.map(str::to_owned),
                ..example_promotion(NEW, status)
            };
            environment(OLD, None, Some(last))
        };
        let mut failed = new("DEPLOY_FAILED");
        failed.status_reason = Some("no graph".into());
        for (deployment, environment, reason) in [
            (new("ACTIVE"), ended("CANCELED", None), "CANCELED"),
            (
                new("ACTIVE"),
                ended("FAILED", Some("5 % errors")),
                "FAILED: 5 % errors",
            ),
            (failed, waits.clone(), "DEPLOY_FAILED: no graph"),
            (new("ACTIVE"), waits, "canceled"),
        ] {
            let Stand::Failed(found) = stand(&deployment, &environment) else {
                panic!("{reason}");
            };
            assert!(found.contains(reason), "{found}");
        }
    }
}
