//! How many changes are carried out at once. Others wait, as long as their clients do.
//!
//! A change runs on its connection and is dropped when its client hangs up: until its one commit nothing has happened, and
//! after it the controllers carry the work out, with or without a client.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use super::error::ApiError;

/// Changes that are carried out at once.
pub const MAX_CHANGES: usize = 256;

/// The places of changes.
#[derive(Clone)]
pub struct ChangeLimit(Arc<Semaphore>);

impl Default for ChangeLimit {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CHANGES)))
    }
}

impl ChangeLimit {
    /// Runs a request whose caller may make it, once there is a place if it may change something. Uploads of blobs, which
    /// may take long, need none.
    pub async fn run(&self, request: Request, next: Next) -> Result<Response, ApiError> {
        if request.method().is_safe() || request.uri().path().starts_with("/v1/blobs/") {
            return Ok(next.run(request).await);
        }
        let _place = self.0.acquire().await.map_err(ApiError::internal)?;
        Ok(next.run(request).await)
    }

    /// Takes every place, as that many changes would.
    #[cfg(test)]
    pub async fn fill(&self) -> tokio::sync::OwnedSemaphorePermit {
        let places = u32::try_from(MAX_CHANGES).unwrap();
        self.0.clone().acquire_many_owned(places).await.unwrap()
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::Method;
    use axum::middleware;
    use axum::routing::any;
    use futures::FutureExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn router(limit: &ChangeLimit) -> Router {
        let limit = limit.clone();
        let run = move |request: Request, next: Next| {
            let limit = limit.clone();
            async move { limit.run(request, next).await }
        };
        let route = any(|| std::future::ready("done"));
        Router::new()
            .fallback_service(route)
            .layer(middleware::from_fn(run))
    }

    fn request(method: Method, path: &str) -> Request {
        let request = axum::http::Request::builder().method(method).uri(path);
        request.body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_change_waits_for_a_place_and_nothing_else_does() {
        let limit = ChangeLimit::default();
        let all = limit.fill().await;
        for (method, path) in [(Method::GET, "/v1/models"), (Method::PUT, "/v1/blobs/x")] {
            let answer = router(&limit).oneshot(request(method, path)).await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let change = router(&limit).oneshot(request(method, "/v1/models"));
            assert!(change.now_or_never().is_none());
        }
        let mut change =
            std::pin::pin!(router(&limit).oneshot(request(Method::POST, "/v1/models")));
        assert!(change.as_mut().now_or_never().is_none());
        drop(all);
        assert_eq!(change.await.unwrap().status(), 200);
        // Those that gave up waiting hold no place, and neither does the one that is done.
        drop(limit.fill().await);
    }
}
