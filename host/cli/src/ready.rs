//! What has become of a deployment that was pushed, and the wait until that is clear.

use std::time::Duration;

use anyhow::bail;
use samovar_client::Client;
use serde_json::Value;

use crate::output::cell;

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// What a status means to the one who pushed.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It answers, or will with the first request.
    Ready,
    /// It is on its way.
    Pending,
    /// It needs its owner.
    Failed,
}

fn outcome(deployment: &Value) -> Outcome {
    match deployment["status"].as_str().unwrap_or_default() {
        "BUILDING" | "DEPLOYING" | "LOADING_MODEL" | "UPDATING" => Outcome::Pending,
        "BUILD_FAILED" | "BUILD_STOPPED" | "DEPLOY_FAILED" | "FAILED" | "UNHEALTHY"
        | "DEACTIVATING" | "INACTIVE" => Outcome::Failed,
        _ => Outcome::Ready,
    }
}

/// Says with an error that a deployment failed, and why.
pub fn check(deployment: &Value) -> anyhow::Result<()> {
    if outcome(deployment) != Outcome::Failed {
        return Ok(());
    }
    let reason = match &deployment["status_reason"] {
        Value::Null => String::new(),
        reason => format!(": {}", cell(reason)),
    };
    bail!(
        "the deployment {} is {}{reason}",
        cell(&deployment["id"]),
        cell(&deployment["status"])
    )
}

/// Asks until the deployment's outcome is clear, but no longer than `wait`.
pub async fn wait(client: &Client, mut deployment: Value, wait: Duration) -> anyhow::Result<Value> {
    let path = format!(
        "/v1/models/{}/deployments/{}",
        cell(&deployment["model_id"]),
        cell(&deployment["id"])
    );
    let asking = async {
        while outcome(&deployment) == Outcome::Pending {
            tokio::time::sleep(POLL_INTERVAL).await;
            deployment = client.get(&path).await?;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(wait, asking).await {
        Ok(asked) => asked.map(|()| deployment),
        Err(_) => bail!(
            "the deployment {} is still {} after {}; see `samovar deployment show`",
            cell(&deployment["id"]),
            cell(&deployment["status"]),
            humantime::format_duration(wait)
        ),
    }
}

#[cfg(test)]
mod tests {
    use samovar_types::deployment::DeploymentStatus;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_status_has_the_servers_own_meaning() {
        for status in DeploymentStatus::ALL {
            let found = outcome(&json!({ "status": status }));
            let failed =
                status.has_failed() || status.is_off() || status == DeploymentStatus::Unhealthy;
            let wanted = match status {
                status if status.is_unfinished() => Outcome::Pending,
                _ if failed => Outcome::Failed,
                _ => Outcome::Ready,
            };
            assert_eq!(found, wanted, "{status:?}");
        }
    }

    #[test]
    fn a_failure_says_why() {
        let failed = json!({"id": "dep12345", "status": "FAILED", "status_reason": "no graph"});
        let error = check(&failed).unwrap_err().to_string();
        assert_eq!(error, "the deployment dep12345 is FAILED: no graph");
        assert!(check(&json!({"id": "dep12345", "status": "ACTIVE"})).is_ok());
    }

    #[tokio::test]
    async fn only_what_is_pending_is_waited_for() {
        // Nothing listens there: whoever asks gets an error.
        let client = Client::new("http://127.0.0.1:1", None).unwrap();
        let minute = Duration::from_secs(60);
        let deployment =
            |status: &str| json!({"id": "dep12345", "model_id": "abcd1234", "status": status});
        let ready = deployment("ACTIVE");
        assert_eq!(wait(&client, ready.clone(), minute).await.unwrap(), ready);
        assert!(wait(&client, deployment("BUILDING"), minute).await.is_err());
        let error = wait(&client, deployment("BUILDING"), Duration::from_millis(1)).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("still BUILDING after 1ms"), "{error}");
    }
}
