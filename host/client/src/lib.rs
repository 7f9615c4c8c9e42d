//! A client for Samovar's API, with a typed call for every route, the event stream, and the configuration file.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use samovar_client::{Client, Method, Target};
//!
//! // SAMOVAR_URL and SAMOVAR_API_KEY, or else the file that `samovar login` writes.
//! let client = Client::from_environment()?;
//! for model in &client.models().await?.models {
//!     println!("{} {}", model.id, model.name);
//! }
//! let request = client.inference(Method::POST, "iris", Target::Production, "/predict")?;
//! let response = client.send(request.body("[6.4, 3.2, 4.5, 1.5]")).await?;
//! println!("{}", response.text().await?);
//! # Ok(())
//! # }
//! ```
//!
//! Calls fail with [`ClientError`]. Its message is for people, [`ClientError::code`] for programs.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod api_keys;
mod async_requests;
mod audit;
mod blobs;
mod bundles;
pub mod config;
mod deployments;
mod environments;
pub mod error;
pub mod event_stream;
mod events;
mod health;
mod identity;
mod inference;
mod logs;
mod models;
mod promotions;
mod received;
mod secrets;
mod status;
mod teams;
pub mod text;
mod usage;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use reqwest::header::CONTENT_TYPE;
pub use reqwest::{Body, Method, Response, StatusCode, header};
use reqwest::{RequestBuilder, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::ClientConfig;
pub use crate::error::{ClientError, ErrorAnswer};
use crate::error::{Reason, parse_error};
pub use crate::events::{Event, EventStream, StreamItem};
pub use crate::inference::Target;
pub use crate::received::Received;

/// The default server: the address that `samovar serve` listens on.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8080";
/// Timeout of ordinary calls.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 64 << 20;
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A client of one server, with a key for it. Clones share connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    api_key: Option<String>,
}

impl Client {
    /// A client for the server in the environment variables `SAMOVAR_URL` and `SAMOVAR_API_KEY`, otherwise in the configuration file,
    /// otherwise at [`DEFAULT_URL`]. A key from the file is used only for the server that it was saved for.
    ///
    /// # Errors
    /// A variable or the file is invalid.
    pub fn from_environment() -> anyhow::Result<Self> {
        let variable = |name: &str| match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(std::env::VarError::NotPresent) => Ok(None),
            Err(error) => Err(error).context(format!("the environment variable {name}")),
        };
        let (url, key) = (variable("SAMOVAR_URL")?, variable("SAMOVAR_API_KEY")?);
        // If both variables are set, the file is not read, so it may be invalid.
        let config = match (&url, &key) {
            (Some(_), Some(_)) => None,
            _ => config::load()?,
        };
        let (url, key) = choose(url, key, config);
        Self::new(&url, key)
    }

    /// A client for the server at `url`, such as `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// The address is not a valid URL of http or https.
    pub fn new(url: &str, api_key: Option<String>) -> anyhow::Result<Self> {
        let base = parse_base(url)?;
        let mut builder = reqwest::Client::builder();
        if is_loopback(&base) {
            // A proxy cannot reach this machine's loopback addresses.
            builder = builder.no_proxy();
        }
        let http = builder
            .user_agent(concat!("samovar/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A streamed upload cannot be sent again, and a key must not go to another server.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("setting up the HTTP client")?;
        Ok(Self {
            http,
            base,
            api_key,
        })
    }

    /// Address of the server, without a slash at its end.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Whether calls carry a key.
    pub fn has_key(&self) -> bool {
        self.api_key.is_some()
    }

    /// A call of the route with these path segments.
    pub(crate) fn call(&self, method: Method, path: &[&str]) -> Call<'_> {
        let mut url = self.base.clone();
        // The scheme of a base is http or https, which have paths.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        Call {
            client: self,
            method,
            url,
            body: None,
            timeout: Some(ANSWER_TIMEOUT),
        }
    }

    /// A call about a model; `path` follows the model in the route.
    pub(crate) fn model_call(&self, method: Method, model: &str, path: &[&str]) -> Call<'_> {
        self.call(method, &[&["v1", "models", model], path].concat())
    }

    /// A call about a deployment; `path` follows the deployment in the route.
    pub(crate) fn deployment_call(
        &self,
        method: Method,
        model: &str,
        deployment: &str,
        path: &[&str],
    ) -> Call<'_> {
        let path = [&["deployments", deployment], path].concat();
        self.model_call(method, model, &path)
    }

    /// A call about an environment; `path` follows the environment in the route.
    pub(crate) fn environment_call(
        &self,
        method: Method,
        model: &str,
        environment: &str,
        path: &[&str],
    ) -> Call<'_> {
        let path = [&["environments", environment], path].concat();
        self.model_call(method, model, &path)
    }

    /// A request to a URL with the key.
    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends a request. A response with an error status becomes [`ClientError::Refused`].
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.broken(error))?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.refused(response).await),
        }
    }

    /// The error for a response that is one.
    async fn refused(&self, response: Response) -> ClientError {
        let status = response.status();
        let request_id = response.headers().get("x-samovar-request-id");
        let request_id = request_id.and_then(|id| Some(id.to_str().ok()?.to_owned()));
        // The beginning of a broken body is better than no message.
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            let free = MAX_ERROR_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(free)]);
            if body.len() == MAX_ERROR_BYTES {
                break;
            }
        }
        ClientError::Refused {
            status,
            answer: Box::new(parse_error(&body, request_id.as_deref())),
        }
    }

    /// The JSON document of a response.
    async fn document_of<T: DeserializeOwned>(
        &self,
        response: Response,
    ) -> Result<Received<T>, ClientError> {
        let (url, body) = self.body_of(response).await?;
        Received::read(&body).map_err(|source| ClientError::unexpected(url, source))
    }

    /// The whole body of a response that is no stream, and the address that it came from.
    async fn body_of(&self, response: Response) -> Result<(String, Vec<u8>), ClientError> {
        let url = response.url().to_string();
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk.map_err(|error| self.broken(error))?);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(ClientError::TooLong {
                    url,
                    limit: MAX_ANSWER_BYTES,
                });
            }
        }
        Ok((url, body))
    }

    /// Converts an error of a failed call.
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

