//! The id of a request: in every answer, in every error and in every log line about it.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

/// 32 hex digits, drawn at random.
#[derive(Clone, Debug)]
pub struct RequestId {
    text: Arc<str>,
    header: HeaderValue,
}

const SAMOVAR: HeaderName = HeaderName::from_static("x-samovar-request-id");
const BASETEN: HeaderName = HeaderName::from_static("x-baseten-request-id");

impl RequestId {
    /// A new id.
    pub fn new() -> Self {
        let mut digits = [0; 32];
        let number: [u8; 16] = rand::random();
        // Two digits for each byte fit exactly, and hex digits are valid in text and in a header.
        let _ = hex::encode_to_slice(number, &mut digits);
        Self {
            text: std::str::from_utf8(&digits).unwrap_or_default().into(),
            header: HeaderValue::from_bytes(&digits)
                .unwrap_or_else(|_| HeaderValue::from_static("")),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id as shared text.
    pub fn shared(&self) -> Arc<str> {
        self.text.clone()
    }

    /// Sets both headers that carry it.
    pub fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(SAMOVAR, self.header.clone());
        headers.insert(BASETEN, self.header.clone());
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}
