//! Who calls, and whose server it is.

use reqwest::Method;
use samovar_types::api::identity::{
    ListInstanceTypesResponse, ListTeamsResponse, OrganizationResponse, TeamResponse, UserResponse,
};
use samovar_types::id::Id;

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Shows who calls.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn user(&self) -> Result<Received<UserResponse>, ClientError> {
        self.call(Method::GET, &["v1", "users", "me"]).json().await
    }

    /// Shows whose server it is.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn organization(&self) -> Result<Received<OrganizationResponse>, ClientError> {
        self.call(Method::GET, &["v1", "organizations", "me"])
            .json()
            .await
    }

    /// Lists the teams, of which there is one.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn teams(&self) -> Result<Received<ListTeamsResponse>, ClientError> {
        self.call(Method::GET, &["v1", "teams"]).json().await
    }

    /// Shows a team.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn team(&self, id: Id) -> Result<Received<TeamResponse>, ClientError> {
        self.call(Method::GET, &["v1", "teams", id.as_str()])
            .json()
            .await
    }

    /// Lists what deployments can run on.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn instance_types(&self) -> Result<Received<ListInstanceTypesResponse>, ClientError> {
        self.call(Method::GET, &["v1", "instance_types"])
            .json()
            .await
    }
}
