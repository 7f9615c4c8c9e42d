//! API keys: how they are made, told apart and checked, and what each may do.
//!
//! A key reads `{prefix}.{secret}`. The prefix is public and names the key; of the whole, only a SHA-256 is stored. No
//! slow hash is needed, because the secret is drawn at random and too long to be guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rand::RngExt;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use utoipa::ToSchema;

use super::digest::Digest;
use super::settings::InvalidSetting;
use crate::ids::Id;

/// Characters of a secret; each is worth almost 6 bits.
const SECRET_LENGTH: usize = 40;
/// Longer headers than any key need not be looked at.
const MAX_HEADER_BYTES: usize = 512;
/// Longest name of a key.
pub const MAX_NAME_CHARS: usize = 100;
/// Models that one key may be limited to.
pub const MAX_KEY_MODELS: usize = 100;

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum KeyType {
    /// Everything, for one person.
    Personal,
    /// Everything.
    WorkspaceManageAll,
    /// Reading metrics.
    WorkspaceExportMetrics,
    /// Calling models.
    WorkspaceInvoke,
    /// Making and removing keys.
    WorkspaceManageApiKeys,
}

impl KeyType {
    /// Whether it may do everything.
    pub fn is_admin(self) -> bool {
        matches!(self, Self::Personal | Self::WorkspaceManageAll)
    }

    /// Whether it may make and remove keys of the other type. Only who may do everything gives that to others.
    pub fn may_manage(self, other: Self) -> bool {
        match self {
            Self::Personal | Self::WorkspaceManageAll => true,
            Self::WorkspaceManageApiKeys => !other.is_admin(),
            Self::WorkspaceExportMetrics | Self::WorkspaceInvoke => false,
        }
    }
}

/// Refuses what no new key has.
///
/// # Errors
/// What is wrong with it.
pub fn check_new(
    key_type: KeyType,
    name: Option<&str>,
    model_ids: &[String],
) -> Result<(), InvalidSetting> {
    use KeyType::{WorkspaceExportMetrics, WorkspaceInvoke};
    let well = |name: &str| {
        let count = name.chars().count();
        !name.trim().is_empty() && count <= MAX_NAME_CHARS && !name.contains(char::is_control)
    };
    if let Some(name) = name.filter(|name| !well(name)) {
        let shown: String = name.escape_debug().take(80).collect();
        let wanted = "1 to 100 characters, no control characters";
        return Err(InvalidSetting::new("name", shown, wanted));
    }
    if !model_ids.is_empty() && !matches!(key_type, WorkspaceExportMetrics | WorkspaceInvoke) {
        let wanted = "none: only keys to invoke or to export metrics can be limited to models";
        return Err(InvalidSetting::new("model_ids", "some", wanted));
    }
    if model_ids.len() > MAX_KEY_MODELS {
        let wanted = format!("at most {MAX_KEY_MODELS}");
        return Err(InvalidSetting::new("model_ids", model_ids.len(), wanted));
    }
    Ok(())
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Call models.
    Invoke,
    /// See or change anything but keys.
    Manage,
    /// Make, list or remove keys.
    ManageApiKeys,
    /// Read the metrics of models.
    ExportMetrics,
}

/// A key as it is stored. Fields may be added, so what is unknown is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its public part, by which it is listed and removed.
    pub prefix: String,
    /// SHA-256 of the whole key.
    pub digest: Digest,
    /// What it is for.
    #[serde(rename = "type")]
    pub key_type: KeyType,
    /// What people call it.
    #[serde(default)]
    pub name: Option<String>,
    /// The models it is limited to; empty for all.
    #[serde(default)]
    pub model_ids: BTreeSet<Id>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The whole text of a key, which is shown once. Its debug form hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct PlainKey(String);

impl PlainKey {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainKey(…)")
    }
}

