//! Every route that changes something, each with a request and what it is made to. `interrupted.rs` makes them.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use samovar_tests::Server;
use serde_json::{Value, json};

use super::interrupted::{ask, get, post, settled, text};

/// What a change is made to: a model with two published deployments, the first in production.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
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
pub enum Trace {
    /// What is stored is another.
    Stored,
    /// The audit log alone.
    Audit,
}

/// A route, with a request that changes something. `{model}`, `{first}`, `{second}` and `{name}` stand for those of the round.
pub struct Change {
    pub method: &'static str,
    /// As the description of the API has it.
    pub route: &'static str,
    pub path: &'static str,
    pub body: fn(&World) -> Value,
    pub setup: Setup,
    pub trace: Trace,
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

pub fn changes() -> Vec<Change> {
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

/// What a round works on.
pub struct World {
    pub model: String,
    pub first: String,
    pub second: String,
    /// A name that nothing has.
    pub name: String,
    /// Names that stand in paths.
    names: Vec<(&'static str, String)>,
    pub bundle: Value,
}

impl World {
    pub async fn make(
        server: &Server,
        change: &Change,
        bundle: &Value,
        number: usize,
    ) -> Result<Self> {
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

    pub fn secret(&self) -> String {
        format!("NEW_{}", self.name.to_uppercase())
    }

    pub fn other_bundle(&self) -> Value {
        let mut bundle = self.bundle.clone();
        bundle["environment_variables"] = json!({ "ROUND": self.name });
        bundle
    }

    pub fn path(&self, change: &Change) -> String {
        let path = change.path.replace("{model}", &self.model);
        let path = path.replace("{first}", &self.first);
        let mut path = path.replace("{second}", &self.second);
        for (name, value) in &self.names {
            path = path.replace(name, value);
        }
        path
    }
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
