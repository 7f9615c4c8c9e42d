//! Calls of the management API on a measured connection, with the API's own types.
//!
//! The bench has these few instead of the client: a second connection, and an executor to drive it, would be measured too.

use anyhow::{Context as _, Result};
use samovar_types::api::deployments::ListDeploymentsResponse;
use samovar_types::api::models::{ListModelsResponse, PushRequest, PushResponse};
use samovar_types::api::replicas::{ListReplicasResponse, TerminateReplicaResponse};
use serde::de::DeserializeOwned;

use super::http::Connection;

impl Connection {
    fn call<T: DeserializeOwned>(&mut self, method: &str, path: &str, body: &[u8]) -> Result<T> {
        let answer = self.send(method, path, "application/json", body)?;
        serde_json::from_slice(&answer.body).with_context(|| format!("{method} {path}"))
    }

    /// Lists the models.
    pub fn models(&mut self) -> Result<ListModelsResponse> {
        self.call("GET", "/v1/models", b"")
    }

    /// Pushes a bundle whose files are on the server.
    pub fn push(&mut self, request: &PushRequest) -> Result<PushResponse> {
        self.call("POST", "/v1/models", &serde_json::to_vec(request)?)
    }

    /// Lists the deployments of a model.
    pub fn deployments(&mut self, model: &str) -> Result<ListDeploymentsResponse> {
        self.call("GET", &format!("/v1/models/{model}/deployments"), b"")
    }

    /// Lists the replicas of a model in production.
    pub fn replicas(&mut self, model: &str) -> Result<ListReplicasResponse> {
        let path = format!("/v1/models/{model}/deployments/production/replicas");
        self.call("GET", &path, b"")
    }

    /// Stops a replica of a model in production.
    pub fn terminate_replica(
        &mut self,
        model: &str,
        replica: &str,
    ) -> Result<TerminateReplicaResponse> {
        let path = format!("/v1/models/{model}/deployments/production/replicas/{replica}");
        self.call("DELETE", &path, b"")
    }
}