impl ApiKey {
    /// Makes a key by a cryptographic generator that the operating system seeds: what to store, and what to show once.
    pub fn generate(
        key_type: KeyType,
        name: Option<String>,
        model_ids: BTreeSet<Id>,
        now: Timestamp,
    ) -> (Self, PlainKey) {
        let prefix = Id::new().to_string();
        let secret: String = rand::rng()
            .sample_iter(Alphanumeric)
            .take(SECRET_LENGTH)
            .map(char::from)
            .collect();
        let plain = format!("{prefix}.{secret}");
        let key = Self {
            digest: Digest::of(plain.as_bytes()),
            prefix,
            key_type,
            name,
            model_ids,
            created_at: now,
        };
        (key, PlainKey(plain))
    }

    /// Whether the key may do that, to the models that it [covers](Self::covers).
    pub fn permits(&self, action: Action) -> bool {
        use KeyType::{Personal, WorkspaceManageAll};
        match (self.key_type, action) {
            (Personal | WorkspaceManageAll, _)
            | (KeyType::WorkspaceInvoke, Action::Invoke)
            | (KeyType::WorkspaceExportMetrics, Action::ExportMetrics)
            | (KeyType::WorkspaceManageApiKeys, Action::ManageApiKeys) => true,
            (
                KeyType::WorkspaceInvoke
                | KeyType::WorkspaceExportMetrics
                | KeyType::WorkspaceManageApiKeys,
                _,
            ) => false,
        }
    }

    /// Whether the key is for this model, as far as it is for models.
    pub fn covers(&self, model: Id) -> bool {
        self.model_ids.is_empty() || self.model_ids.contains(&model)
    }
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// It bears no key.
    #[error("no API key: send `Authorization: Bearer KEY` or `Authorization: Api-Key KEY`")]
    Missing,
    /// Its header has another form.
    #[error("the Authorization header has another form: wanted `Bearer KEY` or `Api-Key KEY`")]
    Malformed,
    /// There is no such key.
    #[error("the API key is not valid: it was mistyped or deleted")]
    Unknown,
}

