//! Calls for usage.

use reqwest::Method;
use samovar_types::api::usage::{
    UsageParams, UsageResponse, UsageSummaryQuery, UsageSummaryResponse,
};

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

impl Client {
    /// Reads the usage of deployments.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn usage(
        &self,
        params: &UsageParams,
    ) -> Result<Received<UsageResponse>, ClientError> {
        self.call(Method::GET, &["v1", "usage"])
            .query(params.pairs())
            .json()
            .await
    }

    /// Reads a summary of usage in the form of a bill.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn usage_summary(
        &self,
        query: &UsageSummaryQuery,
    ) -> Result<Received<UsageSummaryResponse>, ClientError> {
        let pairs = [
            ("start_date", query.start_date.clone()),
            ("end_date", query.end_date.clone()),
        ];
        self.call(Method::GET, &["v1", "billing", "usage_summary"])
            .query(pairs)
            .json()
            .await
    }
}
