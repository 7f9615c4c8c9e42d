//! Secrets of the workspace: what is stored of one.

use jiff::Timestamp;
use samovar_store::vault::Sealed;
use samovar_types::id::SecretId;
use serde::{Deserialize, Serialize};

/// Secrets of a server.
pub const MAX_SECRETS: usize = 1000;

/// A secret as it is stored. Fields may be added, so what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Its id, as in the audit log: another when it is deleted and set again.
    pub id: SecretId,
    /// What manifests call it.
    pub name: String,
    /// When it was first set.
    pub created_at: Timestamp,
    /// Its value.
    pub sealed: Sealed,
}