/// The key that the value of an `Authorization` header bears, of those by their prefixes.
pub fn verify<'k>(
    header: Option<&[u8]>,
    keys: &'k BTreeMap<String, Arc<ApiKey>>,
) -> Result<&'k Arc<ApiKey>, AccessError> {
    let header = header.ok_or(AccessError::Missing)?;
    if header.len() > MAX_HEADER_BYTES {
        return Err(AccessError::Malformed);
    }
    let header = std::str::from_utf8(header).map_err(|_| AccessError::Malformed)?;
    let (scheme, plain) = header
        .trim()
        .split_once(' ')
        .ok_or(AccessError::Malformed)?;
    if !["bearer", "api-key"].contains(&&*scheme.to_ascii_lowercase()) {
        return Err(AccessError::Malformed);
    }
    let plain = plain.trim_start();
    let (prefix, _) = plain.split_once('.').ok_or(AccessError::Unknown)?;
    let key = keys.get(prefix).ok_or(AccessError::Unknown)?;
    let digest = Digest::of(plain.as_bytes());
    if bool::from(digest.as_bytes().ct_eq(key.digest.as_bytes())) {
        Ok(key)
    } else {
        Err(AccessError::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn generate(key_type: KeyType, models: &[Id]) -> (ApiKey, PlainKey) {
        let models = models.iter().copied().collect();
        ApiKey::generate(key_type, None, models, Timestamp::UNIX_EPOCH)
    }

    fn keys() -> (BTreeMap<String, Arc<ApiKey>>, PlainKey) {
        let (key, plain) = generate(KeyType::Personal, &[]);
        let (other, _) = generate(KeyType::WorkspaceInvoke, &[]);
        let keys = [key, other].map(|key| (key.prefix.clone(), key.into()));
        (BTreeMap::from(keys), plain)
    }

    #[test]
    fn both_forms_of_the_header_are_understood() {
        let (keys, plain) = keys();
        for scheme in ["Bearer", "Api-Key", "bearer", "API-KEY"] {
            let header = format!("{scheme} {}", plain.reveal());
            let key = verify(Some(header.as_bytes()), &keys).unwrap();
            assert_eq!(key.key_type, KeyType::Personal);
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let (keys, plain) = keys();
        let text = plain.reveal();
        let (prefix, secret) = text.split_once('.').unwrap();
        let other = keys.keys().find(|key| *key != prefix).unwrap();
        let refused = |header: &str| verify(Some(header.as_bytes()), &keys).unwrap_err();
        assert_eq!(verify(None, &keys), Err(AccessError::Missing));
        assert_eq!(
            verify(Some(b"Bearer \xff.x"), &keys),
            Err(AccessError::Malformed)
        );
        for header in [
            "",
            "Bearer",
            text,
            &format!("Basic {text}"),
            &"x ".repeat(400),
        ] {
            assert_eq!(refused(header), AccessError::Malformed, "{header}");
        }
        for key in [
            "x".to_owned(),
            prefix.to_owned(),
            format!("{prefix}."),
            format!("{prefix}.{}", &secret[1..]),
            format!("{other}.{secret}"),
            format!("{text}x"),
            format!(".{secret}"),
        ] {
            assert_eq!(
                refused(&format!("Bearer {key}")),
                AccessError::Unknown,
                "{key}"
            );
        }
    }

    #[test]
    fn a_key_is_stored_without_its_secret_and_not_printed() {
        let (key, plain) = generate(KeyType::WorkspaceManageAll, &[]);
        let secret = plain.reveal().split_once('.').unwrap().1;
        assert_eq!((key.prefix.len(), secret.len()), (8, SECRET_LENGTH));
        assert!(!serde_json::to_string(&key).unwrap().contains(secret));
        assert!(!format!("{key:?} {plain:?}").contains(secret));
        assert!(
            serde_json::to_string(&key)
                .unwrap()
                .contains("\"type\":\"WORKSPACE_MANAGE_ALL\"")
        );
    }

    #[test]
    fn each_type_permits_its_own() {
        use Action::{ExportMetrics, Invoke, Manage, ManageApiKeys};
        let actions = [Invoke, Manage, ManageApiKeys, ExportMetrics];
        for (key_type, permitted) in [
            (KeyType::Personal, &actions[..]),
            (KeyType::WorkspaceManageAll, &actions),
            (KeyType::WorkspaceInvoke, &[Invoke]),
            (KeyType::WorkspaceManageApiKeys, &[ManageApiKeys]),
            (KeyType::WorkspaceExportMetrics, &[ExportMetrics]),
        ] {
            let (key, _) = generate(key_type, &[]);
            for action in actions {
                assert_eq!(
                    key.permits(action),
                    permitted.contains(&action),
                    "{action:?}"
                );
            }
        }
    }

    #[test]
    fn a_key_covers_the_models_that_it_names_or_all() {
        let (mine, other) = (Id::new(), Id::new());
        let (limited, _) = generate(KeyType::WorkspaceInvoke, &[mine]);
        assert!(limited.covers(mine) && !limited.covers(other));
        let (unlimited, _) = generate(KeyType::WorkspaceInvoke, &[]);
        assert!(unlimited.covers(mine) && unlimited.covers(other));
    }

    #[test]
    fn nobody_gives_more_than_they_have() {
        use KeyType::*;
        for admin in [Personal, WorkspaceManageAll] {
            assert!(admin.may_manage(Personal));
            assert!(!WorkspaceManageApiKeys.may_manage(admin));
        }
        for other in [
            WorkspaceInvoke,
            WorkspaceExportMetrics,
            WorkspaceManageApiKeys,
        ] {
            assert!(WorkspaceManageApiKeys.may_manage(other));
            assert!(!WorkspaceInvoke.may_manage(other));
        }
    }

    #[test]
    fn a_new_key_keeps_the_rules() {
        let models = |count| vec!["m".to_owned(); count];
        assert!(check_new(KeyType::WorkspaceInvoke, Some("CI"), &models(100)).is_ok());
        assert!(check_new(KeyType::WorkspaceInvoke, None, &models(101)).is_err());
        assert!(check_new(KeyType::Personal, Some("é x"), &[]).is_ok());
        assert!(check_new(KeyType::Personal, None, &models(1)).is_err());
        for name in ["", " ", "a\nb", &"x".repeat(101)] {
            assert!(
                check_new(KeyType::Personal, Some(name), &[]).is_err(),
                "{name:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_header_is_answered(header: Vec<u8>) {
            prop_assert!(verify(Some(&header), &keys().0).is_err());
        }
    }
}
