//! What a caller of a route must be allowed to do, stated where the route is declared.
//!
//! A route that states nothing lets nobody in: its handler finds no caller. `tests/e2e/permissions.rs` compares every route
//! with one table.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;
use utoipa_axum::router::UtoipaMethodRouter;

use super::Shared;
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
    Ok(next.run(request).await)
}
