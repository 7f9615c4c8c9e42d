//! A model with two versions, and the calls that move its production from one to the other.

use anyhow::{Context, Result, ensure};
use samovar_client::Client;
use samovar_types::api::environments::{EnvironmentResponse, UpdateEnvironmentRequest};
use samovar_types::api::promotions::{PromoteRequest, PromotionResponse};
use samovar_types::names::PRODUCTION;
use samovar_types::promotion::PromotionStatus;
use samovar_types::promotion_settings::PromotionSettingsUpdate;

use crate::{Server, eventually, guest};

/// A model whose production is to move.
pub struct Canary<'s> {
    server: &'s Server,
    client: Client,
    model: &'s str,
    /// The deployment that is in production first.
    pub old: String,
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
            client: server.api(),
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

    /// Production as the API shows it.
    pub async fn shown(&self) -> Result<EnvironmentResponse> {
        let shown = self.client.environment(self.model, PRODUCTION).await?;
        Ok(shown.into_inner())
    }

    /// The promotion of production that is in progress, if there is one.
    pub async fn in_progress(&self) -> Result<Option<PromotionResponse>> {
        Ok(self.shown().await?.in_progress_promotion)
    }

    /// Sets promotion settings, with stages that take so many seconds together.
    pub async fn set(&self, seconds: u32, settings: PromotionSettingsUpdate) -> Result<()> {
        let request = UpdateEnvironmentRequest {
            promotion_settings: Some(PromotionSettingsUpdate {
                ramp_up_while_promoting: Some(true),
                ramp_up_duration_seconds: Some(seconds),
                ..settings
            }),
            ..UpdateEnvironmentRequest::default()
        };
        let updated = self
            .client
            .update_environment(self.model, PRODUCTION, &request);
        updated.await?;
        Ok(())
    }

    /// Begins to move production to a deployment.
    pub async fn promote(&self, deployment: &str) -> Result<()> {
        let request = PromoteRequest::new(deployment.parse()?);
        let promoted = self.client.promote(self.model, PRODUCTION, &request);
        promoted.await?;
        Ok(())
    }

    /// Halts the promotion in its stage.
    pub async fn pause(&self) -> Result<()> {
        self.client.pause_promotion(self.model, PRODUCTION).await?;
        Ok(())
    }

    /// Resumes the promotion.
    pub async fn resume(&self) -> Result<()> {
        self.client.resume_promotion(self.model, PRODUCTION).await?;
        Ok(())
    }

    /// Calls the promotion off.
    pub async fn cancel(&self) -> Result<()> {
        self.client.cancel_promotion(self.model, PRODUCTION).await?;
        Ok(())
    }

    /// Waits until the promotion is in this stage or a later one.
    pub async fn in_stage(&self, stage: u32) -> Result<()> {
        eventually("the stage", async || {
            let promotion = self.in_progress().await.ok().flatten();
            promotion.and_then(|promotion| promotion.stage) >= Some(stage)
        })
        .await
    }

    /// Begins to move production to the new deployment, waits for a stage, and stays in it. Answers the percentage.
    pub async fn pause_in_stage(&self, stage: u32) -> Result<u64> {
        self.promote(&self.new).await?;
        self.in_stage(stage).await?;
        self.pause().await?;
        let promotion = self.in_progress().await?.context("a promotion")?;
        ensure!(promotion.status == PromotionStatus::Paused, "{promotion:?}");
        Ok(promotion.percent_traffic_to_new_version.into())
    }

    /// Waits until no promotion goes on, and answers production then.
    pub async fn ended(&self) -> Result<EnvironmentResponse> {
        eventually("the promotion ends", async || {
            let shown = self.shown().await;
            shown.is_ok_and(|shown| shown.last_promotion.is_some())
        })
        .await?;
        self.shown().await
    }
}
