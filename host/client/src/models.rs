//! Calls for models.

use std::time::Duration;

use reqwest::Method;
use samovar_types::api::models::{
    DeleteModelResponse, ListModelsResponse, ModelResponse, PushRequest, PushResponse,
    UpdateModelRequest,
};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Lists the models.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn models(&self) -> Result<Received<ListModelsResponse>, ClientError> {
        self.call(Method::GET, &["v1", "models"]).json().await
    }

    /// Reads a model, by id or name.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn model(&self, model: &str) -> Result<Received<ModelResponse>, ClientError> {
        self.model_call(Method::GET, model, &[]).json().await
    }

    /// Pushes a bundle, and waits until the deployment is built. All blobs must be on the server: upload those that
    /// [`ClientError::missing_blobs`] lists, and push again.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn push(
        &self,
        request: &PushRequest,
        timeout: Duration,
    ) -> Result<Received<PushResponse>, ClientError> {
        self.call(Method::POST, &["v1", "models"])
            .body(request)
            .within(timeout)
            .json()
            .await
    }

    /// Pushes a bundle as a deployment of a model that there is, and waits until it is built.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn push_to_model(
        &self,
        model: &str,
        request: &PushRequest,
        timeout: Duration,
    ) -> Result<Received<PushResponse>, ClientError> {
        self.model_call(Method::POST, model, &["deployments"])
            .body(request)
            .within(timeout)
            .json()
            .await
    }

    /// Renames a model.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn rename_model(
        &self,
        model: &str,
        name: &str,
    ) -> Result<Received<ModelResponse>, ClientError> {
        let body = UpdateModelRequest {
            name: name.to_owned(),
        };
        self.model_call(Method::PATCH, model, &[])
            .body(&body)
            .json()
            .await
    }

    /// Deletes a model with all its deployments and environments.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn delete_model(
        &self,
        model: &str,
    ) -> Result<Received<DeleteModelResponse>, ClientError> {
        self.model_call(Method::DELETE, model, &[]).json().await
    }
}
