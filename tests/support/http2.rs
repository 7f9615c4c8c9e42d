//! An HTTP/2 client that tells how an answer's body ended, for what an HTTP/1 client would hide.

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::Server;

/// An answer as far as it came.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// What came of its body.
    pub body: Vec<u8>,
    /// Why the body broke off, if it did.
    pub broken: Option<String>,
}

/// Sends a GET with the admin key on a connection of its own.
///
/// # Errors
/// When there is no answer.
pub async fn get(server: &Server, path: &str) -> Result<Answer> {
    let authority = server.url.trim_start_matches("http://");
    let stream = tokio::net::TcpStream::connect(authority).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(server.at(path))
        .header("authorization", format!("Bearer {}", server.key()))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("no answer")?;
    let status = response.status().as_u16();
    let mut incoming = response.into_body();
    let (mut body, mut broken) = (Vec::new(), None);
    while let Some(frame) = incoming.frame().await {
        match frame {
            Ok(frame) => body.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
            Err(error) => {
                broken = Some(format!("{error:?}"));
                break;
            }
        }
    }
    connection.abort();
    Ok(Answer {
        status,
        body,
        broken,
    })
}
