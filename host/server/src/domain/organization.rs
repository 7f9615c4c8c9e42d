//! Whose server it is: one organization with one team, made at the first start.

use jiff::Timestamp;
use samovar_types::id::OrganizationId;
use serde::{Deserialize, Serialize};

/// The name of the one organization and its one team.
pub const NAME: &str = "default";

/// The organization, and its team.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// When the server was first started.
    pub created_at: Timestamp,
}
