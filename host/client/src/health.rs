//! Whether a node is alive and ready, what it counted, and how its API is described.

use reqwest::{Method, StatusCode};
use samovar_types::api::health::ReadinessResponse;
use serde_json::Value;

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Checks that the process answers.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn check_alive(&self) -> Result<(), ClientError> {
        self.call(Method::GET, &["healthz"]).send().await.map(drop)
    }

    /// Shows whether requests should be sent to the node. That they should not is no error.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn readiness(&self) -> Result<Received<ReadinessResponse>, ClientError> {
        let request = self.call(Method::GET, &["readyz"]).into_request();
        let response = request.send().await.map_err(|error| self.broken(error))?;
        match response.status() {
            StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE => self.document_of(response).await,
            _ => Err(self.refused(response).await),
        }
    }

    /// Reads the node's metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        self.call(Method::GET, &["metrics"]).text().await
    }

    /// Reads the OpenAPI document of the server.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn openapi(&self) -> Result<Received<Value>, ClientError> {
        self.call(Method::GET, &["openapi.json"]).json().await
    }
}
