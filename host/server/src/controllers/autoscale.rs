//! Carries scaling out: looks once a second at each deployment that has replicas or should have, asks `autoscaler` what
//! to do, and does it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use samovar_runtime::Pool;
use samovar_types::id::DeploymentId;

use crate::control::autoscaler::{Autoscaler, Decision, Seen};
use crate::serving::{Awake, Serving};

/// How often deployments are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A deployment's autoscaler, and the pool that it has seen.
struct Scaled {
    pool: Weak<Pool>,
    autoscaler: Autoscaler,
}

/// Runs until the node stops.
pub async fn run(serving: Arc<Serving>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known: HashMap<DeploymentId, Scaled> = HashMap::new();
    loop {
        ticks.tick().await;
        // Those at zero are not among them, and nothing is kept for them.
        let mut before = std::mem::take(&mut known);
        for one in serving.awake() {
            let same = |scaled: &Scaled| std::ptr::eq(scaled.pool.as_ptr(), Arc::as_ptr(&one.pool));
            let scaled = before.remove(&one.deployment).filter(same);
            let mut scaled = scaled.unwrap_or_else(|| Scaled {
                pool: Arc::downgrade(&one.pool),
                autoscaler: Autoscaler::default(),
            });
            scale(&one, &mut scaled.autoscaler);
            known.insert(one.deployment, scaled);
        }
    }
}

fn scale(one: &Awake, autoscaler: &mut Autoscaler) {
    let pool = &one.pool;
    let now = Instant::now();
    let counts = pool.counts();
    let window = one.settings.autoscaling_window.into();
    let seen = Seen {
        at: now,
        load: pool.load(now),
        replicas: counts.idle + counts.busy,
        idle: counts.idle,
        unused: pool.idle_for(Duration::from_secs(window), now),
        ready: pool.readiness().ready,
    };
    match autoscaler.decide(&one.settings, &seen) {
        Decision::Keep => {}
        Decision::GrowTo(count) => {
            tracing::debug!(deployment = %one.deployment, from = seen.replicas, to = count, "grows");
            pool.warm(count);
        }
        Decision::ShrinkBy(count) => {
            let gone = pool.shrink(count);
            tracing::debug!(deployment = %one.deployment, from = seen.replicas, gone, "shrinks");
        }
    }
}
