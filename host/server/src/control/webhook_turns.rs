//! Which webhook is sent next: receivers take turns, and one that fails is left alone for ever longer. Receivers that have
//! not answered yet have few places, which deployments share, so that one which names many of them holds up no other.
//!
//! Decisions only: the time is an argument, and nothing is sent here.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use samovar_store::async_requests::NoticeQueue;
use samovar_types::id::DeploymentId;

/// Webhooks sent at once; each holds a model's answer in memory.
pub const MAX_DELIVERIES: usize = 16;
/// Of these, how many go to receivers that have not taken the last one that was sent to them. A deployment takes no more of
/// these places than it leaves free: half of them alone, a third beside another that takes what it can.
pub const MAX_UNPROVEN: usize = 8;
/// Webhooks sent at once to one receiver that took the last one; one at a time to any other.
pub const MAX_PER_RECEIVER: usize = 4;
/// Failures in a row after which a receiver is left alone for a while.
pub const FAILURES_TO_PAUSE: u32 = 3;
/// The first such while; it doubles with each further failure.
pub const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// A receiver is forgotten when nothing was sent to it for so long.
const FORGET_AFTER: Duration = Duration::from_secs(900);

/// The receivers that webhooks are or were sent to.
#[derive(Debug, Default)]
pub struct Turns {
    receivers: HashMap<String, Receiver>,
    /// The turn in which each deployment last got a place for an unproven receiver.
    deployments: HashMap<DeploymentId, u64>,
    /// Counts deliveries, to tell whose turn it is.
    clock: u64,
}

#[derive(Debug, Default)]
struct Receiver {
    /// By deployment.
    queues: HashMap<DeploymentId, Queue>,
    /// Whether it took the last one.
    proven: bool,
    failures: u32,
    paused_until: Option<Instant>,
    last_turn: u64,
}

/// What one deployment sends to one receiver.
#[derive(Debug)]
struct Queue {
    running: usize,
    last_turn: u64,
    used_at: Instant,
}

/// The deliveries that run.
#[derive(Debug, Default)]
struct Load {
    running: usize,
    unproven: usize,
    unproven_of: HashMap<DeploymentId, usize>,
}

impl Receiver {
    fn running(&self) -> usize {
        self.queues.values().map(|queue| queue.running).sum()
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }
}

impl Load {
    fn of(receivers: &HashMap<String, Receiver>) -> Self {
        let mut load = Self::default();
        for receiver in receivers.values() {
            load.running += receiver.running();
            if receiver.proven {
                continue;
            }
            for (deployment, queue) in &receiver.queues {
                load.unproven += queue.running;
                *load.unproven_of.entry(*deployment).or_default() += queue.running;
            }
        }
        load
    }

    fn unproven_of(&self, deployment: DeploymentId) -> usize {
        self.unproven_of.get(&deployment).copied().unwrap_or(0)
    }

    /// Whether a deployment may send to one more unproven receiver.
    fn has_place_for(&self, deployment: DeploymentId) -> bool {
        self.unproven_of(deployment) < MAX_UNPROVEN.saturating_sub(self.unproven)
    }
}

impl Turns {
    /// The queue whose webhook is sent next, of those that have one due. It counts as being sent from now on, until
    /// [`Self::ended`].
    pub fn next(&mut self, due: &[NoticeQueue], now: Instant) -> Option<NoticeQueue> {
        let load = Load::of(&self.receivers);
        if load.running >= MAX_DELIVERIES {
            return None;
        }
        let may_send = due.iter().filter(|queue| self.may_send(queue, &load, now));
        let (proven, mut unproven): (Vec<_>, Vec<_>) =
            may_send.partition(|queue| self.is_proven(&queue.receiver));
        // Deployments that share a receiver take turns with it, even if one of them has no other.
        let mut oldest: HashMap<&str, u64> = HashMap::new();
        for queue in &unproven {
            let (_, last_turn) = self.last_turns(queue);
            let first = oldest.entry(&queue.receiver).or_insert(last_turn);
            *first = last_turn.min(*first);
        }
        unproven.retain(|queue| self.last_turns(queue).1 == oldest[&*queue.receiver]);
        // First by deployment, so that one gets no more turns by naming more receivers.
        let unproven = unproven.into_iter().min_by_key(|queue| {
            let deployment = queue.deployment_id;
            let last = self.deployments.get(&deployment).copied().unwrap_or(0);
            let (_, last_to_receiver) = self.last_turns(queue);
            (load.unproven_of(deployment), last, last_to_receiver)
        });
        let next = proven
            .into_iter()
            .chain(unproven)
            .min_by_key(|queue| self.last_turns(queue))?
            .clone();
        self.begin(&next, now);
        Some(next)
    }

