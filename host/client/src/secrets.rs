//! Calls for secrets and webhook secrets.

use reqwest::Method;
use samovar_types::api::secrets::{
    DeleteSecretResponse, ListSecretsResponse, SecretResponse, SetSecretRequest,
};
use samovar_types::api::webhook_secrets::{
    DeleteWebhookSecretResponse, ListWebhookSecretsResponse, RotateWebhookSecretResponse,
};
use samovar_types::id::WebhookSecretId;

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Lists the secrets, without their values.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn secrets(&self) -> Result<Received<ListSecretsResponse>, ClientError> {
        self.call(Method::GET, &["v1", "secrets"]).json().await
    }

    /// Sets a secret.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn set_secret(
        &self,
        request: &SetSecretRequest,
    ) -> Result<Received<SecretResponse>, ClientError> {
        self.call(Method::POST, &["v1", "secrets"])
            .body(request)
            .json()
            .await
    }

    /// Deletes a secret.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn delete_secret(
        &self,
        name: &str,
    ) -> Result<Received<DeleteSecretResponse>, ClientError> {
        self.call(Method::DELETE, &["v1", "secrets", name])
            .json()
            .await
    }

    /// Lists the valid webhook secrets, without their values.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn webhook_secrets(
        &self,
    ) -> Result<Received<ListWebhookSecretsResponse>, ClientError> {
        self.call(Method::GET, &["v1", "webhook_secrets"])
            .json()
            .await
    }

    /// Creates a webhook secret; the previous one stays valid for a day.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn rotate_webhook_secret(
        &self,
    ) -> Result<Received<RotateWebhookSecretResponse>, ClientError> {
        self.call(Method::POST, &["v1", "webhook_secrets"])
            .json()
            .await
    }

    /// Deletes a webhook secret, which becomes invalid at once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn delete_webhook_secret(
        &self,
        id: WebhookSecretId,
    ) -> Result<Received<DeleteWebhookSecretResponse>, ClientError> {
        self.call(Method::DELETE, &["v1", "webhook_secrets", id.as_str()])
            .json()
            .await
    }
}
