//! A proxy in front of a server that notes which requests pass.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

type Seen = Arc<Mutex<BTreeSet<(String, String)>>>;

/// Listens until it is dropped.
pub struct Recorder {
    /// Where it listens.
    pub url: String,
    seen: Seen,
    task: tokio::task::JoinHandle<()>,
}

impl Recorder {
    /// Passes requests on to a server.
    pub async fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let client = reqwest::Client::builder().no_proxy().build()?;
        let (server, seen) = (server.to_owned(), Seen::default());
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (client, server, noted) = (client.clone(), server.clone(), noted.clone());
                let service = service_fn(move |request| {
                    pass(client.clone(), server.clone(), noted.clone(), request)
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        Ok(Self { url, seen, task })
    }

    /// The methods and paths of all requests so far.
    pub fn requests(&self) -> BTreeSet<(String, String)> {
        self.seen.lock().expect("no panic holds it").clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    client: reqwest::Client,
    server: String,
    seen: Seen,
    request: http::Request<Incoming>,
) -> Result<http::Response<reqwest::Body>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    seen.lock()
        .expect("no panic holds it")
        .insert((parts.method.to_string(), path));
    // The proxy's own name, which the server does not have.
    parts.headers.remove(HOST);
    let request = client
        .request(parts.method, format!("{server}{}", parts.uri))
        .headers(parts.headers)
        .body(body.collect().await?.to_bytes());
    Ok(request.send().await?.into())
}