    fn may_send(&self, queue: &NoticeQueue, load: &Load, now: Instant) -> bool {
        match self.receivers.get(&queue.receiver) {
            Some(receiver) if receiver.is_paused(now) => false,
            Some(receiver) if receiver.proven => receiver.running() < MAX_PER_RECEIVER,
            Some(receiver) => receiver.running() == 0 && load.has_place_for(queue.deployment_id),
            None => load.has_place_for(queue.deployment_id),
        }
    }

    fn is_proven(&self, receiver: &str) -> bool {
        self.receivers.get(receiver).is_some_and(|one| one.proven)
    }

    /// The last turns of a receiver, and of the deployment with this receiver; 0 when there was none.
    fn last_turns(&self, queue: &NoticeQueue) -> (u64, u64) {
        let Some(receiver) = self.receivers.get(&queue.receiver) else {
            return (0, 0);
        };
        let own = receiver.queues.get(&queue.deployment_id);
        (receiver.last_turn, own.map_or(0, |own| own.last_turn))
    }

    fn begin(&mut self, next: &NoticeQueue, now: Instant) {
        self.clock += 1;
        let receiver = self.receivers.entry(next.receiver.clone()).or_default();
        receiver.last_turn = self.clock;
        let queue = receiver.queues.entry(next.deployment_id).or_insert(Queue {
            running: 0,
            last_turn: 0,
            used_at: now,
        });
        queue.running += 1;
        queue.last_turn = self.clock;
        queue.used_at = now;
        if !receiver.proven {
            self.deployments.insert(next.deployment_id, self.clock);
        }
    }

    /// Nothing was sent after all.
    pub fn called_off(&mut self, queue: &NoticeQueue) {
        if let Some(receiver) = self.receivers.get_mut(&queue.receiver)
            && let Some(own) = receiver.queues.get_mut(&queue.deployment_id)
        {
            own.running = own.running.saturating_sub(1);
        }
    }

    /// A delivery has ended; `answered` if the receiver said anything, even if it was a refusal.
    pub fn ended(&mut self, queue: &NoticeQueue, answered: bool, now: Instant) {
        let Some(receiver) = self.receivers.get_mut(&queue.receiver) else {
            return;
        };
        if let Some(own) = receiver.queues.get_mut(&queue.deployment_id) {
            own.running = own.running.saturating_sub(1);
            own.used_at = now;
        }
        receiver.proven = answered;
        if answered {
            receiver.failures = 0;
            receiver.paused_until = None;
            return;
        }
        receiver.failures = receiver.failures.saturating_add(1);
        receiver.paused_until = pause(receiver.failures).map(|pause| now + pause);
    }

    /// Receivers that are left alone now.
    pub fn paused(&self, now: Instant) -> Vec<String> {
        let paused = self.receivers.iter().filter(|(_, one)| one.is_paused(now));
        paused.map(|(name, _)| name.clone()).collect()
    }

