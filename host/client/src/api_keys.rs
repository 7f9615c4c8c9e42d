//! API keys: listed, made, deleted.

use reqwest::Method;
use samovar_types::api::api_keys::{
    CreateApiKeyRequest, CreateApiKeyResponse, DeleteApiKeyResponse, ListApiKeysResponse,
};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Lists the keys, without their secret parts.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn api_keys(&self) -> Result<Received<ListApiKeysResponse>, ClientError> {
        self.call(Method::GET, &["v1", "api_keys"]).json().await
    }

    /// Makes a key, which is shown whole once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn create_api_key(
        &self,
        request: &CreateApiKeyRequest,
    ) -> Result<Received<CreateApiKeyResponse>, ClientError> {
        self.call(Method::POST, &["v1", "api_keys"])
            .body(request)
            .json()
            .await
    }

    /// Deletes a key, by its public part.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn delete_api_key(
        &self,
        prefix: &str,
    ) -> Result<Received<DeleteApiKeyResponse>, ClientError> {
        self.call(Method::DELETE, &["v1", "api_keys", prefix])
            .json()
            .await
    }
}
