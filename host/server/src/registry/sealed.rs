//! Opens the vault of a store, and sees that it can read what is sealed there.

use std::path::Path;

use samovar_store::vault::{KeyAbsent, Vault};
use samovar_store::{DocStore, Expect, Op};

use super::{RegistryError, UnreadableDocuments, audit, put};
use crate::domain::audit::{Act, Author, Note};
use crate::domain::keys;
use crate::domain::secret::Secret;
use crate::domain::webhook_secret::WebhookSecret;

/// What to do with secrets whose key is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostSecrets {
    /// Say which, and do not start: the key may be elsewhere.
    Refuse,
    /// Delete them.
    Discard,
}

/// Opens the vault whose key is in that file, and makes the key if nothing was ever sealed.
///
/// # Errors
/// When the file holds no key, or not the one that sealed the store's secrets.
pub async fn open_vault(
    store: &dyn DocStore,
    key_file: &Path,
    lost: LostSecrets,
    unreadable: &UnreadableDocuments,
) -> Result<Vault, RegistryError> {
    let docs = store.list(keys::SECRETS).await?.docs;
    let webhook_doc = store.get(keys::WEBHOOK_SECRETS).await?;
    let readable = docs.iter().filter_map(|doc| {
        let secret = unreadable.read::<Secret>(doc)?;
        Some((doc.key.clone(), secret))
    });
    let secrets: Vec<(String, Secret)> = readable.collect();
    let webhook_secrets: Option<Vec<WebhookSecret>> = match &webhook_doc {
        Some(doc) => unreadable.read(doc),
        None => Some(Vec::new()),
    };
    // What cannot be read is sealed too, and is neither checked nor deleted.
    let nothing_sealed = docs.is_empty() && webhook_secrets.as_ref().is_some_and(Vec::is_empty);
    let webhook_secrets = webhook_secrets.unwrap_or_default();
    let absent = if nothing_sealed || lost == LostSecrets::Discard {
        KeyAbsent::Create
    } else {
        KeyAbsent::Refuse
    };
    let vault = Vault::open(key_file, absent)?;
    if lost == LostSecrets::Refuse {
        for (place, secret) in &secrets {
            vault.check_key(place, &secret.sealed)?;
        }
        for one in &webhook_secrets {
            vault.check_key(&keys::webhook_secret(one.id), &one.sealed)?;
        }
        return Ok(vault);
    }
    let sealed_otherwise = secrets
        .into_iter()
        .filter(|(place, secret)| vault.check_key(place, &secret.sealed).is_err());
    let mut notes = Vec::new();
    let mut ops: Vec<Op> = sealed_otherwise
        .map(|(place, secret)| {
            tracing::warn!(%place, "deleted: its key is lost");
            notes.push(Note::of_server(Act::SecretDeleted((&secret).into())));
            Op::delete(place, Expect::Any)
        })
        .collect();
    let (readable, lost): (Vec<_>, Vec<_>) = webhook_secrets.into_iter().partition(|one| {
        let place = keys::webhook_secret(one.id);
        vault.check_key(&place, &one.sealed).is_ok()
    });
    if !lost.is_empty() {
        tracing::warn!("deleted webhook secrets whose key is lost");
        ops.push(put(keys::WEBHOOK_SECRETS, &readable, Expect::Any)?);
        let deleted = lost
            .iter()
            .map(|one| Act::WebhookSigningSecretDeleted(one.id.into()));
        notes.extend(deleted.map(Note::of_server));
    }
    if !ops.is_empty() {
        ops.extend(audit::entries(&Author::SYSTEM, notes)?);
        store.commit(ops).await?;
    }
    Ok(vault)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use samovar_store::sqlite::SqliteStore;
    use samovar_store::vault::VaultError;

    use super::*;
    use crate::registry::{Secrets, WebhookSecrets};

    #[tokio::test]
    async fn a_lost_key_is_told_and_costs_what_it_sealed_only_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
        let now = Timestamp::UNIX_EPOCH;
        let store = SqliteStore::open(&folder.path().join("state.db")).await;
        let store: Arc<dyn DocStore> = Arc::new(store.unwrap());
        let unreadable = UnreadableDocuments::default();
        let open = |key_file, lost| open_vault(&*store, key_file, lost, &unreadable);
        let vault = Arc::new(open(&right, LostSecrets::Refuse).await.unwrap());
        let secrets = Secrets::new(store.clone(), vault.clone());
        secrets.set("HF_TOKEN", &"x".into(), now).await.unwrap();
        let webhooks = WebhookSecrets::new(store.clone(), vault);
        webhooks.rotate(now).await.unwrap();

        let error = open(&wrong, LostSecrets::Refuse).await.unwrap_err();
        assert!(matches!(
            error,
            RegistryError::Vault(VaultError::Missing { .. })
        ));
        Vault::open(&wrong, KeyAbsent::Create).unwrap();
        let error = open(&wrong, LostSecrets::Refuse).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("secrets/HF_TOKEN") && text.contains(&*wrong.to_string_lossy()),
            "{text}"
        );

        // The right key loses nothing, whatever is asked for.
        open(&right, LostSecrets::Discard).await.unwrap();
        assert_eq!(secrets.list().await.unwrap().len(), 1);
        open(&wrong, LostSecrets::Discard).await.unwrap();
        assert!(secrets.list().await.unwrap().is_empty());
        assert!(webhooks.list(now).await.unwrap().is_empty());
        open(&wrong, LostSecrets::Refuse).await.unwrap();
    }
}
