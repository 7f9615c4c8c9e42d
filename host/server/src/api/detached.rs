//! Changes outlive their callers: a request that may change something runs in a task of its own, so that when its client
//! hangs up it has either not begun or is carried out to its end.
//!
//! This holds for every route at once, because each runs through the check of its permission (`permission.rs`), which lets
//! nobody begin a change who may not. Uploads of blobs are the exception: without their client there is nothing to store.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use super::error::ApiError;

/// Changes that are carried out at once, those of clients that hung up included. Others wait, as long as their clients do.
pub const MAX_CHANGES: usize = 256;

/// The changes of a node that are carried out.
#[derive(Clone)]
pub struct Changes(Arc<Semaphore>);

impl Default for Changes {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_CHANGES)))
    }
}

impl Changes {
    /// Runs a request whose caller may make it: to its end if it may change something, whether its client waits or not.
    pub async fn run(&self, request: Request, next: Next) -> Result<Response, ApiError> {
        if request.method().is_safe() || request.uri().path().starts_with("/v1/blobs/") {
            return Ok(next.run(request).await);
        }
        let permit = self.0.clone().acquire_owned().await;
        let permit = permit.map_err(ApiError::internal)?;
        let change = tokio::spawn(async move {
            let response = next.run(request).await;
            drop(permit);
            response
        });
        change.await.map_err(ApiError::internal)
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
    use tokio::sync::Notify;
    use tower::ServiceExt as _;

    use super::*;

    /// A route that tells when it has begun, waits until it may end, and tells when it has.
    #[derive(Clone, Default)]
    struct Steps {
        begun: Arc<Notify>,
        go: Arc<Notify>,
        ended: Arc<Notify>,
    }

    impl Steps {
        fn router(&self) -> Router {
            let steps = self.clone();
            let route = any(move || {
                let steps = steps.clone();
                async move {
                    steps.begun.notify_one();
                    steps.go.notified().await;
                    steps.ended.notify_one();
                    "done"
                }
            });
            let changes = Changes::default();
            let run = move |request: Request, next: Next| {
                let changes = changes.clone();
                async move { changes.run(request, next).await }
            };
            Router::new()
                .fallback_service(route)
                .layer(middleware::from_fn(run))
        }
    }

    fn request(method: Method, path: &str) -> Request {
        let request = axum::http::Request::builder().method(method).uri(path);
        request.body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_change_is_carried_out_when_its_client_has_gone() {
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let steps = Steps::default();
            let answer = steps.router().oneshot(request(method, "/v1/models"));
            let client = tokio::spawn(answer);
            steps.begun.notified().await;
            client.abort();
            assert!(client.await.unwrap_err().is_cancelled());
            steps.go.notify_one();
            steps.ended.notified().await;
        }
    }

    #[tokio::test]
    async fn reading_and_uploading_end_with_their_client() {
        for (method, path) in [(Method::GET, "/v1/models"), (Method::PUT, "/v1/blobs/x")] {
            let steps = Steps::default();
            let held = Arc::downgrade(&steps.go);
            let client = tokio::spawn(steps.router().oneshot(request(method, path)));
            steps.begun.notified().await;
            client.abort();
            assert!(client.await.unwrap_err().is_cancelled());
            drop(steps);
            // Nothing of it is left to wait for.
            assert_eq!(held.strong_count(), 0);
        }
    }
}
