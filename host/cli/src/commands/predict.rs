//! `samovar predict`: calls a model, streaming the request from a file and the response to standard output.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures::StreamExt as _;
use samovar_client::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use samovar_client::{Body, Client, Method, Response, Target as Called};
use serde_json::json;
use tokio_util::io::ReaderStream;

use crate::commands::async_request::{self, HandIn};
use crate::identifier;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The model's name or id
    #[arg(value_parser = identifier)]
    model: String,
    #[command(flatten)]
    target: Target,
    /// Request body
    #[arg(long, short, value_name = "TEXT")]
    data: Option<String>,
    /// File with the request body; `-` reads standard input
    #[arg(long, short, conflicts_with = "data")]
    file: Option<PathBuf>,
    /// Path to call, with or without a query
    #[arg(long, default_value = "/predict", value_parser = path)]
    path: String,
    /// Request header; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Request method
    #[arg(long, short = 'X', default_value = "POST")]
    method: Method,
    #[command(flatten)]
    hand_in: HandIn,
}

/// Which deployment to call; production by default.
#[derive(Debug, Default, clap::Args)]
#[group(multiple = false)]
struct Target {
    /// Call the deployment of this environment instead of production
    #[arg(long, value_parser = identifier)]
    environment: Option<String>,
    /// Call the deployment with this id
    #[arg(long, value_name = "ID", value_parser = identifier)]
    deployment: Option<String>,
    /// Call the development deployment
    #[arg(long)]
    development: bool,
}

impl Target {
    fn called(&self) -> Called<'_> {
        match (&self.environment, &self.deployment) {
            (Some(environment), _) => Called::Environment(environment),
            (None, Some(deployment)) => Called::Deployment(deployment),
            (None, None) if self.development => Called::Development,
            (None, None) => Called::Production,
        }
    }
}

fn path(text: &str) -> Result<String, String> {
    // Dots would lead out of the model, to another of the server's routes.
    let route = text.split(['?', '#']).next().unwrap_or_default();
    let dots = |segment: &str| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        segment == "." || segment == ".."
    };
    if route.split(['/', '\\']).any(dots) {
        return Err("wanted a path without `.` and `..`".into());
    }
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Ok(format!("/{text}"))
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("wanted NAME:VALUE")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("{name:?} is not a valid name of a header"))?;
    // The value may be a secret and stays out of the message.
    let mut value: HeaderValue = value
        .trim()
        .parse()
        .map_err(|_| format!("the value of {name} is not valid in a header"))?;
    value.set_sensitive(true);
    Ok((name, value))
}

pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    let (model, target) = (&arguments.model, arguments.target.called());
    if arguments.hand_in.later {
        let input = async_request::input(arguments.data, arguments.file.as_deref()).await?;
        let how = arguments.hand_in;
        return async_request::hand_in(client, model, target, &how, &input, format).await;
    }
    let mut request = client.inference(arguments.method, model, target, &arguments.path)?;
    let mut headers = HeaderMap::new();
    if let Some(data) = arguments.data {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(data_type(&data)));
        request = request.body(data);
    } else if let Some(file) = arguments.file {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(file_type(&file)));
        let (body, length) = open(&file)
            .await
            .with_context(|| format!("reading {}", file.display()))?;
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        request = request.body(body);
    }
    let mut named = HeaderMap::new();
    for (name, value) in arguments.headers {
        named.append(name, value);
    }
    for name in named.keys() {
        headers.remove(name);
    }
    headers.extend(named);

    let response = client.send(request.headers(headers)).await?;
    print(client, response, format).await
}

/// Prints a model's response as it arrives.
pub async fn print(client: &Client, response: Response, format: Format) -> anyhow::Result<()> {
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let wrap = format == Format::Json && !is_json(content_type.unwrap_or_default());
    let mut decoder = Decoder::default();
    let mut last_byte = None;
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk
            .map_err(|error| client.broken(error))
            .context("the response broke off")?;
        if !wrap {
            last_byte = chunk.last().copied().or(last_byte);
            output::write(&chunk)?;
        } else if let Some(piece) = decoder.push(&chunk) {
            output::json_line(&piece)?;
        }
    }
    if let Some(piece) = decoder.end() {
        output::json_line(&piece)?;
    }
    // The shell's prompt belongs on a line of its own; a file or a pipe gets the answer as it is.
    if last_byte.is_some_and(|byte| byte != b'\n') && std::io::stdout().is_terminal() {
        output::line("")?;
    }
    Ok(())
}

