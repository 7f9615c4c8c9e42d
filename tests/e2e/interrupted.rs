//! Every route that changes something, interrupted at random instants: by its client, which hangs up, and by the end of the
//! node. The change is made whole, with its entry in the audit log, or nothing of it is.

use std::io::Write as _;
use std::net::{Shutdown, TcpStream};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use samovar_tests::dice::Dice;
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};

/// Clients of each route that hang up.
const HANG_UPS: usize = 2;
/// Ends of the node during each route. Each takes a restart.
const KILLS: usize = 1;
/// Within this time of its request. A build of the guest here takes less.
const WITHIN_MS: u64 = 50;

/// What a change is made to: a model with two published deployments, the first in production.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    /// As it is.
    Plain,
    /// The second deployment is switched off.
    Off,
    /// The second deployment does not start.
    Failed,
    /// With a development deployment.
    Development,
    /// Production moves to the second deployment, for ten minutes.
    Canary,
    /// The same, halted.
    Paused,
}

/// What can be told of a change afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trace {
    /// What is stored is another.
    Stored,
    /// The audit log alone.
    Audit,
}

/// A route, with a request that changes something. `{model}`, `{first}`, `{second}` and `{name}` stand for those of the round.
struct Change {
    method: &'static str,
    /// As the description of the API has it.
    route: &'static str,
    path: &'static str,
    body: fn(&World) -> Value,
    setup: Setup,
    trace: Trace,
}

const fn change(
    method: &'static str,
    route: &'static str,
    path: &'static str,
    body: fn(&World) -> Value,
    setup: Setup,
) -> Change {
    Change {
        method,
        route,
        path,
        body,
        setup,
        trace: Trace::Stored,
    }
}

fn nothing(_: &World) -> Value {
    Value::Null
}

const MODEL: &str = "/v1/models/{model}";
const DEPLOYMENT: &str = "/v1/models/{model}/deployments/{deployment}";
const ENVIRONMENT: &str = "/v1/models/{model}/environments/{environment}";

/// A path below the second deployment, or below production.
macro_rules! at {
    (deployment $rest:literal) => {
        (
            concat!("/v1/models/{model}/deployments/{deployment}", $rest),
            concat!("/v1/models/{model}/deployments/{second}", $rest),
        )
    };
    (environment $rest:literal) => {
        (
            concat!("/v1/models/{model}/environments/{environment}", $rest),
            concat!("/v1/models/{model}/environments/production", $rest),
        )
    };
}

const fn below(
    method: &'static str,
    at: (&'static str, &'static str),
    body: fn(&World) -> Value,
    setup: Setup,
) -> Change {
    change(method, at.0, at.1, body, setup)
}

