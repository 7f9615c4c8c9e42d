//! Stored documents that cannot be read: reported, and passed over, so that one of them does not stop a node or hide others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use samovar_store::Doc;
use serde::de::DeserializeOwned;

use super::RegistryError;

/// Documents that are reported; more are passed over without a word.
const MAX_KEPT: usize = 1000;

/// The documents of a store that cannot be read, as far as this node has met them.
#[derive(Clone, Debug, Default)]
pub struct UnreadableDocuments(Arc<Mutex<BTreeMap<String, String>>>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableDocument {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl UnreadableDocuments {
    /// Reads a document; nothing when it cannot be read, which is reported.
    pub fn read<T: DeserializeOwned>(&self, doc: &Doc) -> Option<T> {
        match super::read(doc) {
            Ok(value) => {
                self.forget(&doc.key);
                Some(value)
            }
            Err(error) => {
                let reason = match &error {
                    RegistryError::Unreadable { source, .. } => source.to_string(),
                    other => other.to_string(),
                };
                self.report(&doc.key, reason);
                None
            }
        }
    }

    /// Notes that a document cannot be read, and logs that when it is news.
    pub fn report(&self, key: &str, reason: String) {
        let mut documents = self.lock();
        let known = documents.get(key);
        if known == Some(&reason) || known.is_none() && documents.len() >= MAX_KEPT {
            return;
        }
        tracing::error!(
            key,
            reason,
            "stored document cannot be read and is passed over"
        );
        documents.insert(key.to_owned(), reason);
    }

    /// Notes that a document can be read, or is gone.
    pub fn forget(&self, key: &str) {
        let mut documents = self.lock();
        if !documents.is_empty() {
            documents.remove(key);
        }
    }

    /// All of them, ordered by their keys.
    pub fn list(&self) -> Vec<UnreadableDocument> {
        let documents = self.lock();
        let documents = documents.iter();
        documents
            .map(|(key, reason)| UnreadableDocument {
                key: key.clone(),
                reason: reason.clone(),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // One insertion or removal at a time, which no panic cuts in two.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
