//! A promotion: an environment on its way to another deployment, at once or in stages.

use jiff::{SignedDuration, Timestamp};
use samovar_types::id::{DeploymentId, PromotionId};
use samovar_types::promotion::PromotionStatus;
use samovar_types::promotion_settings::PromotionSettings;
use serde::{Deserialize, Serialize};

use crate::random::random_id;

/// Stages of a canary: even in traffic and in time.
pub const STAGES: u32 = 10;

/// What becomes of the deployment that is there, as far as who promotes says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promote {
    /// What the environment's settings say.
    #[default]
    AsSet,
    /// It keeps its replicas.
    KeepPrevious,
}

/// An environment's move to another deployment. As the store holds it: what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Promotion {
    /// Tells it from the environment's other promotions.
    pub id: PromotionId,
    /// The deployment that is to take over.
    pub candidate_deployment_id: DeploymentId,
    /// The deployment that was there when it began.
    #[serde(default)]
    pub previous_deployment_id: Option<DeploymentId>,
    /// Where it stands.
    pub status: PromotionStatus,
    /// When it began.
    pub created_at: Timestamp,
    /// The settings that it goes by, whatever is changed meanwhile.
    pub settings: PromotionSettings,
    /// When the first stage began, as if there had been no pause.
    #[serde(default)]
    pub ramp_started_at: Option<Timestamp>,
    /// When it was paused.
    #[serde(default)]
    pub paused_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// Why it failed, or who called it off.
    #[serde(default)]
    pub error_message: Option<String>,
}

impl Promotion {
    /// A promotion that begins.
    pub fn new(
        candidate: DeploymentId,
        previous: Option<DeploymentId>,
        settings: PromotionSettings,
        now: Timestamp,
    ) -> Self {
        Self {
            id: random_id(),
            candidate_deployment_id: candidate,
            previous_deployment_id: previous,
            status: PromotionStatus::Releasing,
            created_at: now,
            settings,
            ramp_started_at: None,
            paused_at: None,
            ended_at: None,
            error_message: None,
        }
    }

    /// How long the stages take together.
    pub fn ramp(&self) -> SignedDuration {
        SignedDuration::from_secs(i64::from(self.settings.ramp_up_duration_seconds.max(1)))
    }

    /// The stage that the clock says, from 0 to 9, while traffic is divided.
    ///
    /// Stored are only the instants at which stages began and were halted, so that a node that comes back is in the
    /// stage where it would be had it stayed.
    pub fn stage(&self, now: Timestamp) -> Option<u32> {
        let now = match self.status {
            PromotionStatus::RampingUp => now,
            PromotionStatus::Paused => self.paused_at?,
            _ => return None,
        };
        let elapsed = now.duration_since(self.ramp_started_at?).as_millis().max(0);
        let stage = elapsed * i128::from(STAGES) / self.ramp().as_millis().max(1);
        // A clock that runs on past the end stays in the last stage until the promotion is ended.
        Some(u32::try_from(stage).unwrap_or(u32::MAX).min(STAGES - 1))
    }

    /// Percentage of requests that go to the candidate now.
    pub fn percent(&self, now: Timestamp) -> u32 {
        match self.status {
            PromotionStatus::Succeeded => 100,
            _ => self
                .stage(now)
                .map_or(0, |stage| (stage + 1) * (100 / STAGES)),
        }
    }

    /// Whether every stage has had its time.
    pub fn is_ramped(&self, now: Timestamp) -> bool {
        self.status == PromotionStatus::RampingUp
            && self
                .ramp_started_at
                .is_some_and(|start| now.duration_since(start) >= self.ramp())
    }

    /// When the stage that the clock says began.
    pub fn stage_started_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.stage_starts_at(self.stage(now)?)
    }

    fn stage_starts_at(&self, stage: u32) -> Option<Timestamp> {
        let offset =
            self.ramp().checked_mul(i32::try_from(stage).ok()?)? / i32::try_from(STAGES).ok()?;
        self.ramp_started_at?.checked_add(offset).ok()
    }

    /// When the next stage begins, or the last one ends.
    pub fn next_stage_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.status != PromotionStatus::RampingUp {
            return None;
        }
        self.stage_starts_at(self.stage(now)? + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ramping(seconds: u32) -> Promotion {
        let settings = PromotionSettings {
            ramp_up_while_promoting: true,
            ramp_up_duration_seconds: seconds,
            ..Default::default()
        };
        let start = Timestamp::UNIX_EPOCH;
        let mut promotion = Promotion::new(random_id(), Some(random_id()), settings, start);
        promotion.status = PromotionStatus::RampingUp;
        promotion.ramp_started_at = Some(start);
        promotion
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    #[test]
    fn ten_even_stages() {
        let promotion = ramping(20);
        let percents: Vec<u32> = (0..10)
            .map(|stage| promotion.percent(at(stage * 2000)))
            .collect();
        assert_eq!(percents, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(promotion.percent(at(1999)), 10);
        assert!(!promotion.is_ramped(at(19_999)));
        assert!(promotion.is_ramped(at(20_000)));
        assert_eq!(promotion.next_stage_at(at(2500)), Some(at(4000)));
        assert_eq!(promotion.stage_started_at(at(2500)), Some(at(2000)));
        assert_eq!(promotion.next_stage_at(at(19_000)), Some(at(20_000)));
    }

    proptest! {
        #[test]
        fn stages_only_go_up_and_a_restart_finds_the_same(seconds in 1u32..86_400, mut times in prop::collection::vec(0i64..90_000_000, 1..50)) {
            let promotion = ramping(seconds);
            let stored = serde_json::to_vec(&promotion).unwrap();
            times.sort_unstable();
            let mut before = 0;
            for ms in times {
                let percent = promotion.percent(at(ms));
                prop_assert!(percent >= before && (10..=100).contains(&percent) && percent.is_multiple_of(10));
                before = percent;
                let restarted: Promotion = serde_json::from_slice(&stored).unwrap();
                prop_assert_eq!(restarted.percent(at(ms)), percent);
                if let Some(next) = promotion.next_stage_at(at(ms)) {
                    prop_assert!(next > at(ms) || promotion.is_ramped(at(ms)));
                }
            }
        }
    }
}
