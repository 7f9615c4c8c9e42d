//! Promotions: begun and controlled.

use reqwest::Method;
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::promotions::{
    CancelPromotionResponse, ControlPromotionResponse, PromoteRequest, PromoteToProductionRequest,
};

use crate::Client;
use crate::error::ClientError;

impl Client {
    /// Begins to move an environment to a deployment; answers with the deployment that moves in, which may be a fresh one.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn promote(
        &self,
        model: &str,
        environment: &str,
        request: &PromoteRequest,
    ) -> Result<DeploymentResponse, ClientError> {
        self.call(
            Method::POST,
            &[
                "v1",
                "models",
                model,
                "environments",
                environment,
                "promote",
            ],
        )
        .body(request)
        .json()
        .await
    }

    /// Begins to move production to a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn promote_to_production(
        &self,
        model: &str,
        deployment: &str,
        request: &PromoteToProductionRequest,
    ) -> Result<DeploymentResponse, ClientError> {
        self.call(
            Method::POST,
            &["v1", "models", model, "deployments", deployment, "promote"],
        )
        .body(request)
        .json()
        .await
    }

    /// Calls a promotion off: all traffic goes back at once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn cancel_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<CancelPromotionResponse, ClientError> {
        self.call(
            Method::POST,
            &[
                "v1",
                "models",
                model,
                "environments",
                environment,
                "cancel_promotion",
            ],
        )
        .json()
        .await
    }

    /// Halts a canary in its stage.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn pause_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<ControlPromotionResponse, ClientError> {
        self.call(
            Method::POST,
            &[
                "v1",
                "models",
                model,
                "environments",
                environment,
                "pause_promotion",
            ],
        )
        .json()
        .await
    }

    /// Resumes a canary that was halted.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn resume_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<ControlPromotionResponse, ClientError> {
        self.call(
            Method::POST,
            &[
                "v1",
                "models",
                model,
                "environments",
                environment,
                "resume_promotion",
            ],
        )
        .json()
        .await
    }

    /// Calls a promotion off, whatever it waits for.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn force_cancel_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<ControlPromotionResponse, ClientError> {
        self.call(
            Method::POST,
            &[
                "v1",
                "models",
                model,
                "environments",
                environment,
                "force_cancel_promotion",
            ],
        )
        .json()
        .await
    }

    /// Finishes a promotion at once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn force_roll_forward_promotion(
        &self,
        model: &str,
        environment: &str,
    ) -> Result<ControlPromotionResponse, ClientError> {
        self.call(
            Method::POST,
            &[
                "v1",
                "models",
                model,
                "environments",
                environment,
                "force_roll_forward_promotion",
            ],
        )
        .json()
        .await
    }
}
