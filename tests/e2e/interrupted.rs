//! Every route that changes something, interrupted at random instants: by its client, which hangs up, and by the end of the
//! node. The change is made whole, with its entry in the audit log, or nothing of it is.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use samovar_tests::dice::Dice;
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};

use super::every_change::{Change, Trace, World, changes};
use super::hang_ups::hang_up_after;

/// Clients of each route that hang up.
const HANG_UPS: usize = 2;
/// Ends of the node during each route. Each takes a restart.
const KILLS: usize = 1;
/// Within this time of its request. A build of the guest here takes less.
const WITHIN_MS: u64 = 50;

/// Routes that change nothing that is stored under a name.
const NO_CHANGES: &[(&str, &str)] = &[("PUT", "/v1/blobs/{digest}")];

#[tokio::test]
async fn every_route_that_changes_something_is_interrupted() -> Result<()> {
    let server = Server::start()?;
    let document = get(&server, "/openapi.json").await?;
    let changes = changes();
    for (path, item) in document["paths"].as_object().context("paths")? {
        if !path.starts_with("/v1/") {
            continue;
        }
        for method in item.as_object().context("methods")?.keys() {
            let method = method.to_uppercase();
            if ["GET", "HEAD", "PARAMETERS"].contains(&&*method) {
                continue;
            }
            let known = changes.iter().map(|one| (one.method, one.route));
            let mut known = known.chain(NO_CHANGES.iter().copied());
            ensure!(
                known.any(|one| one == (&*method, &**path)),
                "{method} {path} is in no table"
            );
        }
    }
    Ok(())
}

/// Everything that is stored, but for what follows the clock.
async fn stored(server: &Server) -> Result<Value> {
    let mut models = Vec::new();
    for model in get(server, "/v1/models").await?["models"]
        .as_array()
        .context("models")?
    {
        let at = format!("/v1/models/{}", text(&model["id"])?);
        let (status, deployments) = ask(
            server,
            Method::GET,
            &format!("{at}/deployments"),
            &Value::Null,
        )
        .await?;
        let (_, environments) = ask(
            server,
            Method::GET,
            &format!("{at}/environments"),
            &Value::Null,
        )
        .await?;
        if status == 404 {
            // Deleted between the two looks.
            continue;
        }
        let deployments = deployments["deployments"]
            .as_array()
            .context("deployments")?;
        let deployments = deployments.iter().map(|one| {
            json!([
                one["id"],
                one["name"],
                kind(one),
                one["bundle_digest"],
                one["environment"],
                one["autoscaling_settings"],
                one["request_backpressure_settings"],
            ])
        });
        let environments = environments["environments"]
            .as_array()
            .context("environments")?;
        let environments = environments.iter().map(|one| {
            json!([
                one["name"],
                one["current_deployment"]["id"],
                one["candidate_deployment"]["id"],
                one["in_progress_promotion"]["status"],
                one["last_promotion"]["status"],
                one["autoscaling_settings"],
            ])
        });
        models.push(json!([
            model["id"],
            model["name"],
            deployments.collect::<Vec<_>>(),
            environments.collect::<Vec<_>>(),
        ]));
    }
    Ok(json!([
        models,
        get(server, "/v1/secrets").await?,
        get(server, "/v1/api_keys").await?,
        get(server, "/v1/webhook_secrets").await?,
    ]))
}

/// The status of a deployment, where all of those that can be called are one.
fn kind(deployment: &Value) -> &str {
    match deployment["status"].as_str().unwrap_or_default() {
        "ACTIVE" | "SCALED_TO_ZERO" | "WAKING_UP" => "works",
        other => other,
    }
}

/// What a caller did last, by the audit log.
async fn noted(server: &Server) -> Result<Value> {
    let log = get(server, "/v1/audit_logs?limit=50").await?;
    let mut items = log["items"].as_array().context("items")?.iter();
    let by_caller = |one: &&Value| one["source"] == "API";
    Ok(items
        .find(by_caller)
        .map_or(Value::Null, |one| one["id"].clone()))
}

