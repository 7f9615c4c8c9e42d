//! Environments move from one deployment to another, by hand or in stages, and no request is lost on the way.

use anyhow::{Context, Result};
use samovar_client::Client;
use samovar_tests::python::Python;
use samovar_tests::{Server, eventually, guest};
use samovar_types::api::deployments::UpdateStatus;
use samovar_types::api::environments::{EnvironmentResponse, UpdateEnvironmentRequest};
use samovar_types::api::promotions::PromoteRequest;
use samovar_types::error::ErrorCode;
use samovar_types::id::DeploymentId;
use samovar_types::names::PRODUCTION;
use samovar_types::promotion_settings::PromotionSettingsUpdate;
use samovar_types::settings::AutoscalingUpdate;
use serde_json::{Value, json};

/// A model whose first deployment echoes and whose second counts.
fn two_versions(server: &Server) -> Result<(String, String)> {
    let folder = server.bundle("canary", "echo", "")?;
    let path = folder.to_str().context("path")?;
    let id = |answer: Value| answer["deployment"]["id"].as_str().map(str::to_owned);
    let old = id(server.cli_json(&["push", path])?).context("an id")?;
    std::fs::copy(guest("count"), folder.join("guest.wasm"))?;
    let new = id(server.cli_json(&["push", path])?).context("an id")?;
    Ok((old, new))
}

async fn production(client: &Client) -> Result<EnvironmentResponse> {
    let shown = client.environment("canary", PRODUCTION).await?;
    Ok(shown.into_inner())
}

/// The deployment that production points at.
fn current(shown: &EnvironmentResponse) -> Option<DeploymentId> {
    shown.current_deployment.as_ref().map(|current| current.id)
}

#[tokio::test]
async fn the_official_client_moves_production_in_stages_under_load() -> Result<()> {
    let Some(python) = Python::with("the package baseten") else {
        return Ok(());
    };
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    let args = [&server.url, &server.key(), "canary", &old, &new];
    let seen = python
        .json("promotion_client.py", &args)
        .with_context(|| format!("{:?}", server.log()))?;
    assert_eq!(seen["failures"], json!([]), "{seen}");
    let percents = seen["percents"].as_array().context("percents")?;
    assert!(percents.len() > 5, "{seen}");
    Ok(())
}

#[tokio::test]
async fn without_a_canary_all_traffic_moves_at_once() -> Result<()> {
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    let client = server.api();
    let request = PromoteRequest::new(new.parse()?);
    let promoted = client.promote("canary", PRODUCTION, &request).await?;
    assert_eq!(promoted.id.as_str(), new);
    let url = server.at("/models/canary/production/predict");
    eventually("the new deployment answers", async || {
        let answer = server.client().post(&url).body("x").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap() != "x"
    })
    .await?;
    let again = client.promote("canary", PRODUCTION, &request).await;
    let refused = again.err().context("it is there already")?;
    assert_eq!(refused.code(), Some(ErrorCode::AlreadyThere));
    assert_eq!(refused.status().map(|status| status.as_u16()), Some(409));
    let list = server.cli_json(&["deployment", "list", "canary"])?;
    let production: Vec<_> = list["deployments"]
        .as_array()
        .context("list")?
        .iter()
        .map(|one| &one["is_production"])
        .collect();
    assert_eq!(production, [false, true]);
    server.cli_json(&["deployment", "delete", "--yes", "canary", &old])?;
    Ok(())
}

