//! Calls about the state of a node.

use reqwest::Method;
use samovar_types::api::status::{ListBackendsResponse, StatusResponse};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Reads the state of the node.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn status(&self) -> Result<Received<StatusResponse>, ClientError> {
        self.call(Method::GET, &["v1", "status"]).json().await
    }

    /// Lists the inference backends of the node.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn backends(&self) -> Result<Received<ListBackendsResponse>, ClientError> {
        self.call(Method::GET, &["v1", "backends"]).json().await
    }
}