fn changes() -> Vec<Change> {
    use Setup::{Canary, Development, Failed, Off, Paused, Plain};
    vec![
        change(
            "POST",
            "/v1/models",
            "/v1/models",
            |world| json!({ "name": world.name, "bundle": world.bundle }),
            Plain,
        ),
        change(
            "POST",
            "/v1/teams/{team}/models",
            "/v1/teams/{team}/models",
            |world| json!({ "name": world.name, "bundle": world.bundle }),
            Plain,
        ),
        change(
            "POST",
            "/v1/models/{model}/deployments",
            "/v1/models/{model}/deployments",
            |world| json!({ "bundle": world.bundle }),
            Plain,
        ),
        change(
            "PATCH",
            MODEL,
            MODEL,
            |world| json!({ "name": world.name }),
            Plain,
        ),
        change("DELETE", MODEL, MODEL, nothing, Plain),
        below(
            "PATCH",
            at!(deployment ""),
            |_| json!({ "name": "mine" }),
            Plain,
        ),
        below("DELETE", at!(deployment ""), nothing, Plain),
        below("POST", at!(deployment "/activate"), nothing, Off),
        below("POST", at!(deployment "/deactivate"), nothing, Plain),
        Change {
            trace: Trace::Audit,
            ..below("POST", at!(deployment "/retry"), nothing, Failed)
        },
        below(
            "PATCH",
            at!(deployment "/autoscaling_settings"),
            |_| json!({ "max_replica": 7 }),
            Plain,
        ),
        below(
            "PATCH",
            at!(deployment "/request_backpressure_settings"),
            |_| json!({ "policy": "REJECT_ON_FULL" }),
            Plain,
        ),
        below("POST", at!(deployment "/promote"), |_| json!({}), Plain),
        Change {
            trace: Trace::Audit,
            ..change(
                "DELETE",
                "/v1/models/{model}/deployments/{deployment}/replicas/{replica}",
                "/v1/models/{model}/deployments/{second}/replicas/{replica}",
                nothing,
                Plain,
            )
        },
        change(
            "PUT",
            "/v1/models/{model}/deployments/development/bundle",
            "/v1/models/{model}/deployments/development/bundle",
            |world| json!({ "bundle": world.other_bundle() }),
            Development,
        ),
        change(
            "POST",
            "/v1/models/{model}/environments",
            "/v1/models/{model}/environments",
            |_| json!({ "name": "staging" }),
            Plain,
        ),
        below(
            "PATCH",
            at!(environment ""),
            |_| json!({ "autoscaling_settings": { "max_replica": 5 } }),
            Plain,
        ),
        change(
            "DELETE",
            ENVIRONMENT,
            "/v1/models/{model}/environments/spare",
            nothing,
            Plain,
        ),
        change(
            "POST",
            "/v1/models/{model}/environments/{environment}/activate",
            "/v1/models/{model}/environments/spare/activate",
            nothing,
            Off,
        ),
        change(
            "POST",
            "/v1/models/{model}/environments/{environment}/deactivate",
            "/v1/models/{model}/environments/spare/deactivate",
            nothing,
            Plain,
        ),
        below(
            "POST",
            at!(environment "/promote"),
            |world| json!({ "deployment_id": world.second }),
            Plain,
        ),
        below(
            "POST",
            at!(environment "/cancel_promotion"),
            nothing,
            Canary,
        ),
        below(
            "POST",
            at!(environment "/force_cancel_promotion"),
            nothing,
            Canary,
        ),
        below("POST", at!(environment "/pause_promotion"), nothing, Canary),
        below(
            "POST",
            at!(environment "/resume_promotion"),
            nothing,
            Paused,
        ),
        below(
            "POST",
            at!(environment "/force_roll_forward_promotion"),
            nothing,
            Canary,
        ),
        change(
            "POST",
            "/v1/secrets",
            "/v1/secrets",
            |world| json!({ "name": world.secret(), "value": "v" }),
            Plain,
        ),
        change(
            "POST",
            "/v1/teams/{team}/secrets",
            "/v1/teams/{team}/secrets",
            |world| json!({ "name": world.secret(), "value": "v" }),
            Plain,
        ),
        change(
            "DELETE",
            "/v1/secrets/{name}",
            "/v1/secrets/{there}",
            nothing,
            Plain,
        ),
        change(
            "DELETE",
            "/v1/teams/{team}/secrets/{name}",
            "/v1/teams/{team}/secrets/{there}",
            nothing,
            Plain,
        ),
        change(
            "POST",
            "/v1/api_keys",
            "/v1/api_keys",
            |world| json!({ "type": "WORKSPACE_INVOKE", "name": world.name }),
            Plain,
        ),
        change(
            "POST",
            "/v1/teams/{team}/api_keys",
            "/v1/teams/{team}/api_keys",
            |world| json!({ "type": "WORKSPACE_INVOKE", "name": world.name }),
            Plain,
        ),
        change(
            "DELETE",
            "/v1/api_keys/{prefix}",
            "/v1/api_keys/{prefix}",
            nothing,
            Plain,
        ),
        change(
            "POST",
            "/v1/webhook_secrets",
            "/v1/webhook_secrets",
            nothing,
            Plain,
        ),
        change(
            "DELETE",
            "/v1/webhook_secrets/{id}",
            "/v1/webhook_secrets/{webhook_secret}",
            nothing,
            Plain,
        ),
    ]
}

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

/// What a round works on.
struct World {
    model: String,
    first: String,
    second: String,
    /// A name that nothing has.
    name: String,
    /// Names that stand in paths.
    names: Vec<(&'static str, String)>,
    bundle: Value,
}

impl World {
    async fn make(server: &Server, change: &Change, bundle: &Value, number: usize) -> Result<Self> {
        let model = format!("m{number}");
        let made = post(
            server,
            "/v1/models",
            json!({ "name": model, "bundle": bundle }),
        )
        .await?;
        let first = text(&made["deployment"]["id"])?;
        let at = format!("/v1/models/{model}");
        let mut second_bundle = bundle.clone();
        if change.setup == Setup::Failed {
            // Less than its component asks for.
            second_bundle["limits"] = json!({ "memory_bytes": 1 << 20 });
        }
        let deployments = format!("{at}/deployments");
        let body = json!({ "bundle": second_bundle });
        let (_, made) = ask(server, Method::POST, &deployments, &body).await?;
        let second = match made["deployment"]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => newest(server, &deployments, &first).await?,
        };
        let mut world = Self {
            model,
            first,
            second,
            name: format!("n{number}"),
            names: Vec::new(),
            bundle: bundle.clone(),
        };
        world.prepare(server, change).await?;
        Ok(world)
    }

