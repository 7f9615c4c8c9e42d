//! `/openapi.json` is valid, tells of every route, and nothing is answered that it does not tell of.

use anyhow::{Context, Result};
use samovar_tests::canary::Canary;
use samovar_tests::python::Python;
use samovar_tests::{Server, guest};
use samovar_types::api::environments::CreateEnvironmentRequest;
use samovar_types::promotion_settings::{AnalysisUpdate, PromotionSettingsUpdate};
use serde_json::Value;

#[tokio::test]
async fn every_route_answers_as_the_document_says() -> Result<()> {
    let Some(python) = Python::with("the package schemathesis") else {
        return Ok(());
    };
    let server = Server::start()?;
    let canary = Canary::push(&server, "walked", ["routes", "echo"], "")?;
    let settings = PromotionSettingsUpdate {
        shadow_percent: Some(Some(10)),
        analysis: Some(Some(AnalysisUpdate {
            max_error_rate: Some(0.1),
            ..AnalysisUpdate::default()
        })),
        ..PromotionSettingsUpdate::default()
    };
    canary.set(60, settings).await?;
    let client = server.api();
    let staging = CreateEnvironmentRequest {
        name: "staging".into(),
        ..CreateEnvironmentRequest::default()
    };
    client.create_environment("walked", &staging).await?;
    let model = client.model("walked").await?.id.to_string();
    let routes = guest("routes").display().to_string();
    let args = [
        &server.url,
        &*server.key(),
        &routes,
        &model,
        "walked",
        &canary.old,
        &canary.new,
    ];
    let walked = python.json("openapi_client.py", &args);
    let log = server.log();
    let failed: Vec<_> = log
        .iter()
        .filter(|line| line.contains("panicked"))
        .collect();
    let seen = walked.with_context(|| format!("{failed:?}"))?;
    assert!(failed.is_empty(), "{failed:?}");
    // It went in, not only past the door.
    for operation in [
        "GET /v1/models/{model}/environments/{environment}",
        "PATCH /v1/models/{model}/environments/{environment}",
        "POST /v1/models/{model}/environments/{environment}/promote",
        "POST /v1/models/{model}/deployments",
        "POST /v1/api_keys",
        "GET /models/{model}/async_request/{request_id}",
    ] {
        assert!(seen[operation]["200"].is_number(), "{operation}: {seen}");
    }
    Ok(())
}

#[tokio::test]
async fn the_document_tells_of_inference_too() -> Result<()> {
    let server = Server::start()?;
    // Whoever has no key yet may read how to get one.
    let answer = reqwest::get(server.at("/openapi.json")).await?;
    assert_eq!(answer.status(), 200);
    let document: Value = answer.json().await?;
    assert!(
        document["openapi"]
            .as_str()
            .context("openapi")?
            .starts_with("3.1.")
    );
    let paths = document["paths"].as_object().context("paths")?;
    for path in [
        "/v1/models/{model}/environments/{environment}/promote",
        "/models/{model}/production/predict",
        "/models/{model}/environments/{environment}/sync/{path}",
        "/models/{model}/deployment/{deployment}/async_predict",
        "/models/{model}/development/wake",
        "/models/{model}/async_request/{request_id}/result",
    ] {
        assert!(paths.contains_key(path), "{path}: {:?}", paths.keys());
    }
    Ok(())
}
