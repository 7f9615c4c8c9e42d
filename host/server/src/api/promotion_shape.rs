//! A promotion as the API shows it: where it stands since when, why it ended, and what this node measures of it.

use std::time::Duration;

use jiff::Timestamp;
use samovar_types::id::Id;
use samovar_types::promotion::PromotionStatus;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use crate::control::analysis::{Figures, StageFigures};
use crate::control::shadow::ShadowCounts;
use crate::domain::environment::Environment;
use crate::domain::promotion::Promotion;

/// A move to another deployment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Promotion)]
pub struct PromotionShape {
    /// Where it stands.
    pub status: PromotionStatus,
    /// Percentage of requests that the candidate gets.
    pub percent_traffic_to_new_version: u32,
    /// Why it failed.
    pub error_message: Option<String>,
    /// The deployment that moves in.
    pub deployment_id: Id,
    /// The deployment that was there.
    pub previous_deployment_id: Option<Id>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The stage of ten that it is in.
    #[schema(minimum = 1, maximum = 10)]
    pub stage: Option<u32>,
    /// When this stage began, as if there had been no pause.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub stage_started_at: Option<Timestamp>,
    /// When the next stage begins, or the last one ends.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_stage_at: Option<Timestamp>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// What this node measured in the stage that it is in; null while traffic is not divided.
    pub analysis: Option<StageShape>,
    /// What became of the copies that this node made; null without shadow requests.
    pub shadow_requests: Option<ShadowShape>,
    /// Always false.
    pub rolling_deploy: bool,
}

/// What both sides did in a stage.
#[derive(Debug, Serialize, ToSchema)]
pub struct StageShape {
    /// The deployment that is there.
    pub current: SideShape,
    /// The one that moves in.
    pub candidate: SideShape,
}

/// What a deployment did in a stage.
#[derive(Debug, Serialize, ToSchema)]
pub struct SideShape {
    /// Requests that were answered, well or not.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Their share; null without requests.
    pub error_rate: Option<f64>,
    /// 95 of 100 requests had the head of their answer sooner; null without requests.
    pub p95_latency_ms: Option<f64>,
}

/// Copies of requests for a candidate.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShadowShape {
    /// Given to it.
    pub sent: u64,
    /// Not made or not given to it: it was busy, or the body was too long or not read.
    pub dropped: u64,
}

impl PromotionShape {
    /// A promotion to an environment as it is now.
    pub fn of(api: &Api, environment: &Environment, promotion: &Promotion, now: Timestamp) -> Self {
        let stage = promotion.stage(now);
        let trial = stage.and_then(|_| api.serving.trial(environment.model_id, &environment.name));
        let figures = stage.zip(trial.as_ref());
        let figures = figures.and_then(|(stage, trial)| trial.figures(stage).pop());
        let shadowed = promotion.settings.shadow_percent > 0;
        Self {
            status: promotion.status,
            percent_traffic_to_new_version: promotion.percent(now),
            error_message: promotion.error_message.clone(),
            deployment_id: promotion.candidate_deployment_id,
            previous_deployment_id: promotion.previous_deployment_id,
            created_at: promotion.created_at,
            stage: stage.map(|stage| stage + 1),
            stage_started_at: promotion.stage_started_at(now),
            next_stage_at: promotion.next_stage_at(now),
            ended_at: promotion.ended_at,
            analysis: figures.map(StageShape::from),
            shadow_requests: trial
                .filter(|_| shadowed)
                .map(|trial| trial.shadows().into()),
            rolling_deploy: false,
        }
    }
}

impl From<StageFigures> for StageShape {
    fn from(stage: StageFigures) -> Self {
        Self {
            current: stage.current.into(),
            candidate: stage.candidate.into(),
        }
    }
}

impl From<Figures> for SideShape {
    fn from(figures: Figures) -> Self {
        let ms = |latency: Duration| latency.as_secs_f64() * 1e3;
        Self {
            requests: figures.requests,
            errors: figures.errors,
            error_rate: (figures.requests > 0).then(|| figures.error_rate()),
            p95_latency_ms: figures.p95().map(ms),
        }
    }
}

impl From<ShadowCounts> for ShadowShape {
    fn from(counts: ShadowCounts) -> Self {
        Self {
            sent: counts.sent,
            dropped: counts.dropped,
        }
    }
}
