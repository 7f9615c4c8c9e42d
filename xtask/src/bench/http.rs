//! An HTTP/1.1 client on one connection that stays open, so that what is timed is the server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A connection that stays open.
pub struct Connection {
    stream: BufReader<TcpStream>,
    address: String,
}

/// What a server answered.
pub struct Answer {
    /// The `Server-Timing` header; empty without one.
    pub timing: String,
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects to `http://HOST:PORT`.
    pub fn open(url: &str) -> Result<Self> {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let stream = TcpStream::connect(address).with_context(|| format!("connecting to {url}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            stream: BufReader::new(stream),
            address: address.to_owned(),
        })
    }

    /// One request and its answer, which must be a success.
    pub fn send(&mut self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Answer> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;

        let status = self.line()?;
        let (mut length, mut chunked, mut timing) = (0, false, String::new());
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse()?,
                "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
                "server-timing" => value.clone_into(&mut timing),
                _ => {}
            }
        }
        let mut body = Vec::new();
        if chunked {
            while self.chunk(&mut body)? {}
        } else {
            self.read(length, &mut body)?;
        }
        ensure!(
            status
                .split(' ')
                .nth(1)
                .is_some_and(|code| code.starts_with('2')),
            "{method} {path}: found {status}, wanted a success: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(Answer { timing, body })
    }

    /// A request with a JSON answer.
    pub fn json(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Value> {
        let answer = self.send(method, path, "application/json", body)?;
        serde_json::from_slice(&answer.body).with_context(|| format!("{method} {path}"))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("{} closed the connection", self.address);
        }
        Ok(line.trim_end().to_owned())
    }

    /// Reads one chunk; false after the last.
    fn chunk(&mut self, body: &mut Vec<u8>) -> Result<bool> {
        let size = u64::from_str_radix(&self.line()?, 16)?;
        self.read(size, body)?;
        self.line()?;
        Ok(size > 0)
    }

    fn read(&mut self, size: u64, body: &mut Vec<u8>) -> Result<()> {
        let read = (&mut self.stream).take(size).read_to_end(body)?;
        ensure!(read as u64 == size, "the answer ended early");
        Ok(())
    }
}
