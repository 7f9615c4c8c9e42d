//! The id of a request: in every answer, in every error and in every log line about it.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// 32 hex digits, drawn at random.
#[derive(Clone, Debug)]
pub struct RequestId(Arc<str>);

const SAMOVAR: HeaderName = HeaderName::from_static("x-samovar-request-id");
const BASETEN: HeaderName = HeaderName::from_static("x-baseten-request-id");

impl RequestId {
    /// A new id.
    pub fn new() -> Self {
        let number: u128 = rand::random();
        Self(format!("{number:032x}").into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as shared text.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }

    /// Sets both headers that carry it.
    pub fn mark(&self, headers: &mut HeaderMap) {
        // Hex digits are valid in a header.
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.insert(SAMOVAR, value.clone());
            headers.insert(BASETEN, value);
        }
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}
