//! A promotion as requests meet it: which side answers each, what is measured of it, which are copied to the candidate.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use http::{Request, StatusCode};
use jiff::Timestamp;
use samovar_runtime::{Pool, RunError};
use samovar_types::id::PromotionId;

use crate::control::analysis::{Figures, StageFigures};
use crate::control::latency::LatencyCounter;
use crate::control::shadow::{ShadowCopy, ShadowCounts, Shadows};
use crate::control::traffic::{self, Ready, Side, Split};
use crate::domain::model::ModelView;
use crate::domain::promotion::{Promotion, STAGES};

/// What a node keeps of a promotion while it goes on: counters, which are lost with the node. A promotion that it takes
/// up again after a crash is judged by what comes from then on.
pub struct Trial {
    promotion: PromotionId,
    split: Mutex<Split>,
    /// Each made by the first request of its stage.
    stages: [OnceLock<Box<StageCounters>>; STAGES as usize],
    shadow_split: Mutex<Split>,
    shadows: Arc<Shadows>,
}

#[derive(Default)]
struct StageCounters {
    current: Counters,
    candidate: Counters,
}

#[derive(Default)]
struct Counters {
    requests: AtomicU64,
    errors: AtomicU64,
    latencies: LatencyCounter,
}

impl Counters {
    fn read(&self) -> Figures {
        Figures {
            // Errors first: a request that ends between the two is no error of a request that was not.
            errors: self.errors.load(Ordering::Acquire),
            requests: self.requests.load(Ordering::Acquire),
            latencies: self.latencies.read(),
        }
    }
}

impl StageCounters {
    fn of(&self, side: Side) -> &Counters {
        match side {
            Side::Current => &self.current,
            Side::Candidate => &self.candidate,
        }
    }
}

/// The promotions of a model's environments, by the environment's name.
pub type Trials = HashMap<String, Arc<Trial>>;

/// The trials of a model as it is now: those that go on keep what they counted, those that ended copy no more.
pub fn follow(mut before: Trials, view: &ModelView) -> Trials {
    let going = view.environments.iter().filter_map(|(name, environment)| {
        let promotion = environment.in_progress()?;
        let known = before
            .remove(name)
            .filter(|one| one.promotion == promotion.id);
        let trial = known.unwrap_or_else(|| Arc::new(Trial::new(promotion)));
        Some((name.clone(), trial))
    });
    let going = going.collect();
    before.into_values().for_each(|ended| ended.end());
    going
}

/// Where a request to an environment goes while that is moving.
pub struct Way {
    /// Which deployment answers it.
    pub side: Side,
    trial: Arc<Trial>,
    stage: u32,
    shadow_percent: u32,
}

impl Trial {
    /// A promotion that nothing is known of yet.
    fn new(promotion: &Promotion) -> Self {
        Self {
            promotion: promotion.id,
            split: Mutex::default(),
            stages: Default::default(),
            shadow_split: Mutex::default(),
            shadows: Arc::default(),
        }
    }

    /// Copies no more requests, and cancels the copies that run.
    pub fn end(&self) {
        self.shadows.end();
    }

    /// The way of the next request; nothing while all go to the current deployment. `header` gives the values of its
    /// headers, `ready` says which sides can answer.
    pub fn next<'h>(
        self: &Arc<Self>,
        promotion: &Promotion,
        header: impl Fn(&str) -> Option<&'h [u8]>,
        ready: Ready,
        now: Timestamp,
    ) -> Option<Way> {
        let stage = promotion.stage(now)?;
        let percent = promotion.percent(now);
        let settings = &promotion.settings;
        let sticky_value = settings.sticky_header.as_deref().and_then(header);
        let side = match sticky_value {
            Some(value) => traffic::sticky(value, percent),
            None => next(&self.split, percent),
        };
        Some(Way {
            side: ready.choose(side),
            trial: self.clone(),
            stage,
            shadow_percent: settings.shadow_percent,
        })
    }

    /// What was counted in the stages up to this one.
    pub fn figures(&self, stage: u32) -> Vec<StageFigures> {
        let stages = self.stages.iter().take(stage as usize + 1);
        let read = |stage: &OnceLock<Box<StageCounters>>| {
            stage
                .get()
                .map_or_else(StageFigures::default, |stage| StageFigures {
                    current: stage.current.read(),
                    candidate: stage.candidate.read(),
                })
        };
        stages.map(read).collect()
    }

    /// What became of the copies so far.
    pub fn shadows(&self) -> ShadowCounts {
        self.shadows.counts()
    }
}

