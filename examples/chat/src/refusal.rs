//! Why a request is not answered, as OpenAI's clients read it.

use samovar_sdk::{Error, Response};
use serde_json::json;

use crate::api::NAME;

/// An error in OpenAI's shape.
#[derive(Debug)]
pub struct Refusal {
    status: u16,
    kind: &'static str,
    pub(crate) param: Option<&'static str>,
    code: Option<String>,
    message: String,
}

impl Refusal {
    /// A request that cannot be meant: status 400.
    pub fn invalid(param: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            param: param.into(),
            code: None,
            message: message.into(),
        }
    }

    /// A conversation that leaves no room for an answer: status 400.
    pub fn too_long(tokens: usize, context: usize) -> Self {
        Self {
            code: Some("context_length_exceeded".to_owned()),
            ..Self::invalid(
                "messages",
                format!(
                    "the messages are {tokens} tokens, and {context} is the most for them and the answer"
                ),
            )
        }
    }

    /// A model that is not here: status 404.
    pub fn model(name: &str) -> Self {
        Self {
            status: 404,
            code: Some("model_not_found".to_owned()),
            ..Self::invalid(
                "model",
                format!("there is no model {name:?} here, only {NAME:?}"),
            )
        }
    }

    /// A path that nothing answers to: status 404.
    pub fn path(path: &str) -> Self {
        Self {
            status: 404,
            ..Self::invalid(
                None,
                format!("there is no {path}: POST /v1/chat/completions or GET /v1/models"),
            )
        }
    }

    /// A path with another method than its own: status 405.
    pub fn method(wanted: &str) -> Self {
        Self {
            status: 405,
            ..Self::invalid(None, format!("this path wants {wanted}"))
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            status: error.status(),
            kind: if error.status() < 500 {
                "invalid_request_error"
            } else {
                "server_error"
            },
            param: None,
            code: Some(error.code().to_owned()),
            message: error.message().to_owned(),
        }
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let error = json!({
            "error": {
                "message": refusal.message,
                "type": refusal.kind,
                "param": refusal.param,
                "code": refusal.code,
            }
        });
        Self::new("application/json", error.to_string()).with_status(refusal.status)
    }
}
