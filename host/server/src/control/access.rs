//! Who may do what: the API keys of the node, held in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use samovar_types::api_key::KeyType;
use samovar_types::id::ModelId;

use crate::catalog::informer::{Changes, Observer};
use crate::domain::api_key::{AccessError, Action, ApiKey, verify};
use crate::domain::audit::Actor;

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

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Whoever reaches a node that asks for no keys.
    Anyone,
    /// The bearer of this key.
    Key(Arc<ApiKey>),
}

impl Caller {
    /// Who it is to the audit log.
    pub fn actor(&self) -> Actor {
        match self {
            Self::Anyone => Actor::Anyone,
            Self::Key(key) => Actor::ApiKey {
                prefix: key.prefix.clone(),
                name: key.name.clone(),
            },
        }
    }

    /// Whether the caller, who may read metrics, may read those of this model.
    pub fn may_read_metrics_of(&self, model: ModelId) -> bool {
        match self {
            Self::Anyone => true,
            Self::Key(key) => key.covers(model),
        }
    }

    /// Whether the caller may read what is counted of the node as a whole.
    pub fn may_read_metrics_of_node(&self) -> bool {
        match self {
            Self::Anyone => true,
            Self::Key(key) => key.model_ids.is_empty(),
        }
    }

    /// Whether the caller may make and remove keys of that type.
    pub fn may_manage(&self, key_type: KeyType) -> bool {
        match self {
            Self::Anyone => true,
            Self::Key(key) => key.key_type.may_manage(key_type),
        }
    }
}

/// The door.
pub struct Access {
    mode: AuthMode,
    keys: ArcSwap<Keys>,
}

/// Keys by their prefixes.
type Keys = BTreeMap<String, Arc<ApiKey>>;

impl Access {
    /// Without keys, until the informer brings some.
    pub fn new(mode: AuthMode) -> Self {
        Self {
            mode,
            keys: ArcSwap::default(),
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
        self.admit(authorization, action).map(drop)
    }

    /// The same, and says who it is.
    ///
    /// # Errors
    /// When the key is missing, unknown or for other things.
    pub fn admit(&self, authorization: Option<&[u8]>, action: Action) -> Result<Caller, Refusal> {
        if self.mode == AuthMode::None {
            return Ok(Caller::Anyone);
        }
        let keys = self.keys.load();
        let key = verify(authorization, &keys)?;
        if key.permits(action) {
            Ok(Caller::Key(key.clone()))
        } else {
            Err(Refusal::Forbidden {
                prefix: key.prefix.clone(),
            })
        }
    }

    /// Whether a call to this model, if there is one, goes through. To a key that is limited to some models, another model
    /// is the same as none.
    ///
    /// # Errors
    /// When the key is missing, unknown or not for calls to models.
    pub fn may_invoke(
        &self,
        authorization: Option<&[u8]>,
        model: Option<ModelId>,
    ) -> Result<bool, Refusal> {
        match self.admit(authorization, Action::Invoke)? {
            Caller::Anyone => Ok(model.is_some()),
            Caller::Key(key) => Ok(model.is_some_and(|model| key.covers(model))),
        }
    }

    /// Whether a caller who was let in would be let in again.
    pub fn knows(&self, caller: &Caller) -> bool {
        match caller {
            Caller::Anyone => self.mode == AuthMode::None,
            Caller::Key(key) => self.keys.load().contains_key(&key.prefix),
        }
    }
}

impl Observer for Access {
    fn observe(&self, changes: &Changes) {
        if changes.api_keys.is_empty() {
            return;
        }
        // The informer alone writes, one change at a time.
        let mut keys = Keys::clone(&self.keys.load());
        for (prefix, key) in &changes.api_keys {
            match key {
                Some(key) => drop(keys.insert(prefix.clone(), Arc::new(key.clone()))),
                None => drop(keys.remove(prefix)),
            }
        }
        self.keys.store(Arc::new(keys));
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use samovar_types::api_key::KeyType;

    use super::*;
    use crate::random::random_id;

    fn header(plain: &crate::domain::api_key::PlainKey) -> String {
        format!("Bearer {}", plain.reveal())
    }

    #[test]
    fn a_key_is_let_in_and_shut_out_at_once() {
        let generate =
            |key_type| ApiKey::generate(key_type, None, [].into(), Timestamp::UNIX_EPOCH);
        let (key, plain) = generate(KeyType::WorkspaceManageApiKeys);
        let access = Access::new(AuthMode::Keys);
        let (header, prefix) = (header(&plain), key.prefix.clone());
        let admit = || access.admit(Some(header.as_bytes()), Action::ManageApiKeys);
        assert!(admit().is_err());
        let changed = |key: Option<ApiKey>| Changes {
            api_keys: vec![(prefix.clone(), key)],
            ..Changes::default()
        };
        access.observe(&changed(Some(key.clone())));
        let caller = admit().unwrap();
        assert_eq!(caller, Caller::Key(Arc::new(key.clone())));
        assert!(access.knows(&caller));
        assert!(caller.may_manage(KeyType::WorkspaceInvoke));
        assert!(!caller.may_manage(KeyType::Personal));
        access.observe(&changed(None));
        assert_eq!(admit(), Err(Refusal::Unauthorized(AccessError::Unknown)));
        assert!(!access.knows(&caller));
    }

    #[test]
    fn a_key_opens_what_it_is_for() {
        let model = random_id();
        let (key, plain) = ApiKey::generate(
            KeyType::WorkspaceInvoke,
            None,
            [model].into(),
            Timestamp::UNIX_EPOCH,
        );
        let access = Access::new(AuthMode::Keys);
        access.observe(&Changes {
            api_keys: vec![(key.prefix.clone(), Some(key))],
            ..Changes::default()
        });
        let header = header(&plain);
        let check = |action| access.check(Some(header.as_bytes()), action);
        let invoke = |model| access.may_invoke(Some(header.as_bytes()), model);
        assert_eq!(invoke(Some(model)), Ok(true));
        assert_eq!(invoke(Some(random_id())), Ok(false));
        assert_eq!(invoke(None), Ok(false));
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
