//! A model with two versions, and the REST calls that move its production from one to the other.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{Server, eventually, guest};

/// A model whose production is to move.
pub struct Canary<'s> {
    server: &'s Server,
    model: &'s str,
    /// The deployment that is in production first.
    pub old: String,
    /// The other one.
    pub new: String,
}

impl<'s> Canary<'s> {
    /// Pushes two guests as deployments of one model.
    pub fn push(
        server: &'s Server,
        model: &'s str,
        guests: [&str; 2],
        manifest: &str,
    ) -> Result<Self> {
        let folder = server.bundle(model, guests[0], manifest)?;
        let path = folder.to_str().context("path")?;
        let push = || -> Result<String> {
            let pushed = server.cli_json(&["push", path])?;
            let id = pushed["deployment"]["id"].as_str().context("an id")?;
            Ok(id.to_owned())
        };
        let old = push()?;
        std::fs::copy(guest(guests[1]), folder.join("guest.wasm"))?;
        let new = push()?;
        Ok(Self {
            server,
            model,
            old,
            new,
        })
    }

    /// The address of production.
    pub fn url(&self, path: &str) -> String {
        self.server
            .at(&format!("/models/{}/production{path}", self.model))
    }

    async fn call(&self, method: reqwest::Method, path: &str, body: &Value) -> Result<Value> {
        let path = format!("/v1/models/{}/environments/production{path}", self.model);
        let request = self.server.client().request(method, self.server.at(&path));
        let answer = request.json(body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status == 200, "{path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Production as the API shows it.
    pub async fn shown(&self) -> Result<Value> {
        self.call(reqwest::Method::GET, "", &Value::Null).await
    }

    /// Sets promotion settings, with stages that take so many seconds together.
    pub async fn set(&self, seconds: u32, mut settings: Value) -> Result<()> {
        settings["ramp_up_while_promoting"] = json!(true);
        settings["ramp_up_duration_seconds"] = json!(seconds);
        let body = json!({ "promotion_settings": settings });
        self.call(reqwest::Method::PATCH, "", &body).await?;
        Ok(())
    }

    /// Begins to move production to a deployment.
    pub async fn promote(&self, deployment: &str) -> Result<()> {
        let body = json!({ "deployment_id": deployment });
        self.call(reqwest::Method::POST, "/promote", &body).await?;
        Ok(())
    }

    /// Does something with the promotion: `pause`, `resume`, `cancel`.
    pub async fn control(&self, what: &str) -> Result<()> {
        let path = format!("/{what}_promotion");
        self.call(reqwest::Method::POST, &path, &Value::Null)
            .await?;
        Ok(())
    }

    /// Begins to move production to the new deployment, waits for a stage, and stays in it. Answers the percentage.
    pub async fn pause_in_stage(&self, stage: u64) -> Result<u64> {
        self.promote(&self.new).await?;
        eventually("the stage", async || {
            let shown = self.shown().await.unwrap_or_default();
            shown["in_progress_promotion"]["stage"].as_u64() >= Some(stage)
        })
        .await?;
        self.control("pause").await?;
        let shown = self.shown().await?;
        let promotion = &shown["in_progress_promotion"];
        ensure!(promotion["status"] == "PAUSED", "{shown}");
        promotion["percent_traffic_to_new_version"]
            .as_u64()
            .context("a percentage")
    }

    /// Waits until no promotion goes on, and answers production then.
    pub async fn ended(&self) -> Result<Value> {
        eventually("the promotion ends", async || {
            let shown = self.shown().await.unwrap_or_default();
            shown["last_promotion"].is_object()
        })
        .await?;
        self.shown().await
    }
}
