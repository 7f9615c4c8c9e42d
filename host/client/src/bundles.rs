//! Calls for the manifest and the bundle of a deployment.

use reqwest::{Method, Response};
use samovar_types::api::bundles::{ConfigResponse, DownloadResponse};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Reads the manifest of a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn config(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<ConfigResponse>, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["config"])
            .json()
            .await
    }

    /// Reads the URL of a deployment's bundle.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn download(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<DownloadResponse>, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["download"])
            .json()
            .await
    }

    /// Downloads the bundle of a deployment as a tar archive.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn bundle(&self, model: &str, deployment: &str) -> Result<Response, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["bundle"])
            .patiently()
            .send()
            .await
    }
}
