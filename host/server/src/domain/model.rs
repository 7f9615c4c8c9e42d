//! A model: a named line of deployments, and what its addresses lead to.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use samovar_types::id::{DeploymentId, ModelId};
use samovar_types::names::PRODUCTION;
use serde::{Deserialize, Serialize};

use super::audit::Note;
use super::deployment::{Deployment, DeploymentKind};
use super::environment::Environment;

/// A named line of deployments. As the store holds it: fields may be added, so what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// Its name, which no other model has.
    pub name: String,
    /// When it was first pushed.
    pub created_at: Timestamp,
    /// Deployments that it has or had. Every new one is written together with this number, so two pushes at once
    /// cannot get the same name.
    #[serde(default)]
    pub deployments_made: u32,
    /// Grows with every change of the model or of anything that hangs on it, so that two changes at once cannot both
    /// happen, and the newer of two views is known.
    #[serde(default)]
    pub generation: u64,
}

/// A model with everything that hangs on it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelView {
    /// The model.
    pub model: Model,
    /// Its deployments, shared between all views of them: a view is cheap to clone, and a change copies what it changes.
    pub deployments: BTreeMap<DeploymentId, Arc<Deployment>>,
    /// Its environments by name.
    pub environments: BTreeMap<String, Environment>,
    /// What was done to it since it was read, for the audit log.
    pub notes: Vec<Note>,
}

/// What a request addresses within a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Whatever this environment points at; `production` is one.
    Environment(&'a str),
    /// The development deployment.
    Development,
    /// The deployment of this id.
    Deployment(&'a str),
}

/// Why an address leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// There is no such environment.
    #[error("model {model} has no environment {name:?}")]
    NoEnvironment {
        /// The model's name.
        model: String,
        /// The environment.
        name: String,
    },
    /// The environment points at nothing yet.
    #[error(
        "environment {name:?} of model {model} has no deployment yet: push one, or promote one to it"
    )]
    NothingDeployed {
        /// The model's name.
        model: String,
        /// The environment.
        name: String,
    },
    /// The model has no development deployment.
    #[error("model {model} has no development deployment")]
    NoDevelopment {
        /// The model's name.
        model: String,
    },
    /// There is no such deployment.
    #[error("model {model} has no deployment {id:?}")]
    NoDeployment {
        /// The model's name.
        model: String,
        /// What was taken for an id.
        id: String,
    },
    /// The deployment is not built, or cannot be.
    #[error("deployment {id} of model {model} does not serve: {why}")]
    NotReady {
        /// The model's name.
        model: String,
        /// The deployment.
        id: DeploymentId,
        /// Where it stands, and why.
        why: String,
    },
    /// The deployment is switched off.
    #[error("deployment {id} of model {model} is deactivated: activate it to call it")]
    Off {
        /// The model's name.
        model: String,
        /// The deployment.
        id: DeploymentId,
    },
}

impl ModelView {
    /// The deployment behind an address, in whatever state it is.
    pub fn find(&self, target: Target<'_>) -> Result<&Deployment, Unresolved> {
        let model = || self.model.name.clone();
        let shown = |text: &str| text.chars().take(80).collect::<String>();
        match target {
            Target::Environment(name) => {
                let environment =
                    self.environments
                        .get(name)
                        .ok_or_else(|| Unresolved::NoEnvironment {
                            model: model(),
                            name: shown(name),
                        })?;
                environment
                    .current_deployment_id
                    .and_then(|id| self.deployments.get(&id).map(|one| &**one))
                    .ok_or_else(|| Unresolved::NothingDeployed {
                        model: model(),
                        name: shown(name),
                    })
            }
            Target::Development => self
                .development()
                .ok_or_else(|| Unresolved::NoDevelopment { model: model() }),
            Target::Deployment(text) => text
                .parse()
                .ok()
                .and_then(|id: DeploymentId| self.deployments.get(&id).map(|one| &**one))
                .ok_or_else(|| Unresolved::NoDeployment {
                    model: model(),
                    id: shown(text),
                }),
        }
    }

    /// The deployment behind an address, if it may be called.
    pub fn resolve(&self, target: Target<'_>) -> Result<&Deployment, Unresolved> {
        let deployment = self.find(target)?;
        let (model, id) = (self.model.name.clone(), deployment.id);
        if deployment.status.is_off() {
            return Err(Unresolved::Off { model, id });
        }
        if !deployment.status.serves() {
            let why = match &deployment.status_reason {
                Some(reason) => reason.clone(),
                None => "it is being built".to_owned(),
            };
            return Err(Unresolved::NotReady { model, id, why });
        }
        Ok(deployment)
    }

    /// The deployment in production.
    pub fn production(&self) -> Option<&Deployment> {
        self.find(Target::Environment(PRODUCTION)).ok()
    }

    /// The development deployment.
    pub fn development(&self) -> Option<&Deployment> {
        let mut deployments = self.deployments.values().map(|one| &**one);
        deployments.find(|one| one.kind == DeploymentKind::Development)
    }