/// A share of requests that is counted, not drawn.
fn next(split: &Mutex<Split>, percent: u32) -> Side {
    // A counter: a panic leaves it whole.
    split
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .next(percent)
}

impl Way {
    /// Whether any of the requests that go this way are copied to the candidate.
    pub fn is_shadowed(&self) -> bool {
        self.side == Side::Current && self.shadow_percent > 0
    }

    /// Begins the copy of a request, if it is one of the share and there is room for it.
    pub fn copy<B>(
        &self,
        request: &Request<B>,
        id: Arc<str>,
        candidate: &Arc<Pool>,
    ) -> Option<ShadowCopy> {
        let trial = &self.trial;
        let due =
            self.is_shadowed() && next(&trial.shadow_split, self.shadow_percent) == Side::Candidate;
        due.then(|| trial.shadows.copy(request, id, candidate))?
    }

    /// Starts the clock of a request that has just arrived.
    pub fn begin(self) -> Measured {
        Measured {
            trial: self.trial,
            stage: self.stage as usize,
            side: self.side,
            begun: Instant::now(),
            seen: Seen::Nothing,
        }
    }
}

/// A request that is measured. Dropped without an answer, its client hung up: that is no error, and no answer, but it had
/// waited so long at least.
pub struct Measured {
    trial: Arc<Trial>,
    stage: usize,
    side: Side,
    begun: Instant,
    seen: Seen,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// A good head: its body may break off yet.
    Head,
    All,
}

impl Measured {
    fn counters(&self) -> Option<&Counters> {
        let stage = self.trial.stages.get(self.stage)?;
        Some(stage.get_or_init(Box::default).of(self.side))
    }

    /// The head of the answer is there.
    pub fn answered(&mut self, status: StatusCode) {
        self.ends(status.is_server_error());
        if !status.is_server_error() {
            self.seen = Seen::Head;
        }
    }

    /// There will be none.
    pub fn failed(&mut self, error: &RunError) {
        match error {
            // The client's doing, or a load that nothing was wrong with; and a request that came when all was over.
            RunError::BodyTooLarge { .. } | RunError::QueueFull { .. } | RunError::Closed => {
                self.seen = Seen::All;
            }
            RunError::QueueTimeout { .. }
            | RunError::Start(_)
            | RunError::Unhealthy(_)
            | RunError::Timeout { .. }
            | RunError::Guest(_)
            | RunError::Host(_) => self.ends(true),
        }
    }

    /// The body broke off after a good head.
    pub fn broke_off(&mut self) {
        if self.seen == Seen::Head
            && let Some(counters) = self.counters()
        {
            counters.errors.fetch_add(1, Ordering::Release);
        }
        self.seen = Seen::All;
    }

