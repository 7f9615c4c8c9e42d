//! Every route, with every type of key and every limit to models, against one table.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use samovar_tests::Server;
use serde_json::{Value, json};

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// A key that may do everything.
    Everything,
    /// One that manages keys.
    Keys,
    /// One that reads metrics.
    Metrics,
    /// One that calls the model.
    Call,
}

/// What the routes need, by their addresses. A route that is not here fails the test.
const ROUTES: &[(&str, &str, Need)] = &[
    ("get", "/metrics", Need::Metrics),
    ("get post", "/v1/api_keys", Need::Keys),
    ("delete", "/v1/api_keys/{prefix}", Need::Keys),
    ("post", "/v1/teams/{team}/api_keys", Need::Keys),
    ("get", "/v1/audit_logs", Need::Everything),
    ("get", "/v1/models/{model}/audit_logs", Need::Everything),
    ("get", "/v1/backends", Need::Everything),
    ("get", "/v1/billing/usage_summary", Need::Everything),
    ("get head put", "/v1/blobs/{digest}", Need::Everything),
    ("get", "/v1/events", Need::Everything),
    ("get", "/v1/instance_types", Need::Everything),
    ("get", "/v1/organizations/me", Need::Everything),
    ("get", "/v1/status", Need::Everything),
    ("get post", "/v1/secrets", Need::Everything),
    ("delete", "/v1/secrets/{name}", Need::Everything),
    ("get", "/v1/teams", Need::Everything),
    ("get", "/v1/teams/{team}", Need::Everything),
    ("get post", "/v1/teams/{team}/models", Need::Everything),
    ("get post", "/v1/teams/{team}/secrets", Need::Everything),
    (
        "delete",
        "/v1/teams/{team}/secrets/{name}",
        Need::Everything,
    ),
    ("get", "/v1/usage", Need::Everything),
    ("get", "/v1/users/me", Need::Everything),
    ("get post", "/v1/webhook_secrets", Need::Everything),
    ("delete", "/v1/webhook_secrets/{id}", Need::Everything),
];

/// What all routes below an address need, where [`ROUTES`] names them not one by one.
const BELOW: &[(&str, Need)] = &[
    ("/v1/models", Need::Everything),
    ("/models/{model}/", Need::Call),
];

fn need(method: &str, path: &str) -> Option<Need> {
    let listed = ROUTES
        .iter()
        .find(|(methods, route, _)| *route == path && methods.split(' ').any(|one| one == method));
    let below = || BELOW.iter().find(|(front, _)| path.starts_with(front));
    listed
        .map(|(_, _, need)| *need)
        .or_else(|| below().map(|(_, need)| *need))
}

/// A key and what it may do.
struct Caller {
    name: &'static str,
    key: Option<String>,
    may: &'static [Need],
    /// Whether the model that is called is one of those that the key is for.
    covers: bool,
}

/// What a caller is answered, as far as it depends on the key: the refusal, or that there was none.
fn expected(caller: &Caller, need: Need) -> Option<u16> {
    match (&caller.key, caller.may.contains(&need)) {
        (None, _) => Some(401),
        (_, false) => Some(403),
        (_, true) if need == Need::Call && !caller.covers => Some(404),
        (_, true) => None,
    }
}

async fn callers(server: &Server, model: &str, other: &str) -> Result<Vec<Caller>> {
    use Need::{Call, Everything, Keys, Metrics};
    let all = &[Everything, Keys, Metrics, Call];
    let mut callers = vec![Caller {
        name: "nobody",
        key: None,
        may: &[],
        covers: true,
    }];
    for (name, key_type, may, models) in [
        ("personal", "PERSONAL", &all[..], None),
        ("manage all", "WORKSPACE_MANAGE_ALL", all, None),
        ("manage keys", "WORKSPACE_MANAGE_API_KEYS", &[Keys], None),
        ("invoke", "WORKSPACE_INVOKE", &[Call], None),
        ("invoke this", "WORKSPACE_INVOKE", &[Call], Some(model)),
        ("invoke other", "WORKSPACE_INVOKE", &[Call], Some(other)),
        ("metrics", "WORKSPACE_EXPORT_METRICS", &[Metrics], None),
        (
            "metrics of other",
            "WORKSPACE_EXPORT_METRICS",
            &[Metrics],
            Some(other),
        ),
    ] {
        let mut body = json!({ "type": key_type });
        if let Some(model) = models {
            body["model_ids"] = json!([model]);
        }
        let made = server.client().post(server.at("/v1/api_keys")).json(&body);
        let made: Value = made.send().await?.json().await?;
        let key = made["api_key"].as_str();
        callers.push(Caller {
            name,
            key: Some(key.with_context(|| format!("{made}"))?.to_owned()),
            may,
            covers: models.is_none_or(|one| one == model),
        });
    }
    Ok(callers)
}

