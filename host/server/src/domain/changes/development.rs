//! The development deployment: the one of a model whose bundle changes, under rules of its own.

use std::collections::BTreeMap;

use samovar_types::bundle::Bundle;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::error::ErrorCode;
use samovar_types::id::DeploymentId;
use samovar_types::settings::{AutoscalingSettings, InvalidSetting};

use super::{Done, Refusal};
use crate::domain::audit::Act;
use crate::domain::deployment::{Deployment, DeploymentKind, check_labels};
use crate::domain::model::ModelView;

/// What a development deployment is to run from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reload {
    /// Its new bundle.
    pub bundle: Bundle,
    /// Its new labels; left out, they stay.
    pub labels: Option<BTreeMap<String, String>>,
}

impl ModelView {
    /// Refuses a second development deployment.
    pub fn check_no_development(&self) -> Result<(), Refusal> {
        match self.development() {
            None => Ok(()),
            Some(there) => {
                let text = format!(
                    "model {} has a development deployment already, {}: reload it",
                    self.model.name, there.id
                );
                Err(Refusal::conflict(ErrorCode::DevelopmentExists, text))
            }
        }
    }

    /// The development deployment as it will be after a reload, to be tried before anybody is sent to it.
    pub fn reloaded(&self, id: DeploymentId, reload: &Reload) -> Result<Deployment, Refusal> {
        let deployment = self.deployment(id)?;
        if deployment.kind != DeploymentKind::Development {
            let text = format!(
                "deployment {id} is published and stays as it was pushed: push another, or reload `development`"
            );
            return Err(Refusal::conflict(ErrorCode::Published, text));
        }
        reload.bundle.validate()?;
        if let Some(labels) = &reload.labels {
            check_labels(labels)?;
        }
        Ok(Deployment {
            status: DeploymentStatus::Active,
            status_reason: None,
            bundle_digest: reload.bundle.digest(),
            bundle: reload.bundle.clone(),
            labels: reload.labels.as_ref().unwrap_or(&deployment.labels).clone(),
            ..deployment.clone()
        })
    }

    /// Swaps the bundle of the development deployment for one that was tried. `begun` is where it stood when the reload
    /// began: one that was off is switched on by it, one that was switched off meanwhile stays so.
    pub fn reload(
        &mut self,
        id: DeploymentId,
        begun: DeploymentStatus,
        reload: &Reload,
    ) -> Result<Done, Refusal> {
        let after = self.reloaded(id, reload)?;
        let deployment = self.deployment_mut(id)?;
        if deployment.status.is_off() && !begun.is_off() {
            let text =
                "the development deployment was deactivated during the reload: nothing was changed";
            return Err(Refusal::conflict(ErrorCode::Inactive, text));
        }
        if *deployment == after {
            return Ok(Done::Unchanged);
        }
        let before = std::mem::replace(deployment, after.clone());
        if (before.bundle_digest, before.status) != (after.bundle_digest, after.status) {
            let act = Act::ModelDeploymentUpdated {
                bundle_digest: after.bundle_digest,
                previous_bundle_digest: before.bundle_digest,
            };
            self.note_deployment(id, act);
        }
        if before.labels != after.labels {
            let act = Act::ModelDeploymentLabelsChanged {
                labels: after.labels,
                previous_labels: before.labels,
            };
            self.note_deployment(id, act);
        }
        Ok(Done::Changed)
    }
}

