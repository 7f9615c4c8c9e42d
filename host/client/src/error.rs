//! Why a call failed, in words for people and codes for programs.

use std::path::PathBuf;

use reqwest::StatusCode;
use samovar_types::digest::Digest;
use samovar_types::error::{ErrorCode, MissingBlobs};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::text::printable;

/// Why a call got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens there.
    #[error("no Samovar server at {url}: start one with `samovar serve` or set SAMOVAR_URL")]
    NoServer {
        /// Where it should be.
        url: String,
        /// What the system said.
        source: Reason,
    },
    /// The connection broke, or the time ran out.
    #[error("the call to {url} failed")]
    Broken {
        /// The server.
        url: String,
        /// What the system said.
        source: Reason,
    },
    /// The response is not what a server of this release sends.
    #[error("{url} did not answer with JSON: is that a Samovar server?")]
    NoJson {
        /// What was called.
        url: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The response is JSON of another form: another release, or no Samovar server.
    #[error(
        "{url} answered with JSON of another form: is that a Samovar server of another release?"
    )]
    OtherForm {
        /// What was called.
        url: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The response is no text.
    #[error("{url} answered with bytes that are no text: is that a Samovar server?")]
    NoText {
        /// What was called.
        url: String,
    },
    /// The response is longer than any that is read.
    #[error("{url} answered with more than {limit} bytes")]
    TooLong {
        /// What was called.
        url: String,
        /// The most that is read.
        limit: usize,
    },
    /// What was to be called is no address.
    #[error("the address {text}: {problem}")]
    Address {
        /// The address.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file that was to be sent cannot be.
    #[error("{}: {problem}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The server said no.
    #[error("{}", refusal(*status, answer))]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it said.
        answer: Box<ErrorAnswer>,
    },
}

/// The innermost cause of a broken call: the layers above it only say that there is one.
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

/// What a server says with an error. Fields may lack when it is no Samovar server.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ErrorAnswer {
    /// For people.
    pub error: String,
    /// For programs.
    pub error_code: Option<String>,
    /// Facts that depend on the code.
    pub detail: Value,
    /// Names the request in the server's logs.
    pub request_id: Option<String>,
}

impl ClientError {
    /// What the user may try.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { status, .. } if *status == StatusCode::UNAUTHORIZED => {
                Some("set SAMOVAR_API_KEY, or save a key with `samovar login URL`".into())
            }
            _ => None,
        }
    }

    /// The code of a refusal; nothing when it is none, or of another release.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { answer, .. } => answer.error_code.as_deref()?.parse().ok(),
            _ => None,
        }
    }

    /// The status of a refusal.
    pub fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the server says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// The files of a push that the server says it lacks.
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

/// Reads an error answer; one of another server or of a model is taken as text.
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
