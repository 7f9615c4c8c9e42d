//! Which deployment gets the next replica slot: decisions only, nothing waits here.
//!
//! Slots go to the waiting deployment that holds fewest, and within a deployment to whoever asked first. While some
//! deployments hold none, a few free slots are reserved for them, so that those that have replicas cannot take the last one.

use std::collections::{BTreeMap, VecDeque};

/// Of so many slots one is reserved for deployments without a replica, as long as there are any.
const RESERVED_ONE_IN: usize = 8;

/// A deployment, as the queue knows it.
pub(super) type Member = u64;

/// Free slots, who holds how many, and who waits.
#[derive(Debug)]
pub(super) struct Queue<W> {
    total: usize,
    free: usize,
    members: BTreeMap<Member, Holding>,
    /// In order of arrival.
    waiting: VecDeque<Waiting<W>>,
    last_id: u64,
}

#[derive(Debug)]
struct Holding {
    /// Slots that each replica of the deployment takes.
    weight: usize,
    held: usize,
}

#[derive(Debug)]
struct Waiting<W> {
    id: u64,
    member: Member,
    waiter: W,
}

/// Idle replicas of a deployment, for [`Queue::can_be_helped`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    pub member: Member,
    pub replicas: usize,
}

impl<W> Queue<W> {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            free: total,
            members: BTreeMap::new(),
            waiting: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Adds a deployment.
    pub fn join(&mut self) -> Member {
        self.last_id += 1;
        let holding = Holding { weight: 1, held: 0 };
        self.members.insert(self.last_id, holding);
        self.last_id
    }

    /// Says how many slots each replica of a deployment takes; never more than there are.
    pub fn weigh(&mut self, member: Member, weight: usize) {
        if let Some(holding) = self.members.get_mut(&member) {
            holding.weight = weight.clamp(1, self.total.max(1));
        }
    }

    /// Removes a deployment, once it starts nothing more. What it holds comes back by [`Self::release`].
    pub fn leave(&mut self, member: Member) {
        self.waiting.retain(|waiting| waiting.member != member);
        self.members.remove(&member);
    }

    /// Puts a start at the end of its deployment's queue; the answer identifies it for [`Self::forget`].
    pub fn ask(&mut self, member: Member, waiter: W) -> u64 {
        self.last_id += 1;
        self.waiting.push_back(Waiting {
            id: self.last_id,
            member,
            waiter,
        });
        self.last_id
    }

    /// Takes out a start that was given up.
    pub fn forget(&mut self, id: u64) {
        self.waiting.retain(|waiting| waiting.id != id);
    }

    /// Starts the next replica if there is room: its deployment, the slots it now holds, and who waited.
    pub fn next(&mut self) -> Option<(Member, usize, W)> {
        let at = self.first()?;
        let member = self.waiting[at].member;
        let weight = self.weight(member);
        if self.free < weight + self.reserved(member) {
            return None;
        }
        self.free -= weight;
        if let Some(holding) = self.members.get_mut(&member) {
            holding.held += weight;
        }
        let waiting = self.waiting.remove(at)?;
        Some((member, weight, waiting.waiter))
    }

    /// Takes the slots of a replica back.
    pub fn release(&mut self, member: Member, slots: usize) {
        self.free += slots;
        if let Some(holding) = self.members.get_mut(&member) {
            holding.held -= slots;
        }
    }

    /// Starts that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The deployment whose start is next, if one waits.
    pub fn next_member(&self) -> Option<Member> {
        self.first().map(|at| self.waiting[at].member)
    }

    /// Whether a replica of the deployment could start at once.
    pub fn has_room(&self, member: Member) -> bool {
        self.waiting.is_empty() && self.free >= self.weight(member) + self.reserved(member)
    }

    /// Whether a deployment that holds fewer slots waits for one.
    pub fn owes(&self, member: Member) -> bool {
        self.next_member()
            .is_some_and(|next| next != member && self.held(next) < self.held(member))
    }

    /// Whether the next start could go ahead if these idle replicas were dropped.
    pub fn can_be_helped(&self, idle: &[Idle]) -> bool {
        let Some(next) = self.next_member() else {
            return false;
        };
        let (mut gained, mut own, mut emptied) = (0, 0, 0);
        for one in idle {
            let weight = self.weight(one.member);
            gained += weight * one.replicas;
            if one.member == next {
                own += weight * one.replicas;
            } else if self.held(one.member) <= weight * one.replicas {
                emptied += weight;
            }
        }
        // Nothing is reserved for others before one that has none, be it that its own idle replicas went for it.
        let reserved = match self.held(next).saturating_sub(own) {
            0 => 0,
            _ => self.reserve().min(self.reserved(next) + emptied),
        };
        self.free + gained >= self.weight(next) + reserved
    }

    /// The waiting start of the deployment that holds fewest; of equals the one that came first.
    fn first(&self) -> Option<usize> {
        (0..self.waiting.len()).min_by_key(|at| self.held(self.waiting[*at].member))
    }

    /// Free slots that this deployment may not take, because others have none.
    fn reserved(&self, member: Member) -> usize {
        if self.held(member) == 0 {
            return 0;
        }
        let without = self.members.values().filter(|holding| holding.held == 0);
        let wanted: usize = without.map(|holding| holding.weight).sum();
        wanted.min(self.reserve())
    }

    fn reserve(&self) -> usize {
        match self.total {
            0 | 1 => 0,
            total => (total / RESERVED_ONE_IN).max(1),
        }
    }

    fn held(&self, member: Member) -> usize {
        self.members.get(&member).map_or(0, |holding| holding.held)
    }

