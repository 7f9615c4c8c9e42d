//! Calls about the caller and the server's organization.

use reqwest::Method;
use samovar_types::api::identity::{
    ListInstanceTypesResponse, ListTeamsResponse, OrganizationResponse, TeamResponse, UserResponse,
};
use samovar_types::id::TeamId;

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Reads who the caller is.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn user(&self) -> Result<Received<UserResponse>, ClientError> {
        self.call(Method::GET, &["v1", "users", "me"]).json().await
    }

    /// Reads the organization of the server.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn organization(&self) -> Result<Received<OrganizationResponse>, ClientError> {
        self.call(Method::GET, &["v1", "organizations", "me"])
            .json()
            .await
    }

    /// Lists the teams; a server has only one.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn teams(&self) -> Result<Received<ListTeamsResponse>, ClientError> {
        self.call(Method::GET, &["v1", "teams"]).json().await
    }

    /// Reads a team.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn team(&self, id: TeamId) -> Result<Received<TeamResponse>, ClientError> {
        self.call(Method::GET, &["v1", "teams", id.as_str()])
            .json()
            .await
    }

    /// Lists the instance types.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn instance_types(&self) -> Result<Received<ListInstanceTypesResponse>, ClientError> {
        self.call(Method::GET, &["v1", "instance_types"])
            .json()
            .await
    }
}
