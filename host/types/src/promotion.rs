//! Where a promotion stands.

use serde::{Deserialize, Serialize};

/// Where a promotion stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromotionStatus {
    /// The candidate gets ready; all traffic goes to the current deployment.
    Releasing,
    /// Traffic moves to the candidate in stages.
    RampingUp,
    /// Traffic stays divided as it is until somebody goes on.
    Paused,
    /// Traffic moves back.
    RampingDown,
    /// The candidate took over.
    Succeeded,
    /// The candidate did not, and `error_message` says why.
    Failed,
    /// Somebody called it off.
    Canceled,
}

impl PromotionStatus {
    /// Whether it still goes on.
    pub fn is_in_progress(self) -> bool {
        matches!(
            self,
            Self::Releasing | Self::RampingUp | Self::Paused | Self::RampingDown
        )
    }
}
