//! Runs deployments through simulated seconds: bounds, ups and downs, and whole days.

use proptest::prelude::*;

use super::*;

/// A deployment whose requests come in whole seconds.
struct Simulated {
    settings: AutoscalingSettings,
    autoscaler: Autoscaler,
    now: Instant,
    load: Duration,
    /// When each replica was last used or started, the latest first: the one used last is used first.
    replicas: Vec<Instant>,
    grown: usize,
}

impl Simulated {
    fn new(settings: AutoscalingSettings) -> Self {
        settings.validate().unwrap();
        let now = Instant::now();
        Self {
            replicas: vec![now; settings.min_replica.max(1) as usize],
            settings,
            autoscaler: Autoscaler::default(),
            now,
            load: Duration::ZERO,
            grown: 0,
        }
    }

    fn count(&self) -> usize {
        self.replicas.len()
    }

    /// A second with so many requests in flight. Requests start replicas for themselves, as the pool lets them.
    fn second(&mut self, in_flight: u32) {
        self.now += Duration::from_secs(1);
        self.load += Duration::from_secs(1) * in_flight;
        let busy = in_flight.min(self.settings.max_replica) as usize;
        if self.count() < busy {
            self.replicas.resize(busy, self.now);
        }
        let busy = busy.min(self.count());
        self.replicas[..busy].fill(self.now);
        let window = Duration::from_secs(self.settings.autoscaling_window.into());
        let idle = &self.replicas[busy..];
        let unused = |used: &&Instant| self.now.duration_since(**used) >= window;
        let seen = Seen {
            at: self.now,
            load: self.load,
            replicas: self.count(),
            idle: idle.len(),
            unused: idle.iter().filter(unused).count(),
            ready: self.count(),
        };
        match self.autoscaler.decide(&self.settings, &seen) {
            Decision::Keep => {}
            Decision::GrowTo(count) => {
                assert!(count > self.count());
                let new = vec![self.now; count - self.count()];
                self.replicas.splice(busy..busy, new);
                self.grown += 1;
            }
            Decision::ShrinkBy(count) => {
                assert!(count <= seen.idle);
                self.replicas.truncate(self.count() - count);
            }
        }
    }

    fn seconds(&mut self, count: u32, in_flight: u32) {
        for _ in 0..count {
            self.second(in_flight);
        }
    }
}

fn settings() -> AutoscalingSettings {
    AutoscalingSettings {
        autoscaling_window: 10,
        scale_down_delay: 20,
        ..AutoscalingSettings::default()
    }
}

#[test]
fn the_formula_is_that_of_the_settings() {
    let of = |requests: u64, target, percent| {
        let settings = AutoscalingSettings {
            max_replica: 1000,
            concurrency_target: target,
            target_utilization_percentage: percent,
            ..settings()
        };
        let span = Duration::from_secs(60);
        desired(&settings, (span * u32::try_from(requests).unwrap(), span))
    };
    assert_eq!(of(0, 1, 70), 0);
    assert_eq!(of(1, 1, 70), 2);
    assert_eq!(of(7, 1, 70), 10);
    assert_eq!(of(8, 1, 70), 12);
    assert_eq!(of(700, 10, 100), 70);
    assert_eq!(of(9_999, 1, 1), 1000);
}

#[test]
fn a_steady_load_gets_its_headroom_and_no_more() {
    let mut one = Simulated::new(settings());
    one.seconds(100, 7);
    assert_eq!(one.count(), 10);
    let mut other = Simulated::new(AutoscalingSettings {
        concurrency_target: 4,
        ..settings()
    });
    other.seconds(100, 4);
    assert_eq!(
        other.count(),
        4,
        "its requests started them, and keep them busy"
    );
}

#[test]
fn half_of_what_is_too_much_goes_after_each_delay_and_the_last_one_too() {
    let mut one = Simulated::new(settings());
    one.seconds(60, 10);
    assert_eq!(one.count(), 10);
    // From the fourth second on the load asks for less.
    one.seconds(4 + 19, 0);
    assert_eq!(one.count(), 10);
    let mut left = Vec::new();
    for _ in 0..5 {
        one.seconds(20, 0);
        left.push(one.count());
    }
    assert_eq!(left, [5, 2, 1, 0, 0]);
}

#[test]
fn a_load_that_comes_back_starts_the_delay_anew() {
    let mut one = Simulated::new(AutoscalingSettings {
        target_utilization_percentage: 100,
        ..settings()
    });
    one.seconds(60, 10);
    one.seconds(15, 0);
    one.seconds(10, 10);
    one.seconds(20, 0);
    assert_eq!(one.count(), 10);
    one.seconds(1, 0);
    assert_eq!(one.count(), 5);
}

#[test]
fn a_new_deployment_keeps_its_first_replica_for_window_and_delay() {
    let mut one = Simulated::new(settings());
    one.seconds(10 + 20, 0);
    assert_eq!(one.count(), 1);
    one.seconds(1, 0);
    assert_eq!(one.count(), 0);
}

