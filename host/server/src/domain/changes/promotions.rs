//! Promotions: begun, halted, taken up again, called off, and ended one way or the other.

use std::sync::Arc;

use jiff::Timestamp;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::error::ErrorCode;
use samovar_types::id::DeploymentId;
use samovar_types::promotion::PromotionStatus;
use samovar_types::promotion_settings::CleanupStrategy;

use super::{Done, Refusal};
use crate::domain::audit::{Act, ControlAction};
use crate::domain::deployment::{Deployment, DeploymentKind, MAX_DEPLOYMENTS, next_name};
use crate::domain::model::ModelView;
use crate::domain::promotion::{Promote, Promotion};

impl ModelView {
    /// Begins to move an environment to a deployment. Answers the deployment that moves in: a fresh one of the same
    /// bundle where the named one cannot do it itself, which `fresh` is the id for.
    pub fn promote(
        &mut self,
        environment: &str,
        deployment: DeploymentId,
        how: Promote,
        fresh: DeploymentId,
        now: Timestamp,
    ) -> Result<DeploymentId, Refusal> {
        let model = self.model.name.clone();
        let target = self.environment(environment)?;
        if let Some(promotion) = target.in_progress() {
            let text = format!(
                "deployment {} is being promoted to {environment} of model {model} already: wait for its end, or cancel it",
                promotion.candidate_deployment_id
            );
            return Err(Refusal::conflict(ErrorCode::PromotionInProgress, text));
        }
        let source = self.deployment(deployment)?;
        if target.current_deployment_id == Some(deployment) {
            let text =
                format!("deployment {deployment} is in {environment} of model {model} already");
            return Err(Refusal::conflict(ErrorCode::AlreadyThere, text));
        }
        if source.status.is_off() {
            let text =
                format!("deployment {deployment} is deactivated: activate it, then promote it");
            return Err(Refusal::conflict(ErrorCode::Inactive, text));
        }
        if source.status.has_failed() || source.status.is_unfinished() {
            let text = format!(
                "deployment {deployment} is not ready to be promoted: {}",
                source
                    .status_reason
                    .as_deref()
                    .unwrap_or("it is still being built")
            );
            return Err(Refusal::conflict(ErrorCode::NotReady, text));
        }
        let elsewhere = self.environments.values().any(|one| one.holds(deployment));
        let development = source.kind == DeploymentKind::Development;
        if development || elsewhere || target.promotion_settings.redeploy_on_promotion {
            let source = source.clone();
            self.redeploy(&source, environment, how, fresh, now)?;
            self.note_promoted(environment, fresh);
            return Ok(fresh);
        }
        self.begin_promotion(environment, deployment, how, now)?;
        self.note_promoted(environment, deployment);
        Ok(deployment)
    }

    fn note_promoted(&mut self, environment: &str, candidate: DeploymentId) {
        let act = Act::ModelDeploymentPromoted(Default::default());
        self.note_promotion(environment, candidate, act);
    }

    /// A fresh deployment of the same bundle, which goes to the environment as soon as it is built.
    fn redeploy(
        &mut self,
        source: &Deployment,
        environment: &str,
        how: Promote,
        fresh: DeploymentId,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.deployments.len() >= MAX_DEPLOYMENTS {
            let text = format!(
                "model {} has {MAX_DEPLOYMENTS} deployments, which is the most: delete some first",
                self.model.name
            );
            return Err(Refusal::conflict(ErrorCode::TooMany, text));
        }
        // What was set of the development deployment is for the one replica that it has: the manifest speaks again.
        let (autoscaling, backpressure) = match source.kind {
            DeploymentKind::Published => (source.autoscaling.clone(), source.backpressure),
            DeploymentKind::Development => (None, Default::default()),
        };
        let taken = self.deployments.values().map(|one| &*one.name);
        let name = next_name(self.model.deployments_made, taken);
        self.model.deployments_made = self.model.deployments_made.saturating_add(1);
        let deployment = Deployment {
            id: fresh,
            name,
            created_at: now,
            kind: DeploymentKind::Published,
            status: DeploymentStatus::Building,
            status_reason: None,
            autoscaling,
            backpressure,
            promote_to: Some(environment.to_owned()),
            promote_how: how,
            ..source.clone()
        };
        self.deployments.insert(fresh, Arc::new(deployment));
        Ok(())
    }

