//! API keys in the store.

use std::collections::BTreeMap;

use samovar_store::{Expect, Op, Rev, StoreError};
use samovar_types::id::ApiKeyId;

use super::{ATTEMPTS, Registry, RegistryError, audit, put, read};
use crate::domain::api_key::ApiKey;
use crate::domain::audit::{Act, Note};
use crate::domain::keys;

/// API keys of a server.
pub const MAX_API_KEYS: usize = 10_000;

impl Registry {
    /// Whether any key is stored, readable or not.
    pub async fn has_api_keys(&self) -> Result<bool, RegistryError> {
        Ok(!self.store.list(keys::API_KEYS).await?.docs.is_empty())
    }

    /// All API keys by their prefixes.
    pub async fn api_keys(&self) -> Result<BTreeMap<String, ApiKey>, RegistryError> {
        let listing = self.store.list(keys::API_KEYS).await?;
        let keys = listing.docs.iter();
        let keys = keys.filter_map(|doc| self.unreadable.read::<ApiKey>(doc));
        Ok(keys.map(|key| (key.prefix.clone(), key)).collect())
    }

    /// Stores an API key. Whoever has to keep its plain text does so first, so that no key is valid that nobody knows.
    pub async fn add_api_key(&self, key: &ApiKey) -> Result<Rev, RegistryError> {
        if self.store.list(keys::API_KEYS).await?.docs.len() >= MAX_API_KEYS {
            return Err(RegistryError::TooMany {
                what: "API keys",
                limit: MAX_API_KEYS,
            });
        }
        let mut ops = vec![put(keys::api_key(&key.prefix), key, Expect::Absent)?];
        let note = Note::of_server(Act::ApiKeyCreated(key.into()));
        ops.extend(audit::entries(&self.author, vec![note])?);
        Ok(self.store.commit(ops).await?)
    }

    /// Removes an API key, and answers the commit if it was there. The last one that may do everything stays.
    pub async fn delete_api_key(&self, prefix: &str) -> Result<Option<Rev>, RegistryError> {
        // What is no prefix is no key's either; and no store has to be asked for a wild key.
        if prefix.parse::<ApiKeyId>().is_err() {
            return Ok(None);
        }
        for _ in 0..ATTEMPTS {
            let docs = self.store.list(keys::API_KEYS).await?.docs;
            let Some(doc) = docs.iter().find(|doc| doc.key == keys::api_key(prefix)) else {
                return Ok(None);
            };
            let key: ApiKey = read(doc)?;
            let mut ops = vec![Op::delete(&*doc.key, Expect::Rev(doc.rev))];
            if key.key_type.is_admin() {
                let other = docs
                    .iter()
                    .filter(|one| one.key != doc.key)
                    .find(|one| read::<ApiKey>(one).is_ok_and(|other| other.key_type.is_admin()));
                let other = other.ok_or_else(|| RegistryError::LastAdminKey {
                    prefix: key.prefix.clone(),
                })?;
                // Two that are removed at the same time must not each count on the other.
                ops.push(Op::check(&*other.key, Expect::Rev(other.rev)));
            }
            let note = Note::of_server(Act::ApiKeyDeleted((&key).into()));
            ops.extend(audit::entries(&self.author, vec![note])?);
            match self.store.commit(ops).await {
                Ok(rev) => return Ok(Some(rev)),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use samovar_store::sqlite::SqliteStore;
    use samovar_types::api_key::KeyType;

    use super::*;

    #[tokio::test]
    async fn the_last_admin_key_stays_however_many_are_removed_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db")).await;
        let registry = Registry::new(Arc::new(store.unwrap()));
        let generate =
            |key_type| ApiKey::generate(key_type, None, [].into(), Timestamp::UNIX_EPOCH).0;
        let mut admins = Vec::new();
        for key_type in [KeyType::Personal, KeyType::WorkspaceManageAll] {
            for _ in 0..4 {
                admins.push(generate(key_type));
            }
        }
        let other = generate(KeyType::WorkspaceInvoke);
        for key in admins.iter().chain([&other]) {
            registry.add_api_key(key).await.unwrap();
        }
        let deletions = admins.iter().map(|key| {
            let (registry, prefix) = (registry.clone(), key.prefix.clone());
            tokio::spawn(async move { registry.delete_api_key(&prefix).await })
        });
        let ended = futures::future::join_all(deletions.collect::<Vec<_>>()).await;
        let refused = ended.into_iter().filter(|one| match one.as_ref().unwrap() {
            Ok(deleted) => deleted.is_none(),
            Err(error) => matches!(error, RegistryError::LastAdminKey { .. }),
        });
        assert_eq!(refused.count(), 1);
        assert!(
            registry
                .delete_api_key(&other.prefix)
                .await
                .unwrap()
                .is_some()
        );
        let left = registry.api_keys().await.unwrap();
        assert_eq!(left.len(), 1);
        assert!(left.values().all(|key| key.key_type.is_admin()));
    }
}