    /// Forgets receivers that nothing was sent to for long, and deployments that sent nothing.
    pub fn forget_old(&mut self, now: Instant) {
        let mut known = HashSet::new();
        self.receivers.retain(|_, receiver| {
            receiver.queues.retain(|_, queue| {
                queue.running > 0 || now.saturating_duration_since(queue.used_at) < FORGET_AFTER
            });
            known.extend(receiver.queues.keys().copied());
            !receiver.queues.is_empty()
        });
        self.deployments.retain(|id, _| known.contains(id));
    }
}

/// How long a receiver is left alone after so many failures in a row.
fn pause(failures: u32) -> Option<Duration> {
    let beyond = failures.checked_sub(FAILURES_TO_PAUSE)?;
    Some(
        FIRST_PAUSE
            .saturating_mul(1 << beyond.min(16))
            .min(LONGEST_PAUSE),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(deployment: u64, receiver: usize) -> NoticeQueue {
        NoticeQueue {
            deployment_id: DeploymentId::from_number(deployment),
            receiver: format!("r{receiver}"),
        }
    }

    /// Queues of one deployment.
    fn queues(count: usize) -> Vec<NoticeQueue> {
        (0..count).map(|receiver| queue(0, receiver)).collect()
    }

    /// What begins now.
    fn begun(turns: &mut Turns, due: &[NoticeQueue], now: Instant) -> Vec<NoticeQueue> {
        std::iter::from_fn(|| turns.next(due, now)).collect()
    }

    /// The receivers of what begins now.
    fn names(turns: &mut Turns, due: &[NoticeQueue], now: Instant) -> Vec<String> {
        let begun = begun(turns, due, now);
        begun.into_iter().map(|queue| queue.receiver).collect()
    }

    #[test]
    fn receivers_take_turns_and_one_unknown_is_tried_once_at_a_time() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let due = queues(2);
        assert_eq!(names(&mut turns, &due, now), ["r0", "r1"]);
        turns.ended(&due[0], true, now);
        // It is known now; the other has not answered yet.
        assert_eq!(names(&mut turns, &due, now), ["r0"; 4]);
        turns.ended(&due[1], true, now);
        assert_eq!(names(&mut turns, &due, now), ["r1"; 4]);
        turns.ended(&due[0], true, now);
        turns.ended(&due[1], true, now);
        assert_eq!(names(&mut turns, &due, now), ["r0", "r1"]);
    }

    #[test]
    fn dead_receivers_leave_room_for_good_ones() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let due = queues(100);
        assert_eq!(names(&mut turns, &due[..1], now), ["r0"]);
        turns.ended(&due[0], true, now);
        let first = names(&mut turns, &due, now);
        assert_eq!(first.len(), MAX_UNPROVEN / 2 + MAX_PER_RECEIVER);
        assert_eq!(first.iter().filter(|name| *name == "r0").count(), 4);
    }

    #[test]
    fn dead_receivers_of_one_deployment_leave_room_for_a_new_one_of_another() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let mut due = queues(60);
        let dead = begun(&mut turns, &due, now);
        assert_eq!(dead.len(), MAX_UNPROVEN / 2);
        due.push(queue(1, 60));
        assert_eq!(begun(&mut turns, &due, now), [queue(1, 60)]);
        // The next place goes to a deployment that has none, before all that waited longer.
        due.push(queue(2, 61));
        turns.ended(&dead[0], false, now);
        assert_eq!(begun(&mut turns, &due, now).first(), Some(&queue(2, 61)));
    }

    #[test]
    fn deployments_take_turns_with_a_receiver_that_they_share() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let due = [queue(0, 0), queue(1, 0)];
        for turn in 0..6 {
            assert_eq!(begun(&mut turns, &due, now), [due[turn % 2].clone()]);
            turns.called_off(&due[turn % 2]);
        }
        assert_eq!(begun(&mut turns, &due, now), [due[0].clone()]);
        turns.ended(&due[0], true, now);
        let [first, second] = due.clone();
        let both = [second.clone(), first.clone(), second, first];
        assert_eq!(begun(&mut turns, &due, now), both);
    }

    #[test]
    fn one_that_fails_is_left_alone_for_ever_longer() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let (due, mut now) = (queues(1), start);
        for seconds in [0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert_eq!(names(&mut turns, &due, now), ["r0"]);
            turns.ended(&due[0], false, now);
            let pause = Duration::from_secs(seconds);
            assert_eq!(turns.paused(now).is_empty(), pause.is_zero());
            if !pause.is_zero() {
                let early = now + pause - Duration::from_millis(1);
                assert!(begun(&mut turns, &due, early).is_empty());
            }
            now += pause;
        }
        assert_eq!(names(&mut turns, &due, now), ["r0"]);
        turns.ended(&due[0], true, now);
        assert_eq!(names(&mut turns, &due, now), ["r0"; MAX_PER_RECEIVER]);
    }

    #[test]
    fn old_ones_are_forgotten() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let due = [queue(0, 0), queue(1, 1)];
        assert_eq!(begun(&mut turns, &due, now).len(), 2);
        turns.ended(&due[0], false, now);
        turns.forget_old(now + FORGET_AFTER);
        assert_eq!(turns.receivers.len(), 1, "one is being sent to");
        assert_eq!(turns.deployments.len(), 1, "one deployment sends");
    }

    proptest! {
        #[test]
        fn bounds_hold_and_everyone_due_gets_a_turn(
            pairs in prop::collection::btree_set((0u64..3, 0usize..20), 1..30),
            answers in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..100),
        ) {
            let (mut turns, mut now) = (Turns::default(), Instant::now());
            let due: Vec<_> = pairs.into_iter().map(|(deployment, receiver)| queue(deployment, receiver)).collect();
            let mut running: Vec<NoticeQueue> = Vec::new();
            for (which, answered) in answers {
                running.extend(begun(&mut turns, &due, now));
                prop_assert!(running.len() <= MAX_DELIVERIES);
                for queue in &due {
                    let to_it = running.iter().filter(|other| other.receiver == queue.receiver).count();
                    prop_assert!(to_it <= MAX_PER_RECEIVER);
                }
                if !running.is_empty() {
                    let queue = running.swap_remove(which.index(running.len()));
                    turns.ended(&queue, answered, now);
                }
                now += Duration::from_millis(100);
            }
            // However receivers answer, a round serves a queue that had no turn, or puts a deployment that got none first.
            let mut served = HashSet::new();
            for _ in 0..=3 * due.len() {
                running.extend(begun(&mut turns, &due, now));
                for queue in running.drain(..) {
                    turns.ended(&queue, false, now);
                    served.insert(queue);
                }
                now += LONGEST_PAUSE;
            }
            prop_assert_eq!(served.len(), due.len());
        }

        #[test]
        fn no_deployment_keeps_others_from_unproven_receivers(
            counts in prop::collection::vec(1usize..20, 1..12),
            ends in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
        ) {
            let (mut turns, mut now) = (Turns::default(), Instant::now());
            let of = |deployment: usize| (0..counts[deployment]).map(move |n| queue(deployment as u64, 100 * deployment + n));
            let due: Vec<_> = (0..counts.len()).flat_map(of).collect();
            let mut running = begun(&mut turns, &due, now);
            for which in ends {
                let held = |deployment: usize| {
                    let id = DeploymentId::from_number(deployment as u64);
                    running.iter().filter(|queue| queue.deployment_id == id).count()
                };
                let held: Vec<usize> = (0..counts.len()).map(held).collect();
                prop_assert!(running.len() <= MAX_UNPROVEN);
                prop_assert!(held.iter().all(|held| *held <= MAX_UNPROVEN / 2), "{:?}", held);
                // No place is free while a deployment waits that has none.
                prop_assert!(running.len() == MAX_UNPROVEN || held.iter().all(|held| *held > 0), "{:?}", held);
                let ended = running.swap_remove(which.index(running.len()));
                turns.ended(&ended, false, now);
                now += LONGEST_PAUSE;
                running.extend(begun(&mut turns, &due, now));
            }
        }
    }
}