#[test]
fn the_idle_clock_starts_with_the_first_replica_that_is_ready() {
    let settings = AutoscalingSettings {
        scale_down_delay: 0,
        ..settings()
    };
    let begun = Instant::now();
    let mut autoscaler = Autoscaler::default();
    let mut decide = |second: u64, ready: usize| {
        let seen = Seen {
            at: begun + Duration::from_secs(second),
            load: Duration::ZERO,
            replicas: 1,
            idle: ready,
            unused: ready,
            ready,
        };
        autoscaler.decide(&settings, &seen)
    };
    for second in 0..300 {
        assert_eq!(decide(second, 0), Decision::Keep);
    }
    for second in 300..310 {
        assert_eq!(decide(second, 1), Decision::Keep);
    }
    assert_eq!(decide(310, 1), Decision::ShrinkBy(1));
}

#[test]
fn a_lower_maximum_holds_at_once_for_those_that_are_idle() {
    let mut one = Simulated::new(settings());
    one.seconds(30, 10);
    one.settings.max_replica = 3;
    one.seconds(1, 5);
    assert_eq!(one.count(), 3);
    let mut autoscaler = Autoscaler::default();
    let seen = Seen {
        at: one.now,
        load: one.load,
        replicas: 10,
        idle: 2,
        unused: 0,
        ready: 10,
    };
    let decision = autoscaler.decide(&one.settings, &seen);
    assert_eq!(
        decision,
        Decision::ShrinkBy(2),
        "the busy ones finish first"
    );
}

#[test]
fn another_pool_in_its_place_is_no_load() {
    let mut one = Simulated::new(settings());
    one.seconds(60, 10);
    one.load = Duration::ZERO;
    one.replicas.truncate(1);
    one.seconds(1, 0);
    assert_eq!(one.count(), 1);
}

#[test]
fn a_day_of_ups_and_downs() {
    let mut one = Simulated::new(AutoscalingSettings {
        max_replica: 100,
        ..AutoscalingSettings::default()
    });
    let (mut most, mut at_night) = (0, usize::MAX);
    for second in 0..86_400_u32 {
        // Nobody at night, and a wave of up to 40 by day.
        let hour = f64::from(second) / 3600.0;
        let wave = ((hour - 6.0) / 12.0 * std::f64::consts::PI).sin() * 40.0;
        let busy = (6.0..18.0).contains(&hour);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        one.second(if busy { wave.max(0.0) as u32 } else { 0 });
        most = most.max(one.count());
        if second > 23 * 3600 {
            at_night = at_night.min(one.count());
        }
    }
    assert_eq!(most, 56, "40 / 0.7, of the average just below it");
    assert_eq!(at_night, 0);
}

prop_compose! {
    fn any_settings()(
        max in 1u32..50, min in 0u32..50, window in 10u32..60, delay in 0u32..120,
        target in 1u32..8, percent in 1u32..=100, rate in 1u32..=50,
    ) -> AutoscalingSettings {
        AutoscalingSettings {
            min_replica: min.min(max),
            max_replica: max,
            autoscaling_window: window,
            scale_down_delay: delay,
            concurrency_target: target,
            target_utilization_percentage: percent,
            max_scale_down_rate: rate,
        }
    }
}

proptest! {
    #[test]
    fn replicas_stay_within_their_bounds(
        settings in any_settings(),
        spells in prop::collection::vec((1u32..100, 0u32..200), 0..20),
    ) {
        let (min, max) = (settings.min_replica as usize, settings.max_replica as usize);
        let mut one = Simulated::new(settings);
        for (seconds, in_flight) in spells {
            for _ in 0..seconds {
                one.second(in_flight);
                prop_assert!(one.count() >= min, "{} of at least {min}", one.count());
                prop_assert!(one.count() <= max, "{} of at most {max}", one.count());
            }
        }
        let step = one.settings.scale_down_delay + 1;
        one.seconds(2 * one.settings.autoscaling_window + 50 * step, 0);
        prop_assert_eq!(one.count(), min);
    }

    #[test]
    fn a_load_that_alternates_moves_nothing_once_it_is_known(
        settings in any_settings(), high in 1u32..60, period in 1u32..60,
    ) {
        let settings = AutoscalingSettings {
            autoscaling_window: settings.autoscaling_window.max(period + 1),
            scale_down_delay: settings.scale_down_delay.max(2 * period),
            ..settings
        };
        let settling = 2 * settings.autoscaling_window + 60 * (settings.scale_down_delay + 1);
        let wanted = high.min(settings.max_replica) as usize;
        let mut one = Simulated::new(settings);
        for _ in 0..=settling / (2 * period) {
            one.seconds(period, high);
            one.seconds(period, 0);
        }
        let (count, grown) = (one.count(), one.grown);
        prop_assert!(count >= wanted);
        for second in 0..20 * period {
            one.second(if second / period % 2 == 0 { high } else { 0 });
            prop_assert_eq!(one.count(), count);
        }
        prop_assert_eq!(one.grown, grown);
    }
}
