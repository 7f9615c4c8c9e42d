//! What a caller of a route must be allowed to do, stated where the route is declared.
//!
//! A route that states nothing lets nobody in: its handler finds no caller. Only who is let in takes one of the places of
//! changes (`change_limit.rs`). `tests/e2e/permissions.rs` compares every route with one table.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;
use utoipa_axum::router::UtoipaMethodRouter;

use super::Shared;
use super::change_limit::ChangeLimit;
use super::error::ApiError;
use crate::control::access::Access;
pub use crate::domain::api_key::Action;
use crate::gateway::refused;

/// Routes that let in who may do something.
pub trait Needs {
    /// Lets in who may do that, and tells the handlers who it is.
    fn needs(self, action: Action) -> Self;
}

impl Needs for UtoipaMethodRouter<Shared> {
    fn needs(self, action: Action) -> Self {
        let (schemas, paths, routes) = self;
        let admit = move |request: Request, next: Next| admit(action, request, next);
        (
            schemas,
            paths,
            routes.route_layer(middleware::from_fn(admit)),
        )
    }
}

async fn admit(action: Action, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let access = request.extensions().get::<Arc<Access>>();
    let access = access.ok_or_else(|| ApiError::internal("a route finds no keys to compare"))?;
    let authorization = request.headers().get(AUTHORIZATION);
    let caller = access
        .admit(authorization.map(HeaderValue::as_bytes), action)
        .map_err(|refusal| refused(&refusal))?;
    request.extensions_mut().insert(caller);
    let changes = request.extensions().get::<ChangeLimit>().cloned();
    let changes =
        changes.ok_or_else(|| ApiError::internal("a route finds no place for changes"))?;
    changes.run(request, next).await
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::routing::post;
    use axum::{Extension, Router};
    use tower::ServiceExt as _;

    use super::*;
    use crate::control::access::AuthMode;

    #[tokio::test]
    async fn who_may_not_make_a_change_takes_no_place_of_those_that_are_carried_out() {
        let changes = ChangeLimit::default();
        // Who got so far would wait.
        let _all = changes.fill().await;
        let admit = |request: Request, next: Next| admit(Action::Invoke, request, next);
        let router = Router::new()
            .route("/", post(|| std::future::ready("made")))
            .route_layer(middleware::from_fn(admit))
            .layer(Extension(changes))
            .layer(Extension(Arc::new(Access::new(AuthMode::Keys))));
        for key in [None, Some("Bearer abcdefgh.unknown")] {
            let mut request = axum::http::Request::post("/");
            if let Some(key) = key {
                request = request.header(AUTHORIZATION, key);
            }
            let request = request.body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{key:?}");
        }
    }
}
