//! What the examples that speak OpenAI's API have in common: why a request is not answered, as its clients read it.

use samovar_sdk::{Error, Response};
use serde_json::json;

/// An error in OpenAI's shape.
#[derive(Debug)]
pub struct Refusal {
    status: u16,
    kind: &'static str,
    param: Option<&'static str>,
    code: Option<String>,
    message: String,
    /// The methods that a path takes, where another was used.
    allow: Option<&'static str>,
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
            allow: None,
        }
    }

    /// The same with what programs tell it from others by.
    #[must_use]
    pub fn with_code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// The field that is wrong.
    pub fn param(&self) -> Option<&'static str> {
        self.param
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A model that is not here, where only `served` is: status 404.
    pub fn model(name: &str, served: &str) -> Self {
        Self {
            status: 404,
            code: Some("model_not_found".to_owned()),
            ..Self::invalid(
                "model",
                format!("there is no model {name:?} here, only {served:?}"),
            )
        }
    }

    /// A path that nothing answers to, where these do: status 404.
    pub fn path(path: &str, known: &str) -> Self {
        Self {
            status: 404,
            ..Self::invalid(None, format!("there is no {path}: {known}"))
        }
    }

    /// A path with another method than its own: status 405, with the header `allow` that the standard wants.
    pub fn method(wanted: &'static str) -> Self {
        Self {
            status: 405,
            allow: Some(wanted),
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
            allow: None,
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
        let response = Self::new("application/json", error.to_string()).with_status(refusal.status);
        match refusal.allow {
            Some(methods) => response.with_header("allow", methods),
            None => response,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_method_is_told_the_right_one() {
        let response = Response::from(Refusal::method("GET"));
        assert_eq!(response.status(), 405);
        let headers = response.headers();
        assert!(
            headers.contains(&("allow".to_owned(), "GET".to_owned())),
            "{headers:?}"
        );
    }
}
