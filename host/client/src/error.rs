//! Errors of calls, with messages for people and codes for programs.

use std::path::PathBuf;

use reqwest::StatusCode;
use samovar_types::digest::Digest;
use samovar_types::error::{ErrorCode, MissingBlobs};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::text::printable;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection was refused or could not be made.
    #[error("no Samovar server at {url}: start one with `samovar serve` or set SAMOVAR_URL")]
    NoServer {
        /// Address of the server.
        url: String,
        /// Error of the operating system.
        source: Reason,
    },
    /// The connection broke, or the call timed out.
    #[error("the call to {url} failed")]
    Broken {
        /// Address of the server.
        url: String,
        /// Cause of the failure.
        source: Reason,
    },
    /// The response is not JSON, so it probably comes from another program.
    #[error("the response of {url} is not JSON: is it a Samovar server?")]
    NoJson {
        /// URL of the call.
        url: String,
        /// Error of the parser.
        source: serde_json::Error,
    },
    /// The response is JSON that does not fit the expected type: it comes from another release or another program.
    #[error(
        "the response of {url} is JSON of another form: is it a Samovar server of another release?"
    )]
    OtherForm {
        /// URL of the call.
        url: String,
        /// Error of the parser.
        source: serde_json::Error,
    },
    /// The response is no text.
    #[error("{url} answered with bytes that are no text: is that a Samovar server?")]
    NoText {
        /// What was called.
        url: String,
    },
    /// The response exceeds the client's limit.
    #[error("{url} answered with more than {limit} bytes")]
    TooLong {
        /// URL of the call.
        url: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The address of the call is not valid.
    #[error("invalid address {text}: {problem}")]
    Address {
        /// The address.
        text: String,
        /// Why it is not valid.
        problem: String,
    },
    /// A file cannot be uploaded.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why it cannot be uploaded.
        problem: String,
    },
    /// The server responded with an error.
    #[error("{}", refusal(*status, answer))]
    Refused {
        /// Status of the response.
        status: StatusCode,
        /// Body of the response.
        answer: Box<ErrorAnswer>,
    },
}

/// The innermost cause of a failed call. The errors around it add no information.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Reason(String);

impl Reason {
    pub(crate) fn of(error: &reqwest::Error) -> Self {
        let mut innermost: &dyn std::error::Error = error;
        while let Some(cause) = innermost.source() {
            innermost = cause;
        }
        Self(innermost.to_string())
    }
}

/// Body of an error response. Fields may be empty if another program sent it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ErrorAnswer {
    /// Message for people.
    pub error: String,
    /// Code for programs; [`ClientError::code`] parses it.
    pub error_code: Option<String>,
    /// Details, which depend on the code.
    pub detail: Value,
    /// Id of the request, which is also in the server's logs.
    pub request_id: Option<String>,
}

impl ClientError {
    /// What the user can do about the error.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { status, .. } if *status == StatusCode::UNAUTHORIZED => {
                Some("set SAMOVAR_API_KEY, or save a key with `samovar login URL`".into())
            }
            _ => None,
        }
    }

    /// The error code of the server's response, if there is one and this release knows it.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { answer, .. } => answer.error_code.as_deref()?.parse().ok(),
            _ => None,
        }
    }

    /// The status of the server's error response, if there is one.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the server responded with 404.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// The blobs that the server lacks, if that is why it refused a push.
    pub fn missing_blobs(&self) -> Vec<Digest> {
        let Self::Refused { answer, .. } = self else {
            return Vec::new();
        };
        if self.code() != Some(ErrorCode::MissingBlobs) {
            return Vec::new();
        }
        let detail = MissingBlobs::deserialize(&answer.detail);
        detail.map(|detail| detail.missing).unwrap_or_default()
    }

    pub(crate) fn unexpected(url: String, source: serde_json::Error) -> Self {
        match source.is_data() {
            true => Self::OtherForm { url, source },
            false => Self::NoJson { url, source },
        }
    }
}

fn refusal(status: StatusCode, answer: &ErrorAnswer) -> String {
    let mut text = printable(answer.error.trim());
    if text.is_empty() {
        text = format!("the server answered {status}");
    }
    let code = answer.error_code.as_deref().map(printable);
    let code = code.unwrap_or_else(|| status.as_u16().to_string());
    match &answer.request_id {
        Some(id) => format!("{text} ({code}, request {})", printable(id)),
        None => format!("{text} ({code})"),
    }
}

/// Parses the body of an error response. A body that is not an error of the platform becomes the message.
pub(crate) fn parse_error(body: &[u8], request_id: Option<&str>) -> ErrorAnswer {
    let object = serde_json::from_slice::<Map<String, Value>>(body).unwrap_or_default();
    let mut answer: ErrorAnswer = serde_json::from_value(object.into()).unwrap_or_default();
    if answer.error.is_empty() {
        answer.error = String::from_utf8_lossy(body).into_owned();
    }
    if answer.request_id.is_none() {
        answer.request_id = request_id.map(str::to_owned);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_readable() {
        let body = br#"{"error":"no such model","error_code":"model_not_found","detail":null,"request_id":"r1"}"#;
        let told = refusal(StatusCode::NOT_FOUND, &parse_error(body, None));
        assert_eq!(told, "no such model (model_not_found, request r1)");
        let told = refusal(StatusCode::BAD_GATEWAY, &parse_error(b"<html>\x1b", None));
        assert_eq!(told, "<html>\\u{1b} (502)");
        for body in [&b"[\"a\", \"b\"]"[..], b"{\"error\":{\"message\":\"m\"}}"] {
            let told = refusal(StatusCode::BAD_GATEWAY, &parse_error(body, None));
            assert_eq!(told, format!("{} (502)", String::from_utf8_lossy(body)));
        }
        let told = refusal(StatusCode::BAD_GATEWAY, &parse_error(b"", Some("r2")));
        assert_eq!(
            told,
            "the server answered 502 Bad Gateway (502, request r2)"
        );
    }
}
