//! Decides which deployment gets the next replica slot.
//!
//! The waiting deployment that holds the fewest slots comes first; within a deployment, starts are served in order. While some
//! deployments hold no slot, a few free ones are reserved for them, so that deployments with replicas cannot take the last one.

use std::collections::{BTreeMap, VecDeque};

/// One of this many slots is reserved for deployments without a replica, while there are any.
const RESERVED_ONE_IN: usize = 8;

/// A deployment in the queue.
pub(super) type DeploymentKey = u64;

/// The free slots, the slots that each deployment holds, and the starts that wait for some.
#[derive(Debug)]
pub(super) struct SlotQueue<W> {
    total: usize,
    free: usize,
    deployments: BTreeMap<DeploymentKey, Holding>,
    /// In order of arrival.
    waiting: VecDeque<Waiting<W>>,
    last_id: u64,
}

#[derive(Debug)]
struct Holding {
    /// Slots per replica.
    weight: usize,
    held: usize,
}

#[derive(Debug)]
struct Waiting<W> {
    id: u64,
    deployment: DeploymentKey,
    waiter: W,
}

/// The idle replicas of a deployment, for [`SlotQueue::can_evict_enough`].
#[derive(Clone, Copy, Debug)]
pub(super) struct IdleReplicas {
    pub deployment: DeploymentKey,
    pub replicas: usize,
}

impl<W> SlotQueue<W> {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            free: total,
            deployments: BTreeMap::new(),
            waiting: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Adds a deployment.
    pub fn add_deployment(&mut self) -> DeploymentKey {
        self.last_id += 1;
        let holding = Holding { weight: 1, held: 0 };
        self.deployments.insert(self.last_id, holding);
        self.last_id
    }

    /// Sets the slots that each replica of a deployment takes, at most all there are.
    pub fn set_weight(&mut self, deployment: DeploymentKey, weight: usize) {
        if let Some(holding) = self.deployments.get_mut(&deployment) {
            holding.weight = weight.clamp(1, self.total.max(1));
        }
    }

    /// Removes a deployment that starts no more replicas. [`Self::release`] still takes back the slots it holds.
    pub fn remove_deployment(&mut self, deployment: DeploymentKey) {
        self.waiting
            .retain(|waiting| waiting.deployment != deployment);
        self.deployments.remove(&deployment);
    }

    /// Queues a start. Returns its id for [`Self::cancel`].
    pub fn enqueue(&mut self, deployment: DeploymentKey, waiter: W) -> u64 {
        self.last_id += 1;
        self.waiting.push_back(Waiting {
            id: self.last_id,
            deployment,
            waiter,
        });
        self.last_id
    }

    /// Removes a start from the queue.
    pub fn cancel(&mut self, id: u64) {
        self.waiting.retain(|waiting| waiting.id != id);
    }

    /// Grants slots to the next start, if enough are free: its deployment, the number of slots, and its waiter.
    pub fn grant_next(&mut self) -> Option<(DeploymentKey, usize, W)> {
        let at = self.next_index()?;
        let deployment = self.waiting[at].deployment;
        let weight = self.weight(deployment);
        if self.free < weight + self.reserved(deployment) {
            return None;
        }
        self.free -= weight;
        if let Some(holding) = self.deployments.get_mut(&deployment) {
            holding.held += weight;
        }
        let waiting = self.waiting.remove(at)?;
        Some((deployment, weight, waiting.waiter))
    }

    /// Takes back the slots of a replica.
    pub fn release(&mut self, deployment: DeploymentKey, slots: usize) {
        self.free += slots;
        if let Some(holding) = self.deployments.get_mut(&deployment) {
            holding.held -= slots;
        }
    }

    /// How many starts wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The deployment whose start is next.
    pub fn next_deployment(&self) -> Option<DeploymentKey> {
        self.next_index().map(|at| self.waiting[at].deployment)
    }

    /// Whether a replica of the deployment could start at once.
    pub fn has_room(&self, deployment: DeploymentKey) -> bool {
        self.waiting.is_empty() && self.free >= self.weight(deployment) + self.reserved(deployment)
    }

