//! What may be done to a model: each change a pure function of the model as it is and the time.
//!
//! Each notes what it did for the audit log; a change that a caller asks for and that notes nothing is not stored.

mod deployments;
mod development;
mod environments;
mod notes;
mod promotions;

use samovar_types::error::ErrorCode;
use samovar_types::settings::InvalidSetting;

pub use super::promotion::Promote;
pub use deployments::Resumed;
pub use development::Reload;
pub use environments::EnvironmentUpdate;

/// Why a change is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// What it is about is not there.
    #[error("{0}")]
    NotFound(String),
    /// It does not fit what is there.
    #[error("{text}")]
    Conflict {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
    /// A value breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
}

impl Refusal {
    fn conflict(code: ErrorCode, text: impl Into<String>) -> Self {
        Self::Conflict {
            code,
            text: text.into(),
        }
    }
}

/// Whether a change found anything to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Something is other now.
    Changed,
    /// It was so already.
    Unchanged,
}
