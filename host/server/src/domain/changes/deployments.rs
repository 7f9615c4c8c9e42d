//! Deployments: renamed, switched off and on, retried, deleted, and their settings.

use std::sync::Arc;

use samovar_types::deployment::DeploymentStatus;
use samovar_types::error::ErrorCode;
use samovar_types::id::DeploymentId;
use samovar_types::names;
use samovar_types::settings::{AutoscalingUpdate, BackpressurePolicy, InvalidSetting};

use super::development::check_development_autoscaling;
use super::{Done, Refusal};
use crate::domain::audit::Act;
use crate::domain::deployment::{Deployment, DeploymentKind};
use crate::domain::model::ModelView;

/// Why the status is BUILD_STOPPED.
const STOPPED: &str =
    "it was deactivated while it was being built; `retry` or `activate` builds it again";

/// Why the status is BUILD_FAILED after two crashes.
const ENDED_TWICE: &str = "the node ended twice while building it, the second time while it built nothing else: the bundle may \
     need more memory than the machine has, or crash the compiler or a backend; see the log of the node. `retry` builds it again";

/// What becomes of a build that was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// It begins once more.
    Begins,
    /// It was begun once more already, and failed now.
    Failed,
    /// It has ended meanwhile.
    NotNeeded,
}

impl ModelView {
    /// A deployment that there is.
    pub fn deployment(&self, id: DeploymentId) -> Result<&Deployment, Refusal> {
        let missing =
            || Refusal::NotFound(format!("model {} has no deployment {id}", self.model.name));
        self.deployments
            .get(&id)
            .map(|one| &**one)
            .ok_or_else(missing)
    }

    pub(super) fn deployment_mut(&mut self, id: DeploymentId) -> Result<&mut Deployment, Refusal> {
        let name = &self.model.name;
        let missing = || Refusal::NotFound(format!("model {name} has no deployment {id}"));
        let deployment = self.deployments.get_mut(&id).ok_or_else(missing)?;
        Ok(Arc::make_mut(deployment))
    }

    /// Gives the model another name.
    pub fn rename(&mut self, name: &str) -> Result<(), Refusal> {
        names::check_name(name).map_err(|wanted| {
            let shown: String = name.chars().take(80).collect();
            InvalidSetting::new("name", format_args!("{shown:?}"), wanted)
        })?;
        if name != self.model.name {
            let previous_name = std::mem::replace(&mut self.model.name, name.to_owned());
            self.note(Act::ModelRenamed { previous_name });
        }
        Ok(())
    }

    /// Gives a deployment another name.
    pub fn rename_deployment(&mut self, id: DeploymentId, name: &str) -> Result<(), Refusal> {
        names::check_deployment_name(name).map_err(|wanted| {
            let shown: String = name.chars().take(80).collect();
            InvalidSetting::new("name", format_args!("{shown:?}"), wanted)
        })?;
        let deployment = self.deployment_mut(id)?;
        if deployment.kind == DeploymentKind::Development {
            let text = "the development deployment keeps its name";
            return Err(Refusal::conflict(ErrorCode::Development, text));
        }
        if name != deployment.name {
            let previous_name = std::mem::replace(&mut deployment.name, name.to_owned());
            self.note_deployment(id, Act::ModelDeploymentRenamed { previous_name });
        }
        Ok(())
    }

    /// Switches a deployment off; one that is being built is stopped. Its requests are answered with 404 from now on; the running ones finish.
    pub fn deactivate(&mut self, id: DeploymentId) -> Result<Done, Refusal> {
        let name = self.model.name.clone();
        if let Some(environment) = self
            .environments
            .values()
            .find(|one| one.candidate_deployment_id() == Some(id))
        {
            let text = format!(
                "deployment {id} is being promoted to {} of model {name}: cancel the promotion first",
                environment.name
            );
            return Err(Refusal::conflict(ErrorCode::PromotionInProgress, text));
        }
        let deployment = self.deployment_mut(id)?;
        if deployment.status.is_off() {
            return Ok(Done::Unchanged);
        }
        if deployment.status.is_unfinished() {
            deployment.status = DeploymentStatus::BuildStopped;
            deployment.status_reason = Some(STOPPED.into());
            self.note_deployment(id, Act::ModelDeploymentDeactivated);
            return Ok(Done::Changed);
        }
        deployment.status = DeploymentStatus::Deactivating;
        deployment.status_reason = None;
        self.note_deployment(id, Act::ModelDeploymentDeactivated);
        Ok(Done::Changed)
    }

    /// Notes that the last request of a deployment that is switched off has finished.
    pub fn deactivated(&mut self, id: DeploymentId) -> Result<Done, Refusal> {
        let deployment = self.deployment_mut(id)?;
        if deployment.status != DeploymentStatus::Deactivating {
            return Ok(Done::Unchanged);
        }
        deployment.status = DeploymentStatus::Inactive;
        Ok(Done::Changed)
    }