/// Refuses settings that a development deployment does not have: it keeps no replica without traffic, and one at most.
pub(super) fn check_development_autoscaling(
    settings: &AutoscalingSettings,
) -> Result<(), InvalidSetting> {
    let fixed = settings.clone().for_development();
    for (field, found, wanted) in [
        ("min_replica", settings.min_replica, fixed.min_replica),
        ("max_replica", settings.max_replica, fixed.max_replica),
    ] {
        if found != wanted {
            let wanted = format!(
                "{wanted}: a development deployment has one replica at most, and none without traffic"
            );
            return Err(InvalidSetting::new(
                format!("autoscaling.{field}"),
                found,
                wanted,
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use samovar_types::digest::Digest;
    use samovar_types::names::{DEVELOPMENT, PRODUCTION};

    use super::super::{EnvironmentUpdate, Promote};
    use super::*;
    use crate::domain::environment::Environment;
    use crate::domain::model::Model;
    use crate::random::random_id;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn bundle(text: &str) -> Bundle {
        let digest = Digest::of(text.as_bytes());
        let json = format!(
            r#"{{"name":"m","component":{{"digest":"{digest}","size":9}},"autoscaling":{{"max_replica":7}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn reload(text: &str) -> Reload {
        Reload {
            bundle: bundle(text),
            labels: None,
        }
    }

    /// A model with a development deployment and nothing else.
    fn model() -> (ModelView, DeploymentId) {
        let (model_id, id) = (random_id(), random_id());
        let model = Model {
            id: model_id,
            name: "m".into(),
            created_at: NOW,
            deployments_made: 0,
            generation: 1,
        };
        let bundle = bundle("old");
        let deployment = Deployment {
            id,
            model_id,
            name: DEVELOPMENT.into(),
            created_at: NOW,
            kind: DeploymentKind::Development,
            status: DeploymentStatus::Active,
            status_reason: None,
            bundle_digest: bundle.digest(),
            bundle,
            autoscaling: None,
            backpressure: Default::default(),
            promote_to: None,
            promote_how: Promote::default(),
            build_cut_off: false,
            labels: BTreeMap::from([("team".to_owned(), "vision".to_owned())]),
        };
        let environments = [PRODUCTION, "staging"]
            .map(|name| (name.to_owned(), Environment::new(model_id, name, NOW)));
        let view = ModelView {
            model,
            deployments: BTreeMap::from([(id, deployment.into())]),
            environments: environments.into(),
            notes: Vec::new(),
        };
        (view, id)
    }

    fn code(refused: Result<impl std::fmt::Debug, Refusal>) -> &'static str {
        match refused.unwrap_err() {
            Refusal::Conflict { code, .. } => code.as_str(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_reload_swaps_the_bundle_and_nothing_else() {
        let (mut view, id) = model();
        let before = view.clone();
        let active = DeploymentStatus::Active;
        assert_eq!(view.reload(id, active, &reload("new")), Ok(Done::Changed));
        let deployment = view.deployment(id).unwrap();
        assert_eq!(deployment.bundle_digest, bundle("new").digest());
        assert_eq!(deployment.name, DEVELOPMENT);
        assert_eq!(deployment.labels["team"], "vision");
        assert_eq!(view.environments, before.environments);
        assert_eq!(view.reload(id, active, &reload("new")), Ok(Done::Unchanged));
        let labels = Reload {
            labels: Some(BTreeMap::new()),
            ..reload("new")
        };
        assert_eq!(view.reload(id, active, &labels), Ok(Done::Changed));
        assert!(view.deployment(id).unwrap().labels.is_empty());
    }

    #[test]
    fn what_failed_or_was_off_serves_after_a_reload_but_what_was_switched_off_meanwhile_does_not() {
        let (mut view, id) = model();
        for before in [DeploymentStatus::BuildFailed, DeploymentStatus::Inactive] {
            let deployment = view.deployment_mut(id).unwrap();
            deployment.status = before;
            deployment.status_reason = Some("import refused".into());
            view.reload(id, before, &reload(&format!("{before:?}")))
                .unwrap();
            let deployment = view.deployment(id).unwrap();
            assert_eq!(deployment.status, DeploymentStatus::Active);
            assert_eq!(deployment.status_reason, None);
        }
        view.deactivate(id).unwrap();
        let before = view.clone();
        let refused = view.reload(id, DeploymentStatus::Active, &reload("late"));
        assert_eq!(code(refused), "inactive");
        assert_eq!(view, before);
    }

    #[test]
    fn only_the_development_deployment_is_reloaded_and_there_is_one() {
        let (mut view, id) = model();
        assert_eq!(code(view.check_no_development()), "development_exists");
        view.deployment_mut(id).unwrap().kind = DeploymentKind::Published;
        assert_eq!(view.check_no_development(), Ok(()));
        let refused = view.reload(id, DeploymentStatus::Active, &reload("new"));
        assert_eq!(code(refused), "published");
        let gone = view.reload(random_id(), DeploymentStatus::Active, &reload("new"));
        assert!(matches!(gone, Err(Refusal::NotFound(_))));
    }

    #[test]
    fn a_bundle_that_breaks_a_rule_is_refused() {
        let (mut view, id) = model();
        let mut wrong = reload("new");
        wrong.bundle.component.size = 0;
        let refused = view.reload(id, DeploymentStatus::Active, &wrong);
        assert!(
            refused
                .unwrap_err()
                .to_string()
                .starts_with("component.size")
        );
    }

    #[test]
    fn it_has_one_replica_at_most_and_keeps_its_name() {
        let (mut view, id) = model();
        let settings = view.deployment(id).unwrap().autoscaling();
        assert_eq!((settings.min_replica, settings.max_replica), (0, 1));
        let mut update = |text: &str| {
            let update = serde_json::from_str(text).unwrap();
            view.update_autoscaling(id, &update)
        };
        let refused = update(r#"{"max_replica":2}"#).unwrap_err().to_string();
        assert!(refused.starts_with("autoscaling.max_replica: found 2, wanted 1"));
        let refused = update(r#"{"min_replica":1}"#).unwrap_err().to_string();
        assert!(refused.starts_with("autoscaling.min_replica: found 1, wanted 0"));
        assert_eq!(update(r#"{"scale_down_delay":60}"#), Ok(Done::Changed));
        assert_eq!(code(view.rename_deployment(id, "mine")), "development");
    }

    #[test]
    fn it_is_promoted_as_a_published_one_with_the_settings_of_its_manifest() {
        let (mut view, id) = model();
        let update = serde_json::from_str(r#"{"scale_down_delay":60}"#).unwrap();
        view.update_autoscaling(id, &update).unwrap();
        let fresh = random_id();
        let how = Promote::KeepPrevious;
        let promoted = view.promote(PRODUCTION, id, how, fresh, NOW).unwrap();
        assert_eq!(promoted, fresh);
        let published = view.deployment(fresh).unwrap();
        assert_eq!(published.kind, DeploymentKind::Published);
        assert_eq!(published.name, "deployment-1");
        assert_eq!(published.bundle_digest, bundle("old").digest());
        assert_eq!(published.autoscaling().max_replica, 7);
        assert_eq!(published.promote_how, how);
        // The development deployment itself is in no environment, now or later.
        assert!(!view.environments.values().any(|one| one.holds(id)));
        view.begin_promotion(PRODUCTION, fresh, how, NOW).unwrap();
        view.finish_promotion(PRODUCTION, NOW).unwrap();
        assert_eq!(view.production().unwrap().id, fresh);
        assert_eq!(view.development().unwrap().id, id);
    }

    #[test]
    fn the_environments_own_settings_go_before_those_of_the_manifest() {
        let (mut view, id) = model();
        let autoscaling = serde_json::from_str(r#"{"max_replica":3}"#).unwrap();
        let update = EnvironmentUpdate {
            autoscaling: Some(&autoscaling),
            ..Default::default()
        };
        view.update_environment("staging", update).unwrap();
        let (fresh, how) = (random_id(), Promote::AsSet);
        view.promote("staging", id, how, fresh, NOW).unwrap();
        view.begin_promotion("staging", fresh, how, NOW).unwrap();
        assert_eq!(view.deployment(fresh).unwrap().autoscaling().max_replica, 3);
    }

    #[test]
    fn a_promotion_that_waits_for_its_build_can_be_called_off() {
        let (mut view, id) = model();
        let fresh = random_id();
        view.promote(PRODUCTION, id, Promote::AsSet, fresh, NOW)
            .unwrap();
        view.cancel_promotion(PRODUCTION, NOW).unwrap();
        assert_eq!(view.deployment(fresh).unwrap().promote_to, None);
        assert_eq!(code(view.cancel_promotion(PRODUCTION, NOW)), "no_promotion");
    }
}
