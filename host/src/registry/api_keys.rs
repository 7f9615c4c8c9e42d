//! API keys in the store.

use std::collections::BTreeMap;

use super::{Registry, RegistryError, put, read};
use crate::domain::api_key::ApiKey;
use crate::domain::keys;
use crate::ids::Id;
use crate::state::{Expect, Op};

/// API keys of a server.
pub const MAX_API_KEYS: usize = 10_000;

impl Registry {
    /// All API keys by their prefixes.
    pub async fn api_keys(&self) -> Result<BTreeMap<String, ApiKey>, RegistryError> {
        let listing = self.store.list(keys::API_KEYS).await?;
        let keys = listing.docs.iter().map(read::<ApiKey>);
        keys.map(|key| key.map(|key| (key.prefix.clone(), key)))
            .collect()
    }

    /// Stores an API key. Whoever has to keep its plain text does so first, so that no key is valid that nobody knows.
    pub async fn add_api_key(&self, key: &ApiKey) -> Result<(), RegistryError> {
        if self.store.list(keys::API_KEYS).await?.docs.len() >= MAX_API_KEYS {
            return Err(RegistryError::TooMany {
                what: "API keys",
                limit: MAX_API_KEYS,
            });
        }
        let op = put(keys::api_key(&key.prefix), key, Expect::Absent)?;
        self.store.commit(vec![op]).await?;
        Ok(())
    }

    /// Removes an API key, and says what it was if it was there.
    pub async fn delete_api_key(&self, prefix: &str) -> Result<Option<ApiKey>, RegistryError> {
        // What is no prefix is no key's either; and no store has to be asked for a wild key.
        if prefix.parse::<Id>().is_err() {
            return Ok(None);
        }
        let key = keys::api_key(prefix);
        let Some(doc) = self.store.get(&key).await? else {
            return Ok(None);
        };
        self.store
            .commit(vec![Op::delete(key, Expect::Any)])
            .await?;
        read(&doc).map(Some)
    }
}
