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
//! | `leases/{name}` | who holds a lease; the store's own |

use crate::ids::Id;

/// All models.
pub const MODELS: &str = "models/";
/// All deployments of all models.
pub const DEPLOYMENTS: &str = "deployments/";
/// All environments of all models.
pub const ENVIRONMENTS: &str = "environments/";
/// All API keys.
pub const API_KEYS: &str = "api-keys/";
/// Whose server it is.
pub const ORGANIZATION: &str = "organization";
/// All secrets.
pub const SECRETS: &str = "secrets/";
/// The webhook signing secrets, in one document.
pub const WEBHOOK_SECRETS: &str = "webhook-secrets/all";

/// A model.
pub fn model(id: Id) -> String {
    format!("{MODELS}{id}")
}

/// The name of a model.
pub fn model_name(name: &str) -> String {
    format!("model-names/{name}")
}

/// All deployments of a model.
pub fn deployments(model_id: Id) -> String {
    format!("{DEPLOYMENTS}{model_id}/")
}

/// A deployment.
pub fn deployment(model_id: Id, id: Id) -> String {
    format!("{DEPLOYMENTS}{model_id}/{id}")
}

/// All environments of a model.
pub fn environments(model_id: Id) -> String {
    format!("{ENVIRONMENTS}{model_id}/")
}

/// An environment.
pub fn environment(model_id: Id, name: &str) -> String {
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

/// What a webhook secret is sealed for.
pub fn webhook_secret(id: Id) -> String {
    format!("webhook-secrets/{id}")
}
