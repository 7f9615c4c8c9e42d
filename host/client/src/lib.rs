//! The client of Samovar's API: calls with errors that people can act on, the event stream, and the configuration file.

#![forbid(unsafe_code)]
// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod config;
pub mod error;
pub mod event_stream;
pub mod text;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde_json::Value;

pub use crate::error::{ClientError, ErrorAnswer};

use crate::config::ClientConfig;
use crate::error::{Reason, parse_error};

/// The server when nothing says otherwise: what `samovar serve` listens on.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// Longest wait for an ordinary answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 64 << 20;
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A server and the key for it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    api_key: Option<String>,
}

impl Client {
    /// The client for the server that the environment or the configuration file names.
    pub fn from_environment() -> anyhow::Result<Self> {
        let variable = |name: &str| match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
            Err(error) => Err(error).context(format!("the environment variable {name}")),
        };
        let (url, key) = (variable("SAMOVAR_URL")?, variable("SAMOVAR_API_KEY")?);
        // What the environment says whole needs no file, not even one that can be read.
        let config = match (&url, &key) {
            (Some(_), Some(_)) => None,
            _ => config::load()?,
        };
        let (url, key) = choose(url, key, config);
        Self::new(&url, key)
    }

    /// A client for a server.
    pub fn new(url: &str, api_key: Option<String>) -> anyhow::Result<Self> {
        let base = parse_base(url)?;
        let mut builder = reqwest::Client::builder();
        if is_loopback(&base) {
            // A proxy that the environment names has a loopback of its own.
            builder = builder.no_proxy();
        }
        let http = builder
            .user_agent(concat!("samovar/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirected upload could not be sent again, and a key is for one server.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("setting up the HTTP client")?;
        Ok(Self {
            http,
            base,
            api_key,
        })
    }

    /// The server's address, without a slash at its end.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether a key goes with each call.
    pub fn has_key(&self) -> bool {
        self.api_key.is_some()
    }

    /// A request for a path, which starts with a slash and may end with a query.
    pub fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let text = format!("{}{path}", self.url());
        let url = Url::parse(&text).with_context(|| format!("the address {text}"))?;
        let request = self.http.request(method, url);
        Ok(match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        })
    }

    /// Sends a request; an answer that is an error becomes one here.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.broken(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let request_id = response.headers().get("x-samovar-request-id");
        let request_id = request_id.and_then(|id| Some(id.to_str().ok()?.to_owned()));
        // What came of a body that then broke still says more than nothing.
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            let free = MAX_ERROR_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(free)]);
            if body.len() == MAX_ERROR_BYTES {
                break;
            }
        }
        Err(ClientError::Refused {
            status,
            answer: Box::new(parse_error(&body, request_id.as_deref())),
        })
    }

    /// Sends a request whose answer is a JSON document.
    pub async fn json(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let response = self.send(request).await?;
        let url = response.url().clone();
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(|error| self.broken(error))?);
            if body.len() > MAX_ANSWER_BYTES {
                bail!("{url} answered with more than {MAX_ANSWER_BYTES} bytes");
            }
        }
        serde_json::from_slice(&body)
            .with_context(|| format!("{url} did not answer with JSON: is that a Samovar server?"))
    }

    /// Gets a JSON document.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.request(Method::GET, path)?;
        self.json(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// Deletes something.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.request(Method::DELETE, path)?;
        self.json(request.timeout(ANSWER_TIMEOUT)).await
    }

    /// The error for a call that broke.
    pub fn broken(&self, source: reqwest::Error) -> ClientError {
        let url = self.url().to_owned();
        let reason = Reason::of(&source);
        if source.is_connect() {
            ClientError::NoServer {
                url,
                source: reason,
            }
        } else {
            ClientError::Broken {
                url,
                source: reason,
            }
        }
    }
}

fn parse_base(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).with_context(|| format!("the server's address {text:?}"))?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
        bail!("the server's address: found {text:?}, wanted one like {DEFAULT_URL}");
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    // An address of version 6 stands in brackets.
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Which server is called, and with which key. A saved key goes to the server that it was saved for and to no other.
fn choose(
    url: Option<String>,
    api_key: Option<String>,
    config: Option<ClientConfig>,
) -> (String, Option<String>) {
    let same = |one: &str, other: &str| one.trim_end_matches('/') == other.trim_end_matches('/');
    let Some(config) = config else {
        return (url.unwrap_or_else(|| DEFAULT_URL.into()), api_key);
    };
    match url {
        Some(url) if !same(&url, &config.url) => (url, api_key),
        _ => (config.url, api_key.or(config.api_key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: Option<&str>, key: Option<&str>) -> (String, Option<String>) {
        let config = ClientConfig {
            url: "http://saved".into(),
            api_key: Some("saved-key".into()),
        };
        choose(url.map(Into::into), key.map(Into::into), Some(config))
    }

    #[test]
    fn a_saved_key_stays_with_its_server() {
        let saved = ("http://saved".to_owned(), Some("saved-key".to_owned()));
        assert_eq!(chosen(None, None), saved);
        assert_eq!(chosen(Some("http://saved/"), None), saved);
        assert_eq!(
            chosen(Some("http://other"), None),
            ("http://other".into(), None)
        );
        assert_eq!(
            chosen(Some("http://other"), Some("k")),
            ("http://other".into(), Some("k".into()))
        );
        assert_eq!(chosen(None, Some("k")).1.as_deref(), Some("k"));
        assert_eq!(choose(None, None, None), (DEFAULT_URL.into(), None));
    }

    #[test]
    fn addresses_are_checked() {
        for good in ["http://h", "https://h:1/prefix/", "http://[::1]:8080"] {
            assert!(parse_base(good).is_ok(), "{good}");
        }
        for bad in ["", "h:80", "ftp://h", "http://h?q", "http://u:p@h"] {
            assert!(parse_base(bad).is_err(), "{bad}");
        }
        let client = Client::new("http://h/prefix/", None).unwrap();
        assert_eq!(client.url(), "http://h/prefix");
        let request = client.request(Method::GET, "/v1/models").unwrap();
        let url = request.build().unwrap().url().to_string();
        assert_eq!(url, "http://h/prefix/v1/models");
    }

    #[test]
    fn this_machine_is_known() {
        let at = |text| is_loopback(&parse_base(text).unwrap());
        for here in ["http://127.0.0.1:8080", "http://[::1]", "https://localhost"] {
            assert!(at(here), "{here}");
        }
        for there in [
            "http://10.0.0.1",
            "http://[fe80::1]",
            "http://localhost.example.com",
        ] {
            assert!(!at(there), "{there}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_said_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let client = Client::new(&format!("http://{address}"), None).unwrap();
        let error = client.get("/v1/models").await.unwrap_err().to_string();
        let wanted = format!(
            "no Samovar server at http://{address}: start one with `samovar serve` or set SAMOVAR_URL"
        );
        assert_eq!(error, wanted);
    }
}
