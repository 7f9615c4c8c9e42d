//! Webhook signing secrets in the store, sealed.

use std::sync::Arc;

use jiff::Timestamp;
use samovar_store::vault::Vault;
use samovar_store::{DocStore, Expect, StoreError};
use samovar_types::id::WebhookSecretId;
use secrecy::SecretString;

use super::{ATTEMPTS, RegistryError, audit, put, read};
use crate::domain::audit::{Act, Author, Note};
use crate::domain::keys;
use crate::domain::webhook_secret::{MAX_WEBHOOK_SECRETS, WebhookSecret, generate, rotated};
use crate::random::random_id;

/// The webhook secrets in a store, as somebody changes them.
#[derive(Clone)]
pub struct WebhookSecrets {
    store: Arc<dyn DocStore>,
    author: Author,
    vault: Arc<Vault>,
}

impl WebhookSecrets {
    /// The webhook secrets in a store, sealed by that vault, as the server itself changes them.
    pub fn new(store: Arc<dyn DocStore>, vault: Arc<Vault>) -> Self {
        Self {
            store,
            author: Author::SYSTEM,
            vault,
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

    /// Those that are valid at that time, the newest first.
    pub async fn list(&self, now: Timestamp) -> Result<Vec<WebhookSecret>, RegistryError> {
        let (mut secrets, _) = self.stored().await?;
        secrets.retain(|secret| secret.is_live(now));
        Ok(secrets)
    }

    /// What to sign webhooks with at that time: a signature with each of these, the newest first.
    pub async fn live(&self, now: Timestamp) -> Result<Vec<SecretString>, RegistryError> {
        let secrets = self.list(now).await?;
        let values = secrets.iter().map(|secret| {
            let place = keys::webhook_secret(secret.id);
            Ok(self.vault.unseal(&place, &secret.sealed)?)
        });
        values.collect()
    }

    /// Makes one, also in the place of the current one, which is valid for a day more. Its value is told only here.
    pub async fn rotate(
        &self,
        now: Timestamp,
    ) -> Result<(WebhookSecret, SecretString), RegistryError> {
        let (id, value) = (random_id(), generate());
        let secret = WebhookSecret {
            id,
            created_at: now,
            expires_at: None,
            sealed: self.vault.seal(&keys::webhook_secret(id), &value)?,
        };
        for _ in 0..ATTEMPTS {
            let (secrets, expect) = self.stored().await?;
            let act = if secrets.iter().any(|one| one.is_live(now)) {
                Act::WebhookSigningSecretRotated(id.into())
            } else {
                Act::WebhookSigningSecretCreated(id.into())
            };
            let secrets = rotated(secrets, secret.clone());
            if secrets.len() > MAX_WEBHOOK_SECRETS {
                return Err(RegistryError::TooMany {
                    what: "valid webhook secrets",
                    limit: MAX_WEBHOOK_SECRETS,
                });
            }
            if self.replace(&secrets, expect, act).await? {
                return Ok((secret, value));
            }
        }
        Err(RegistryError::Contended)
    }

    /// Makes one invalid at once, and says whether it was valid.
    pub async fn delete(&self, id: WebhookSecretId, now: Timestamp) -> Result<bool, RegistryError> {
        for _ in 0..ATTEMPTS {
            let (mut secrets, expect) = self.stored().await?;
            let there = secrets.iter().any(|one| one.id == id && one.is_live(now));
            secrets.retain(|one| one.id != id && one.is_live(now));
            let act = Act::WebhookSigningSecretDeleted(id.into());
            if !there || self.replace(&secrets, expect, act).await? {
                return Ok(there);
            }
        }
        Err(RegistryError::Contended)
    }

    async fn stored(&self) -> Result<(Vec<WebhookSecret>, Expect), RegistryError> {
        match self.store.get(keys::WEBHOOK_SECRETS).await? {
            Some(doc) => Ok((read(&doc)?, Expect::Rev(doc.rev))),
            None => Ok((Vec::new(), Expect::Absent)),
        }
    }

    /// Says `false` when somebody else was faster.
    async fn replace(
        &self,
        secrets: &[WebhookSecret],
        expect: Expect,
        act: Act,
    ) -> Result<bool, RegistryError> {
        let mut ops = vec![put(keys::WEBHOOK_SECRETS, &secrets, expect)?];
        ops.extend(audit::entries(&self.author, vec![Note::of_server(act)])?);
        match self.store.commit(ops).await {
            Ok(_) => Ok(true),
            Err(StoreError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use samovar_store::sqlite::SqliteStore;
    use samovar_store::vault::KeyAbsent;
    use secrecy::ExposeSecret as _;

    use super::*;

    async fn webhook_secrets() -> (WebhookSecrets, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db")).await;
        let vault = Vault::open(&folder.path().join("secrets.key"), KeyAbsent::Create);
        let secrets = WebhookSecrets::new(Arc::new(store.unwrap()), Arc::new(vault.unwrap()));
        (secrets, folder)
    }

    #[tokio::test]
    async fn a_rotation_keeps_the_old_one_for_a_day_and_a_deletion_does_not() {
        let (secrets, _folder) = webhook_secrets().await;
        let now = Timestamp::UNIX_EPOCH;
        let later = |hours| now + SignedDuration::from_hours(hours);
        let live = async |now| -> Vec<String> {
            let values = secrets.live(now).await.unwrap();
            values
                .iter()
                .map(|one| one.expose_secret().to_owned())
                .collect()
        };
        assert!(live(now).await.is_empty());
        let (_, first) = secrets.rotate(now).await.unwrap();
        assert_eq!(live(later(1000)).await, [first.expose_secret()]);
        let (second, value) = secrets.rotate(later(1)).await.unwrap();
        let both = [value.expose_secret(), first.expose_secret()];
        assert_eq!(live(later(24)).await, both);
        assert_eq!(live(later(25)).await, [value.expose_secret()]);
        assert!(secrets.delete(second.id, later(2)).await.unwrap());
        assert!(!secrets.delete(second.id, later(2)).await.unwrap());
        assert_eq!(live(later(2)).await, [first.expose_secret()]);
    }

    #[tokio::test]
    async fn only_so_many_are_valid_at_a_time() {
        let (secrets, _folder) = webhook_secrets().await;
        let now = Timestamp::UNIX_EPOCH;
        for _ in 0..MAX_WEBHOOK_SECRETS {
            secrets.rotate(now).await.unwrap();
        }
        let error = secrets.rotate(now).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooMany { .. }), "{error}");
        let tomorrow = now + SignedDuration::from_hours(24);
        secrets.rotate(tomorrow).await.unwrap();
        assert_eq!(secrets.list(tomorrow).await.unwrap().len(), 2);
    }
}
