//! Looks at what no document tells, and tells subscribers of it: how many replicas run and how they are, how far canaries
//! are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use samovar_types::deployment::DeploymentStatus;
use samovar_types::id::{DeploymentId, ModelId};

use crate::controllers::dev_reload::DevReload;
use crate::domain::events::{Event, What};
use crate::domain::observed::shown_status;
use crate::domain::promotion::Promotion;
use crate::events::bus::EventBus;
use crate::serving::Serving;

/// How often a node looks.
pub const INTERVAL: Duration = Duration::from_millis(250);

/// What was seen.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// Replicas by model and deployment, and where it stands.
    replicas: BTreeMap<(ModelId, DeploymentId), (usize, DeploymentStatus)>,
    /// Promotions by model and environment, each with its percentage.
    promotions: BTreeMap<(ModelId, String), (u32, Promotion)>,
}

/// Looks for as long as the node runs, also while nobody listens: who comes next is told what is other from then on.
pub async fn run(bus: Arc<EventBus>, serving: Arc<Serving>, dev_reload: DevReload) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = Seen::default();
    loop {
        ticks.tick().await;
        let now = look(&serving, &dev_reload, Timestamp::now());
        for event in differences(&before, &now) {
            bus.tell(event);
        }
        before = now;
    }
}

fn look(serving: &Serving, dev_reload: &DevReload, now: Timestamp) -> Seen {
    let lively = serving.lively().into_iter();
    let promoting = serving.promoting().into_iter();
    let promotions = promoting.flat_map(|view| {
        let model = view.model.id;
        let environments: Vec<_> = view.environments.values().cloned().collect();
        environments.into_iter().filter_map(move |one| {
            let promotion = one.in_progress()?.clone();
            Some(((model, one.name), (promotion.percent(now), promotion)))
        })
    });
    Seen {
        replicas: lively
            .map(|(model, deployment, stored)| {
                let observed = serving.observed(model, deployment);
                let status = match dev_reload.is_reloading(deployment) {
                    true => DeploymentStatus::Updating,
                    false => shown_status(stored, &observed),
                };
                ((model, deployment), (observed.ready, status))
            })
            .collect(),
        promotions: promotions.collect(),
    }
}

/// What is other. What came or went is told by its documents.
fn differences(before: &Seen, now: &Seen) -> Vec<Event> {
    let replicas = now.replicas.iter().filter_map(|(key, seen)| {
        let (model, deployment) = *key;
        let other = before.replicas.get(key) != Some(seen);
        other.then_some(Event {
            id: None,
            model: Some(model),
            what: What::Replicas { deployment },
        })
    });
    let promotions = now
        .promotions
        .iter()
        .filter_map(|(key, (percent, promotion))| {
            let (was, _) = before.promotions.get(key)?;
            (was != percent).then(|| Event {
                id: None,
                model: Some(key.0),
                what: What::Promotion {
                    environment: key.1.clone(),
                    promotion: Box::new(promotion.clone()),
                },
            })
        });
    replicas.chain(promotions).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random_id;

    #[test]
    fn only_what_is_other_is_told() {
        let (model, deployment) = (random_id(), random_id());
        let promotion = Promotion::new(deployment, None, Default::default(), Timestamp::UNIX_EPOCH);
        let seen = |count, percent| Seen {
            replicas: [((model, deployment), (count, DeploymentStatus::Active))].into(),
            promotions: [(
                (model, "production".to_owned()),
                (percent, promotion.clone()),
            )]
            .into(),
        };
        let told = |before: &Seen, now: &Seen| -> Vec<What> {
            let events = differences(before, now).into_iter();
            events.map(|event| event.what).collect()
        };
        assert_eq!(told(&seen(1, 10), &seen(1, 10)), []);
        assert_eq!(
            told(&seen(1, 10), &seen(2, 10)),
            [What::Replicas { deployment }]
        );
        let begun = told(&Seen::default(), &seen(1, 10));
        assert_eq!(begun, [What::Replicas { deployment }]);
        let moved = told(&seen(1, 10), &seen(1, 20));
        assert!(matches!(moved[..], [What::Promotion { .. }]), "{moved:?}");
    }
}
