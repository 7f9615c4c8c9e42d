//! States of promotions.

use serde::{Deserialize, Serialize};

/// Status of a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromotionStatus {
    /// The candidate is starting; all traffic goes to the current deployment.
    Releasing,
    /// Traffic moves to the candidate in stages.
    RampingUp,
    /// The canary is paused in its stage.
    Paused,
    /// Traffic moves back.
    RampingDown,
    /// The candidate gets all traffic.
    Succeeded,
    /// The promotion failed; `error_message` has the reason.
    Failed,
    /// A user canceled the promotion.
    Canceled,
}

impl PromotionStatus {
    /// Whether the promotion is still running.
    pub fn is_in_progress(self) -> bool {
        matches!(
            self,
            Self::Releasing | Self::RampingUp | Self::Paused | Self::RampingDown
        )
    }
}
