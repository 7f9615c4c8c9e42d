//! The door is shut from the first day.

use anyhow::Result;
use samovar_tests::Server;

#[tokio::test]
async fn nothing_is_answered_without_a_key() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let anyone = reqwest::Client::new();
    for path in [
        "/v1/models",
        "/v1/status",
        "/models/count/production/predict",
        "/models/no-such/production/predict",
    ] {
        let answer = anyone.get(server.at(path)).send().await?;
        assert_eq!(answer.status(), 401, "{path}");
        assert!(answer.headers().contains_key("x-samovar-request-id"));
        let body: serde_json::Value = answer.json().await?;
        assert_eq!(body["error_code"], "unauthorized");
        assert!(body["request_id"].is_string());
    }
    let wrong = anyone
        .get(server.at("/v1/models"))
        .header("authorization", format!("Bearer {}x", server.key()));
    assert_eq!(wrong.send().await?.status(), 401);
    for scheme in ["Bearer", "Api-Key"] {
        let right = anyone
            .get(server.at("/v1/models"))
            .header("authorization", format!("{scheme} {}", server.key()));
        assert_eq!(right.send().await?.status(), 200);
    }
    Ok(())
}

#[tokio::test]
async fn a_component_does_not_see_the_key_but_the_request_id() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    let answer = server
        .client()
        .get(server.at("/models/echo/production/inspect?a=b%20c"))
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .send()
        .await?;
    let id = answer.headers()["x-samovar-request-id"]
        .to_str()?
        .to_owned();
    assert_eq!(answer.headers()["x-baseten-request-id"].to_str()?, id);
    let seen = answer.text().await?;
    assert!(seen.starts_with("Method::Get /inspect?a=b%20c\n"), "{seen}");
    assert!(seen.contains(&id), "{seen}");
    assert!(
        seen.contains("traceparent: 00-0af7651916cd43dd8448eb211c80319c"),
        "{seen}"
    );
    assert!(!seen.to_lowercase().contains("authorization"), "{seen}");
    Ok(())
}

#[test]
fn no_auth_is_for_loopback_alone() -> Result<()> {
    let refused = Server::start_with(&["--no-auth", "--addr", "0.0.0.0:0"]);
    assert!(refused.is_err());
    Ok(())
}

#[tokio::test]
async fn the_key_outlives_a_restart_and_is_no_secret_in_files() -> Result<()> {
    let server = Server::start()?;
    let key = server.key();
    assert!(key.len() > 20);
    let state = std::fs::read(server.folder().join("data/state.db"))?;
    let secret = key.split_once('.').unwrap().1.as_bytes();
    assert!(!state.windows(secret.len()).any(|window| window == secret));
    let server = server.restart()?;
    assert_eq!(server.key(), key);
    let answer = server.client().get(server.at("/v1/models")).send().await?;
    assert_eq!(answer.status(), 200);
    Ok(())
}

#[tokio::test]
async fn a_model_has_a_host_name_of_its_own_below_the_base_domain() -> Result<()> {
    let server = Server::start_with(&["--base-domain", "models.test"])?;
    let pushed = server.push("echo", "")?;
    let id = pushed["model"]["id"].as_str().unwrap();
    let at = |host: String, path: &str| {
        let request = server.client().get(server.at(path)).header("host", host);
        async move { anyhow::Ok(request.send().await?) }
    };
    let own = format!("model-{id}.models.test:8080");
    let answer = at(own.clone(), "/production/inspect?a=b").await?;
    assert_eq!(answer.status(), 200);
    let seen = answer.text().await?;
    assert!(seen.starts_with("Method::Get /inspect?a=b\n"), "{seen}");
    // Under such a name there is the model and nothing else.
    assert_eq!(at(own, "/v1/models").await?.status(), 404);
    let unknown = at("model-nosuch00.models.test".into(), "/production/x").await?;
    assert_eq!(unknown.status(), 404);
    let other = at("localhost".into(), "/v1/models").await?;
    assert_eq!(other.status(), 200);
    Ok(())
}
