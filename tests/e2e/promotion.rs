//! Environments move from one deployment to another, by hand or in stages, and no request is lost on the way.

use anyhow::{Context, Result};
use samovar_tests::python::Python;
use samovar_tests::{Server, eventually, guest};
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

async fn call(
    server: &Server,
    method: reqwest::Method,
    path: &str,
    body: Value,
) -> Result<(u16, Value)> {
    let request = server.client().request(method, server.at(path));
    let answer = request.json(&body).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn post(server: &Server, path: &str, body: Value) -> Result<(u16, Value)> {
    call(server, reqwest::Method::POST, path, body).await
}

const PRODUCTION: &str = "/v1/models/canary/environments/production";

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
    let (status, deployment) = post(
        &server,
        &format!("{PRODUCTION}/promote"),
        json!({ "deployment_id": new }),
    )
    .await?;
    assert_eq!((status, &deployment["id"]), (200, &json!(new)));
    let url = server.at("/models/canary/production/predict");
    eventually("the new deployment answers", async || {
        let answer = server.client().post(&url).body("x").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap() != "x"
    })
    .await?;
    let (status, answer) = post(
        &server,
        &format!("{PRODUCTION}/promote"),
        json!({ "deployment_id": new }),
    )
    .await?;
    assert_eq!(
        (status, &answer["error_code"]),
        (409, &json!("already_there"))
    );
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
    let promote = |id: &str| {
        let (path, body) = (
            format!("{PRODUCTION}/promote"),
            json!({ "deployment_id": id }),
        );
        let request = server.client().post(server.at(&path)).json(&body);
        tokio::spawn(async move {
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            anyhow::Ok((status, answer.json::<Value>().await?))
        })
    };
    let serving = async || -> Result<String> {
        let answer = server.client().get(server.at(PRODUCTION)).send().await?;
        let shown: Value = answer.json().await?;
        let current = shown["current_deployment"]["id"].as_str();
        Ok(current.context(shown.to_string())?.to_owned())
    };
    for round in 0..10 {
        let (one, other) = tokio::join!(promote(&new), promote(&old));
        let mut taken = Vec::new();
        for (id, answer) in [(&new, one??), (&old, other??)] {
            match answer {
                (200, _) => taken.push(id.clone()),
                // Told that it came second, or that it is promoted already.
                (400 | 409, answer) => assert!(answer["error"].is_string(), "{answer}"),
                (status, answer) => anyhow::bail!("round {round}: {status} {answer}"),
            }
        }
        assert!(!taken.is_empty(), "round {round}: neither was taken");
        eventually("the one that was taken last serves", async || {
            let shown: Value = match server.client().get(server.at(PRODUCTION)).send().await {
                Ok(answer) => answer.json().await.unwrap_or_default(),
                Err(_) => return false,
            };
            shown["in_progress_promotion"].is_null()
                && taken
                    .iter()
                    .any(|id| shown["current_deployment"]["id"] == **id)
        })
        .await?;
        let id = serving().await?;
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
    let settings = json!({ "promotion_settings": { "ramp_up_while_promoting": true, "ramp_up_duration_seconds": 6 } });
    let (status, _) = call(&server, reqwest::Method::PATCH, PRODUCTION, settings).await?;
    assert_eq!(status, 200);
    let (status, _) = post(
        &server,
        &format!("{PRODUCTION}/promote"),
        json!({ "deployment_id": new }),
    )
    .await?;
    assert_eq!(status, 200);
    let mut before = 0;
    for round in 0..4u64 {
        server.kill()?;
        server = server.restart()?;
        let (status, shown) = call(&server, reqwest::Method::GET, PRODUCTION, Value::Null).await?;
        assert_eq!(status, 200);
        let promotion = &shown["in_progress_promotion"];
        let percent = match promotion["percent_traffic_to_new_version"].as_u64() {
            Some(percent) => percent,
            None => {
                assert_eq!(shown["current_deployment"]["id"], json!(new), "{shown}");
                100
            }
        };
        assert!(percent >= before, "{percent} after {before}: {shown}");
        before = percent;
        let url = server.at("/models/canary/production/predict");
        let answer = server.client().post(url).body("x").send().await?;
        assert_eq!(answer.status(), 200);
        // Another instant each round; none is waited for.
        tokio::time::sleep(std::time::Duration::from_millis(300 + 170 * round)).await;
    }
    eventually("the canary ends by itself", async || {
        let shown = call(&server, reqwest::Method::GET, PRODUCTION, Value::Null).await;
        shown.unwrap().1["current_deployment"]["id"] == json!(new)
    })
    .await
}

#[tokio::test]
async fn settings_of_an_environment_hold_at_once_and_bad_ones_are_refused() -> Result<()> {
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    let patch = async |body: Value| call(&server, reqwest::Method::PATCH, PRODUCTION, body).await;
    let (status, answer) = patch(json!({ "autoscaling_settings": { "min_replica": 3 } })).await?;
    assert_eq!((status, &answer["status"]), (200, &json!("ACCEPTED")));
    eventually("three replicas", async || {
        let list = server.cli_json(&["deployment", "list", "canary"]).unwrap();
        list["deployments"][0]["active_replica_count"] == 3
    })
    .await?;
    let (_, answer) = patch(json!({ "autoscaling_settings": { "min_replica": 3 } })).await?;
    assert_eq!(answer["status"], "UNCHANGED");
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
        let (status, answer) = patch(body).await?;
        assert_eq!(status, 400);
        assert!(
            answer["error"].as_str().unwrap().contains(named),
            "{answer}"
        );
    }
    // Who moves in takes them on.
    post(
        &server,
        &format!("{PRODUCTION}/promote"),
        json!({ "deployment_id": new, "scale_down_previous_deployment": false }),
    )
    .await?;
    eventually("the new one has three replicas", async || {
        let path = format!("/v1/models/canary/deployments/{new}");
        let shown = call(&server, reqwest::Method::GET, &path, Value::Null)
            .await
            .unwrap()
            .1;
        shown["active_replica_count"] == 3 && shown["is_production"] == true
    })
    .await?;
    let path = format!("/v1/models/canary/deployments/{old}");
    let shown = call(&server, reqwest::Method::GET, &path, Value::Null)
        .await?
        .1;
    assert_eq!(shown["autoscaling_settings"]["min_replica"], 3);
    let (status, _) = call(&server, reqwest::Method::DELETE, PRODUCTION, Value::Null).await?;
    assert_eq!(status, 409);
    Ok(())
}
