//! How a node is, and what it can run on.

use reqwest::Method;
use samovar_types::api::status::{ListBackendsResponse, StatusResponse};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Shows how the node is.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn status(&self) -> Result<Received<StatusResponse>, ClientError> {
        self.call(Method::GET, &["v1", "status"]).json().await
    }

    /// Lists what runs graphs on the node.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn backends(&self) -> Result<Received<ListBackendsResponse>, ClientError> {
        self.call(Method::GET, &["v1", "backends"]).json().await
    }
}
