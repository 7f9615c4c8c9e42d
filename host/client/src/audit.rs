//! Calls for the audit log.

use reqwest::Method;
use samovar_types::api::audit::{AuditLogResponse, AuditQuery};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Reads a page of the audit log of the server.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn audit_log(
        &self,
        query: &AuditQuery,
    ) -> Result<Received<AuditLogResponse>, ClientError> {
        self.call(Method::GET, &["v1", "audit_logs"])
            .query(query.pairs())
            .json()
            .await
    }

    /// Reads a page of the audit log of a model.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn audit_log_of_model(
        &self,
        model: &str,
        query: &AuditQuery,
    ) -> Result<Received<AuditLogResponse>, ClientError> {
        self.model_call(Method::GET, model, &["audit_logs"])
            .query(query.pairs())
            .json()
            .await
    }
}
