//! Web pages and a server: what a page may do, with keys and without.

use anyhow::Result;
use reqwest::Method;
use samovar_tests::{Server, eventually};
use serde_json::Value;

/// Asks without a key, and answers the status and the error's text.
async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(u16, String)> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut request = client.request(method, server.at(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap_or_default();
    Ok((
        status,
        body["error"].as_str().unwrap_or_default().to_owned(),
    ))
}

#[tokio::test]
async fn without_keys_a_web_page_reaches_nothing() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    let pushed = server.push("echo", "")?;
    let id = pushed["deployment"]["id"].as_str().unwrap_or_default();
    let deactivate = format!("/v1/models/echo/deployments/{id}/deactivate");
    let predict = "/models/echo/production/inspect";
    let evil = ("origin", "https://evil.example");
    for (method, path, headers, wanted) in [
        // A page whose name was made to lead here.
        (
            Method::GET,
            "/v1/models",
            &[("host", "evil.example:8080")][..],
            403,
        ),
        (Method::GET, predict, &[("host", "evil.example:8080")], 403),
        (
            Method::GET,
            "/openapi.json",
            &[("host", "evil.example")],
            403,
        ),
        // A page that sends requests here, and does not care for answers.
        (Method::POST, &deactivate, &[evil], 403),
        (Method::POST, &deactivate, &[("origin", "null")], 403),
        (Method::POST, predict, &[evil], 403),
        (
            Method::GET,
            predict,
            &[("sec-fetch-site", "cross-site")],
            403,
        ),
        // A form of a page in a browser that says nothing of where the request comes from.
        (
            Method::POST,
            &deactivate,
            &[("content-type", "text/plain")],
            415,
        ),
        // What is on this machine.
        (
            Method::GET,
            "/v1/models",
            &[("origin", "http://localhost:3000")],
            200,
        ),
        (
            Method::GET,
            predict,
            &[("origin", "http://127.0.0.1:3000")],
            200,
        ),
        (Method::GET, "/v1/models", &[("host", "localhost:1")], 200),
        (Method::GET, "/v1/models", &[("host", "[::1]:1")], 200),
        (
            Method::POST,
            predict,
            &[("content-type", "text/plain")],
            200,
        ),
    ] {
        let (status, error) = ask(&server, method.clone(), path, headers).await?;
        assert_eq!(status, wanted, "{method} {path} {headers:?}: {error}");
    }
    let shown = server.cli_json(&["model", "show", "echo"])?;
    assert!(!shown.to_string().contains("INACTIVE"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn with_keys_any_host_name_leads_here() -> Result<()> {
    let server = Server::start()?;
    let client = server.client();
    for header in [
        ("host", "samovar.example"),
        ("origin", "https://app.example"),
    ] {
        let request = client
            .get(server.at("/v1/models"))
            .header(header.0, header.1);
        assert_eq!(request.send().await?.status(), 200, "{header:?}");
    }
    let (status, _) = ask(
        &server,
        Method::GET,
        "/v1/models",
        &[("host", "samovar.example")],
    )
    .await?;
    assert_eq!(status, 401);
    Ok(())
}

/// Asks as the page of an origin, and answers the status and the headers.
async fn page(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(u16, reqwest::header::HeaderMap)> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut request = client.request(method, server.at(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.headers().clone()))
}

const APP: &str = "https://app.example";
const PREFLIGHT: [(&str, &str); 3] = [
    ("origin", APP),
    ("access-control-request-method", "POST"),
    (
        "access-control-request-headers",
        "authorization,content-type",
    ),
];

/// How many replicas there are.
fn replicas(server: &Server) -> Result<Value> {
    Ok(server.cli_json(&["status"])?["active_replicas"].clone())
}

#[tokio::test]
async fn a_page_that_is_allowed_calls_any_model_and_others_do_not() -> Result<()> {
    let server = Server::start_with(&["--allow-origin", APP])?;
    server.push("echo", "")?;
    let path = "/models/echo/production/predict";
    // A preflight bears no key.
    let (status, headers) = page(&server, Method::OPTIONS, path, &PREFLIGHT).await?;
    assert_eq!(status, 204);
    for (name, value) in [
        ("access-control-allow-origin", APP),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization,content-type"),
    ] {
        assert_eq!(headers[name], value, "{headers:?}");
    }
    let varies: Vec<_> = headers.get_all("vary").iter().collect();
    assert!(varies.iter().any(|value| *value == "origin"), "{headers:?}");
    // It tells nothing about models.
    let (status, _) = page(
        &server,
        Method::OPTIONS,
        "/models/nosuch/production/x",
        &PREFLIGHT,
    )
    .await?;
    assert_eq!(status, 204);

    // Errors of the platform can be read, too.
    let (status, headers) = page(&server, Method::POST, path, &[("origin", APP)]).await?;
    assert_eq!(status, 401);
    assert_eq!(headers["access-control-allow-origin"], APP);
    let key = format!("Bearer {}", server.key());
    let bearer = ("authorization", &*key);
    let (status, headers) = page(&server, Method::POST, path, &[("origin", APP), bearer]).await?;
    assert_eq!(status, 200);
    assert_eq!(headers["access-control-allow-origin"], APP);
    assert_eq!(headers["vary"], "origin");

    let evil = ("origin", "https://evil.example");
    let (status, headers) = page(&server, Method::POST, path, &[evil, bearer]).await?;
    assert_eq!(status, 200);
    assert!(
        !headers.contains_key("access-control-allow-origin"),
        "{headers:?}"
    );
    assert_eq!(headers["vary"], "origin");
    let other = [evil, PREFLIGHT[1], PREFLIGHT[2]];
    let (status, headers) = page(&server, Method::OPTIONS, path, &other).await?;
    assert_eq!(status, 401);
    assert!(
        !headers.contains_key("access-control-allow-origin"),
        "{headers:?}"
    );
    // The management API is not for pages.
    let (status, headers) = page(&server, Method::OPTIONS, "/v1/models", &PREFLIGHT).await?;
    assert_eq!(status, 405);
    assert!(
        !headers.contains_key("access-control-allow-origin"),
        "{headers:?}"
    );
    Ok(())
}

#[tokio::test]
async fn an_environment_has_pages_of_its_own_and_preflights_wake_nothing() -> Result<()> {
    let server = Server::start()?;
    let scale = "[autoscaling]\nautoscaling_window = 10\nscale_down_delay = 0\n";
    server.push("echo", scale)?;
    let output = server.cli(&[
        "environment",
        "update",
        "echo",
        "production",
        "--allow-origin",
        APP,
    ])?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let shown = server.cli_json(&["environment", "show", "echo", "production"])?;
    assert_eq!(
        shown["cors_settings"]["allowed_origins"],
        serde_json::json!([APP])
    );
    let server = server.restart()?;
    eventually("it is scaled to zero", async || {
        replicas(&server).is_ok_and(|count| count == 0)
    })
    .await?;

    let path = "/models/echo/environments/production/predict";
    let (status, headers) = page(&server, Method::OPTIONS, path, &PREFLIGHT).await?;
    assert_eq!(
        (status, &headers["access-control-allow-origin"]),
        (204, &APP.parse()?)
    );
    assert_eq!(replicas(&server)?, 0, "a preflight started a replica");
    // Other addresses of the model are as they were.
    let id = server.cli_json(&["deployment", "list", "echo"])?["deployments"][0]["id"].clone();
    let own = format!(
        "/models/echo/deployment/{}/predict",
        id.as_str().unwrap_or_default()
    );
    assert_eq!(
        page(&server, Method::OPTIONS, &own, &PREFLIGHT).await?.0,
        401
    );

    let refused = server.cli(&[
        "environment",
        "update",
        "echo",
        "production",
        "--allow-origin",
        "app.example",
    ])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("is not an origin"),
        "{said}"
    );
    let url = server.at("/v1/models/echo/environments/production");
    let unknown = serde_json::json!({ "cors_settings": { "allow": [] } });
    let answer = server.client().patch(url).json(&unknown).send().await?;
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await?.contains("allow"));

    let output = server.cli(&[
        "environment",
        "update",
        "echo",
        "production",
        "--no-allow-origin",
    ])?;
    assert!(output.status.success());
    assert_eq!(
        page(&server, Method::OPTIONS, path, &PREFLIGHT).await?.0,
        401
    );
    Ok(())
}

#[tokio::test]
async fn without_keys_an_allowed_page_calls_models_and_nothing_else() -> Result<()> {
    let server = Server::start_with(&["--no-auth", "--allow-origin", APP])?;
    server.push("echo", "")?;
    let path = "/models/echo/production/predict";
    assert_eq!(
        page(&server, Method::OPTIONS, path, &PREFLIGHT).await?.0,
        204
    );
    assert_eq!(
        page(&server, Method::POST, path, &[("origin", APP)])
            .await?
            .0,
        200
    );
    assert_eq!(
        page(&server, Method::GET, "/v1/models", &[("origin", APP)])
            .await?
            .0,
        403
    );
    let any = Server::start_with(&["--no-auth", "--allow-origin", "*"]);
    let said = any.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(said.contains("--allow-origin"), "{said}");
    Ok(())
}
