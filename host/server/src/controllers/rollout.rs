//! Carries promotions out: looks at each in progress, asks `rollout` what is next, and stores that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::control::rollout::{self, Candidate, Step};
use crate::controllers::leadership::{Leadership, Role};
use crate::domain::environment::Environment;
use crate::domain::model::{ModelView, Target, Unresolved};
use crate::domain::promotion::Promotion;
use crate::registry::Registry;
use crate::serving::Serving;
use crate::serving::reconciler::Reconciler;

/// How often promotions in progress are looked at. The split itself follows the clock without it.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// When a promotion is looked at again whose step could not be stored.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Moves environments to other deployments.
pub struct RolloutController {
    registry: Registry,
    serving: Arc<Serving>,
    reconciler: Arc<Reconciler>,
    leadership: Arc<Leadership>,
}

impl RolloutController {
    /// Carries out the promotions of what is served.
    pub fn new(
        registry: Registry,
        serving: Arc<Serving>,
        reconciler: Arc<Reconciler>,
        leadership: Arc<Leadership>,
    ) -> Self {
        Self {
            registry,
            serving,
            reconciler,
            leadership,
        }
    }

    /// Runs for as long as the node does.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Each on its own: a candidate that takes its time to start must not hold up another's way back.
        let mut steps = JoinSet::new();
        let mut stepping = HashMap::new();
        let mut applied = self.reconciler.subscribe();
        loop {
            applied.borrow_and_update();
            let promoting = self.serving.promoting();
            if promoting.is_empty() {
                // Ends only with the reconciler, which this holds.
                let _ = applied.changed().await;
                continue;
            }
            ticks.tick().await;
            while let Some(ended) = steps.try_join_next_with_id() {
                let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
                stepping.remove(&task);
            }
            let Some(lease) = self.leadership.lease(Role::Rollouts) else {
                continue;
            };
            for view in promoting {
                for (name, environment) in &view.environments {
                    let Some(promotion) = environment.in_progress() else {
                        continue;
                    };
                    let id = promotion.id;
                    if !stepping.values().any(|other| *other == id) {
                        let registry = self.registry.fenced(lease.clone());
                        let (controller, view, name) = (self.clone(), view.clone(), name.clone());
                        let step = steps
                            .spawn(async move { controller.step(&registry, &view, &name).await });
                        stepping.insert(step.id(), id);
                    }
                }
            }
        }
    }

    /// Takes the next step of a promotion, if its time has come.
    async fn step(&self, registry: &Registry, view: &ModelView, environment: &str) {
        let found = view.environments.get(environment);
        let Some(promotion) = found.and_then(Environment::in_progress) else {
            return;
        };
        let (step, now) = self.decide(view, environment, promotion).await;
        if step == Step::Wait {
            return;
        }
        let (model, id) = (view.model.id, promotion.id);
        let changed = registry.change(model.as_str(), |view| {
            // Another node or a caller may have been faster.
            let going = view.environment(environment)?.in_progress();
            if going.is_none_or(|going| going.id != id) {
                return Ok(());
            }
            match &step {
                Step::Wait => Ok(()),
                Step::Release => view.release_promotion(environment, now).map(drop),
                Step::Finish => view.finish_promotion(environment, now),
                Step::Fail(reason) => view.fail_promotion(environment, reason, now),
            }
        });
        let applied = match changed.await {
            // Until the promotion is seen as it is now.
            Ok(changed) => {
                let applied = self.reconciler.applied(model, changed.rev).await;
                applied.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = applied {
            tracing::error!(%model, environment, error, "promotion step was not stored; trying again");
            tokio::time::sleep(RETRY_DELAY).await;
        }
    }

    async fn decide(
        &self,
        view: &ModelView,
        environment: &str,
        promotion: &Promotion,
    ) -> (Step, Timestamp) {
        let trial = self.serving.trial(view.model.id, environment);
        let figures = |now| match (promotion.stage(now), &trial) {
            (Some(stage), Some(trial)) => trial.figures(stage),
            _ => Vec::new(),
        };
        probe_current(&self.serving, view, promotion);
        // A candidate that crashes is judged while its next replica still starts.
        let failing = async {
            let mut ticks = tokio::time::interval(INTERVAL);
            loop {
                ticks.tick().await;
                let now = Timestamp::now();
                if let Some(reason) = rollout::failing(promotion, &figures(now), now) {
                    return reason;
                }
            }
        };
        tokio::select! {
            biased;
            reason = failing => (Step::Fail(reason), Timestamp::now()),
            candidate = candidate(&self.serving, view, promotion) => {
                let now = Timestamp::now();
                (rollout::next(promotion, &candidate, &figures(now), now), now)
            }
        }
    }
}

/// Tries to start the current deployment again once its pause is over. While it is unhealthy it gets no requests, so none
/// of them tries.
fn probe_current(serving: &Serving, view: &ModelView, promotion: &Promotion) {
    let Some(id) = promotion.previous_deployment_id else {
        return;
    };
    let Some(served) = serving.served(view.model.id, id) else {
        return;
    };
    if served
        .pool
        .unavailable()
        .is_some_and(|trouble| trouble.retry_after.is_zero())
    {
        tokio::spawn(async move {
            if let Err(error) = served.pool.prewarm(1).await {
                tracing::warn!(deployment = %id, %error, "current deployment does not start");
            }
        });
    }
}

async fn candidate(serving: &Serving, view: &ModelView, promotion: &Promotion) -> Candidate {
    let id = promotion.candidate_deployment_id;
    let previous = promotion
        .previous_deployment_id
        .and_then(|id| view.deployments.get(&id));
    let minimum = previous.map_or(0, |deployment| {
        deployment.autoscaling().min_replica as usize
    });
    let wanted = minimum.max(1);
    let without_replicas = |failed| Candidate {
        replicas: 0,
        wanted,
        failed,
    };
    match view.deployment(id) {
        Err(_) => return without_replicas(Some("the candidate was deleted".to_owned())),
        Ok(deployment) if !deployment.status.serves() => {
            return without_replicas(Some("the candidate does not serve".to_owned()));
        }
        Ok(_) => {}
    }
    let target = Target::Deployment(id.as_str());
    let served = match serving.resolve(view.model.id, target, |_| None) {
        Ok(served) => served,
        Err(Unresolved::NotReady { why, .. }) => {
            let failed = format!("the candidate cannot be served: {why}");
            return without_replicas(Some(failed));
        }
        // It is not served yet.
        Err(_) => return without_replicas(None),
    };
    let counts = served.pool.counts();
    let wanted = wanted.min(served.pool.settings().max_replica);
    let replicas = counts.idle + counts.busy;
    if let Some(trouble) = served.pool.unavailable() {
        return Candidate {
            replicas,
            wanted,
            failed: Some(format!("the candidate is unhealthy: {}", trouble.reason)),
        };
    }
    if replicas >= wanted {
        return Candidate {
            replicas,
            wanted,
            failed: None,
        };
    }
    match served.pool.prewarm(wanted).await {
        Ok(()) => Candidate {
            replicas: wanted,
            wanted,
            failed: None,
        },
        Err(error) => Candidate {
            replicas,
            wanted,
            failed: Some(error.to_string()),
        },
    }
}
