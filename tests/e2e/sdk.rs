//! What the SDK promises to authors of models, through a component that it made.

use anyhow::Result;
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};

const MODEL: &str = "/models/routes/production";

fn pushed(manifest: &str) -> Result<Server> {
    let server = Server::start()?;
    server.push("routes", manifest)?;
    Ok(server)
}

#[tokio::test]
async fn json_goes_in_and_out_and_state_stays() -> Result<()> {
    let server = pushed("")?;
    let predict = server.at(&format!("{MODEL}/predict"));
    for served in 1..3 {
        let answer = server.client().post(&predict).json(&[1.5, 2.0]).send();
        let answer: Value = answer.await?.json().await?;
        assert_eq!(answer, json!({ "sum": 3.5, "served": served }));
    }
    Ok(())
}

#[tokio::test]
async fn errors_become_statuses_with_json() -> Result<()> {
    let server = pushed("")?;
    let (client, at) = (server.client(), |path: &str| {
        server.at(&format!("{MODEL}{path}"))
    });

    let answer = client.post(at("/predict")).body("[1, x]").send().await?;
    assert_eq!(answer.status(), 400);
    assert_eq!(answer.json::<Value>().await?["error_code"], "invalid_json");

    let answer = client.get(at("/predict")).send().await?;
    assert_eq!(answer.status(), 405);
    assert_eq!(answer.headers()["allow"], "POST");

    let answer = client.post(at("/nowhere")).send().await?;
    assert_eq!(answer.status(), 404);

    let answer = client.get(at("/teapot")).send().await?;
    assert_eq!(answer.status(), 418);
    let wanted =
        json!({ "error": "short and stout", "error_code": "teapot", "detail": { "spout": 1 } });
    assert_eq!(answer.json::<Value>().await?, wanted);

    // A closure of the author's that fails is no trap: the same replica serves on.
    let answer = client.get(at("/stream?bytes=many")).send().await?;
    assert_eq!(answer.status(), 500);
    Ok(())
}

#[tokio::test]
async fn bodies_stream_through_little_memory() -> Result<()> {
    let server = pushed("[limits]\nmemory = \"4MiB\"\nbody = \"100MiB\"\n")?;
    let (client, at) = (server.client(), |path: &str| {
        server.at(&format!("{MODEL}{path}"))
    });
    let size = 32 << 20;

    let answer = client.post(at("/count")).body(vec![7; size]).send().await?;
    assert_eq!(answer.text().await?, size.to_string());

    let answer = client.get(at(&format!("/stream?bytes={size}"))).send();
    let bytes = answer.await?.bytes().await?;
    assert_eq!(bytes.len(), size);
    assert!(bytes.iter().all(|&byte| byte == b'x'));

    let answer = client.get(at("/chunks")).send().await?;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(answer.text().await?, "one\ntwo\n");
    Ok(())
}

#[tokio::test]
async fn a_response_that_breaks_off_is_seen_to_break_off() -> Result<()> {
    let server = pushed("")?;
    let url = server.at(&format!("{MODEL}/broken"));
    // Whether the head still goes out depends on who is faster.
    let whole = match server.client().get(url).send().await {
        Ok(answer) => answer.bytes().await.is_ok(),
        Err(error) => error.is_timeout(),
    };
    assert!(!whole);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_fails_before_it_wrote_anything_is_an_error() -> Result<()> {
    let server = pushed("")?;
    let url = server.at(&format!("{MODEL}/too-early"));
    let answer = server.client().get(url).send().await?;
    assert_eq!(answer.status(), 418);
    assert_eq!(answer.json::<Value>().await?["error_code"], "teapot");
    Ok(())
}

#[tokio::test]
async fn headers_go_both_ways() -> Result<()> {
    let server = pushed("")?;
    let url = server.at(&format!("{MODEL}/header"));
    let answer = server
        .client()
        .get(url)
        .header("x-question", "six by nine?")
        .send()
        .await?;
    assert_eq!(answer.headers()["x-answer"], "42");
    assert_eq!(answer.text().await?, "six by nine?");
    Ok(())
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_named() -> Result<()> {
    let server = pushed("")?;
    let url = server.at(&format!("{MODEL}/secret?name=HF_TOKEN"));
    let answer = server.client().get(url).send().await?;
    assert_eq!(answer.status(), 500);
    let error: Value = answer.json().await?;
    assert_eq!(error["error_code"], "secret_missing");
    assert!(error["error"].as_str().unwrap().contains("\"HF_TOKEN\""));
    Ok(())
}

#[tokio::test]
async fn a_component_knows_what_it_answers_for() -> Result<()> {
    let server = Server::start()?;
    let pushed = server.push("routes", "")?;
    let id = &pushed["deployment"]["id"];
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for (target, environment) in [
        ("production".to_owned(), json!("production")),
        ("environments/production".to_owned(), json!("production")),
        (format!("deployment/{}", id.as_str().unwrap()), Value::Null),
    ] {
        let request = server
            .client()
            .get(server.at(&format!("/models/routes/{target}/context")))
            .header("traceparent", format!("00-{trace}-b7ad6b7169203331-01"))
            .header("x-samovar-environment", "mine");
        let answer = request.send().await?;
        let request_id = answer.headers()["x-samovar-request-id"].to_str()?;
        let wanted = json!({
            "request_id": request_id,
            "environment": environment,
            "trace_id": trace,
            "model": "routes",
            "deployment": id,
        });
        assert_eq!(answer.json::<Value>().await?, wanted, "{target}");
    }
    Ok(())
}

#[tokio::test]
async fn lines_of_the_log_keep_their_level() -> Result<()> {
    let server = pushed("")?;
    let url = server.at(&format!("{MODEL}/log"));
    let answer = server.client().post(url).body("odd, but well").send();
    assert_eq!(answer.await?.status(), 202);
    eventually("the line is kept", async || {
        let logs = server.cli(&["--json", "deployment", "logs", "routes", "production"]);
        let text = String::from_utf8(logs.unwrap().stdout).unwrap();
        text.lines()
            .any(|line| line.contains("odd, but well") && line.contains("\"WARNING\""))
    })
    .await
}

#[tokio::test]
async fn a_model_that_does_not_load_says_why() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle(
        "routes",
        "routes",
        "[environment_variables]\nLOAD_ERROR = \"no tokenizer\"\n",
    )?;
    let output = server.cli(&["push", folder.to_str().unwrap()])?;
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr)?;
    assert!(error.contains("no tokenizer"), "{error}");
    Ok(())
}
