//! Calls for blobs: files of bundles, by their digest.

use std::path::Path;

use futures::TryStreamExt as _;
use reqwest::{Body, Method, Response, header};
use samovar_types::digest::Digest;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::Client;
use crate::error::ClientError;

/// Size of a chunk that is read and sent at a time.
const CHUNK_BYTES: usize = 256 << 10;

impl Client {
    /// Whether the server has a blob.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn has_blob(&self, digest: Digest) -> Result<bool, ClientError> {
        let text = digest.to_string();
        match self
            .call(Method::HEAD, &["v1", "blobs", &text])
            .send()
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn blob(&self, digest: Digest) -> Result<Response, ClientError> {
        let text = digest.to_string();
        let call = self.call(Method::GET, &["v1", "blobs", &text]);
        call.patiently().send().await
    }

    /// Uploads a file. The server compares it with its digest. `sent` is called with the number of bytes of each chunk that is sent.
    ///
    /// # Errors
    /// The file cannot be read or has another size than `size`, the server cannot be reached, or it refuses the upload.
    pub async fn upload_file(
        &self,
        digest: Digest,
        size: u64,
        path: &Path,
        sent: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), ClientError> {
        let failed = |problem: String| ClientError::File {
            file: path.to_owned(),
            problem,
        };
        let unreadable = |error: std::io::Error| failed(error.to_string());
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let found = file.metadata().await.map_err(unreadable)?.len();
        if found != size {
            return Err(failed(format!(
                "the file changed during the upload: found {found} bytes, wanted {size}; push again"
            )));
        }
        // A file that grows now must not outgrow its announced length.
        let reader = ReaderStream::with_capacity(file.take(size), CHUNK_BYTES);
        let counted = reader.inspect_ok(move |chunk| sent(chunk.len() as u64));
        self.upload(digest, size, Body::wrap_stream(counted)).await
    }

    /// Uploads bytes from memory.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn upload(
        &self,
        digest: Digest,
        size: u64,
        body: impl Into<Body>,
    ) -> Result<(), ClientError> {
        let text = digest.to_string();
        let call = self.call(Method::PUT, &["v1", "blobs", &text]);
        let request = call.patiently().into_request();
        let request = request
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, size)
            .body(body);
        self.send(request).await.map(drop)
    }
}
