//! Who may do what: the API keys of the node, held in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use crate::domain::api_key::{AccessError, Action, ApiKey, verify};

/// Whether callers need a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMode {
    /// Every call needs one.
    Keys,
    /// No call does; for loopback addresses alone.
    None,
}

/// Why a call is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not known who calls.
    #[error(transparent)]
    Unauthorized(#[from] AccessError),
    /// It is known, but the key is for other things.
    #[error("the API key {prefix} may not do this")]
    Forbidden {
        /// The key's public part.
        prefix: String,
    },
}

/// The door.
pub struct Access {
    mode: AuthMode,
    keys: RwLock<Arc<BTreeMap<String, ApiKey>>>,
}

impl Access {
    /// A door with these keys.
    pub fn new(mode: AuthMode, keys: BTreeMap<String, ApiKey>) -> Self {
        Self {
            mode,
            keys: RwLock::new(Arc::new(keys)),
        }
    }

    /// Whether callers need a key.
    pub fn mode(&self) -> AuthMode {
        self.mode
    }

    /// Lets a call through or says why not.
    ///
    /// # Errors
    /// When the key is missing, unknown or for other things.
    pub fn check(&self, authorization: Option<&[u8]>, action: Action) -> Result<(), Refusal> {
        if self.mode == AuthMode::None {
            return Ok(());
        }
        // The map is replaced whole, so a panic elsewhere cannot leave it half-written.
        let keys = self
            .keys
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        let key = verify(authorization, &keys)?;
        if key.permits(action) {
            Ok(())
        } else {
            Err(Refusal::Forbidden {
                prefix: key.prefix.clone(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::api_key::KeyType;
    use crate::ids::Id;
    use jiff::Timestamp;

    #[test]
    fn a_key_opens_what_it_is_for() {
        let model = Id::new();
        let (key, plain) = ApiKey::generate(
            KeyType::WorkspaceInvoke,
            None,
            [model].into(),
            Timestamp::UNIX_EPOCH,
        );
        let access = Access::new(AuthMode::Keys, [(key.prefix.clone(), key)].into());
        let header = format!("Bearer {}", plain.reveal());
        let check = |action| access.check(Some(header.as_bytes()), action);
        assert_eq!(check(Action::Invoke(model)), Ok(()));
        assert!(matches!(
            check(Action::Invoke(Id::new())),
            Err(Refusal::Forbidden { .. })
        ));
        assert!(matches!(
            check(Action::Manage),
            Err(Refusal::Forbidden { .. })
        ));
        assert!(matches!(
            access.check(None, Action::Manage),
            Err(Refusal::Unauthorized(AccessError::Missing))
        ));
    }
}