    /// Begins a promotion of a deployment that can move in itself; the settings of the environment go over to it.
    pub fn begin_promotion(
        &mut self,
        environment: &str,
        candidate: DeploymentId,
        how: Promote,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let target = self.environment_mut(environment)?;
        let mut settings = target.promotion_settings.clone();
        if how == Promote::KeepPrevious {
            settings.promotion_cleanup_strategy = CleanupStrategy::Keep;
        }
        let promotion = Promotion::new(candidate, target.current_deployment_id, settings, now);
        let (autoscaling, backpressure) =
            (target.autoscaling_settings.clone(), target.backpressure);
        target.promotion = Some(promotion);
        let deployment = self.deployment_mut(candidate)?;
        deployment.promote_to = None;
        deployment.backpressure = backpressure;
        if autoscaling.is_some() {
            deployment.autoscaling = autoscaling;
        }
        Ok(())
    }

    /// Halts a canary where it is.
    pub fn pause_promotion(&mut self, environment: &str, now: Timestamp) -> Result<(), Refusal> {
        let promotion = self.in_progress_mut(environment)?;
        if promotion.status != PromotionStatus::RampingUp {
            return Err(wrong_status(promotion, "paused", "RAMPING_UP"));
        }
        promotion.status = PromotionStatus::Paused;
        promotion.paused_at = Some(now);
        self.note_control(environment, ControlAction::Pause);
        Ok(())
    }

    /// Goes on with a canary in the stage where it was halted.
    pub fn resume_promotion(&mut self, environment: &str, now: Timestamp) -> Result<(), Refusal> {
        let promotion = self.in_progress_mut(environment)?;
        let (PromotionStatus::Paused, Some(paused), Some(started)) = (
            promotion.status,
            promotion.paused_at,
            promotion.ramp_started_at,
        ) else {
            return Err(wrong_status(promotion, "resumed", "PAUSED"));
        };
        promotion.status = PromotionStatus::RampingUp;
        promotion.paused_at = None;
        promotion.ramp_started_at = started
            .checked_add(now.duration_since(paused))
            .ok()
            .or(Some(now));
        self.note_control(environment, ControlAction::Resume);
        Ok(())
    }

    /// Calls a promotion off: all traffic goes back at once.
    pub fn cancel_promotion(&mut self, environment: &str, now: Timestamp) -> Result<(), Refusal> {
        self.cancel(environment, ControlAction::GracefulCancel, now)
    }

    /// The same, by another word.
    pub fn force_cancel_promotion(
        &mut self,
        environment: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.cancel(environment, ControlAction::ForceCancel, now)
    }

    fn cancel(
        &mut self,
        environment: &str,
        action: ControlAction,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.environment(environment)?.in_progress().is_none() {
            let forgotten = self.forget_promotions_to(environment);
            if !forgotten.is_empty() {
                for id in forgotten {
                    self.note_control_of(environment, id, action);
                }
                return Ok(());
            }
        }
        let promotion = self.in_progress_mut(environment)?;
        end(promotion, PromotionStatus::Canceled, now);
        self.note_control(environment, action);
        Ok(())
    }

    /// Lets the candidate take over at once, because somebody says so.
    pub fn force_promotion_forward(
        &mut self,
        environment: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.in_progress_mut(environment)?;
        self.note_control(environment, ControlAction::ForceRollForward);
        self.take_over(environment, now)
    }

    /// The candidate is ready: traffic begins to move, or all of it goes over.
    pub fn release_promotion(
        &mut self,
        environment: &str,
        now: Timestamp,
    ) -> Result<Done, Refusal> {
        let promotion = self.in_progress_mut(environment)?;
        if promotion.status != PromotionStatus::Releasing {
            return Ok(Done::Unchanged);
        }
        if promotion.settings.ramp_up_while_promoting && promotion.previous_deployment_id.is_some()
        {
            promotion.status = PromotionStatus::RampingUp;
            promotion.ramp_started_at = Some(now);
            return Ok(Done::Changed);
        }
        self.finish_promotion(environment, now)?;
        Ok(Done::Changed)
    }

    /// The candidate takes over when its time has come.
    pub fn finish_promotion(&mut self, environment: &str, now: Timestamp) -> Result<(), Refusal> {
        self.in_progress_mut(environment)?;
        self.note_end(environment, PromotionStatus::Succeeded, None);
        self.take_over(environment, now)
    }

