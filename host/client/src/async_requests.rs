//! Calls for async requests.

use reqwest::{Method, Response};
use samovar_types::api::async_requests::{
    AsyncQueueStatusResponse, AsyncRequestResponse, CancelAsyncResponse, SubmitAsyncRequest,
    SubmitAsyncResponse,
};

use crate::Client;
use crate::error::ClientError;
use crate::inference::Target;
use crate::received::Received;

impl Client {
    /// Submits a request.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn submit_async(
        &self,
        model: &str,
        target: Target<'_>,
        request: &SubmitAsyncRequest,
    ) -> Result<Received<SubmitAsyncResponse>, ClientError> {
        let path = below(model, target, "async_predict");
        self.call(Method::POST, &path).body(request).json().await
    }

    /// Counts the waiting and running requests of a deployment.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn async_queue_status(
        &self,
        model: &str,
        target: Target<'_>,
    ) -> Result<Received<AsyncQueueStatusResponse>, ClientError> {
        let path = below(model, target, "async_queue_status");
        self.call(Method::GET, &path).json().await
    }

    /// Reads the status of a request.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn async_request(
        &self,
        model: &str,
        id: &str,
    ) -> Result<Received<AsyncRequestResponse>, ClientError> {
        self.call(Method::GET, &["models", model, "async_request", id])
            .json()
            .await
    }

    /// Reads the model's response to a request, which the server keeps for an hour.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn async_result(&self, model: &str, id: &str) -> Result<Response, ClientError> {
        self.call(
            Method::GET,
            &["models", model, "async_request", id, "result"],
        )
        .patiently()
        .send()
        .await
    }

    /// Cancels a request that still waits. The response says whether it was canceled.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn cancel_async(
        &self,
        model: &str,
        id: &str,
    ) -> Result<Received<CancelAsyncResponse>, ClientError> {
        self.call(Method::DELETE, &["models", model, "async_request", id])
            .json()
            .await
    }
}

fn below<'a>(model: &'a str, target: Target<'a>, last: &'a str) -> Vec<&'a str> {
    let mut path = vec!["models", model];
    path.extend(target.segments());
    path.push(last);
    path
}