#[tokio::test]
async fn every_route_opens_to_the_keys_of_the_table() -> Result<()> {
    let server = Server::start()?;
    let id = |pushed: &Value| pushed["model"]["id"].as_str().map(str::to_owned);
    let model = id(&server.push("count", "")?).context("an id")?;
    let other = id(&server.push_as("other", "count", "")?).context("an id")?;
    let callers = callers(&server, &model, &other).await?;
    let document: Value = reqwest::get(server.at("/openapi.json"))
        .await?
        .json()
        .await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let mut seen = BTreeMap::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        let methods = item.as_object().context("methods")?;
        for method in methods.keys().filter(|name| *name != "parameters") {
            let need = need(method, path);
            let need = need.with_context(|| format!("{method} {path} is in no table"))?;
            *seen.entry(format!("{need:?}")).or_insert(0) += 1;
            for caller in &callers {
                let method = Method::from_bytes(method.to_uppercase().as_bytes())?;
                let target = address(path, need, "count");
                let status = ask(&client, &server, method.clone(), &target, caller).await?;
                let at = format!("{method} {target} for {}: {status}", caller.name);
                match expected(caller, need) {
                    Some(refused) => ensure!(status == refused, "{at}, wanted {refused}"),
                    None => ensure!(![401, 403].contains(&status) && status < 500, "{at}"),
                }
                if need == Need::Call && !caller.covers {
                    let nothing = address(path, need, "nosuch");
                    let unknown = ask(&client, &server, method, &nothing, caller).await?;
                    ensure!(
                        unknown == status,
                        "{at}, but {unknown} where there is no model"
                    );
                }
            }
        }
    }
    ensure!(
        seen.len() == 4,
        "not all kinds of routes were asked: {seen:?}"
    );
    Ok(())
}

/// The address of a route: of this model where it is called, else of things that are not there.
fn address(path: &str, need: Need, model: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{model}" if need == Need::Call => model,
        "{digest}" | "{sha256}" => "sha256:0000",
        part if part.starts_with('{') => "nosuch",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

async fn ask(
    client: &reqwest::Client,
    server: &Server,
    method: Method,
    path: &str,
    caller: &Caller,
) -> Result<u16> {
    let mut request = client.request(method.clone(), server.at(path));
    if let Some(key) = &caller.key {
        request = request.bearer_auth(key);
    }
    if method != Method::GET && method != Method::HEAD {
        // Nothing that could be made of it.
        request = request.json(&json!({ "nosuch": true }));
    }
    Ok(request.send().await?.status().as_u16())
}

#[tokio::test]
async fn a_key_reads_the_metrics_of_its_models_alone() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let other = server.push_as("other", "count", "")?;
    let callers = callers(
        &server,
        "count",
        other["model"]["id"].as_str().context("an id")?,
    )
    .await?;
    for (name, both) in [
        ("personal", true),
        ("metrics", true),
        ("metrics of other", false),
    ] {
        let caller = callers.iter().find(|one| one.name == name);
        let key = caller.and_then(|one| one.key.clone()).context("a key")?;
        let request = reqwest::Client::new()
            .get(server.at("/metrics"))
            .bearer_auth(key);
        let text = request.send().await?.error_for_status()?.text().await?;
        ensure!(text.contains("model=\"other\""), "{name}: {text}");
        ensure!(text.contains("model=\"count\"") == both, "{name}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn refusals_tell_nothing_of_a_model() -> Result<()> {
    let server = Server::start()?;
    let this = server.push("count", "")?;
    let other = server.push_as("other", "count", "")?;
    let id = |pushed: &Value| pushed["model"]["id"].as_str().map(str::to_owned);
    let (this, other) = (id(&this).context("an id")?, id(&other).context("an id")?);
    let callers = callers(&server, &this, &other).await?;
    let caller = callers.iter().find(|one| one.name == "invoke other");
    let key = caller.and_then(|one| one.key.clone()).context("a key")?;
    let client = reqwest::Client::new();
    let refusal = async |model: &str, rest: &str| -> Result<String> {
        let url = server.at(&format!("/models/{model}/{rest}"));
        let answer = client.get(url).bearer_auth(&key).send().await?;
        let status = answer.status();
        let mut body: Value = answer.json().await?;
        body["request_id"] = Value::Null;
        Ok(format!("{status} {body}").replace(model, "MODEL"))
    };
    for rest in [
        "production/predict",
        "environments/none/x",
        "async_request/none",
        "none",
    ] {
        let there = refusal("count", rest).await?;
        assert_eq!(there, refusal("nosuch", rest).await?, "{rest}");
    }
    Ok(())
}
