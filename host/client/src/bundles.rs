//! What a deployment runs.

use reqwest::{Method, Response};
use samovar_types::api::bundles::{ConfigResponse, DownloadResponse};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Shows the manifest of a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn config(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<ConfigResponse>, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["config"])
            .json()
            .await
    }

    /// Says where the bundle of a deployment can be read.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn download(
        &self,
        model: &str,
        deployment: &str,
    ) -> Result<Received<DownloadResponse>, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["download"])
            .json()
            .await
    }

    /// Reads the bundle of a deployment as a tar archive.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn bundle(&self, model: &str, deployment: &str) -> Result<Response, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["bundle"])
            .patiently()
            .send()
            .await
    }
}
