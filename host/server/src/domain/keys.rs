//! Under which keys documents are stored.
//!
//! | key | holds |
//! | --- | --- |
//! | `models/{id}` | [`Model`](super::model::Model) |
//! | `model-names/{name}` | the id of the model of that name, so that a name is taken once |
//! | `deployments/{model_id}/{id}` | [`Deployment`](super::deployment::Deployment) |
//! | `environments/{model_id}/{name}` | [`Environment`](super::environment::Environment) |
//! | `api-keys/{prefix}` | [`ApiKey`](super::api_key::ApiKey) |
//! | `organization` | [`Organization`](super::organization::Organization) |
//! | `secrets/{name}` | [`Secret`](super::secret::Secret) |
//! | `webhook-secrets/all` | the [`WebhookSecret`](super::webhook_secret::WebhookSecret)s, of which there are few |
//! | `audit/{id}` | an [`Entry`](super::audit::Entry) of the audit log; ids are in the order of their times |
//! | `leases/{name}` | who holds a lease; the store's own |

use samovar_types::id::{DeploymentId, ModelId, WebhookSecretId};

/// All models.
pub const MODELS: &str = "models/";
/// All deployments of all models.
pub const DEPLOYMENTS: &str = "deployments/";
/// All environments of all models.
pub const ENVIRONMENTS: &str = "environments/";
/// All API keys.
pub const API_KEYS: &str = "api-keys/";
/// The audit log.
pub const AUDIT: &str = "audit/";
/// Whose server it is.
pub const ORGANIZATION: &str = "organization";
/// All secrets.
pub const SECRETS: &str = "secrets/";
/// The webhook signing secrets, in one document.
pub const WEBHOOK_SECRETS: &str = "webhook-secrets/all";

/// What a key is of, as far as others than its owner need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// A model.
    Model(ModelId),
    /// A deployment of a model.
    Deployment(ModelId, DeploymentId),
    /// An environment of a model.
    Environment(ModelId, &'a str),
    /// An API key, by its prefix.
    ApiKey(&'a str),
    /// A secret, by its name.
    Secret(&'a str),
    /// An entry of the audit log.
    Audit,
}

impl<'a> Key<'a> {
    /// What a key is of.
    pub fn parse(key: &'a str) -> Option<Self> {
        let within = |rest: &'a str| {
            let (model, one) = rest.split_once('/')?;
            Some((model.parse::<ModelId>().ok()?, one))
        };
        if let Some(id) = key.strip_prefix(MODELS) {
            return Some(Self::Model(id.parse().ok()?));
        }
        if let Some(rest) = key.strip_prefix(DEPLOYMENTS) {
            let (model, id) = within(rest)?;
            return Some(Self::Deployment(model, id.parse().ok()?));
        }
        if let Some(rest) = key.strip_prefix(ENVIRONMENTS) {
            let (model, name) = within(rest)?;
            return Some(Self::Environment(model, name));
        }
        if let Some(prefix) = key.strip_prefix(API_KEYS) {
            return Some(Self::ApiKey(prefix));
        }
        if let Some(name) = key.strip_prefix(SECRETS) {
            return Some(Self::Secret(name));
        }
        key.starts_with(AUDIT).then_some(Self::Audit)
    }
}

/// A model.
pub fn model(id: ModelId) -> String {
    format!("{MODELS}{id}")
}

/// The name of a model.
pub fn model_name(name: &str) -> String {
    format!("model-names/{name}")
}

/// All deployments of a model.
pub fn deployments(model_id: ModelId) -> String {
    format!("{DEPLOYMENTS}{model_id}/")
}

/// A deployment.
pub fn deployment(model_id: ModelId, id: DeploymentId) -> String {
    format!("{DEPLOYMENTS}{model_id}/{id}")
}

/// All environments of a model.
pub fn environments(model_id: ModelId) -> String {
    format!("{ENVIRONMENTS}{model_id}/")
}

/// An environment.
pub fn environment(model_id: ModelId, name: &str) -> String {
    format!("{ENVIRONMENTS}{model_id}/{name}")
}

/// An API key.
pub fn api_key(prefix: &str) -> String {
    format!("{API_KEYS}{prefix}")
}

/// A secret.
pub fn secret(name: &str) -> String {
    format!("{SECRETS}{name}")
}

/// An entry of the audit log.
pub fn audit(id: &str) -> String {
    format!("{AUDIT}{id}")
}

/// What a webhook secret is sealed for.
pub fn webhook_secret(id: WebhookSecretId) -> String {
    format!("webhook-secrets/{id}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random_id;

    #[test]
    fn keys_are_read_back() {
        let (one, other) = (random_id(), random_id());
        assert_eq!(Key::parse(&model(one)), Some(Key::Model(one)));
        let key = deployment(one, other);
        assert_eq!(Key::parse(&key), Some(Key::Deployment(one, other)));
        let key = environment(one, "staging");
        assert_eq!(Key::parse(&key), Some(Key::Environment(one, "staging")));
        assert_eq!(Key::parse("api-keys/x"), Some(Key::ApiKey("x")));
        assert_eq!(Key::parse("audit/x"), Some(Key::Audit));
        assert_eq!(Key::parse("secrets/X"), Some(Key::Secret("X")));
        for other in ["model-names/x", "models/x", "deployments/x"] {
            assert_eq!(Key::parse(other), None, "{other}");
        }
    }
}