    /// Whether a deployment that holds fewer slots waits for some.
    pub fn must_yield(&self, deployment: DeploymentKey) -> bool {
        self.next_deployment()
            .is_some_and(|next| next != deployment && self.held(next) < self.held(deployment))
    }

    /// Whether dropping these idle replicas would free enough slots for the next start.
    pub fn can_evict_enough(&self, idle: &[IdleReplicas]) -> bool {
        let Some(next) = self.next_deployment() else {
            return false;
        };
        let (mut gained, mut own, mut emptied) = (0, 0, 0);
        for one in idle {
            let weight = self.weight(one.deployment);
            gained += weight * one.replicas;
            if one.deployment == next {
                own += weight * one.replicas;
            } else if self.held(one.deployment) <= weight * one.replicas {
                emptied += weight;
            }
        }
        // For a deployment without replicas, perhaps because its own idle ones are dropped, nothing is reserved for others.
        let reserved = match self.held(next).saturating_sub(own) {
            0 => 0,
            _ => self.max_reserved().min(self.reserved(next) + emptied),
        };
        self.free + gained >= self.weight(next) + reserved
    }

    /// The index of the next start: of the deployment that holds the fewest slots; among equals, the first to arrive.
    fn next_index(&self) -> Option<usize> {
        (0..self.waiting.len()).min_by_key(|at| self.held(self.waiting[*at].deployment))
    }

    /// Free slots that this deployment may not take, because others hold none.
    fn reserved(&self, deployment: DeploymentKey) -> usize {
        if self.held(deployment) == 0 {
            return 0;
        }
        let without = self
            .deployments
            .values()
            .filter(|holding| holding.held == 0);
        let wanted: usize = without.map(|holding| holding.weight).sum();
        wanted.min(self.max_reserved())
    }

    fn max_reserved(&self) -> usize {
        match self.total {
            0 | 1 => 0,
            total => (total / RESERVED_ONE_IN).max(1),
        }
    }

    fn held(&self, deployment: DeploymentKey) -> usize {
        self.deployments
            .get(&deployment)
            .map_or(0, |holding| holding.held)
    }

