//! Calls for deployments and their replicas.

use std::time::Duration;

use reqwest::Method;
use samovar_types::api::deployments::{
    BackpressureSettings, BackpressureUpdate, DeleteDeploymentResponse, DeploymentResponse,
    ListDeploymentsResponse, RetryResponse, SwitchResponse, UpdateDeploymentRequest,
    UpdateSettingsResponse,
};
use samovar_types::api::development::{ReloadRequest, ReloadResponse};
use samovar_types::api::replicas::{ListReplicasResponse, TerminateReplicaResponse};
use samovar_types::settings::AutoscalingUpdate;

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Lists the deployments of a model.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn deployments(
        &self,
        model: &str,
    ) -> Result<Received<ListDeploymentsResponse>, ClientError> {
        self.model_call(Method::GET, model, &["deployments"])
            .json()
            .await
    }

    /// Reads a deployment, by id or as `production` or `development`.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn deployment(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<DeploymentResponse>, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &[])
            .json()
            .await
    }

    /// Renames a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn rename_deployment(
        &self,
        model: &str,
        deployment: &str,
        name: &str,
    ) -> Result<Received<DeploymentResponse>, ClientError> {
        let body = UpdateDeploymentRequest {
            name: name.to_owned(),
        };
        self.deployment_call(Method::PATCH, model, deployment, &[])
            .body(&body)
            .json()
            .await
    }

    /// Activates a deployment, and waits until it is built.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn activate(
        &self,
        model: &str,
        deployment: &str,
        timeout: Duration,
    ) -> Result<Received<SwitchResponse>, ClientError> {
        self.deployment_call(Method::POST, model, deployment, &["activate"])
            .within(timeout)
            .json()
            .await
    }

    /// Deactivates a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn deactivate(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<SwitchResponse>, ClientError> {
        self.deployment_call(Method::POST, model, deployment, &["deactivate"])
            .json()
            .await
    }

    /// Builds a failed deployment again, or starts a replica of an unhealthy one at once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn retry(
        &self,
        model: &str,
        deployment: &str,
        timeout: Duration,
    ) -> Result<Received<RetryResponse>, ClientError> {
        self.deployment_call(Method::POST, model, deployment, &["retry"])
            .within(timeout)
            .json()
            .await
    }

    /// Changes the autoscaling settings of a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn update_autoscaling(
        &self,
        model: &str,
        deployment: &str,
        update: &AutoscalingUpdate,
    ) -> Result<Received<UpdateSettingsResponse>, ClientError> {
        self.deployment_call(Method::PATCH, model, deployment, &["autoscaling_settings"])
            .body(update)
            .json()
            .await
    }

    /// Changes whether requests of a deployment wait or are refused while every replica is busy.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn update_backpressure(
        &self,
        model: &str,
        deployment: &str,
        update: &BackpressureUpdate,
    ) -> Result<Received<BackpressureSettings>, ClientError> {
        self.deployment_call(
            Method::PATCH,
            model,
            deployment,
            &["request_backpressure_settings"],
        )
        .body(update)
        .json()
        .await
    }

    /// Replaces the bundle of the development deployment, and waits until the new one serves.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn reload(
        &self,
        model: &str,
        request: &ReloadRequest,
        timeout: Duration,
    ) -> Result<Received<ReloadResponse>, ClientError> {
        self.model_call(
            Method::PUT,
            model,
            &["deployments", "development", "bundle"],
        )
        .body(request)
        .within(timeout)
        .json()
        .await
    }

    /// Deletes a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn delete_deployment(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<DeleteDeploymentResponse>, ClientError> {
        self.deployment_call(Method::DELETE, model, deployment, &[])
            .json()
            .await
    }

    /// Lists the replicas of a deployment on the node that handles the call.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn replicas(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<ListReplicasResponse>, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["replicas"])
            .json()
            .await
    }

    /// Stops a replica: at once if it is idle, otherwise after its request.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn terminate_replica(
        &self,
        model: &str,
        deployment: &str,
        replica: &str,
    ) -> Result<Received<TerminateReplicaResponse>, ClientError> {
        self.deployment_call(Method::DELETE, model, deployment, &["replicas", replica])
            .json()
            .await
    }
}