/// Waits until nothing of a model is on its way to another state.
pub async fn settled(server: &Server, model: &str) -> Result<()> {
    let at = format!("/v1/models/{model}");
    eventually(&format!("{model} settles"), async || {
        let (_, deployments) = ask(
            server,
            Method::GET,
            &format!("{at}/deployments"),
            &Value::Null,
        )
        .await
        .unwrap();
        let (_, environments) = ask(
            server,
            Method::GET,
            &format!("{at}/environments"),
            &Value::Null,
        )
        .await
        .unwrap();
        let none = Vec::new();
        let mut deployments = deployments["deployments"]
            .as_array()
            .unwrap_or(&none)
            .iter();
        let mut environments = environments["environments"]
            .as_array()
            .unwrap_or(&none)
            .iter();
        let moves = [
            "BUILDING",
            "DEPLOYING",
            "LOADING_MODEL",
            "DEACTIVATING",
            "UPDATING",
        ];
        !deployments.any(|one| moves.contains(&one["status"].as_str().unwrap_or_default()))
            && !environments.any(|one| one["in_progress_promotion"]["status"] == "RELEASING")
    })
    .await
    .with_context(|| format!("{:?}", server.log()))
}

/// Each deployment of a model is called if it is said to work, and only then.
async fn serves_what_is_stored(server: &Server, model: &str) -> Result<()> {
    eventually(&format!("what {model} shows is what it does"), async || {
        let path = format!("/v1/models/{model}/deployments");
        let (_, shown) = ask(server, Method::GET, &path, &Value::Null).await.unwrap();
        let none = Vec::new();
        for one in shown["deployments"].as_array().unwrap_or(&none) {
            let id = one["id"].as_str().unwrap_or_default();
            let url = server.at(&format!("/models/{model}/deployment/{id}/"));
            let answer = server.client().post(url).body("x").send().await.unwrap();
            if (answer.status() == 200) != (kind(one) == "works") {
                return false;
            }
        }
        true
    })
    .await
}

/// What is to be seen before a change, and then either all of it or nothing afterwards.
struct Before {
    stored: Value,
    noted: Value,
}

impl Before {
    async fn look(server: &Server) -> Result<Self> {
        Ok(Self {
            stored: stored(server).await?,
            noted: noted(server).await?,
        })
    }

    /// Waits until the change was made whole or not at all; answers whether it was.
    async fn outcome(&self, server: &Server, change: &Change, world: &World) -> Result<bool> {
        settled(server, &world.model).await?;
        settled(server, &world.name).await?;
        let made = std::cell::Cell::new(false);
        let at = format!("{} {}", change.method, change.route);
        eventually(&format!("{at} is whole or nothing"), async || {
            let noted_before = noted(server).await.unwrap();
            let now = stored(server).await.unwrap();
            let noted = noted(server).await.unwrap();
            made.set(noted != self.noted);
            let stored = now != self.stored;
            // The change may come between the looks.
            noted == noted_before && (change.trace == Trace::Audit || stored == made.get())
        })
        .await
        .with_context(|| format!("{:?}", server.log()))?;
        Ok(made.get())
    }
}

