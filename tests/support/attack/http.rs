//! An HTTP/1.1 client on one connection that stays open. Each request has a deadline, so that one that hangs is noticed.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{DEADLINE, Target};

/// A client of one node.
pub struct Client {
    address: String,
    key: String,
    stream: Option<BufReader<TcpStream>>,
}

/// An answer of any status.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Why there is no whole answer.
#[derive(Debug)]
pub enum Lost {
    /// The deadline passed.
    Hung,
    /// The connection ended, or could not be opened.
    Broken(io::Error),
}

impl Answer {
    /// The body as text, for people.
    pub fn text(&self) -> String {
        let shown = &self.body[..self.body.len().min(1000)];
        format!("{} {}", self.status, String::from_utf8_lossy(shown))
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hung => write!(f, "no answer within {DEADLINE:?}"),
            Self::Broken(error) => write!(f, "the connection broke: {error}"),
        }
    }
}

impl std::error::Error for Lost {}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Hung,
            _ => Self::Broken(error),
        }
    }
}

impl Client {
    /// Connects with the first request.
    pub fn new(target: &Target) -> Self {
        Self {
            address: target.url.trim_start_matches("http://").to_owned(),
            key: target.key.clone(),
            stream: None,
        }
    }

    /// One request, and its answer.
    ///
    /// # Errors
    /// When there is no whole answer within [`DEADLINE`].
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, Lost> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", self.address);
        if !self.key.is_empty() {
            head += &format!("authorization: Bearer {}\r\n", self.key);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        let until = Instant::now() + DEADLINE;
        // A node may close a connection between two requests; nothing of the answer has come then.
        if let Some(stream) = self.stream.take() {
            match self.exchange(stream, head.as_bytes(), body, until) {
                Err((Lost::Broken(_), false)) => {}
                Err((lost, _)) => return Err(lost),
                Ok(answer) => return Ok(answer),
            }
        }
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        let answer = self.exchange(BufReader::new(stream), head.as_bytes(), body, until);
        answer.map_err(|(lost, _)| lost)
    }

    /// Sends and reads; an error says whether something of the answer had come.
    fn exchange(
        &mut self,
        mut stream: BufReader<TcpStream>,
        head: &[u8],
        body: &[u8],
        until: Instant,
    ) -> Result<Answer, (Lost, bool)> {
        let mut reading = Reading {
            stream: &mut stream,
            until,
            begun: false,
        };
        let answer = reading.exchange(head, body);
        let begun = reading.begun;
        let answer = answer.map_err(|error| (error.into(), begun))?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

struct Reading<'a> {
    stream: &'a mut BufReader<TcpStream>,
    until: Instant,
    begun: bool,
}

impl Reading<'_> {
    fn exchange(&mut self, head: &[u8], body: &[u8]) -> io::Result<Answer> {
        let left = self.left()?;
        let socket = self.stream.get_mut();
        socket.set_write_timeout(Some(left))?;
        // The answer may come before the whole body is sent, as when it is too large.
        let sent = socket.write_all(head).and_then(|()| socket.write_all(body));
        let status = match (self.line(), sent) {
            (Ok(line), _) => line,
            (Err(_), Err(error)) | (Err(error), Ok(())) => return Err(error),
        };
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status line"))?;
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
                "transfer-encoding" => is_chunked = value.trim().eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
        let mut body = Vec::new();
        if is_chunked {
            loop {
                let line = self.line()?;
                let size = u64::from_str_radix(&line, 16).map_err(io::Error::other)?;
                self.read(size, &mut body)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.read(length, &mut body)?;
        }
        Ok(Answer { status, body })
    }

    fn line(&mut self) -> io::Result<String> {
        let left = self.left()?;
        self.stream.get_ref().set_read_timeout(Some(left))?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.begun = true;
        Ok(line.trim_end().to_owned())
    }

    fn read(&mut self, mut size: u64, body: &mut Vec<u8>) -> io::Result<()> {
        while size > 0 {
            let left = self.left()?;
            self.stream.get_ref().set_read_timeout(Some(left))?;
            let bytes = self.stream.fill_buf()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = bytes.len().min(usize::try_from(size).unwrap_or(usize::MAX));
            body.extend_from_slice(&bytes[..taken]);
            self.stream.consume(taken);
            size -= taken as u64;
        }
        Ok(())
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    }
}
