//! Environments: made, changed, deleted.

use std::sync::Arc;

use jiff::Timestamp;
use samovar_types::error::ErrorCode;
use samovar_types::names::{self, PRODUCTION};
use samovar_types::origins::{self, Origin};
use samovar_types::promotion_settings::PromotionSettingsUpdate;
use samovar_types::settings::{
    AutoscalingSettings, AutoscalingUpdate, BackpressurePolicy, InvalidSetting,
};

use super::{Done, Refusal};
use crate::domain::audit::Act;
use crate::domain::environment::{Environment, MAX_ENVIRONMENTS};
use crate::domain::model::ModelView;

/// What is set of an environment; what is left out stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct EnvironmentUpdate<'a> {
    /// How many replicas its deployment keeps.
    pub autoscaling: Option<&'a AutoscalingUpdate>,
    /// How it moves to another deployment.
    pub promotion: Option<&'a PromotionSettingsUpdate>,
    /// What happens to requests that find every replica busy.
    pub backpressure: Option<BackpressurePolicy>,
    /// The web pages that may call it from a browser.
    pub allowed_origins: Option<&'a [Origin]>,
}

impl ModelView {
    /// An environment that there is.
    pub fn environment(&self, name: &str) -> Result<&Environment, Refusal> {
        self.environments
            .get(name)
            .ok_or_else(|| no_environment(&self.model.name, name))
    }

    pub(super) fn environment_mut(&mut self, name: &str) -> Result<&mut Environment, Refusal> {
        let model = &self.model.name;
        let missing = || no_environment(model, name);
        self.environments.get_mut(name).ok_or_else(missing)
    }

    /// Makes an environment that points at nothing yet.
    pub fn create_environment(
        &mut self,
        name: &str,
        update: EnvironmentUpdate<'_>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        names::check_name(name).map_err(|wanted| {
            let shown: String = name.chars().take(80).collect();
            InvalidSetting::new("name", format_args!("{shown:?}"), wanted)
        })?;
        if self.environments.contains_key(name) {
            let text = format!(
                "model {} has an environment {name:?} already",
                self.model.name
            );
            return Err(Refusal::conflict(ErrorCode::Exists, text));
        }
        if self.environments.len() >= MAX_ENVIRONMENTS {
            let text = format!(
                "model {} has {MAX_ENVIRONMENTS} environments, which is the most",
                self.model.name
            );
            return Err(Refusal::conflict(ErrorCode::TooMany, text));
        }
        let mut environment = Environment::new(self.model.id, name, now);
        if let Some(autoscaling) = update.autoscaling {
            environment.autoscaling_settings =
                Some(AutoscalingSettings::default().updated(autoscaling)?);
        }
        if let Some(promotion) = update.promotion {
            environment.promotion_settings = environment.promotion_settings.updated(promotion)?;
        }
        environment.backpressure = update.backpressure.unwrap_or_default();
        if let Some(allowed) = update.allowed_origins {
            origins::check(allowed)?;
            environment.allowed_origins = allowed.to_vec();
        }
        let act = Act::EnvironmentCreated {
            settings: Box::new((&environment).into()),
            deployment_type: (),
        };
        self.environments.insert(name.to_owned(), environment);
        self.note_environment(name, act);
        Ok(())
    }

    /// Changes the settings of an environment, and of the deployments that it points at with them.
    pub fn update_environment(
        &mut self,
        name: &str,
        update: EnvironmentUpdate<'_>,
    ) -> Result<Done, Refusal> {
        let before = self.environment(name)?.clone();
        let mut after = before.clone();
        let held = [
            before.current_deployment_id,
            before.candidate_deployment_id(),
        ];
        if let Some(autoscaling) = update.autoscaling {
            let current = before
                .current_deployment_id
                .and_then(|id| self.deployments.get(&id));
            let base = before
                .autoscaling_settings
                .clone()
                .or_else(|| current.map(|deployment| deployment.autoscaling()))
                .unwrap_or_default();
            after.autoscaling_settings = Some(base.updated(autoscaling)?);
        }
        if let Some(promotion) = update.promotion {
            after.promotion_settings = before.promotion_settings.updated(promotion)?;
        }
        if let Some(policy) = update.backpressure {
            after.backpressure = policy;
        }
        if let Some(allowed) = update.allowed_origins {
            origins::check(allowed)?;
            after.allowed_origins = allowed.to_vec();
        }
        if after == before {
            return Ok(Done::Unchanged);
        }
        for id in held.into_iter().flatten() {
            if let Some(deployment) = self.deployments.get_mut(&id).map(Arc::make_mut) {
                deployment.backpressure = after.backpressure;
                if after.autoscaling_settings.is_some() {
                    deployment
                        .autoscaling
                        .clone_from(&after.autoscaling_settings);
                }
            }
        }
        let act = Act::EnvironmentUpdated {
            settings: Box::new((&after).into()),
            previous_settings: Box::new((&before).into()),
            schedules: (),
            deployment_type: (),
        };
        self.environments.insert(name.to_owned(), after);
        self.note_environment(name, act);
        Ok(Done::Changed)
    }

    /// Deletes an environment. Its deployments stay.
    pub fn delete_environment(&mut self, name: &str) -> Result<(), Refusal> {
        let environment = self.environment(name)?;
        if name == PRODUCTION {
            let text = "production goes only with its model";
            return Err(Refusal::conflict(ErrorCode::InUse, text));
        }
        if environment.in_progress().is_some() {
            let text = format!("a promotion to {name} goes on: cancel it first");
            return Err(Refusal::conflict(ErrorCode::PromotionInProgress, text));
        }
        self.environments.remove(name);
        self.note_environment(name, Act::EnvironmentDeleted);
        Ok(())
    }
}

fn no_environment(model: &str, name: &str) -> Refusal {
    let shown: String = name.chars().take(80).collect();
    Refusal::NotFound(format!("model {model} has no environment {shown:?}"))
}