/// Makes the change once more: what was not made can be made, what was made is there or refused.
async fn repeat(server: &Server, change: &Change, world: &World, made: bool) -> Result<()> {
    let (path, method) = (world.path(change), change.method.parse()?);
    let (status, answer) = ask(server, method, &path, &(change.body)(world)).await?;
    let at = format!("{} {path}: {status} {answer}", change.method);
    match (made, change.trace) {
        // It fails again, or the replica went with the node.
        (_, Trace::Audit) => ensure!(status < 500, "{at}"),
        (true, _) => ensure!(status < 500, "{at}"),
        (false, _) => ensure!(status == 200, "{at}"),
    }
    settled(server, &world.model).await?;
    serves_what_is_stored(server, &world.model).await?;
    serves_what_is_stored(server, &world.name).await?;
    for model in [&world.model, &world.name] {
        let path = format!("/v1/models/{model}");
        let (status, answer) = ask(server, Method::DELETE, &path, &Value::Null).await?;
        ensure!([200, 404].contains(&status), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_change_whose_client_hangs_up_is_made_whole_or_not_at_all() -> Result<()> {
    let server = Server::start()?;
    let mut dice = Dice::new();
    let bundle = bundle(&server).await?;
    let (mut made, mut number) = (0, 0);
    for change in changes() {
        for _ in 0..HANG_UPS {
            number += 1;
            let world = World::make(&server, &change, &bundle, number).await?;
            let before = Before::look(&server).await?;
            hang_up_after(
                &server,
                dice.within_ms(WITHIN_MS),
                change.method,
                &world.path(&change),
                &(change.body)(&world),
            )?;
            let was_made = before.outcome(&server, &change, &world).await?;
            made += usize::from(was_made);
            // A request may arrive after its client was waited for, so whether it was made is not known for certain.
            repeat(&server, &change, &world, true).await?;
        }
    }
    eprintln!("{made} of {number} changes were made although their clients hung up");
    ensure!(made > 0, "no change was begun");
    Ok(())
}

#[tokio::test]
async fn a_change_during_which_the_node_is_killed_is_made_whole_or_not_at_all() -> Result<()> {
    let mut server = Server::start()?;
    let mut dice = Dice::new();
    let bundle = bundle(&server).await?;
    let (mut made, mut number) = (0, 0);
    for change in changes() {
        for _ in 0..KILLS {
            number += 1;
            let world = World::make(&server, &change, &bundle, number).await?;
            let before = Before::look(&server).await?;
            let (path, body) = (world.path(&change), (change.body)(&world));
            let request = server
                .client()
                .request(change.method.parse()?, server.at(&path));
            let asked = async {
                request
                    .json(&body)
                    .send()
                    .await
                    .ok()
                    .map(|one| one.status())
            };
            let (heard, ()) = tokio::join!(asked, server.kill_after(dice.within_ms(WITHIN_MS)));
            server = server.restart()?;
            let was_made = before.outcome(&server, &change, &world).await?;
            if heard.is_some_and(|status| status.is_success()) {
                ensure!(
                    was_made,
                    "{} {path} was acknowledged and is lost",
                    change.method
                );
            }
            made += usize::from(was_made);
            repeat(&server, &change, &world, was_made).await?;
        }
    }
    eprintln!("{made} of {number} changes were made although the node was killed");
    ensure!(made > 0, "no change was begun");
    Ok(())
}

/// A bundle of a small guest whose blobs are on the server.
async fn bundle(server: &Server) -> Result<Value> {
    let pushed = server.push_as("source", "echo", "")?;
    let id = text(&pushed["deployment"]["id"])?;
    let path = format!("/v1/models/source/deployments/{id}/config?output_format=parsed");
    Ok(get(server, &path).await?["config"].clone())
}

pub async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<(u16, Value)> {
    let request = server.client().request(method, server.at(path));
    let request = match body {
        Value::Null => request,
        body => request.json(body),
    };
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.unwrap_or_default()))
}

pub async fn get(server: &Server, path: &str) -> Result<Value> {
    let (status, answer) = ask(server, Method::GET, path, &Value::Null).await?;
    ensure!(status == 200, "{path}: {status} {answer}");
    Ok(answer)
}

pub async fn post(server: &Server, path: &str, body: Value) -> Result<Value> {
    let (status, answer) = ask(server, Method::POST, path, &body).await?;
    ensure!(status == 200, "{path}: {status} {answer}");
    Ok(answer)
}

pub fn text(value: &Value) -> Result<String> {
    Ok(value
        .as_str()
        .with_context(|| format!("no text: {value}"))?
        .to_owned())
}