/// A call that was not sent yet.
pub(crate) struct Call<'c> {
    client: &'c Client,
    method: Method,
    url: Url,
    body: Option<Vec<u8>>,
    timeout: Option<Duration>,
}

impl Call<'_> {
    /// Adds query parameters.
    pub fn query<'q>(mut self, pairs: impl IntoIterator<Item = (&'q str, String)>) -> Self {
        let mut pairs = pairs.into_iter().peekable();
        if pairs.peek().is_some() {
            let mut query = self.url.query_pairs_mut();
            query.extend_pairs(pairs);
        }
        self
    }

    /// Sets a JSON body.
    pub fn body(mut self, body: &impl Serialize) -> Self {
        // Types of the API have text keys and plain values, so writing them cannot fail.
        self.body = serde_json::to_vec(body).ok();
        self
    }

    /// Sets another timeout.
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Removes the timeout.
    pub fn patiently(mut self) -> Self {
        self.timeout = None;
        self
    }

    /// Converts into a request, for bodies that are not JSON.
    pub fn into_request(self) -> RequestBuilder {
        let mut request = self.client.request(self.method, self.url);
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        match self.body {
            Some(body) => request.header(CONTENT_TYPE, "application/json").body(body),
            None => request,
        }
    }

    /// Sends the call.
    pub async fn send(self) -> Result<Response, ClientError> {
        let client = self.client;
        client.send(self.into_request()).await
    }

    /// Sends the call and parses the JSON body of the response.
    pub async fn json<T: DeserializeOwned>(self) -> Result<Received<T>, ClientError> {
        let client = self.client;
        client.document_of(self.send().await?).await
    }

    /// Sends it and reads the text of the response.
    pub async fn text(self) -> Result<String, ClientError> {
        let client = self.client;
        let (url, body) = client.body_of(self.send().await?).await?;
        String::from_utf8(body).map_err(|_| ClientError::NoText { url })
    }
}

fn parse_base(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).with_context(|| format!("the server's address {text:?}"))?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
        bail!("the server's address: found {text:?}, wanted an address like {DEFAULT_URL}");
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    // IPv6 addresses are in brackets.
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

/// Chooses the server and the key. A saved key is sent only to the server that it was saved for.
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
        let call = |path: &[&str]| client.call(Method::GET, path).url.to_string();
        assert_eq!(call(&["v1", "models"]), "http://h/prefix/v1/models");
        assert_eq!(
            call(&["v1", "a/b?c", "%"]),
            "http://h/prefix/v1/a%2Fb%3Fc/%25"
        );
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
        let error = client.models().await.unwrap_err().to_string();
        let wanted = format!(
            "no Samovar server at http://{address}: start one with `samovar serve` or set SAMOVAR_URL"
        );
        assert_eq!(error, wanted);
    }
}