#[tokio::test]
async fn two_admins_who_promote_at_once_get_one_outcome() -> Result<()> {
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    let (client, old, new) = (
        server.api(),
        old.parse::<DeploymentId>()?,
        new.parse::<DeploymentId>()?,
    );
    let promote = |id: DeploymentId| {
        let client = client.clone();
        tokio::spawn(async move {
            let request = PromoteRequest::new(id);
            client.promote("canary", PRODUCTION, &request).await
        })
    };
    for round in 0..10 {
        let (one, other) = tokio::join!(promote(new), promote(old));
        let mut taken = Vec::new();
        for (id, answer) in [(new, one?), (old, other?)] {
            match answer {
                Ok(_) => taken.push(id),
                // Told that it came second, or that it is promoted already.
                Err(error) => {
                    let status = error.status().map(|status| status.as_u16());
                    let is_told = matches!(status, Some(400 | 409));
                    assert!(is_told, "round {round}: {error}");
                }
            }
        }
        assert!(!taken.is_empty(), "round {round}: neither was taken");
        eventually("the one that was taken last serves", async || {
            production(&client).await.is_ok_and(|shown| {
                let current = current(&shown);
                shown.in_progress_promotion.is_none() && taken.iter().any(|id| current == Some(*id))
            })
        })
        .await?;
        let id = current(&production(&client).await?).context("a deployment")?;
        // What the environment says is what answers.
        let url = server.at("/models/canary/production/predict");
        let answer = server.client().post(url).body("echoed").send().await?;
        assert_eq!(answer.status(), 200);
        let echoes = answer.text().await? == "echoed";
        assert_eq!(echoes, id == old, "round {round}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_killed_in_a_canary_comes_back_in_the_stage_of_the_clock() -> Result<()> {
    let mut server = Server::start()?;
    let (_, new) = two_versions(&server)?;
    let settings = UpdateEnvironmentRequest {
        promotion_settings: Some(PromotionSettingsUpdate {
            ramp_up_while_promoting: Some(true),
            ramp_up_duration_seconds: Some(6),
            ..PromotionSettingsUpdate::default()
        }),
        ..UpdateEnvironmentRequest::default()
    };
    let (client, new) = (server.api(), new.parse::<DeploymentId>()?);
    client
        .update_environment("canary", PRODUCTION, &settings)
        .await?;
    let request = PromoteRequest::new(new);
    client.promote("canary", PRODUCTION, &request).await?;
    let mut before = 0;
    for round in 0..4u64 {
        server.kill()?;
        server = server.restart()?;
        let shown = production(&server.api()).await?;
        let percent = match &shown.in_progress_promotion {
            Some(promotion) => promotion.percent_traffic_to_new_version,
            None => {
                assert_eq!(current(&shown), Some(new), "{shown:?}");
                100
            }
        };
        assert!(percent >= before, "{percent} after {before}: {shown:?}");
        before = percent;
        let url = server.at("/models/canary/production/predict");
        let answer = server.client().post(url).body("x").send().await?;
        assert_eq!(answer.status(), 200);
        // Another instant each round; none is waited for.
        tokio::time::sleep(std::time::Duration::from_millis(300 + 170 * round)).await;
    }
    eventually("the canary ends by itself", async || {
        let shown = production(&server.api()).await.unwrap();
        current(&shown) == Some(new)
    })
    .await
}

#[tokio::test]
async fn settings_of_an_environment_hold_at_once_and_bad_ones_are_refused() -> Result<()> {
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    let client = server.api();
    let three = UpdateEnvironmentRequest {
        autoscaling_settings: Some(AutoscalingUpdate {
            min_replica: Some(3),
            ..AutoscalingUpdate::default()
        }),
        ..UpdateEnvironmentRequest::default()
    };
    let updated = client.update_environment("canary", PRODUCTION, &three);
    assert_eq!(updated.await?.status, UpdateStatus::Accepted);
    eventually("three replicas", async || {
        let list = client.deployments("canary").await.unwrap();
        list.deployments[0].active_replica_count == 3
    })
    .await?;
    let updated = client.update_environment("canary", PRODUCTION, &three);
    assert_eq!(updated.await?.status, UpdateStatus::Unchanged);
    for (body, named) in [
        (
            json!({ "autoscaling_settings": { "min_replica": 99 } }),
            "max_replica",
        ),
        (
            json!({ "promotion_settings": { "rolling_deploy": true } }),
            "ramp_up_while_promoting",
        ),
        (json!({ "promotion_settings": { "ramp": 1 } }), "ramp"),
    ] {
        let url = server.at("/v1/models/canary/environments/production");
        let answer = server.client().patch(url).json(&body).send().await?;
        assert_eq!(answer.status(), 400);
        let answer: Value = answer.json().await?;
        assert!(
            answer["error"].as_str().unwrap().contains(named),
            "{answer}"
        );
    }
    // Who moves in takes them on.
    let request = PromoteRequest {
        scale_down_previous_deployment: false,
        ..PromoteRequest::new(new.parse()?)
    };
    client.promote("canary", PRODUCTION, &request).await?;
    eventually("the new one has three replicas", async || {
        let shown = client.deployment("canary", &new).await.unwrap();
        shown.active_replica_count == 3 && shown.is_production
    })
    .await?;
    let shown = client.deployment("canary", &old).await?;
    assert_eq!(shown.autoscaling_settings.min_replica, 3);
    let deleted = client.delete_environment("canary", PRODUCTION).await;
    let refused = deleted.err().and_then(|error| error.status());
    assert_eq!(refused.map(|status| status.as_u16()), Some(409));
    Ok(())
}
