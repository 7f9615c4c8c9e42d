//! Adding a deployment, and its model with the first one.

use std::collections::BTreeMap;

use jiff::Timestamp;
use samovar_store::{Expect, Op, Rev, StoreError};
use samovar_types::bundle::Bundle;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::DeploymentId;
use samovar_types::names::{self, DEVELOPMENT, PRODUCTION};
use samovar_types::settings::InvalidSetting;

use super::{ATTEMPTS, Registry, RegistryError, Versioned, audit, put, shown};
use crate::domain::audit::{Act, Note};
use crate::domain::deployment::{
    Deployment, DeploymentKind, MAX_DEPLOYMENTS, check_labels, next_name,
};
use crate::domain::environment::Environment;
use crate::domain::keys;
use crate::domain::model::{Model, ModelView};
use crate::random::random_id;

/// What is pushed, and where to.
#[derive(Debug, Clone)]
pub struct Push {
    /// The model.
    pub to: PushTo,
    /// What is deployed.
    pub bundle: Bundle,
    /// Whether it stays as it is. A development deployment has a fixed name and goes to no environment.
    pub kind: DeploymentKind,
    /// The deployment's name; `deployment-N` without one.
    pub deployment_name: Option<String>,
    /// The environment that it is to go into. Without one, the first goes to production.
    pub environment: Option<String>,
    /// What its pusher notes.
    pub labels: BTreeMap<String, String>,
}

/// A push that is stored.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The model afterwards.
    pub view: ModelView,
    /// The new deployment.
    pub id: DeploymentId,
    /// The commit.
    pub rev: Rev,
}

/// Which model a push is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushTo {
    /// The one of this name, made if there is none.
    Named(String),
    /// The one with this id or name, which exists.
    Existing(String),
}

