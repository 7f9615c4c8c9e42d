//! Carries promotions out: looks at each that goes on, asks `rollout` what is next, and stores that.

use std::time::Duration;

use jiff::Timestamp;

use crate::control::builder::Builder;
use crate::control::rollout::{self, Candidate, Step};
use crate::domain::model::{ModelView, Target};
use crate::domain::promotion::Promotion;

/// How often promotions that go on are looked at. The split itself follows the clock without it.
pub const INTERVAL: Duration = Duration::from_millis(50);

/// Runs until the node stops.
pub async fn run(builder: Builder) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for view in builder.serving.promoting() {
            for (name, environment) in &view.environments {
                if let Some(promotion) = environment.in_progress() {
                    step(&builder, &view, name, promotion).await;
                }
            }
        }
    }
}

async fn step(builder: &Builder, view: &ModelView, environment: &str, promotion: &Promotion) {
    let now = Timestamp::now();
    let candidate = candidate(builder, view, promotion).await;
    let id = promotion.id;
    let step = rollout::next(promotion, &candidate, now);
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

async fn candidate(builder: &Builder, view: &ModelView, promotion: &Promotion) -> Candidate {
    let id = promotion.candidate_deployment_id;
    let failed = match view.deployment(id) {
        Err(_) => Some("the candidate was deleted".to_owned()),
        Ok(deployment) if !deployment.status.serves() => {
            Some("the candidate does not serve".to_owned())
        }
        Ok(_) => None,
    };
    let previous = promotion
        .previous_deployment_id
        .and_then(|id| view.deployments.get(&id));
    let minimum = previous.map_or(0, |deployment| {
        deployment.autoscaling().min_replica as usize
    });
    let wanted = minimum.max(1);
    let target = Target::Deployment(id.as_str());
    let Ok(served) = builder.serving.resolve(view.model.id, target, |_| None) else {
        return Candidate {
            replicas: 0,
            wanted,
            failed,
        };
    };
    let counts = served.pool.counts();
    let wanted = wanted.min(served.pool.settings().max_replica);
    let replicas = counts.idle + counts.busy;
    if replicas >= wanted || failed.is_some() {
        return Candidate {
            replicas,
            wanted,
            failed,
        };
    }
    match served.pool.prewarm(wanted).await {
        Ok(()) => Candidate {
            replicas: wanted,
            wanted,
            failed,
        },
        Err(error) => Candidate {
            replicas,
            wanted,
            failed: Some(error.to_string()),
        },
    }
}
