//! An HTTP/2 client that tells how an answer's body ended, for what an HTTP/1 client would hide.

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::Server;

/// An answer as far as it came.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its status; 0 when it broke off before its head.
    pub status: u16,
    /// What came of its body.
    pub body: Vec<u8>,
    /// Why the body broke off, if it did.
    pub broken: Option<String>,
}

/// Sends a GET with the admin key on a connection of its own.
///
/// # Errors
/// When there is no connection.
pub async fn get(server: &Server, path: &str) -> Result<Answer> {
    let authority = server.url.trim_start_matches("http://");
    let stream = tokio::net::TcpStream::connect(authority).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get(server.at(path))
        .header("authorization", format!("Bearer {}", server.key()))
        .body(Empty::<Bytes>::new())?;
    let mut answer = Answer::default();
    match sender.send_request(request).await {
        Ok(response) => {
            answer.status = response.status().as_u16();
            let mut incoming = response.into_body();
            while let Some(frame) = incoming.frame().await {
                match frame {
                    Ok(frame) => {
                        let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
                        answer.body.extend_from_slice(data);
                    }
                    Err(error) => {
                        answer.broken = Some(format!("{error:?}"));
                        break;
                    }
                }
            }
        }
        Err(error) => answer.broken = Some(format!("{error:?}")),
    }
    connection.abort();
    Ok(answer)
}
