//! A small HTTP server that receives webhooks.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::PATIENCE;

/// Listens until it is dropped.
pub struct Receiver {
    pub url: String,
    received: tokio::sync::Mutex<mpsc::UnboundedReceiver<Received>>,
    task: tokio::task::JoinHandle<()>,
}

pub struct Received {
    headers: Vec<(String, String)>,
    /// The body as it came.
    pub body: Vec<u8>,
    /// The body as JSON.
    pub json: Value,
}

impl Received {
    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Receiver {
    /// Answers with these statuses in turn, then with 200; a 0 is no answer at all.
    pub async fn start(statuses: &[u16]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/hook?token=x", listener.local_addr()?);
        let (sender, received) = mpsc::unbounded_channel();
        let statuses = Arc::new(Mutex::new(VecDeque::from(statuses.to_vec())));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, statuses) = (sender.clone(), statuses.clone());
                tokio::spawn(async move { serve(stream, &sender, &statuses).await });
            }
        });
        Ok(Self {
            url,
            received: received.into(),
            task,
        })
    }

    /// Takes any number of webhooks and answers none.
    pub async fn silent() -> Result<Self> {
        Self::start(&[0; 1000]).await
    }

    /// How many came that were not looked at yet.
    pub async fn count(&self) -> usize {
        self.received.lock().await.len()
    }

    /// The next one that comes.
    pub async fn next(&self) -> Result<Received> {
        let mut received = self.received.lock().await;
        let next = tokio::time::timeout(PATIENCE, received.recv()).await;
        next.context("no webhook came")?
            .context("the receiver ended")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    sender: &mpsc::UnboundedSender<Received>,
    statuses: &Mutex<VecDeque<u16>>,
) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut headers = Vec::new();
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        line.clear();
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.context("no length")?.1.parse()?];
    stream.read_exact(&mut body).await?;
    let json = serde_json::from_slice(&body)?;
    let status = statuses.lock().expect("no panic holds it").pop_front();
    sender.send(Received {
        headers,
        body,
        json,
    })?;
    match status.unwrap_or(200) {
        0 => std::future::pending().await,
        status => {
            let answer =
                format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await?;
        }
    }
    Ok(())
}