async fn open(file: &Path) -> std::io::Result<(Body, Option<u64>)> {
    if file == Path::new("-") {
        let stream = ReaderStream::new(tokio::io::stdin());
        return Ok((Body::wrap_stream(stream), None));
    }
    let opened = tokio::fs::File::open(file).await?;
    let metadata = opened.metadata().await?;
    // A pipe or a device has no length to announce.
    let length = metadata.is_file().then_some(metadata.len());
    let stream = ReaderStream::with_capacity(opened, 64 << 10);
    Ok((Body::wrap_stream(stream), length))
}

fn data_type(data: &str) -> &'static str {
    match serde_json::from_str::<serde::de::IgnoredAny>(data) {
        Ok(_) => "application/json",
        Err(_) => "text/plain; charset=utf-8",
    }
}

fn file_type(file: &Path) -> &'static str {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

fn is_json(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    matches!(
        kind.as_str(),
        "application/json" | "application/x-ndjson" | "application/jsonl"
    ) || kind.ends_with("+json")
}

/// Turns a response that is not JSON into JSON Lines whose texts add up to the response.
#[derive(Default)]
struct Decoder {
    /// The first bytes of a character that continues in the next chunk: at most three.
    tail: Vec<u8>,
}

impl Decoder {
    fn push(&mut self, chunk: &[u8]) -> Option<serde_json::Value> {
        let mut bytes = std::mem::take(&mut self.tail);
        bytes.extend_from_slice(chunk);
        if let Err(error) = std::str::from_utf8(&bytes)
            && error.error_len().is_none()
        {
            self.tail = bytes.split_off(error.valid_up_to());
        }
        piece(&bytes)
    }

    fn end(self) -> Option<serde_json::Value> {
        piece(&self.tail)
    }
}

fn piece(bytes: &[u8]) -> Option<serde_json::Value> {
    match std::str::from_utf8(bytes) {
        Ok("") => None,
        Ok(text) => Some(json!({ "text": text })),
        Err(_) => Some(json!({ "hex": hex::encode(bytes) })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_the_one_that_was_named() {
        let target = Target::default();
        assert_eq!(target.called(), Called::Production);
        let target = Target {
            environment: Some("staging".into()),
            ..Target::default()
        };
        assert_eq!(target.called(), Called::Environment("staging"));
        let target = Target {
            deployment: Some("dep12345".into()),
            ..Target::default()
        };
        assert_eq!(target.called(), Called::Deployment("dep12345"));
        let target = Target {
            development: true,
            ..Target::default()
        };
        assert_eq!(target.called(), Called::Development);
    }

    #[test]
    fn a_path_stays_within_the_model() {
        assert_eq!(path("v2/x?q=../a").unwrap(), "/v2/x?q=../a");
        for bad in ["/../x", "/a/%2E./b", "/a\\..\\b", "/."] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_are_pairs_and_secret() {
        let (name, value) = header("X-Key: a:b").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-key", "a:b"));
        assert!(!format!("{value:?}").contains("a:b"));
        assert!(header("novalue").is_err() && header("a b:c").is_err());
        assert!(!header("a:hid\nden").unwrap_err().contains("hid"));
    }

    #[test]
    fn types_are_guessed() {
        assert_eq!(data_type("{\"a\": 1}"), "application/json");
        assert_eq!(data_type("hello"), "text/plain; charset=utf-8");
        assert_eq!(file_type("a.json".as_ref()), "application/json");
        assert_eq!(file_type("a.png".as_ref()), "application/octet-stream");
        assert!(is_json("Application/JSON; charset=utf-8") && is_json("application/problem+json"));
        assert!(!is_json("text/event-stream") && !is_json(""));
    }

    #[test]
    fn any_answer_becomes_json_lines() {
        let mut decoder = Decoder::default();
        let bytes = "aé".as_bytes();
        assert_eq!(decoder.push(&bytes[..2]), Some(json!({"text": "a"})));
        assert_eq!(decoder.push(&[]), None);
        assert_eq!(decoder.push(&bytes[2..]), Some(json!({"text": "é"})));
        assert_eq!(decoder.push(&[0xff, 0]), Some(json!({"hex": "ff00"})));
        assert_eq!(
            decoder.push(&[b'x', 0xe2, 0x82]),
            Some(json!({"text": "x"}))
        );
        assert_eq!(decoder.end(), Some(json!({"hex": "e282"})));
    }
}