    async fn prepare(&mut self, server: &Server, change: &Change) -> Result<()> {
        let at = format!("/v1/models/{}", self.model);
        let production = format!("{at}/environments/production");
        let off = format!("{at}/deployments/{}/deactivate", self.second);
        if change.path.contains("/spare") {
            post(
                server,
                &format!("{at}/environments"),
                json!({ "name": "spare" }),
            )
            .await?;
        }
        if change.path.contains("/spare/") {
            let body = json!({ "deployment_id": self.second });
            post(server, &format!("{at}/environments/spare/promote"), body).await?;
        }
        settled(server, &self.model).await?;
        match change.setup {
            Setup::Plain | Setup::Failed => {}
            Setup::Off => drop(post(server, &off, Value::Null).await?),
            Setup::Development => {
                let body =
                    json!({ "name": self.model, "bundle": self.bundle, "development": true });
                post(server, "/v1/models", body).await?;
            }
            Setup::Canary | Setup::Paused => {
                let ramp =
                    json!({ "ramp_up_while_promoting": true, "ramp_up_duration_seconds": 600 });
                let body = json!({ "promotion_settings": ramp });
                let set = ask(server, Method::PATCH, &production, &body).await?;
                ensure!(set.0 == 200, "{}", set.1);
                let body = json!({ "deployment_id": self.second });
                post(server, &format!("{production}/promote"), body).await?;
            }
        }
        settled(server, &self.model).await?;
        if change.setup == Setup::Paused {
            post(
                server,
                &format!("{production}/pause_promotion"),
                Value::Null,
            )
            .await?;
        }
        if change.path.contains("{team}") {
            let teams = get(server, "/v1/teams").await?;
            self.names.push(("{team}", text(&teams["teams"][0]["id"])?));
        }
        if change.path.contains("{replica}") {
            let path = format!("/models/{}/deployment/{}/", self.model, self.second);
            server
                .client()
                .post(server.at(&path))
                .body("x")
                .send()
                .await?;
            let path = format!("{at}/deployments/{}/replicas", self.second);
            let replicas = get(server, &path).await?;
            self.names
                .push(("{replica}", text(&replicas["replicas"][0]["id"])?));
        }
        if change.path.contains("{there}") {
            let name = format!("THERE_{}", self.name.to_uppercase());
            post(server, "/v1/secrets", json!({ "name": name, "value": "v" })).await?;
            self.names.push(("{there}", name));
        }
        if change.path.contains("{prefix}") {
            let body = json!({ "type": "WORKSPACE_INVOKE", "name": self.name });
            let made = post(server, "/v1/api_keys", body).await?;
            self.names.push(("{prefix}", text(&made["prefix"])?));
        }
        if change.path.contains("webhook_secrets") {
            // There may be few.
            let there = get(server, "/v1/webhook_secrets").await?;
            for one in there["webhook_secrets"]
                .as_array()
                .context("webhook secrets")?
            {
                let path = format!("/v1/webhook_secrets/{}", text(&one["id"])?);
                ask(server, Method::DELETE, &path, &Value::Null).await?;
            }
        }
        if change.path.contains("{webhook_secret}") {
            let made = post(server, "/v1/webhook_secrets", Value::Null).await?;
            let id = made["id"].as_str().map(str::to_owned);
            let id = id.with_context(|| format!("no id in {made}"))?;
            self.names.push(("{webhook_secret}", id));
        }
        Ok(())
    }

    fn secret(&self) -> String {
        format!("NEW_{}", self.name.to_uppercase())
    }

    fn other_bundle(&self) -> Value {
        let mut bundle = self.bundle.clone();
        bundle["environment_variables"] = json!({ "ROUND": self.name });
        bundle
    }

    fn path(&self, change: &Change) -> String {
        let path = change.path.replace("{model}", &self.model);
        let path = path.replace("{first}", &self.first);
        let mut path = path.replace("{second}", &self.second);
        for (name, value) in &self.names {
            path = path.replace(name, value);
        }
        path
    }
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
async fn settled(server: &Server, model: &str) -> Result<()> {
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
            hang_up(&server, &mut dice, &change, &world)?;
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

/// Sends a request whole, waits a moment, and hangs up.
fn hang_up(server: &Server, dice: &mut Dice, change: &Change, world: &World) -> Result<()> {
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    let body = match (change.body)(world) {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let head = format!(
        "{} {} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        change.method,
        world.path(change),
        server.key(),
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    // Chosen instants are what is tested; nothing is waited for.
    std::thread::sleep(dice.within_ms(WITHIN_MS));
    let _ = stream.shutdown(Shutdown::Both);
    Ok(())
}

async fn ask(server: &Server, method: Method, path: &str, body: &Value) -> Result<(u16, Value)> {
    let request = server.client().request(method, server.at(path));
    let request = match body {
        Value::Null => request,
        body => request.json(body),
    };
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await.unwrap_or_default()))
}

async fn get(server: &Server, path: &str) -> Result<Value> {
    let (status, answer) = ask(server, Method::GET, path, &Value::Null).await?;
    ensure!(status == 200, "{path}: {status} {answer}");
    Ok(answer)
}

async fn post(server: &Server, path: &str, body: Value) -> Result<Value> {
    let (status, answer) = ask(server, Method::POST, path, &body).await?;
    ensure!(status == 200, "{path}: {status} {answer}");
    Ok(answer)
}

/// The deployment of a list that is not this one.
async fn newest(server: &Server, deployments: &str, other: &str) -> Result<String> {
    let list = get(server, deployments).await?;
    let mut list = list["deployments"]
        .as_array()
        .context("deployments")?
        .iter();
    let found = list.find(|one| one["id"] != other);
    text(&found.context("a second deployment")?["id"])
}

fn text(value: &Value) -> Result<String> {
    Ok(value
        .as_str()
        .with_context(|| format!("no text: {value}"))?
        .to_owned())
}
