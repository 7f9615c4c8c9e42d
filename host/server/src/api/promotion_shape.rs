//! A promotion as the API shows it: where it stands since when, why it ended, and what this node measures of it.

use std::time::Duration;

use jiff::Timestamp;
use samovar_types::api::promotions::{
    PromotionResponse, ShadowRequests, SideAnalysis, StageAnalysis,
};

use super::Api;
use crate::control::analysis::{Figures, StageFigures};
use crate::control::shadow::ShadowCounts;
use crate::domain::environment::Environment;
use crate::domain::promotion::Promotion;

/// A promotion to an environment as it is now.
pub(super) fn promotion_response(
    api: &Api,
    environment: &Environment,
    promotion: &Promotion,
    now: Timestamp,
) -> PromotionResponse {
    let stage = promotion.stage(now);
    let trial = stage.and_then(|_| api.serving.trial(environment.model_id, &environment.name));
    let figures = stage.zip(trial.as_ref());
    let figures = figures.and_then(|(stage, trial)| trial.figures(stage).pop());
    let shadowed = promotion.settings.shadow_percent > 0;
    PromotionResponse {
        status: promotion.status.into(),
        percent_traffic_to_new_version: promotion.percent(now),
        error_message: promotion.error_message.clone(),
        deployment_id: promotion.candidate_deployment_id,
        previous_deployment_id: promotion.previous_deployment_id,
        created_at: promotion.created_at,
        stage: stage.map(|stage| stage + 1),
        stage_started_at: promotion.stage_started_at(now),
        next_stage_at: promotion.next_stage_at(now),
        ended_at: promotion.ended_at,
        analysis: figures.map(StageAnalysis::from),
        shadow_requests: trial
            .filter(|_| shadowed)
            .map(|trial| trial.shadows().into()),
        rolling_deploy: false,
    }
}

impl From<StageFigures> for StageAnalysis {
    fn from(stage: StageFigures) -> Self {
        Self {
            current: stage.current.into(),
            candidate: stage.candidate.into(),
        }
    }
}

impl From<Figures> for SideAnalysis {
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

impl From<ShadowCounts> for ShadowRequests {
    fn from(counts: ShadowCounts) -> Self {
        Self {
            sent: counts.sent,
            dropped: counts.dropped,
        }
    }
}
