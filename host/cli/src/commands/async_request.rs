//! `samovar async-request`, and `samovar predict --async`: submits and follows async requests.

use std::path::Path;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use jiff::Timestamp;
use samovar_client::text::printable;
use samovar_client::{Client, Target};
use samovar_types::api::async_requests::{AsyncRequestResponse, SubmitAsyncRequest};
use samovar_types::async_request::MAX_SUBMISSION_BYTES;
use tokio::io::AsyncReadExt as _;

use crate::commands::predict;
use crate::failure::UsageError;
use crate::identifier;
use crate::output::{self, Format, since, word};

/// An async request.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    model: String,
    /// The request's id
    #[arg(value_parser = identifier)]
    id: String,
}

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show the status of a request
    Show(#[command(flatten)] Place),
    /// Print the model's response
    Result(#[command(flatten)] Place),
    /// Cancel a request that still waits
    Cancel(#[command(flatten)] Place),
}

/// How `samovar predict` submits an async request.
#[derive(Debug, clap::Args)]
pub struct HandIn {
    /// Submit an async request and print its id for `samovar async-request`
    #[arg(long = "async", conflicts_with_all = ["path", "headers", "method"])]
    pub later: bool,
    /// URL that the server sends the response to: a public https address, or what `serve --webhook-allow` permits
    #[arg(long, value_name = "URL", requires = "later")]
    webhook: Option<String>,
    /// Priority: 0, 1 or 2; lower numbers run first
    #[arg(long, value_name = "N", requires = "later", value_parser = clap::value_parser!(u8).range(0..=2))]
    priority: Option<u8>,
}

pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    match action {
        Action::Show(place) => {
            let answer = client.async_request(&place.model, &place.id).await?;
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::properties(&properties(&answer, Timestamp::now())),
            }
        }
        Action::Result(place) => {
            let response = client.async_result(&place.model, &place.id).await?;
            predict::print(client, response, format).await
        }
        Action::Cancel(place) => {
            let answer = client.cancel_async(&place.model, &place.id).await?;
            if !answer.canceled {
                bail!("not canceled: {}", printable(&answer.message));
            }
            match format {
                Format::Json => output::document(&answer),
                Format::Text => output::line(&format!("canceled request {}", place.id)),
            }
        }
    }
}

/// Submits a request to a target of a model.
pub async fn hand_in(
    client: &Client,
    model: &str,
    target: Target<'_>,
    how: &HandIn,
    input: &str,
    format: Format,
) -> anyhow::Result<()> {
    let model_input = serde_json::from_str(input).map_err(|error| UsageError {
        problem: format!("an async request needs JSON input: {error}"),
        hint: Some("`-d '\"text\"'` to send a text".into()),
    })?;
    let request = SubmitAsyncRequest {
        webhook_endpoint: how.webhook.clone(),
        priority: how.priority.map(i64::from),
        ..SubmitAsyncRequest::new(model_input)
    };
    let answer = client.submit_async(model, target, &request).await?;
    match format {
        Format::Json => output::document(&answer),
        Format::Text => output::line(&printable(&answer.request_id)),
    }
}

/// Reads the complete input of a request.
pub async fn input(data: Option<String>, file: Option<&Path>) -> anyhow::Result<String> {
    let Some(file) = file else {
        return data.ok_or_else(|| {
            let problem = "an async request needs input".into();
            let hint = Some("`-d JSON` or `-f FILE`".into());
            UsageError { problem, hint }.into()
        });
    };
    let mut text = String::new();
    let most = MAX_SUBMISSION_BYTES as u64 + 1;
    let read = if file == Path::new("-") {
        tokio::io::stdin()
            .take(most)
            .read_to_string(&mut text)
            .await
    } else {
        match tokio::fs::File::open(file).await {
            Ok(opened) => opened.take(most).read_to_string(&mut text).await,
            Err(error) => Err(error),
        }
    };
    read.with_context(|| format!("reading {}", file.display()))?;
    if text.len() > MAX_SUBMISSION_BYTES {
        bail!(
            "{} is too large for an async request: the limit is {MAX_SUBMISSION_BYTES} bytes",
            file.display()
        );
    }
    Ok(text)
}

fn properties(request: &AsyncRequestResponse, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("id", printable(&request.request_id)),
        ("model", request.model_id.to_string()),
        ("deployment", request.deployment_id.to_string()),
        ("status", word(&request.status)),
        ("since", since(request.status_at, now)),
        ("webhook", word(&request.webhook_status)),
        ("created", since(request.created_at, now)),
    ];
    lines.extend(request.errors.iter().map(|error| {
        let told = format!("{}: {}", word(&error.code), printable(&error.message));
        ("error", told)
    }));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_shown_with_what_went_wrong() {
        let request = json!({
            "request_id": "ab", "model_id": "model000", "deployment_id": "deploy00", "webhook": null, "status": "FAILED",
            "webhook_status": "NO_WEBHOOK_PROVIDED", "created_at": "2026-01-01T00:00:00Z",
            "status_at": "2026-01-01T00:01:00Z",
            "errors": [{"code": "MODEL_PREDICT_ERROR", "message": "trap\u{1b}[2J"}],
        });
        let request = serde_json::from_value(request).unwrap();
        let lines = properties(&request, "2026-01-01T00:02:00Z".parse().unwrap());
        for line in [
            ("status", "FAILED"),
            ("since", "1 min ago"),
            ("error", "MODEL_PREDICT_ERROR: trap\\u{1b}[2J"),
        ] {
            assert!(lines.contains(&(line.0, line.1.into())), "{lines:?}");
        }
    }

    #[tokio::test]
    async fn an_input_is_read_whole_and_within_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.json");
        std::fs::write(&file, "[1]").unwrap();
        assert_eq!(input(None, Some(&file)).await.unwrap(), "[1]");
        std::fs::write(&file, vec![b' '; MAX_SUBMISSION_BYTES + 1]).unwrap();
        assert!(input(None, Some(&file)).await.is_err());
        assert_eq!(input(Some("1".into()), None).await.unwrap(), "1");
        let error = input(None, None).await.unwrap_err();
        assert!(error.is::<UsageError>());
    }
}
