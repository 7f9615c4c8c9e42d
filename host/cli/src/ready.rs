//! Waits until a pushed deployment is ready or has failed.

use std::time::Duration;

use anyhow::bail;
use samovar_client::text::printable;
use samovar_client::{Client, Received};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::reported::Reported;
use samovar_types::deployment::DeploymentStatus;

use crate::output::word;

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What a status means for a push.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The deployment serves, or will serve the first request.
    Ready,
    /// The deployment is still being built.
    Pending,
    /// The deployment has failed.
    Failed,
}

fn outcome(status: &Reported<DeploymentStatus>) -> Outcome {
    use DeploymentStatus as S;
    // A newer server has a state that this release cannot judge: the next one may be known.
    let Some(status) = status.known() else {
        return Outcome::Pending;
    };
    match status {
        S::Building | S::Deploying | S::LoadingModel | S::Updating => Outcome::Pending,
        S::BuildFailed
        | S::BuildStopped
        | S::DeployFailed
        | S::Failed
        | S::Unhealthy
        | S::Deactivating
        | S::Inactive => Outcome::Failed,
        S::Active | S::ScaledToZero | S::WakingUp => Outcome::Ready,
    }
}

/// An error with the reason, if the deployment failed.
pub fn check(deployment: &DeploymentResponse) -> anyhow::Result<()> {
    if outcome(&deployment.status) != Outcome::Failed {
        return Ok(());
    }
    let reason = match &deployment.status_reason {
        None => String::new(),
        Some(reason) => format!(": {}", printable(reason)),
    };
    bail!(
        "the deployment {} is {}{reason}",
        deployment.id,
        word(&deployment.status)
    )
}

/// Polls until the deployment is ready or has failed, but no longer than `wait`.
pub async fn wait(
    client: &Client,
    mut deployment: Received<DeploymentResponse>,
    wait: Duration,
) -> anyhow::Result<Received<DeploymentResponse>> {
    let (model, id) = (deployment.model_id, deployment.id);
    let asking = async {
        while outcome(&deployment.status) == Outcome::Pending {
            tokio::time::sleep(POLL_INTERVAL).await;
            deployment = client.deployment(model.as_str(), id.as_str()).await?;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(wait, asking).await {
        Ok(asked) => asked.map(|()| deployment),
        Err(_) => bail!(
            "the deployment {id} is still {} after {}; see `samovar deployment show`",
            word(&deployment.status),
            humantime::format_duration(wait)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::deployment::example;

    #[test]
    fn each_status_has_the_servers_own_meaning() {
        for status in DeploymentStatus::ALL {
            let failed =
                status.has_failed() || status.is_off() || status == DeploymentStatus::Unhealthy;
            let wanted = match status {
                status if status.is_unfinished() => Outcome::Pending,
                _ if failed => Outcome::Failed,
                _ => Outcome::Ready,
            };
            assert_eq!(outcome(&status.into()), wanted, "{status:?}");
        }
    }

    #[test]
    fn a_failure_says_why() {
        let failed = DeploymentResponse {
            status_reason: Some("no graph".into()),
            ..example("dep12345", "FAILED")
        };
        let error = check(&failed).unwrap_err().to_string();
        assert_eq!(error, "the deployment dep12345 is FAILED: no graph");
        assert!(check(&example("dep12345", "ACTIVE")).is_ok());
    }

    #[tokio::test]
    async fn only_what_is_pending_is_waited_for() {
        // Nothing listens there, so that each call fails.
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let minute = Duration::from_secs(60);
        let ready = example("dep12345", "ACTIVE").into();
        let answered = wait(&client, ready, minute).await.unwrap();
        assert_eq!(answered.status, DeploymentStatus::Active);
        let pending = || example("dep12345", "BUILDING").into();
        assert!(wait(&client, pending(), minute).await.is_err());
        let error = wait(&client, pending(), Duration::from_millis(1)).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("still BUILDING after 1ms"), "{error}");
        let newer = example("dep12345", "HIBERNATING").into();
        let error = wait(&client, newer, Duration::from_millis(1)).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("still HIBERNATING after 1ms"), "{error}");
    }
}