    fn weight(&self, deployment: DeploymentKey) -> usize {
        self.deployments
            .get(&deployment)
            .map_or(1, |holding| holding.weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn add<W>(queue: &mut SlotQueue<W>, weight: usize) -> DeploymentKey {
        let deployment = queue.add_deployment();
        queue.set_weight(deployment, weight);
        deployment
    }

    fn started(queue: &mut SlotQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.grant_next())
            .map(|(_, _, name)| name)
            .collect()
    }

    #[test]
    fn the_last_slots_are_for_deployments_without_a_replica() {
        let mut queue = SlotQueue::new(64);
        let (hog, other) = (add(&mut queue, 1), add(&mut queue, 1));
        for _ in 0..64 {
            queue.enqueue(hog, "hog");
        }
        assert_eq!(started(&mut queue).len(), 63);
        queue.enqueue(other, "other");
        assert_eq!(started(&mut queue), ["other"]);
        // Now each deployment has a replica.
        queue.release(other, 0);
        queue.remove_deployment(other);
        queue.release(other, 1);
        assert_eq!(started(&mut queue), ["hog"]);
    }

    #[test]
    fn a_deployment_alone_on_its_node_may_have_every_slot() {
        let mut queue = SlotQueue::new(8);
        let alone = add(&mut queue, 1);
        for _ in 0..8 {
            queue.enqueue(alone, "mine");
        }
        assert_eq!(started(&mut queue).len(), 8);
    }

    #[test]
    fn a_freed_slot_goes_to_the_deployment_with_fewest() {
        let mut queue = SlotQueue::new(4);
        let (hog, other) = (add(&mut queue, 1), add(&mut queue, 1));
        queue.enqueue(other, "o1");
        for _ in 0..9 {
            queue.enqueue(hog, "hog");
        }
        assert_eq!(started(&mut queue), ["o1", "hog", "hog", "hog"]);
        queue.enqueue(other, "o2");
        queue.enqueue(other, "o3");
        assert!(queue.must_yield(hog) && !queue.must_yield(other));
        queue.release(hog, 1);
        assert_eq!(started(&mut queue), ["o2"]);
        // As many as the hog has now.
        assert!(!queue.must_yield(hog));
    }

    #[test]
    fn a_heavy_replica_is_not_passed_by_light_ones() {
        let mut queue = SlotQueue::new(4);
        let (light, heavy) = (add(&mut queue, 1), add(&mut queue, 3));
        for _ in 0..6 {
            queue.enqueue(light, "light");
        }
        assert_eq!(started(&mut queue), ["light"; 3], "one is reserved");
        queue.enqueue(heavy, "heavy");
        for _ in 0..2 {
            assert!(started(&mut queue).is_empty());
            queue.release(light, 1);
        }
        assert_eq!(started(&mut queue), ["heavy"]);
        assert_eq!(queue.free, 0);
    }

    #[test]
    fn idle_replicas_are_dropped_only_when_that_helps() {
        let mut queue = SlotQueue::new(2);
        let (busy, idle) = (add(&mut queue, 1), add(&mut queue, 1));
        queue.enqueue(busy, "b");
        queue.enqueue(idle, "i");
        assert_eq!(started(&mut queue).len(), 2);
        queue.enqueue(busy, "b");
        let last = IdleReplicas {
            deployment: idle,
            replicas: 1,
        };
        // It would be without one, and the slot reserved for it.
        assert!(!queue.can_evict_enough(&[last]));
        let new = add(&mut queue, 1);
        queue.enqueue(new, "n");
        assert_eq!(queue.next_deployment(), Some(new));
        assert!(queue.can_evict_enough(&[last]));
    }

    #[test]
    fn a_replica_that_needs_every_slot_follows_an_idle_one_of_its_own() {
        let mut queue = SlotQueue::new(3);
        let (heavy, other) = (add(&mut queue, 3), add(&mut queue, 1));
        queue.enqueue(heavy, "first");
        assert_eq!(started(&mut queue), ["first"]);
        queue.enqueue(heavy, "second");
        assert!(!queue.can_evict_enough(&[]));
        let idle = IdleReplicas {
            deployment: heavy,
            replicas: 1,
        };
        // One slot is reserved for the other as long as this one has a replica.
        assert_eq!(queue.reserved(heavy), 1);
        assert!(queue.can_evict_enough(&[idle]));
        queue.release(heavy, 3);
        assert_eq!(started(&mut queue), ["second"]);
        queue.remove_deployment(other);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Ask(prop::sample::Index),
        Release(prop::sample::Index),
        Forget(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<prop::sample::Index>().prop_map(Step::Ask),
            2 => any::<prop::sample::Index>().prop_map(Step::Release),
            1 => any::<prop::sample::Index>().prop_map(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn slots_are_never_lost_nor_given_twice_and_each_deployment_is_served_in_order(
            total in 1usize..20,
            weights in prop::collection::vec(1usize..6, 1..6),
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut queue = SlotQueue::new(total);
            let deployments: Vec<DeploymentKey> = weights.iter().map(|weight| add(&mut queue, *weight)).collect();
            let (mut running, mut asked, mut last) = (Vec::new(), Vec::new(), BTreeMap::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Ask(which) => {
                        let id = queue.enqueue(*which.get(&deployments), number);
                        asked.push(id);
                    }
                    Step::Release(which) if !running.is_empty() => {
                        let (deployment, slots) = running.swap_remove(which.index(running.len()));
                        queue.release(deployment, slots);
                    }
                    Step::Forget(which) if !asked.is_empty() => {
                        queue.cancel(asked.swap_remove(which.index(asked.len())));
                    }
                    Step::Release(_) | Step::Forget(_) => {}
                }
                while let Some((deployment, slots, asked)) = queue.grant_next() {
                    running.push((deployment, slots));
                    let before = last.insert(deployment, asked);
                    prop_assert!(before.is_none_or(|before| before < asked));
                }
                let held: usize = running.iter().map(|(_, slots)| slots).sum();
                prop_assert_eq!(held + queue.free, total);
            }
            // Once all replicas have ended, every waiting start is granted its slots.
            while let Some((deployment, slots)) = running.pop() {
                queue.release(deployment, slots);
                while let Some((deployment, slots, _)) = queue.grant_next() {
                    running.push((deployment, slots));
                }
            }
            prop_assert_eq!((queue.waiting(), queue.free), (0, total));
        }
    }
}
