//! The way of one request to a model: to the deployment that its target means, or to the one that is moving in.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use samovar_types::id::Id;

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

/// A model with the deployments that are served of it.
pub(super) struct ServedModel {
    pub view: ModelView,
    pub deployments: HashMap<Id, Arc<Served>>,
    /// Why deployments that were built cannot be served.
    pub broken: HashMap<Id, String>,
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

    fn unserved(&self, id: Id) -> Unresolved {
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
    served.pool.trouble().is_none()
}