impl Registry {
    /// Adds a deployment, and its model if need be. The bundle's blobs have to be there already.
    pub async fn push(&self, push: Push, now: Timestamp) -> Result<Pushed, RegistryError> {
        push.bundle.validate()?;
        check_labels(&push.labels)?;
        if let Some(name) = &push.deployment_name {
            check("deployment_name", name, names::check_deployment_name)?;
        }
        if let PushTo::Named(name) = &push.to {
            check("name", name, names::check_name)?;
        }
        let placed = push.deployment_name.is_some() || push.environment.is_some();
        if push.kind == DeploymentKind::Development && placed {
            let found = "true beside deployment_name or environment";
            let wanted = "it alone: the development deployment has a name of its own and is in no environment; \
                          promote it instead";
            return Err(InvalidSetting::new("development", found, wanted).into());
        }
        // Pushes of this node wait for each other rather than overtake each other.
        let _turn = self.pushing.lock().await;
        // One id for all attempts, so that an attempt of unknown end is found again.
        let id = random_id();
        for _ in 0..ATTEMPTS {
            let (view, mut ops) = match self.versioned_model(push.to.text()).await? {
                Some(model) => self.prepare_deployment(&push, model, id, now).await?,
                None => self.prepare_model(&push, id, now)?,
            };
            ops.extend(audit::entries(&self.author, vec![pushed(&view, id)])?);
            match self.store.commit(ops).await {
                Ok(rev) => return Ok(Pushed { view, id, rev }),
                Err(StoreError::Conflict { .. }) => {}
                Err(error @ StoreError::Unknown(_)) => {
                    let key = keys::deployment(view.model.id, id);
                    return match self.store.get(&key).await {
                        Ok(Some(doc)) => Ok(Pushed {
                            view,
                            id,
                            rev: doc.rev,
                        }),
                        _ => Err(error.into()),
                    };
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended)
    }

    /// A new model with its first deployment, in production.
    fn prepare_model(
        &self,
        push: &Push,
        id: DeploymentId,
        now: Timestamp,
    ) -> Result<(ModelView, Vec<Op>), RegistryError> {
        let name = match &push.to {
            PushTo::Named(name) => name.clone(),
            PushTo::Existing(model) => {
                return Err(RegistryError::NoModel {
                    model: shown(model),
                });
            }
        };
        if let Some(environment) = push
            .environment
            .as_deref()
            .filter(|name| *name != PRODUCTION)
        {
            return Err(RegistryError::NoEnvironment {
                model: name,
                environment: shown(environment),
            });
        }
        let published = push.kind == DeploymentKind::Published;
        let model = Model {
            id: random_id(),
            name,
            created_at: now,
            deployments_made: u32::from(published),
            generation: 1,
        };
        let deployment = new_deployment(push, &model, id, next_name(0, []), now);
        let mut production = Environment::new(model.id, PRODUCTION, now);
        production.current_deployment_id = published.then_some(id);
        let ops = vec![
            put(keys::model(model.id), &model, Expect::Absent)?,
            put(keys::model_name(&model.name), &model.id, Expect::Absent)?,
            // No text may be one model's id and another's name.
            Op::check(format!("{}{}", keys::MODELS, model.name), Expect::Absent),
            Op::check(keys::model_name(model.id.as_str()), Expect::Absent),
            put(keys::deployment(model.id, id), &deployment, Expect::Absent)?,
            put(
                keys::environment(model.id, PRODUCTION),
                &production,
                Expect::Absent,
            )?,
        ];
        let view = ModelView {
            model,
            deployments: BTreeMap::from([(id, deployment.into())]),
            environments: BTreeMap::from([(PRODUCTION.to_owned(), production)]),
            notes: Vec::new(),
        };
        Ok((view, ops))
    }

    /// A deployment more of a model.
    async fn prepare_deployment(
        &self,
        push: &Push,
        model: Versioned<Model>,
        id: DeploymentId,
        now: Timestamp,
    ) -> Result<(ModelView, Vec<Op>), RegistryError> {
        let stored = self.stored(model.value).await?;
        let mut view = stored.view.clone();
        if view.deployments.len() >= MAX_DEPLOYMENTS {
            return Err(RegistryError::TooMany {
                what: "deployments of this model",
                limit: MAX_DEPLOYMENTS,
            });
        }
        let taken = view.deployments.values().map(|one| &*one.name);
        let name = next_name(view.model.deployments_made, taken);
        let published = push.kind == DeploymentKind::Published;
        if published {
            view.model.deployments_made = view.model.deployments_made.saturating_add(1);
        } else {
            view.check_no_development()?;
        }
        view.model.generation += 1;
        let mut deployment = new_deployment(push, &view.model, id, name, now);
        let for_production = push
            .environment
            .as_deref()
            .is_none_or(|name| name == PRODUCTION);
        let moves_in = published && view.production_is_free() && for_production;
        if let Some(name) = push.environment.as_ref().filter(|_| !moves_in) {
            // By a promotion, once it is built.
            view.environment(name)?;
            deployment.promote_to = Some(name.clone());
        }
        // The model's revision makes pushes to one model wait for each other.
        let mut ops = vec![
            put(
                keys::model(view.model.id),
                &view.model,
                Expect::Rev(model.rev),
            )?,
            put(
                keys::deployment(view.model.id, id),
                &deployment,
                Expect::Absent,
            )?,
        ];
        let expect = |key: &str| {
            stored
                .revs
                .get(key)
                .map_or(Expect::Absent, |rev| Expect::Rev(*rev))
        };
        if moves_in {
            // That it is free hangs on the deployment that is there.
            if let Some(failed) = view.production() {
                let key = keys::deployment(view.model.id, failed.id);
                ops.push(Op::check(&*key, expect(&key)));
            }
            let mut production = match view.environments.remove(PRODUCTION) {
                Some(environment) => environment,
                None => Environment::new(view.model.id, PRODUCTION, now),
            };
            production.current_deployment_id = Some(id);
            let key = keys::environment(view.model.id, PRODUCTION);
            ops.push(put(&*key, &production, expect(&key))?);
            view.environments.insert(PRODUCTION.to_owned(), production);
        }
        stored.check(&ops)?;
        view.deployments.insert(id, deployment.into());
        Ok((view, ops))
    }
}

impl PushTo {
    /// Its id or name.
    pub fn text(&self) -> &str {
        match self {
            Self::Named(text) | Self::Existing(text) => text,
        }
    }
}

fn new_deployment(
    push: &Push,
    model: &Model,
    id: DeploymentId,
    next_name: String,
    now: Timestamp,
) -> Deployment {
    Deployment {
        id,
        model_id: model.id,
        name: match push.kind {
            DeploymentKind::Published => push.deployment_name.clone().unwrap_or(next_name),
            DeploymentKind::Development => DEVELOPMENT.to_owned(),
        },
        created_at: now,
        kind: push.kind,
        status: DeploymentStatus::Building,
        status_reason: None,
        bundle_digest: push.bundle.digest(),
        bundle: push.bundle.clone(),
        autoscaling: None,
        backpressure: Default::default(),
        promote_to: None,
        promote_how: Default::default(),
        build_cut_off: false,
        labels: push.labels.clone(),
    }
}

/// What the audit log tells of a push.
fn pushed(view: &ModelView, id: DeploymentId) -> Note {
    let deployment = view.deployments.get(&id);
    let place = view.environment_of(id).map(|one| one.name.clone());
    let promote_to = deployment.and_then(|one| one.promote_to.clone());
    Note {
        model: Some((view.model.id, view.model.name.clone())),
        deployment: deployment.map(|one| (id, one.name.clone())),
        environment: place.or(promote_to),
        act: Act::ModelDeployed {
            publish: deployment.is_some_and(|one| one.kind == DeploymentKind::Published),
            scale_previous_to_zero: true,
            trusted: false,
        },
    }
}

fn check(
    field: &str,
    found: &str,
    rule: fn(&str) -> Result<(), names::Wanted>,
) -> Result<(), InvalidSetting> {
    rule(found)
        .map_err(|wanted| InvalidSetting::new(field, format_args!("{:?}", shown(found)), wanted))
}
