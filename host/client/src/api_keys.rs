//! Calls for API keys.

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
    /// The server cannot be reached, or refuses the request.
    pub async fn api_keys(&self) -> Result<Received<ListApiKeysResponse>, ClientError> {
        self.call(Method::GET, &["v1", "api_keys"]).json().await
    }

    /// Creates a key. The response has the complete key, which the server does not show again.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn create_api_key(
        &self,
        request: &CreateApiKeyRequest,
    ) -> Result<Received<CreateApiKeyResponse>, ClientError> {
        self.call(Method::POST, &["v1", "api_keys"])
            .body(request)
            .json()
            .await
    }

    /// Deletes a key, given by its public part.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn delete_api_key(
        &self,
        prefix: &str,
    ) -> Result<Received<DeleteApiKeyResponse>, ClientError> {
        self.call(Method::DELETE, &["v1", "api_keys", prefix])
            .json()
            .await
    }
}