    /// The candidate takes over, and the deployment that was there is tidied up.
    fn take_over(&mut self, environment: &str, now: Timestamp) -> Result<(), Refusal> {
        let promotion = self.in_progress_mut(environment)?;
        end(promotion, PromotionStatus::Succeeded, now);
        let candidate = promotion.candidate_deployment_id;
        let cleanup = promotion.settings.promotion_cleanup_strategy;
        let autoscaling = self.deployment(candidate)?.autoscaling();
        let target = self.environment_mut(environment)?;
        target.autoscaling_settings = Some(autoscaling);
        let previous = target.current_deployment_id.replace(candidate);
        target.previous_deployment_id = previous;
        let Some(previous) =
            previous.filter(|id| !self.environments.values().any(|one| one.holds(*id)))
        else {
            return Ok(());
        };
        let Some(deployment) = self.deployments.get_mut(&previous).map(Arc::make_mut) else {
            return Ok(());
        };
        match cleanup {
            CleanupStrategy::Keep => {}
            CleanupStrategy::ScaleToZero => {
                let before = deployment.autoscaling();
                let mut autoscaling = before.clone();
                autoscaling.min_replica = 0;
                deployment.autoscaling = Some(autoscaling);
                self.note_autoscaling(previous, before);
            }
            CleanupStrategy::Deactivate => {
                self.deactivate(previous)?;
            }
        }
        Ok(())
    }

    /// The candidate cannot take over; traffic stays, or goes back.
    pub fn fail_promotion(
        &mut self,
        environment: &str,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let promotion = self.in_progress_mut(environment)?;
        end(promotion, PromotionStatus::Failed, now);
        promotion.error_message = Some(reason.to_owned());
        self.note_end(environment, PromotionStatus::Failed, Some(reason));
        Ok(())
    }

    /// Lets no deployment into an environment that was to go there once it is built.
    fn forget_promotions_to(&mut self, environment: &str) -> Vec<DeploymentId> {
        let mut found = Vec::new();
        for deployment in self.deployments.values_mut() {
            let waits = deployment.promote_to.as_deref() == Some(environment);
            if waits && deployment.status.is_unfinished() {
                Arc::make_mut(deployment).promote_to = None;
                found.push(deployment.id);
            }
        }
        found
    }

    fn note_control(&mut self, environment: &str, action: ControlAction) {
        if let Some(candidate) = self.candidate_of(environment) {
            self.note_control_of(environment, candidate, action);
        }
    }

    fn note_control_of(
        &mut self,
        environment: &str,
        candidate: DeploymentId,
        action: ControlAction,
    ) {
        let act = Act::ModelPromotionControlAction {
            action,
            environment_id: (),
        };
        self.note_promotion(environment, candidate, act);
    }

    fn note_end(&mut self, environment: &str, status: PromotionStatus, reason: Option<&str>) {
        let act = Act::ModelPromotionEnded {
            status,
            error_message: reason.map(str::to_owned),
        };
        if let Some(candidate) = self.candidate_of(environment) {
            self.note_promotion(environment, candidate, act);
        }
    }

    /// The deployment that moves in, or moved last.
    fn candidate_of(&self, environment: &str) -> Option<DeploymentId> {
        let promotion = self.environments.get(environment)?.promotion.as_ref()?;
        Some(promotion.candidate_deployment_id)
    }

    fn in_progress_mut(&mut self, environment: &str) -> Result<&mut Promotion, Refusal> {
        let model = self.model.name.clone();
        let target = self.environment_mut(environment)?;
        target
            .promotion
            .as_mut()
            .filter(|promotion| promotion.status.is_in_progress())
            .ok_or_else(|| {
                let text = format!("no promotion to {environment} of model {model} goes on");
                Refusal::conflict(ErrorCode::NoPromotion, text)
            })
    }
}

fn end(promotion: &mut Promotion, status: PromotionStatus, now: Timestamp) {
    promotion.status = status;
    promotion.paused_at = None;
    promotion.ended_at = Some(now);
}

fn wrong_status(promotion: &Promotion, what: &str, wanted: &str) -> Refusal {
    let text = format!(
        "the promotion cannot be {what}: found status {:?}, wanted {wanted}",
        promotion.status
    );
    Refusal::conflict(ErrorCode::WrongStatus, text)
}
