//! Carries promotions out: looks at each that goes on, asks `rollout` what is next, and stores that.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;

use crate::control::builder::Builder;
use crate::control::rollout::{self, Candidate, Step};
use crate::domain::environment::Environment;
use crate::domain::model::{ModelView, Target, Unresolved};
use crate::domain::promotion::Promotion;

/// How often promotions that go on are looked at. The split itself follows the clock without it.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// Runs until the node stops.
pub async fn run(builder: Builder) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Each on its own: a candidate that takes its time to start must not hold up another's way back.
    let mut steps = JoinSet::new();
    let mut stepping = HashMap::new();
    loop {
        ticks.tick().await;
        while let Some(ended) = steps.try_join_next_with_id() {
            let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
            stepping.remove(&task);
        }
        for view in builder.serving.promoting() {
            for (name, environment) in &view.environments {
                let Some(promotion) = environment.in_progress() else {
                    continue;
                };
                let id = promotion.id;
                if !stepping.values().any(|other| *other == id) {
                    let (builder, view, name) = (builder.clone(), view.clone(), name.clone());
                    let step = steps.spawn(async move { step(&builder, &view, &name).await });
                    stepping.insert(step.id(), id);
                }
            }
        }
    }
}

async fn step(builder: &Builder, view: &ModelView, environment: &str) {
    let found = view.environments.get(environment);
    let Some(promotion) = found.and_then(Environment::in_progress) else {
        return;
    };
    let id = promotion.id;
    let trial = builder.serving.trial(view.model.id, environment);
    let figures = |now| match (promotion.stage(now), &trial) {
        (Some(stage), Some(trial)) => trial.figures(stage),
        _ => Vec::new(),
    };
    probe_current(builder, view, promotion);
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
    let (step, now) = tokio::select! {
        biased;
        reason = failing => (Step::Fail(reason), Timestamp::now()),
        candidate = candidate(builder, view, promotion) => {
            let now = Timestamp::now();
            (rollout::next(promotion, &candidate, &figures(now), now), now)
        }
    };
    if step == Step::Wait {
        return;
    }
    let model = view.model.id.to_string();
    let changed = builder.registry.change(&model, |view| {
        // Another node, or somebody by hand, may have been faster.
        if view
            .environment(environment)?
            .in_progress()
            .is_none_or(|going| going.id != id)
        {
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
        Ok(changed) => builder.apply(changed.view).await.map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = applied {
        tracing::error!(model, environment, error, "a promotion cannot go on");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Tries to start the current deployment again once its pause is over. While it is unhealthy it gets no requests, so none
/// of them tries.
fn probe_current(builder: &Builder, view: &ModelView, promotion: &Promotion) {
    let Some(id) = promotion.previous_deployment_id else {
        return;
    };
    let Some(served) = builder.serving.served(view.model.id, id) else {
        return;
    };
    if served
        .pool
        .trouble()
        .is_some_and(|trouble| trouble.retry_after.is_zero())
    {
        tokio::spawn(async move {
            if let Err(error) = served.pool.prewarm(1).await {
                tracing::warn!(deployment = %id, %error, "current deployment does not start");
            }
        });
    }
}

async fn candidate(builder: &Builder, view: &ModelView, promotion: &Promotion) -> Candidate {
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
    let served = match builder.serving.resolve(view.model.id, target, |_| None) {
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
    if let Some(trouble) = served.pool.trouble() {
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
