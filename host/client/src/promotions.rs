//! Calls for promotions.

use reqwest::Method;
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::promotions::{
    CancelPromotionResponse, ControlPromotionResponse, PromoteRequest, PromoteToProductionRequest,
};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Promotes a deployment to an environment. Returns the deployment that moves in, which may be a new one of the same bundle.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn promote(
        &self,
        model: &str,
        environment: &str,
        request: &PromoteRequest,
    ) -> Result<Received<DeploymentResponse>, ClientError> {
        self.environment_call(Method::POST, model, environment, &["promote"])
            .body(request)
            .json()
            .await
    }

    /// Promotes a deployment to production.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn promote_to_production(
        &self,
        model: &str,
        deployment: &str,
        request: &PromoteToProductionRequest,
    ) -> Result<Received<DeploymentResponse>, ClientError> {
        self.deployment_call(Method::POST, model, deployment, &["promote"])
            .body(request)
            .json()
            .await
    }

    /// Cancels a promotion: all traffic goes back at once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn cancel_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<Received<CancelPromotionResponse>, ClientError> {
        self.environment_call(Method::POST, model, environment, &["cancel_promotion"])
            .json()
            .await
    }

    /// Pauses a canary in its stage.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn pause_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<Received<ControlPromotionResponse>, ClientError> {
        self.control_promotion(model, environment, "pause_promotion")
            .await
    }

    /// Resumes a paused canary.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn resume_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<Received<ControlPromotionResponse>, ClientError> {
        self.control_promotion(model, environment, "resume_promotion")
            .await
    }

    /// The same as [`Client::cancel_promotion`], for compatibility.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn force_cancel_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<Received<ControlPromotionResponse>, ClientError> {
        self.control_promotion(model, environment, "force_cancel_promotion")
            .await
    }

    /// Finishes a promotion at once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn force_roll_forward_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<Received<ControlPromotionResponse>, ClientError> {
        self.control_promotion(model, environment, "force_roll_forward_promotion")
            .await
    }

    async fn control_promotion(
        &self,
        model: &str,
        environment: &str,
        action: &str,
    ) -> Result<Received<ControlPromotionResponse>, ClientError> {
        self.environment_call(Method::POST, model, environment, &[action])
            .json()
            .await
    }
}
