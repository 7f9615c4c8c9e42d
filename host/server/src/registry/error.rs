//! Why the registry did not do what it was asked.

use samovar_store::StoreError;
use samovar_store::vault::VaultError;
use samovar_types::id::DeploymentId;
use samovar_types::settings::InvalidSetting;

/// Why a change was not made or a thing not found.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such model.
    #[error("there is no model {model:?}")]
    NoModel {
        /// The id or name that was asked for.
        model: String,
    },
    /// The model has no such deployment.
    #[error("model {model} has no deployment {deployment}")]
    NoDeployment {
        /// The model's id or name.
        model: String,
        /// The deployment's id.
        deployment: DeploymentId,
    },
    /// The model has no such environment.
    #[error("model {model} has no environment {environment:?}")]
    NoEnvironment {
        /// The model's name.
        model: String,
        /// The environment.
        environment: String,
    },
    /// The change does not fit what is there.
    #[error(transparent)]
    Refused(#[from] crate::domain::changes::Refusal),
    /// A secret cannot be sealed or read.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// Nobody could manage the server any more.
    #[error(
        "the API key {prefix} is the last that may do everything: make another of type WORKSPACE_MANAGE_ALL first"
    )]
    LastAdminKey {
        /// The key's public part.
        prefix: String,
    },
    /// There are too many already.
    #[error("there are {limit} {what} already, which is the most: delete some first")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// What was asked for breaks a rule.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
    /// A stored document cannot be read.
    #[error(
        "the stored document {key} cannot be read: {source}. Was it written by a newer release?"
    )]
    Unreadable {
        /// Its key.
        key: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A document would be written over one that cannot be read.
    #[error(
        "the stored document {key} cannot be read ({reason}) and is not overwritten. Was it written by a newer release?"
    )]
    InTheWay {
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A change notes nothing for the audit log, so it was not made.
    #[error("a change of model {model} tells the audit log nothing, so it was not made")]
    Unaudited {
        /// The model's name.
        model: String,
    },
    /// Others changed the same thing all the time.
    #[error(
        "others changed the same thing {} times meanwhile: try again",
        super::ATTEMPTS
    )]
    Contended,
    /// Another node has taken the lease that the change was made on account of.
    #[error("this node no longer holds the lease {lease}: another node acts now")]
    LeaseLost {
        /// The lease's name.
        lease: String,
    },
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}