    /// Switches a deployment on again, with the settings that it had.
    pub fn activate(&mut self, id: DeploymentId) -> Result<Done, Refusal> {
        let deployment = self.deployment_mut(id)?;
        let stopped = deployment.status == DeploymentStatus::BuildStopped;
        if !deployment.status.is_off() && !stopped {
            return Ok(Done::Unchanged);
        }
        deployment.status = DeploymentStatus::Building;
        deployment.status_reason = None;
        deployment.build_cut_off = false;
        self.note_deployment(id, Act::ModelDeploymentActivated);
        Ok(Done::Changed)
    }

    /// Builds a deployment once more that failed.
    pub fn retry(&mut self, id: DeploymentId) -> Result<Done, Refusal> {
        let deployment = self.deployment_mut(id)?;
        if !deployment.status.has_failed() {
            return Ok(Done::Unchanged);
        }
        deployment.status = DeploymentStatus::Building;
        deployment.status_reason = None;
        deployment.build_cut_off = false;
        self.note_deployment(id, Act::ModelDeploymentRetried { retried: true });
        Ok(Done::Changed)
    }

    /// Notes how the build of a deployment ended.
    pub fn built(
        &mut self,
        id: DeploymentId,
        status: DeploymentStatus,
        reason: Option<String>,
    ) -> Result<Done, Refusal> {
        let deployment = self.deployment_mut(id)?;
        // Switched off meanwhile, or built by another.
        if !deployment.status.is_unfinished() {
            return Ok(Done::Unchanged);
        }
        deployment.status = status;
        deployment.status_reason = reason;
        deployment.build_cut_off = false;
        Ok(Done::Changed)
    }

    /// Notes that a build which the end of the node cut off begins once more. If that one was cut off, too, it has
    /// failed: its bundle may be what ends the node.
    pub fn resume_build(&mut self, id: DeploymentId) -> Result<Resumed, Refusal> {
        let deployment = self.deployment_mut(id)?;
        if !deployment.status.is_unfinished() {
            return Ok(Resumed::NotNeeded);
        }
        if deployment.build_cut_off {
            deployment.status = DeploymentStatus::BuildFailed;
            deployment.status_reason = Some(ENDED_TWICE.into());
            deployment.build_cut_off = false;
            return Ok(Resumed::Failed);
        }
        deployment.build_cut_off = true;
        Ok(Resumed::Begins)
    }

    /// Deletes a deployment that is behind no environment.
    pub fn delete_deployment(&mut self, id: DeploymentId) -> Result<Arc<Deployment>, Refusal> {
        self.deployment(id)?;
        if let Some(environment) = self.environments.values().find(|one| one.holds(id)) {
            let text = format!(
                "deployment {id} is in environment {} of model {}: promote another in its place first, or delete the \
                 model with all its deployments",
                environment.name, self.model.name
            );
            return Err(Refusal::conflict(ErrorCode::InUse, text));
        }
        for environment in self.environments.values_mut() {
            if environment.previous_deployment_id == Some(id) {
                environment.previous_deployment_id = None;
            }
        }
        self.note_deployment(id, Act::ModelDeploymentDeleted);
        let missing = || Refusal::NotFound(format!("there is no deployment {id}"));
        self.deployments.remove(&id).ok_or_else(missing)
    }

    /// Changes how many replicas a deployment keeps; what its environment hands on follows.
    pub fn update_autoscaling(
        &mut self,
        id: DeploymentId,
        update: &AutoscalingUpdate,
    ) -> Result<Done, Refusal> {
        let deployment = self.deployment_mut(id)?;
        let before = deployment.autoscaling();
        let after = before.updated(update)?;
        if deployment.kind == DeploymentKind::Development {
            check_development_autoscaling(&after)?;
        }
        if after == before {
            return Ok(Done::Unchanged);
        }
        deployment.autoscaling = Some(after.clone());
        for environment in self.environments.values_mut() {
            if environment.current_deployment_id == Some(id) {
                environment.autoscaling_settings = Some(after.clone());
            }
        }
        self.note_autoscaling(id, before);
        Ok(Done::Changed)
    }

    /// Changes what happens to requests of a deployment that find every replica busy.
    pub fn update_backpressure(
        &mut self,
        id: DeploymentId,
        policy: BackpressurePolicy,
    ) -> Result<Done, Refusal> {
        let deployment = self.deployment_mut(id)?;
        let previous_policy = std::mem::replace(&mut deployment.backpressure, policy);
        if previous_policy == policy {
            return Ok(Done::Unchanged);
        }
        let act = Act::ModelDeploymentRequestBackpressureSettingsChanged {
            policy,
            previous_policy,
        };
        self.note_deployment(id, act);
        Ok(Done::Changed)
    }
}