    fn ends(&mut self, failed: bool) {
        self.seen = Seen::All;
        if let Some(counters) = self.counters() {
            counters.latencies.add(self.begun.elapsed());
            counters.requests.fetch_add(1, Ordering::Release);
            if failed {
                counters.errors.fetch_add(1, Ordering::Release);
            }
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if self.seen == Seen::Nothing
            && let Some(counters) = self.counters()
        {
            counters.latencies.add(self.begun.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use samovar_types::promotion::PromotionStatus;
    use samovar_types::promotion_settings::{AnalysisSettings, PromotionSettings};

    use super::*;
    use crate::random::random_id;

    const START: Timestamp = Timestamp::UNIX_EPOCH;
    const BOTH: Ready = Ready {
        current: true,
        candidate: true,
    };

    fn ramping(settings: PromotionSettings) -> Promotion {
        let mut promotion = Promotion::new(random_id(), Some(random_id()), settings, START);
        promotion.status = PromotionStatus::RampingUp;
        promotion.ramp_started_at = Some(START);
        promotion
    }

    fn measured() -> Promotion {
        ramping(PromotionSettings {
            ramp_up_while_promoting: true,
            ramp_up_duration_seconds: 100,
            analysis: Some(AnalysisSettings::default()),
            ..Default::default()
        })
    }

    fn way(trial: &Arc<Trial>, promotion: &Promotion, second: i64) -> Way {
        let now = Timestamp::from_second(second).unwrap();
        trial.next(promotion, |_| None, BOTH, now).unwrap()
    }

    #[test]
    fn each_request_counts_for_its_side_and_the_stage_it_came_in() {
        let promotion = measured();
        let trial = Arc::new(Trial::new(&promotion));
        for number in 0..20 {
            // A fifth of them to the candidate in the second stage.
            let way = way(&trial, &promotion, 10);
            let candidate = way.side == Side::Candidate;
            assert_eq!(candidate, number % 5 == 4);
            let mut measured = way.begin();
            let status = if candidate { 503 } else { 404 };
            measured.answered(StatusCode::from_u16(status).unwrap());
        }
        let stages = trial.figures(1);
        assert_eq!(stages.len(), 2);
        let seen = |side: &Figures| (side.requests, side.errors, side.latencies.count());
        assert_eq!(seen(&stages[0].current), (0, 0, 0));
        assert_eq!(seen(&stages[1].current), (16, 0, 16));
        assert_eq!(seen(&stages[1].candidate), (4, 4, 4));
    }

    #[test]
    fn what_is_nobodys_fault_is_no_error() {
        let promotion = measured();
        let trial = Arc::new(Trial::new(&promotion));
        let begin = || way(&trial, &promotion, 0).begin();
        let seen = || {
            let side = trial.figures(0).remove(0).current;
            (side.requests, side.errors, side.latencies.count())
        };
        let timeout = Duration::from_secs(1);
        begin().failed(&RunError::BodyTooLarge { limit_bytes: 1 });
        begin().failed(&RunError::Closed);
        begin().failed(&RunError::QueueFull {
            max_replica: 1,
            max_queued_requests: 0,
        });
        assert_eq!(seen(), (0, 0, 0));
        // A client that hung up: no answer, but it had waited.
        drop(begin());
        assert_eq!(seen(), (0, 0, 1));
        begin().failed(&RunError::Timeout { timeout });
        begin().failed(&RunError::QueueTimeout { timeout });
        assert_eq!(seen(), (2, 2, 3));
        let mut late = begin();
        late.answered(StatusCode::OK);
        late.broke_off();
        late.broke_off();
        assert_eq!(seen(), (3, 3, 4));
        let mut failed = begin();
        failed.answered(StatusCode::INTERNAL_SERVER_ERROR);
        failed.broke_off();
        assert_eq!(seen(), (4, 4, 5));
    }

    #[test]
    fn a_canary_is_measured_without_an_analysis_too() {
        let mut promotion = measured();
        promotion.settings.analysis = None;
        let trial = Arc::new(Trial::new(&promotion));
        let mut first = way(&trial, &promotion, 0).begin();
        first.answered(StatusCode::OK);
        let stages = trial.figures(9);
        assert_eq!(stages.len(), 10);
        assert_eq!(stages[0].current.requests, 1);
        assert_eq!(stages[9], StageFigures::default());
    }

    #[test]
    fn a_side_that_is_not_ready_is_passed_over() {
        let promotion = measured();
        let trial = Arc::new(Trial::new(&promotion));
        let sides = |ready| -> Vec<Side> {
            let next = |_| trial.next(&promotion, |_| None, ready, START).unwrap().side;
            (0..20).map(next).collect()
        };
        let only = |current| Ready {
            current,
            candidate: !current,
        };
        assert_eq!(sides(only(true)), [Side::Current; 20]);
        assert_eq!(sides(only(false)), [Side::Candidate; 20]);
    }

    #[test]
    fn before_its_first_stage_and_after_its_end_a_promotion_has_no_ways() {
        for status in [PromotionStatus::Releasing, PromotionStatus::Failed] {
            let mut promotion = measured();
            promotion.status = status;
            let trial = Arc::new(Trial::new(&promotion));
            assert!(trial.next(&promotion, |_| None, BOTH, START).is_none());
        }
    }
}
