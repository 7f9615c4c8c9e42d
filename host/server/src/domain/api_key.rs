//! API keys as they are stored: how they are made, told apart and checked, and what each may do.
//!
//! A key reads `{prefix}.{secret}`. The prefix is public and names the key; of the whole, only a SHA-256 is stored. No
//! slow hash is needed, because the secret is drawn at random and too long to be guessed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rand::RngExt;
use rand::distr::Alphanumeric;
use samovar_types::api_key::KeyType;
use samovar_types::digest::Digest;
use samovar_types::id::ModelId;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::random::random_text;

/// Characters of a secret; each is worth almost 6 bits.
const SECRET_LENGTH: usize = 40;
/// Longer headers than any key need not be looked at.
const MAX_HEADER_BYTES: usize = 512;
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
    pub model_ids: BTreeSet<ModelId>,
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
        model_ids: BTreeSet<ModelId>,
        now: Timestamp,
    ) -> (Self, PlainKey) {
        let prefix = random_text();
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
    pub fn covers(&self, model: ModelId) -> bool {
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
    use proptest::prelude::*;

    use super::*;
    use crate::random::random_id;

    fn generate(key_type: KeyType, models: &[ModelId]) -> (ApiKey, PlainKey) {
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
        let (mine, other) = (random_id(), random_id());
        let (limited, _) = generate(KeyType::WorkspaceInvoke, &[mine]);
        assert!(limited.covers(mine) && !limited.covers(other));
        let (unlimited, _) = generate(KeyType::WorkspaceInvoke, &[]);
        assert!(unlimited.covers(mine) && unlimited.covers(other));
    }

    proptest! {
        #[test]
        fn any_header_is_answered(header: Vec<u8>) {
            prop_assert!(verify(Some(&header), &keys().0).is_err());
        }
    }
}
