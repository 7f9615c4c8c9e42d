//! The organization in the store.

use jiff::Timestamp;
use samovar_store::{Expect, StoreError};

use super::{ATTEMPTS, Registry, RegistryError, put, read};
use crate::domain::keys;
use crate::domain::organization::Organization;
use crate::random::random_id;

impl Registry {
    /// Makes the organization of a store that has none. One that cannot be read is reported, and does not stop a node.
    pub async fn make_organization(&self, now: Timestamp) -> Result<(), RegistryError> {
        match self.organization(now).await {
            Err(RegistryError::Unreadable { key, source }) => {
                self.unreadable.report(&key, source.to_string());
                Ok(())
            }
            made => made.map(drop),
        }
    }

    /// The organization, made when there is none.
    pub async fn organization(&self, now: Timestamp) -> Result<Organization, RegistryError> {
        for _ in 0..ATTEMPTS {
            if let Some(doc) = self.store.get(keys::ORGANIZATION).await? {
                return read(&doc);
            }
            let organization = Organization {
                id: random_id(),
                created_at: now,
            };
            let op = put(keys::ORGANIZATION, &organization, Expect::Absent)?;
            match self.store.commit(vec![op]).await {
                Ok(_) => return Ok(organization),
                // Another node was faster: its organization is ours.
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

    use samovar_store::sqlite::SqliteStore;

    use super::*;

    #[tokio::test]
    async fn there_is_one_organization_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db")).await;
        let registry = Registry::new(Arc::new(store.unwrap()));
        let first = registry.organization(Timestamp::UNIX_EPOCH).await.unwrap();
        let again = registry.organization(Timestamp::MAX).await.unwrap();
        assert_eq!(first, again);
    }
}
