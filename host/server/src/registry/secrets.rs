//! Secrets in the store, sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use samovar_store::vault::Vault;
use samovar_store::{DocStore, Expect, Op, Rev, StoreError};
use samovar_types::names;
use secrecy::{ExposeSecret as _, SecretString};

use super::{ATTEMPTS, RegistryError, UnreadableDocuments, audit, put, read};
use crate::domain::audit::{Act, Author, Note};
use crate::domain::keys;
use crate::domain::secret::{MAX_SECRETS, Secret};
use crate::random::random_id;

/// The secrets in a store, as somebody changes them.
#[derive(Clone)]
pub struct Secrets {
    store: Arc<dyn DocStore>,
    author: Author,
    vault: Arc<Vault>,
    setting: Arc<tokio::sync::Mutex<()>>,
    unreadable: UnreadableDocuments,
}

impl Secrets {
    /// The secrets in a store, sealed by that vault, as the server itself changes them.
    pub fn new(store: Arc<dyn DocStore>, vault: Arc<Vault>) -> Self {
        Self {
            store,
            author: Author::SYSTEM,
            vault,
            setting: Arc::default(),
            unreadable: UnreadableDocuments::default(),
        }
    }

    /// Reports documents that cannot be read there.
    #[must_use]
    pub fn reporting_to(self, unreadable: &UnreadableDocuments) -> Self {
        Self {
            unreadable: unreadable.clone(),
            ..self
        }
    }

    /// The same secrets, for changes that this author makes.
    #[must_use]
    pub fn by(&self, author: Author) -> Self {
        Self {
            author,
            ..self.clone()
        }
    }

    /// All secrets, ordered by name.
    pub async fn list(&self) -> Result<Vec<Secret>, RegistryError> {
        let listing = self.store.list(keys::SECRETS).await?;
        let docs = listing.docs.iter();
        Ok(docs.filter_map(|doc| self.unreadable.read(doc)).collect())
    }

    /// Sets a secret, whether it was there or not. Answers it, and the commit.
    pub async fn set(
        &self,
        name: &str,
        value: &SecretString,
        now: Timestamp,
    ) -> Result<(Secret, Rev), RegistryError> {
        samovar_types::secret::check(name, value.expose_secret())?;
        let place = keys::secret(name);
        // Changes of this node wait for each other, so that all of them together keep the limit.
        let _turn = self.setting.lock().await;
        for _ in 0..ATTEMPTS {
            let before = self.store.get(&place).await?;
            let (id, created_at, expect) = match &before {
                Some(doc) => match self.unreadable.read::<Secret>(doc) {
                    Some(before) => (before.id, before.created_at, Expect::Rev(doc.rev)),
                    // What it held is lost; this mends it.
                    None => (random_id(), now, Expect::Rev(doc.rev)),
                },
                None => (random_id(), now, Expect::Absent),
            };
            if before.is_none() && self.list().await?.len() >= MAX_SECRETS {
                return Err(RegistryError::TooMany {
                    what: "secrets",
                    limit: MAX_SECRETS,
                });
            }
            let secret = Secret {
                id,
                name: name.to_owned(),
                created_at,
                sealed: self.vault.seal(&place, value)?,
            };
            let note = Note::of_server(Act::SecretUpdated((&secret).into()));
            let mut ops = vec![put(&*place, &secret, expect)?];
            ops.extend(audit::entries(&self.author, vec![note])?);
            match self.store.commit(ops).await {
                Ok(rev) => return Ok((secret, rev)),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended)
    }

    /// Deletes a secret, and answers the commit if it was there.
    pub async fn delete(&self, name: &str) -> Result<Option<Rev>, RegistryError> {
        if names::check_variable(name).is_err() {
            return Ok(None);
        }
        let place = keys::secret(name);
        for _ in 0..ATTEMPTS {
            let Some(doc) = self.store.get(&place).await? else {
                return Ok(None);
            };
            let secret: Secret = read(&doc)?;
            let note = Note::of_server(Act::SecretDeleted((&secret).into()));
            // Whoever deletes it beside this deletes it alone, and is told of alone.
            let mut ops = vec![Op::delete(&*place, Expect::Rev(doc.rev))];
            ops.extend(audit::entries(&self.author, vec![note])?);
            match self.store.commit(ops).await {
                Ok(rev) => return Ok(Some(rev)),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended)
    }

    /// The values of those secrets that are there and can be read.
    pub async fn values(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, SecretString>, RegistryError> {
        let mut values = BTreeMap::new();
        for name in names {
            let place = keys::secret(name);
            if let Some(doc) = self.store.get(&place).await?
                && let Some(secret) = self.unreadable.read::<Secret>(&doc)
            {
                values.insert(name.clone(), self.vault.unseal(&place, &secret.sealed)?);
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use samovar_store::sqlite::SqliteStore;
    use samovar_store::vault::KeyAbsent;

    use super::*;

    async fn secrets() -> (Secrets, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db")).await;
        let vault = Vault::open(&folder.path().join("secrets.key"), KeyAbsent::Create);
        let secrets = Secrets::new(Arc::new(store.unwrap()), Arc::new(vault.unwrap()));
        (secrets, folder)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[tokio::test]
    async fn a_secret_is_set_changed_read_and_deleted() {
        let (secrets, _folder) = secrets().await;
        secrets.set("A", &"one".into(), at(1)).await.unwrap();
        secrets.set("B", &"two".into(), at(2)).await.unwrap();
        let (changed, _) = secrets.set("A", &"three".into(), at(3)).await.unwrap();
        assert_eq!(changed.created_at, at(1));
        let names = ["A", "C"].map(String::from).into();
        let values = secrets.values(&names).await.unwrap();
        let read: Vec<_> = values
            .iter()
            .map(|(name, value)| (&**name, value.expose_secret()))
            .collect();
        assert_eq!(read, [("A", "three")]);
        assert!(secrets.delete("A").await.unwrap().is_some());
        assert_eq!(secrets.delete("A").await.unwrap(), None);
        assert_eq!(secrets.delete("../A").await.unwrap(), None);
        let listed = secrets.list().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].name, "B");
    }

    #[tokio::test]
    async fn one_secret_is_not_put_in_anothers_place() {
        let (secrets, _folder) = secrets().await;
        secrets.set("A", &"one".into(), at(1)).await.unwrap();
        let doc = secrets.store.get("secrets/A").await.unwrap().unwrap();
        let op = Op::put("secrets/B", doc.value, Expect::Absent);
        secrets.store.commit(vec![op]).await.unwrap();
        let error = secrets.values(&["B".to_owned()].into()).await.unwrap_err();
        assert!(
            error.to_string().contains("secrets/B was changed"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn there_are_only_so_many() {
        let (secrets, _folder) = secrets().await;
        let ops = (0..MAX_SECRETS).map(|number| {
            let name = format!("S{number}");
            let place = keys::secret(&name);
            let sealed = secrets.vault.seal(&place, &"x".into()).unwrap();
            let created_at = at(0);
            let secret = Secret {
                id: random_id(),
                name,
                created_at,
                sealed,
            };
            put(place, &secret, Expect::Absent).unwrap()
        });
        secrets.store.commit(ops.collect()).await.unwrap();
        let error = secrets.set("MORE", &"x".into(), at(1)).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooMany { .. }), "{error}");
        secrets.set("S7", &"y".into(), at(1)).await.unwrap();
    }
}
