//! What each change notes of itself for the audit log, where it is made.

use samovar_types::id::DeploymentId;
use samovar_types::settings::AutoscalingSettings;

use crate::domain::audit::{Act, Note};
use crate::domain::deployment::{Deployment, DeploymentKind};
use crate::domain::model::ModelView;

impl ModelView {
    /// Notes what was done to the model itself.
    pub(super) fn note(&mut self, act: Act) {
        self.note_about(None, None, act);
    }

    /// Notes what was done to a deployment.
    pub(super) fn note_deployment(&mut self, id: DeploymentId, act: Act) {
        let note = self.told_of(id, act);
        self.notes.push(note);
    }

    /// Notes what was done to an environment.
    pub(super) fn note_environment(&mut self, name: &str, act: Act) {
        self.note_about(None, Some(name.to_owned()), act);
    }

    /// Notes what was done to an environment and the deployment that moves in.
    pub(super) fn note_promotion(&mut self, environment: &str, candidate: DeploymentId, act: Act) {
        self.note_about(Some(candidate), Some(environment.to_owned()), act);
    }

    /// Notes that a deployment keeps other numbers of replicas than before, if it does.
    pub(super) fn note_autoscaling(&mut self, id: DeploymentId, before: AutoscalingSettings) {
        let Some(deployment) = self.deployments.get(&id) else {
            return;
        };
        let after = deployment.autoscaling();
        if after == before {
            return;
        }
        let act = Act::ModelDeploymentAutoscalingSettingsChanged {
            settings: after.into(),
            previous_settings: before.into(),
            schedules: (),
            deployment_type: kind(deployment),
        };
        self.note_deployment(id, act);
    }

    /// What was done to a deployment that is no change of what is stored of it.
    pub fn told_of(&self, id: DeploymentId, act: Act) -> Note {
        let environment = self.environment_of(id).map(|one| one.name.clone());
        self.told(Some(id), environment, act)
    }

    fn note_about(
        &mut self,
        deployment: Option<DeploymentId>,
        environment: Option<String>,
        act: Act,
    ) {
        let note = self.told(deployment, environment, act);
        self.notes.push(note);
    }

    fn told(
        &self,
        deployment: Option<DeploymentId>,
        environment: Option<String>,
        act: Act,
    ) -> Note {
        // What is gone has no name any more; whoever deletes it notes that first.
        let name = |id: DeploymentId| self.deployments.get(&id).map(|one| one.name.clone());
        let deployment = deployment.map(|id| (id, name(id).unwrap_or_default()));
        Note {
            model: Some((self.model.id, self.model.name.clone())),
            deployment,
            environment,
            act,
        }
    }
}

fn kind(deployment: &Deployment) -> &'static str {
    match deployment.kind {
        DeploymentKind::Published => "PUBLISHED",
        DeploymentKind::Development => "DEVELOPMENT",
    }
}
