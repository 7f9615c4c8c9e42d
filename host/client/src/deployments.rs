//! Deployments: listed, shown, switched, scaled, reloaded, deleted; and their replicas.

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
    /// The server cannot be reached, or refuses.
    pub async fn deployments(
        &self,
        model: &str,
    ) -> Result<Received<ListDeploymentsResponse>, ClientError> {
        self.model_call(Method::GET, model, &["deployments"])
            .json()
            .await
    }

    /// Shows a deployment, by id or as `production` or `development`.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
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
    /// The server cannot be reached, or refuses.
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

    /// Switches a deployment on, and waits until it is built.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
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

    /// Switches a deployment off.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn deactivate(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<SwitchResponse>, ClientError> {
        self.deployment_call(Method::POST, model, deployment, &["deactivate"])
            .json()
            .await
    }

    /// Builds a deployment again that failed, or lets requests to one again that is unhealthy.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
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

    /// Changes how many replicas a deployment keeps.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
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

    /// Changes what happens to requests of a deployment that find every replica busy.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
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

    /// Swaps the bundle of the development deployment, and waits until the new one serves.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
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
    /// The server cannot be reached, or refuses.
    pub async fn delete_deployment(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<DeleteDeploymentResponse>, ClientError> {
        self.deployment_call(Method::DELETE, model, deployment, &[])
            .json()
            .await
    }

    /// Lists the replicas of a deployment on the node that answers.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn replicas(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<ListReplicasResponse>, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["replicas"])
            .json()
            .await
    }

    /// Stops a replica: at once when it is idle, else after its request.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
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