    /// The environment that points at a deployment; production before others.
    pub fn environment_of(&self, deployment: DeploymentId) -> Option<&Environment> {
        let points =
            |environment: &&Environment| environment.current_deployment_id == Some(deployment);
        let production = self.environments.get(PRODUCTION).filter(points);
        production.or_else(|| self.environments.values().find(points))
    }

    /// Whether a new published deployment goes to production by itself: nothing is there, or what is there never
    /// answered. Otherwise a first push that does not build would keep production for good.
    pub fn production_is_free(&self) -> bool {
        let production = self.environments.get(PRODUCTION);
        match production.and_then(|production| production.current_deployment_id) {
            None => true,
            // One that is not there could not be read, and may answer on another node.
            Some(id) => self
                .deployments
                .get(&id)
                .is_some_and(|deployment| deployment.status.has_failed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use samovar_types::bundle::{Blob, Bundle};
    use samovar_types::deployment::DeploymentStatus;
    use samovar_types::digest::Digest;

    use samovar_types::id::Id;

    use super::*;

    fn id<Kind>(text: &str) -> Id<Kind> {
        text.parse().unwrap()
    }

    fn view() -> ModelView {
        let model_id = id("model000");
        let now = Timestamp::UNIX_EPOCH;
        let bundle = Bundle {
            name: "m".into(),
            component: Blob {
                digest: Digest::of(b""),
                size: 1,
            },
            graphs: BTreeMap::new(),
            files: BTreeMap::new(),
            secrets: Default::default(),
            environment_variables: BTreeMap::new(),
            network: Default::default(),
            snapshot: false,
            example: None,
            load_graphs_from_bytes: false,
            isolation: Default::default(),
            limits: Default::default(),
            autoscaling: Default::default(),
        };
        let deployment = |text: &str, kind, status| {
            let deployment = Deployment {
                id: id(text),
                model_id,
                name: text.into(),
                created_at: now,
                kind,
                status,
                status_reason: None,
                bundle_digest: bundle.digest(),
                bundle: bundle.clone(),
                labels: BTreeMap::new(),
                autoscaling: None,
                backpressure: Default::default(),
                promote_to: None,
                promote_how: Default::default(),
                build_cut_off: false,
            };
            (deployment.id, Arc::new(deployment))
        };
        let mut production = Environment::new(model_id, PRODUCTION, now);
        production.current_deployment_id = Some(id("active00"));
        let environments = [production, Environment::new(model_id, "staging", now)];
        ModelView {
            model: Model {
                id: model_id,
                name: "m".into(),
                created_at: now,
                deployments_made: 3,
                generation: 0,
            },
            deployments: BTreeMap::from([
                deployment(
                    "active00",
                    DeploymentKind::Published,
                    DeploymentStatus::Active,
                ),
                deployment(
                    "off00000",
                    DeploymentKind::Published,
                    DeploymentStatus::Inactive,
                ),
                deployment(
                    "dev00000",
                    DeploymentKind::Development,
                    DeploymentStatus::ScaledToZero,
                ),
            ]),
            environments: environments
                .into_iter()
                .map(|one| (one.name.clone(), one))
                .collect(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn each_target_leads_to_its_deployment() {
        let view = view();
        let resolve = |target| {
            view.resolve(target)
                .map(|deployment| deployment.id.to_string())
        };
        assert_eq!(
            resolve(Target::Environment("production")).unwrap(),
            "active00"
        );
        assert_eq!(resolve(Target::Development).unwrap(), "dev00000");
        assert_eq!(resolve(Target::Deployment("dev00000")).unwrap(), "dev00000");
        let refused = |target| resolve(target).unwrap_err().to_string();
        assert!(refused(Target::Environment("staging")).contains("has no deployment yet"));
        assert!(refused(Target::Environment("x")).contains("no environment \"x\""));
        assert!(refused(Target::Deployment("off00000")).contains("is deactivated"));
        assert!(refused(Target::Deployment("gone0000")).contains("no deployment \"gone0000\""));
        assert_eq!(
            view.environment_of(id("active00")).unwrap().name,
            "production"
        );
        assert_eq!(view.environment_of(id("dev00000")), None);
    }

    #[test]
    fn production_is_free_while_nothing_there_ever_answered() {
        let mut view = view();
        assert!(!view.production_is_free());
        let active = view.deployments.get_mut(&id("active00")).unwrap();
        Arc::make_mut(active).status = DeploymentStatus::BuildFailed;
        assert!(view.production_is_free());
        view.environments
            .get_mut(PRODUCTION)
            .unwrap()
            .current_deployment_id = None;
        assert!(view.production_is_free());
    }

    proptest! {
        #[test]
        fn any_address_is_answered(text in "\\PC{0,100}") {
            let view = view();
            let _ = view.resolve(Target::Deployment(&text));
            let _ = view.resolve(Target::Environment(&text));
        }
    }
}
