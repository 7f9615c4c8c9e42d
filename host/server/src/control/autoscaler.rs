//! How many replicas a deployment is to have: a pure decision from its settings, its load over a window, and the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use samovar_types::settings::AutoscalingSettings;

/// What is seen of a deployment at one time.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When.
    pub at: Instant,
    /// The time that sync requests have spent at it so far, running or waiting, all together.
    pub load: Duration,
    /// Replicas that serve, wait for a request, or start.
    pub replicas: usize,
    /// Those that wait for a request.
    pub idle: usize,
    /// Those that have waited for as long as the window.
    pub unused: usize,
    /// Those that can serve, idle or not.
    pub ready: usize,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// Start replicas until there are so many.
    GrowTo(usize),
    /// Let so many idle ones go, those first that have waited longest.
    ShrinkBy(usize),
}

/// What is remembered of one deployment.
#[derive(Debug, Default)]
pub struct Autoscaler {
    /// Times, and the load until then: one at or before the window's begin, and those within it.
    samples: VecDeque<(Instant, Duration)>,
    /// Since when a replica has been ready.
    ready_since: Option<Instant>,
    /// Since when the load has asked for fewer replicas than there are, or some of them went.
    low_since: Option<Instant>,
}

impl Autoscaler {
    /// Decides; what it decides is taken as done.
    pub fn decide(&mut self, settings: &AutoscalingSettings, seen: &Seen) -> Decision {
        let window = Duration::from_secs(settings.autoscaling_window.into());
        self.remember(window, seen);
        let max = settings.max_replica as usize;
        if seen.replicas > max {
            let beyond = (seen.replicas - max).min(seen.idle);
            return shrink_by(beyond);
        }
        let desired = desired(settings, self.average(window, seen));
        if desired >= seen.replicas {
            self.low_since = None;
            return match desired > seen.replicas {
                true => Decision::GrowTo(desired),
                false => Decision::Keep,
            };
        }
        let observed = self.ready_since.map(|since| seen.at.duration_since(since));
        if observed.is_none_or(|observed| observed < window) {
            // Too early to call it low.
            return Decision::Keep;
        }
        let since = *self.low_since.get_or_insert(seen.at);
        let delay = Duration::from_secs(settings.scale_down_delay.into());
        if seen.at.duration_since(since) < delay {
            return Decision::Keep;
        }
        let excess = seen.replicas - desired;
        let rate = settings.max_scale_down_rate as usize;
        // A request would start another in place of one that is used now and then.
        let going = (excess * rate).div_ceil(100).min(seen.unused);
        if going > 0 {
            self.low_since = Some(seen.at);
        }
        shrink_by(going)
    }

    fn remember(&mut self, window: Duration, seen: &Seen) {
        if self
            .samples
            .back()
            .is_some_and(|(_, load)| *load > seen.load)
        {
            // Another pool took its place, and counts from zero.
            *self = Self::default();
        }
        self.ready_since = match seen.ready {
            0 => None,
            _ => self.ready_since.or(Some(seen.at)),
        };
        self.samples.push_back((seen.at, seen.load));
        let began = |at: Instant| seen.at.duration_since(at) >= window;
        while self.samples.get(1).is_some_and(|(at, _)| began(*at)) {
            self.samples.pop_front();
        }
    }

    /// The load over the window, and the time that it is of. Before the first look there was none.
    fn average(&self, window: Duration, seen: &Seen) -> (Duration, Duration) {
        let first = self.samples.front();
        let (at, before) = first.copied().unwrap_or((seen.at, seen.load));
        let span = seen.at.duration_since(at).max(window);
        (seen.load.saturating_sub(before), span)
    }
}

fn shrink_by(count: usize) -> Decision {
    match count {
        0 => Decision::Keep,
        count => Decision::ShrinkBy(count),
    }
}

/// As many replicas as keep each at its share of the target, rounded up.
fn desired(settings: &AutoscalingSettings, (load, span): (Duration, Duration)) -> usize {
    // In whole nanoseconds: a rounding error would be a replica.
    let percent = u128::from(settings.target_utilization_percentage);
    let share = span.as_nanos() * u128::from(settings.concurrency_target) * percent;
    let wanted = (load.as_nanos() * 100).div_ceil(share.max(1));
    let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
    // Settings from before a rule was made stricter must not panic here.
    wanted.max(settings.min_replica).min(settings.max_replica) as usize
}

#[cfg(test)]
#[path = "autoscaler_tests.rs"]
mod tests;
