//! Calls for logs of deployments and environments.

use reqwest::Method;
use samovar_types::api::logs::{LogsQuery, LogsResponse};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Reads the log of a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn deployment_logs(
        &self,
        model: &str,
        deployment: &str,
        query: &LogsQuery,
    ) -> Result<Received<LogsResponse>, ClientError> {
        self.deployment_call(Method::GET, model, deployment, &["logs"])
            .query(query.pairs())
            .json()
            .await
    }

    /// Reads the logs of an environment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn environment_logs(
        &self,
        model: &str,
        environment: &str,
        query: &LogsQuery,
    ) -> Result<Received<LogsResponse>, ClientError> {
        self.environment_call(Method::GET, model, environment, &["logs"])
            .query(query.pairs())
            .json()
            .await
    }
}
