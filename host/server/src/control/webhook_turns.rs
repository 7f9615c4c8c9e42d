//! Which receiver's webhook is sent next: receivers take turns, and one that fails is left alone for ever longer.
//!
//! Decisions only: the time is an argument, and nothing is sent here.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Webhooks sent at once; each holds a model's answer in memory.
pub const MAX_DELIVERIES: usize = 16;
/// Of these, how many go to receivers that have not taken the last one that was sent to them.
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
    /// Counts deliveries, to tell whose turn it is.
    clock: u64,
}

#[derive(Debug)]
struct Receiver {
    running: usize,
    /// Whether it took the last one.
    proven: bool,
    failures: u32,
    paused_until: Option<Instant>,
    last_turn: u64,
    used_at: Instant,
}

impl Turns {
    /// The receiver whose webhook is sent next, of those that have one due. It counts as being sent to from now on, until
    /// [`Self::ended`].
    pub fn next(&mut self, due: &[String], now: Instant) -> Option<String> {
        let (mut running, mut unproven) = (0, 0);
        for receiver in self.receivers.values() {
            running += receiver.running;
            unproven += if receiver.proven { 0 } else { receiver.running };
        }
        if running >= MAX_DELIVERIES {
            return None;
        }
        let next = due
            .iter()
            .filter(|name| self.may_send(name, unproven, now))
            .min_by_key(|name| self.receivers.get(*name).map_or(0, |one| one.last_turn))?
            .clone();
        self.clock += 1;
        let receiver = self.receivers.entry(next.clone()).or_insert(Receiver {
            running: 0,
            proven: false,
            failures: 0,
            paused_until: None,
            last_turn: 0,
            used_at: now,
        });
        receiver.running += 1;
        receiver.last_turn = self.clock;
        receiver.used_at = now;
        Some(next)
    }

    fn may_send(&self, name: &str, unproven: usize, now: Instant) -> bool {
        match self.receivers.get(name) {
            Some(receiver) if receiver.paused_until.is_some_and(|until| now < until) => false,
            Some(receiver) if receiver.proven => receiver.running < MAX_PER_RECEIVER,
            Some(receiver) => receiver.running == 0 && unproven < MAX_UNPROVEN,
            None => unproven < MAX_UNPROVEN,
        }
    }

    /// Nothing was sent after all.
    pub fn called_off(&mut self, name: &str) {
        if let Some(receiver) = self.receivers.get_mut(name) {
            receiver.running = receiver.running.saturating_sub(1);
        }
    }

    /// A delivery has ended; `answered` if the receiver said anything, even if it was a refusal.
    pub fn ended(&mut self, name: &str, answered: bool, now: Instant) {
        let Some(receiver) = self.receivers.get_mut(name) else {
            return;
        };
        receiver.running = receiver.running.saturating_sub(1);
        receiver.proven = answered;
        receiver.used_at = now;
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
        let is_paused = |one: &Receiver| one.paused_until.is_some_and(|until| now < until);
        let paused = self.receivers.iter().filter(|(_, one)| is_paused(one));
        paused.map(|(name, _)| name.clone()).collect()
    }

    /// Forgets receivers that nothing was sent to for long.
    pub fn forget_old(&mut self, now: Instant) {
        self.receivers.retain(|_, one| {
            one.running > 0 || now.saturating_duration_since(one.used_at) < FORGET_AFTER
        });
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

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("r{n}")).collect()
    }

    /// What begins now.
    fn begun(turns: &mut Turns, due: &[String], now: Instant) -> Vec<String> {
        std::iter::from_fn(|| turns.next(due, now)).collect()
    }

    #[test]
    fn receivers_take_turns_and_one_unknown_is_tried_once_at_a_time() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let due = names(2);
        assert_eq!(begun(&mut turns, &due, now), ["r0", "r1"]);
        turns.ended("r0", true, now);
        // It is known now; the other has not answered yet.
        assert_eq!(begun(&mut turns, &due, now), ["r0"; 4]);
        turns.ended("r1", true, now);
        assert_eq!(begun(&mut turns, &due, now), ["r1"; 4]);
        turns.ended("r0", true, now);
        turns.ended("r1", true, now);
        assert_eq!(begun(&mut turns, &due, now), ["r0", "r1"]);
    }

    #[test]
    fn dead_receivers_leave_room_for_good_ones() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let mut due = names(1);
        assert_eq!(begun(&mut turns, &due, now), ["r0"]);
        turns.ended("r0", true, now);
        due = names(100);
        let first = begun(&mut turns, &due, now);
        assert_eq!(first.len(), MAX_UNPROVEN + MAX_PER_RECEIVER);
        assert_eq!(first.iter().filter(|name| *name == "r0").count(), 4);
    }

    #[test]
    fn one_that_fails_is_left_alone_for_ever_longer() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        let (due, mut now) = (names(1), start);
        for seconds in [0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            assert_eq!(begun(&mut turns, &due, now), ["r0"]);
            turns.ended("r0", false, now);
            let pause = Duration::from_secs(seconds);
            assert_eq!(turns.paused(now).is_empty(), pause.is_zero());
            if !pause.is_zero() {
                let early = now + pause - Duration::from_millis(1);
                assert!(begun(&mut turns, &due, early).is_empty());
            }
            now += pause;
        }
        assert_eq!(begun(&mut turns, &due, now), ["r0"]);
        turns.ended("r0", true, now);
        assert_eq!(begun(&mut turns, &due, now), ["r0"; MAX_PER_RECEIVER]);
    }

    #[test]
    fn old_ones_are_forgotten() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        begun(&mut turns, &names(2), now);
        turns.ended("r0", false, now);
        turns.forget_old(now + FORGET_AFTER);
        assert_eq!(turns.receivers.len(), 1, "one is being sent to");
    }

    proptest! {
        #[test]
        fn bounds_hold_and_everyone_due_gets_a_turn(
            count in 1usize..30,
            answers in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..100),
        ) {
            let (mut turns, mut now) = (Turns::default(), Instant::now());
            let due = names(count);
            let mut running: Vec<String> = Vec::new();
            for (which, answered) in answers {
                running.extend(begun(&mut turns, &due, now));
                prop_assert!(running.len() <= MAX_DELIVERIES);
                for name in &due {
                    let to_it = running.iter().filter(|other| *other == name).count();
                    prop_assert!(to_it <= MAX_PER_RECEIVER);
                }
                if !running.is_empty() {
                    let name = running.swap_remove(which.index(running.len()));
                    turns.ended(&name, answered, now);
                }
                now += Duration::from_millis(100);
            }
            // Everyone has had a turn after as many rounds as there are receivers, however they answer.
            let mut served = std::collections::HashSet::new();
            for _ in 0..=count {
                running.extend(begun(&mut turns, &due, now));
                for name in running.drain(..) {
                    turns.ended(&name, false, now);
                    served.insert(name);
                }
                now += LONGEST_PAUSE;
            }
            prop_assert_eq!(served.len(), count);
        }
    }
}
