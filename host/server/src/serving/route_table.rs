//! Where requests go: one immutable table of models, replaced whole by each change, so that a request resolves its address
//! on one snapshot without a lock.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use samovar_types::id::{DeploymentId, ModelId};

use super::Served;
use crate::control::traffic::{Ready, Side};
use crate::control::trial::{Trials, Way};
use crate::domain::model::{ModelView, Target, Unresolved};

/// Who answers a request, and what is done beside while its environment moves to another deployment.
pub struct Routed {
    /// The deployment that answers.
    pub served: Arc<Served>,
    /// What is measured.
    pub way: Option<Way>,
    /// The deployment that gets a copy.
    pub shadow: Option<Arc<Served>>,
}

/// The models of a node.
#[derive(Default)]
pub struct RouteTable {
    models: HashMap<ModelId, Arc<ServedModel>>,
    names: HashMap<String, ModelId>,
}

impl RouteTable {
    /// A model by its id or name.
    pub fn model(&self, id_or_name: &str) -> Option<&Arc<ServedModel>> {
        let by_id = id_or_name.parse().ok().and_then(|id| self.get(id));
        by_id.or_else(|| self.get(*self.names.get(id_or_name)?))
    }

    /// A model by its id.
    pub fn get(&self, id: ModelId) -> Option<&Arc<ServedModel>> {
        self.models.get(&id)
    }

    /// All models.
    pub fn models(&self) -> impl Iterator<Item = &Arc<ServedModel>> {
        self.models.values()
    }

    /// The same with a model as it is now.
    #[must_use]
    pub fn with(&self, model: Arc<ServedModel>) -> Self {
        let id = model.view.model.id;
        let mut table = self.without(id);
        table.names.insert(model.view.model.name.clone(), id);
        table.models.insert(id, model);
        table
    }

    /// The same without a model.
    #[must_use]
    pub fn without(&self, id: ModelId) -> Self {
        let mut models = self.models.clone();
        let mut names = self.names.clone();
        if let Some(before) = models.remove(&id) {
            let name = &before.view.model.name;
            if names.get(name) == Some(&id) {
                names.remove(name);
                // Models are applied in no particular order: another may have taken the name before this one gave it up.
                let heir = models.values().find(|one| one.view.model.name == *name);
                names.extend(heir.map(|one| (name.clone(), one.view.model.id)));
            }
        }
        Self { models, names }
    }
}

/// A model with the deployments that are served of it.
pub struct ServedModel {
    /// The model as it was applied last.
    pub view: Arc<ModelView>,
    /// Those that may be called, and work on this node.
    pub deployments: HashMap<DeploymentId, Arc<Served>>,
    /// Why deployments that were built cannot be served.
    pub broken: HashMap<DeploymentId, String>,
    /// What is measured of promotions in progress.
    pub trials: Trials,
}

impl ServedModel {
    /// Who answers the next request to a target.
    pub fn route<'h>(
        &self,
        target: Target<'_>,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Result<Routed, Unresolved> {
        let (way, candidate) = self.moved(target, header).unzip();
        let side = way.as_ref().map(|way| way.side);
        if let (Some(Side::Candidate), Some(served)) = (side, &candidate) {
            return Ok(Routed {
                served: served.clone(),
                way,
                shadow: None,
            });
        }
        let id = self.view.resolve(target)?.id;
        let served = self.deployments.get(&id).cloned();
        let shadow = candidate.filter(|_| way.as_ref().is_some_and(Way::is_shadowed));
        Ok(Routed {
            served: served.ok_or_else(|| self.unserved(id))?,
            way,
            shadow,
        })
    }

    fn unserved(&self, id: DeploymentId) -> Unresolved {
        let model = self.view.model.name.clone();
        match self.broken.get(&id).cloned() {
            Some(why) => Unresolved::NotReady { model, id, why },
            None => Unresolved::NoDeployment {
                model,
                id: id.to_string(),
            },
        }
    }

    /// The way of a request to an environment that moves to a deployment which is served here.
    fn moved<'h>(
        &self,
        target: Target<'_>,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Option<(Way, Arc<Served>)> {
        let Target::Environment(name) = target else {
            return None;
        };
        let promotion = self.view.environments.get(name)?.in_progress()?;
        let candidate = self.deployments.get(&promotion.candidate_deployment_id)?;
        let trial = self.trials.get(name)?;
        let current = self.view.resolve(target).ok();
        let current = current.and_then(|current| self.deployments.get(&current.id));
        let ready = Ready {
            current: current.is_some_and(can_answer),
            candidate: can_answer(candidate),
        };
        let way = trial.next(promotion, header, ready, Timestamp::now())?;
        Some((way, candidate.clone()))
    }
}

/// Whether requests may be sent to a deployment. One without replicas may: the request starts one.
fn can_answer(served: &Arc<Served>) -> bool {
    served.pool.unavailable().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::model::Model;
    use crate::random::random_id;

    fn model(id: ModelId, name: &str) -> Arc<ServedModel> {
        let view = ModelView {
            model: Model {
                id,
                name: name.to_owned(),
                created_at: Timestamp::UNIX_EPOCH,
                deployments_made: 0,
                generation: 1,
            },
            deployments: Default::default(),
            environments: Default::default(),
            notes: Vec::new(),
        };
        Arc::new(ServedModel {
            view: Arc::new(view),
            deployments: HashMap::new(),
            broken: HashMap::new(),
            trials: Trials::default(),
        })
    }

    #[test]
    fn a_name_leads_to_who_has_it_now_in_whatever_order_changes_come() {
        let (one, other) = (random_id(), random_id());
        let found = |table: &RouteTable, text: &str| Some(table.model(text)?.view.model.id);
        let first = RouteTable::default().with(model(one, "a"));
        assert_eq!(found(&first, "a"), Some(one));
        assert_eq!(found(&first, one.as_str()), Some(one));
        // `a` becomes `b`, and another model takes its name.
        let in_order = first.with(model(one, "b")).with(model(other, "a"));
        let early = first.with(model(other, "a")).with(model(one, "b"));
        let late = first
            .with(model(other, "a"))
            .with(model(one, "a"))
            .with(model(one, "b"));
        for table in [in_order, early, late] {
            assert_eq!(found(&table, "a"), Some(other));
            assert_eq!(found(&table, "b"), Some(one));
            assert_eq!(found(&table.without(one), "a"), Some(other));
            assert_eq!(found(&table.without(one), "b"), None);
        }
    }
}
