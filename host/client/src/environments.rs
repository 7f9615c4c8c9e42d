//! Calls for environments.

use std::time::Duration;

use reqwest::Method;
use samovar_types::api::deployments::SwitchResponse;
use samovar_types::api::environments::{
    CreateEnvironmentRequest, DeleteEnvironmentResponse, EnvironmentResponse,
    ListEnvironmentsResponse, UpdateEnvironmentRequest, UpdateEnvironmentResponse,
};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Lists the environments of a model.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn environments(
        &self,
        model: &str,
    ) -> Result<Received<ListEnvironmentsResponse>, ClientError> {
        self.model_call(Method::GET, model, &["environments"])
            .json()
            .await
    }

    /// Reads an environment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn environment(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<Received<EnvironmentResponse>, ClientError> {
        self.environment_call(Method::GET, model, environment, &[])
            .json()
            .await
    }

    /// Creates an environment without a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn create_environment(
        &self,
        model: &str,
        request: &CreateEnvironmentRequest,
    ) -> Result<Received<EnvironmentResponse>, ClientError> {
        self.model_call(Method::POST, model, &["environments"])
            .body(request)
            .json()
            .await
    }

    /// Changes the settings of an environment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn update_environment(
        &self,
        model: &str,
        environment: &str,
        request: &UpdateEnvironmentRequest,
    ) -> Result<Received<UpdateEnvironmentResponse>, ClientError> {
        self.environment_call(Method::PATCH, model, environment, &[])
            .body(request)
            .json()
            .await
    }

    /// Deletes an environment, but not its deployments.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn delete_environment(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<Received<DeleteEnvironmentResponse>, ClientError> {
        self.environment_call(Method::DELETE, model, environment, &[])
            .json()
            .await
    }

    /// Activates the deployment that an environment points at, and waits until it is built.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn activate_environment(
        &self,
        model: &str,
        environment: &str,
        timeout: Duration,
    ) -> Result<Received<SwitchResponse>, ClientError> {
        self.environment_call(Method::POST, model, environment, &["activate"])
            .within(timeout)
            .json()
            .await
    }

    /// Deactivates the deployment that an environment points at.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn deactivate_environment(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<Received<SwitchResponse>, ClientError> {
        self.environment_call(Method::POST, model, environment, &["deactivate"])
            .json()
            .await
    }
}