    fn weight(&self, member: Member) -> usize {
        self.members
            .get(&member)
            .map_or(1, |holding| holding.weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join<W>(queue: &mut Queue<W>, weight: usize) -> Member {
        let member = queue.join();
        queue.weigh(member, weight);
        member
    }

    fn started(queue: &mut Queue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.next())
            .map(|(_, _, name)| name)
            .collect()
    }

    #[test]
    fn the_last_slots_are_for_deployments_without_a_replica() {
        let mut queue = Queue::new(64);
        let (hog, other) = (join(&mut queue, 1), join(&mut queue, 1));
        for _ in 0..64 {
            queue.ask(hog, "hog");
        }
        assert_eq!(started(&mut queue).len(), 63);
        queue.ask(other, "other");
        assert_eq!(started(&mut queue), ["other"]);
        // Nobody is without one any more.
        queue.release(other, 0);
        queue.leave(other);
        queue.release(other, 1);
        assert_eq!(started(&mut queue), ["hog"]);
    }

    #[test]
    fn a_deployment_alone_on_its_node_may_have_every_slot() {
        let mut queue = Queue::new(8);
        let alone = join(&mut queue, 1);
        for _ in 0..8 {
            queue.ask(alone, "mine");
        }
        assert_eq!(started(&mut queue).len(), 8);
    }

    #[test]
    fn a_freed_slot_goes_to_the_deployment_with_fewest() {
        let mut queue = Queue::new(4);
        let (hog, other) = (join(&mut queue, 1), join(&mut queue, 1));
        queue.ask(other, "o1");
        for _ in 0..9 {
            queue.ask(hog, "hog");
        }
        assert_eq!(started(&mut queue), ["o1", "hog", "hog", "hog"]);
        queue.ask(other, "o2");
        queue.ask(other, "o3");
        assert!(queue.owes(hog) && !queue.owes(other));
        queue.release(hog, 1);
        assert_eq!(started(&mut queue), ["o2"]);
        // As many as the hog has now.
        assert!(!queue.owes(hog));
    }

    #[test]
    fn a_heavy_replica_is_not_passed_by_light_ones() {
        let mut queue = Queue::new(4);
        let (light, heavy) = (join(&mut queue, 1), join(&mut queue, 3));
        for _ in 0..6 {
            queue.ask(light, "light");
        }
        assert_eq!(started(&mut queue), ["light"; 3], "one is reserved");
        queue.ask(heavy, "heavy");
        for _ in 0..2 {
            assert!(started(&mut queue).is_empty());
            queue.release(light, 1);
        }
        assert_eq!(started(&mut queue), ["heavy"]);
        assert_eq!(queue.free, 0);
    }

    #[test]
    fn idle_replicas_are_dropped_only_when_that_helps() {
        let mut queue = Queue::new(2);
        let (busy, idle) = (join(&mut queue, 1), join(&mut queue, 1));
        queue.ask(busy, "b");
        queue.ask(idle, "i");
        assert_eq!(started(&mut queue).len(), 2);
        queue.ask(busy, "b");
        let last = Idle {
            member: idle,
            replicas: 1,
        };
        // It would be without one, and the slot reserved for it.
        assert!(!queue.can_be_helped(&[last]));
        let new = join(&mut queue, 1);
        queue.ask(new, "n");
        assert_eq!(queue.next_member(), Some(new));
        assert!(queue.can_be_helped(&[last]));
    }

    #[test]
    fn a_replica_that_needs_every_slot_follows_an_idle_one_of_its_own() {
        let mut queue = Queue::new(3);
        let (heavy, other) = (join(&mut queue, 3), join(&mut queue, 1));
        queue.ask(heavy, "first");
        assert_eq!(started(&mut queue), ["first"]);
        queue.ask(heavy, "second");
        assert!(!queue.can_be_helped(&[]));
        let idle = Idle {
            member: heavy,
            replicas: 1,
        };
        // One slot is reserved for the other as long as this one has a replica.
        assert_eq!(queue.reserved(heavy), 1);
        assert!(queue.can_be_helped(&[idle]));
        queue.release(heavy, 3);
        assert_eq!(started(&mut queue), ["second"]);
        queue.leave(other);
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
            let mut queue = Queue::new(total);
            let members: Vec<Member> = weights.iter().map(|weight| join(&mut queue, *weight)).collect();
            let (mut running, mut asked, mut last) = (Vec::new(), Vec::new(), BTreeMap::new());
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Ask(which) => {
                        let id = queue.ask(*which.get(&members), number);
                        asked.push(id);
                    }
                    Step::Release(which) if !running.is_empty() => {
                        let (member, slots) = running.swap_remove(which.index(running.len()));
                        queue.release(member, slots);
                    }
                    Step::Forget(which) if !asked.is_empty() => {
                        queue.forget(asked.swap_remove(which.index(asked.len())));
                    }
                    Step::Release(_) | Step::Forget(_) => {}
                }
                while let Some((member, slots, asked)) = queue.next() {
                    running.push((member, slots));
                    let before = last.insert(member, asked);
                    prop_assert!(before.is_none_or(|before| before < asked));
                }
                let held: usize = running.iter().map(|(_, slots)| slots).sum();
                prop_assert_eq!(held + queue.free, total);
            }
            // When all replicas end and nobody comes any more, everybody who waits gets a turn.
            while let Some((member, slots)) = running.pop() {
                queue.release(member, slots);
                while let Some((member, slots, _)) = queue.next() {
                    running.push((member, slots));
                }
            }
            prop_assert_eq!((queue.waiting(), queue.free), (0, total));
        }
    }
}
