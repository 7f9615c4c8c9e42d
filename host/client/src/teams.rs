//! The routes below a team's address. A server has one team, so they do what the routes without it do.

use std::time::Duration;

use reqwest::Method;
use samovar_types::api::api_keys::{CreateApiKeyRequest, CreateApiKeyResponse};
use samovar_types::api::models::{ListModelsResponse, PushRequest, PushResponse};
use samovar_types::api::secrets::{
    DeleteSecretResponse, ListSecretsResponse, SecretResponse, SetSecretRequest,
};
use samovar_types::id::TeamId;

use crate::error::ClientError;
use crate::received::Received;
use crate::{Call, Client};

impl Client {
    fn team_call(&self, method: Method, team: TeamId, path: &[&str]) -> Call<'_> {
        self.call(method, &[&["v1", "teams", team.as_str()], path].concat())
    }

    /// Lists the models of a team.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn models_of_team(
        &self,
        team: TeamId,
    ) -> Result<Received<ListModelsResponse>, ClientError> {
        self.team_call(Method::GET, team, &["models"]).json().await
    }

    /// Pushes a bundle as a model of a team, and waits until it is built.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn push_to_team(
        &self,
        team: TeamId,
        request: &PushRequest,
        timeout: Duration,
    ) -> Result<Received<PushResponse>, ClientError> {
        self.team_call(Method::POST, team, &["models"])
            .body(request)
            .within(timeout)
            .json()
            .await
    }

    /// Lists the secrets of a team, without their values.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn secrets_of_team(
        &self,
        team: TeamId,
    ) -> Result<Received<ListSecretsResponse>, ClientError> {
        self.team_call(Method::GET, team, &["secrets"]).json().await
    }

    /// Sets a secret of a team.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn set_secret_of_team(
        &self,
        team: TeamId,
        request: &SetSecretRequest,
    ) -> Result<Received<SecretResponse>, ClientError> {
        self.team_call(Method::POST, team, &["secrets"])
            .body(request)
            .json()
            .await
    }

    /// Deletes a secret of a team.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn delete_secret_of_team(
        &self,
        team: TeamId,
        name: &str,
    ) -> Result<Received<DeleteSecretResponse>, ClientError> {
        self.team_call(Method::DELETE, team, &["secrets", name])
            .json()
            .await
    }

    /// Makes a key of a team, which is shown whole once.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn create_api_key_of_team(
        &self,
        team: TeamId,
        request: &CreateApiKeyRequest,
    ) -> Result<Received<CreateApiKeyResponse>, ClientError> {
        self.team_call(Method::POST, team, &["api_keys"])
            .body(request)
            .json()
            .await
    }
}
