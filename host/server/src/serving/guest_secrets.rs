//! The secrets of the deployments that this node serves, as their guests read them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use samovar_runtime::{Config, WeakConfig};
use secrecy::ExposeSecret as _;

use crate::registry::{RegistryError, Secrets};

/// Why a bundle does not get its secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// Some are not on the server.
    #[error("{}", missing_text(names))]
    Missing {
        /// Their names.
        names: Vec<String>,
    },
    /// They cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

fn missing_text(names: &[String]) -> String {
    let commands: Vec<String> = names
        .iter()
        .map(|name| format!("`samovar secret set {name}`"))
        .collect();
    format!(
        "the manifest names secrets that the server does not have: {}; set them first with {}",
        names.join(", "),
        commands.join(", ")
    )
}

/// The secrets of the deployments that this node serves.
pub struct GuestSecrets {
    secrets: Secrets,
    configs: Mutex<Vec<Named>>,
    /// Held while values are read and handed on, so that an older value never follows a newer one.
    refreshing: tokio::sync::Mutex<()>,
}

/// The config of a deployment, and the secrets in it.
struct Named {
    names: BTreeSet<String>,
    config: WeakConfig,
}

impl GuestSecrets {
    /// The secrets of no deployment yet.
    pub fn new(secrets: Secrets) -> Self {
        Self {
            secrets,
            configs: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        }
    }

    /// Refuses names of which the server has no secret.
    ///
    /// # Errors
    /// The names, and how to set them.
    pub async fn require(&self, names: &BTreeSet<String>) -> Result<(), SecretsError> {
        let values = self.secrets.values(names).await?;
        let missing = names.iter().filter(|name| !values.contains_key(*name));
        let names: Vec<String> = missing.cloned().collect();
        if names.is_empty() {
            Ok(())
        } else {
            Err(SecretsError::Missing { names })
        }
    }

    /// A config with the values of these secrets, kept current until it is dropped.
    ///
    /// # Errors
    /// When a value cannot be read.
    pub async fn config(&self, names: &BTreeSet<String>) -> Result<Config, SecretsError> {
        let config = Config::default();
        if names.is_empty() {
            return Ok(config);
        }
        // Known before it is filled, so that no change falls between.
        {
            let mut configs = self.lock();
            configs.retain(|named| named.config.upgrade().is_some());
            configs.push(Named {
                names: names.clone(),
                config: config.downgrade(),
            });
        }
        let _turn = self.refreshing.lock().await;
        self.fill(names, &config).await?;
        Ok(config)
    }

    /// Hands the values of now to every config that holds one of these secrets, or to all of them.
    ///
    /// # Errors
    /// When a value cannot be read; other configs have theirs nevertheless.
    pub async fn refresh(&self, changed: Option<&BTreeSet<String>>) -> Result<(), RegistryError> {
        let concerned: Vec<(BTreeSet<String>, Config)> = {
            let mut configs = self.lock();
            configs.retain(|named| named.config.upgrade().is_some());
            let concerned = configs
                .iter()
                .filter(|named| changed.is_none_or(|changed| !changed.is_disjoint(&named.names)));
            concerned
                .filter_map(|named| Some((named.names.clone(), named.config.upgrade()?)))
                .collect()
        };
        let _turn = self.refreshing.lock().await;
        let mut failed = Ok(());
        for (names, config) in concerned {
            if let Err(error) = self.fill(&names, &config).await {
                failed = Err(error);
            }
        }
        failed
    }

    async fn fill(&self, names: &BTreeSet<String>, config: &Config) -> Result<(), RegistryError> {
        let values = self.secrets.values(names).await?;
        let values = values
            .iter()
            .map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        config.set(values.collect());
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Named>> {
        // A list of weak handles is whole at every instant.
        self.configs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_its_command() {
        let names = ["A", "B"].map(String::from).to_vec();
        let text = SecretsError::Missing { names }.to_string();
        assert!(text.contains("have: A, B;"), "{text}");
        assert!(text.contains("`samovar secret set B`"), "{text}");
    }
}
