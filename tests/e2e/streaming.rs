//! Bodies stream both ways, larger than any memory limit, and are bounded.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use samovar_tests::Server;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

const CHUNK: usize = 64 << 10;

fn chunks(count: usize) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    futures::stream::iter((0..count).map(|number| {
        let byte = u8::try_from(number % 251).unwrap_or(0);
        Ok(Bytes::from(vec![byte; CHUNK]))
    }))
}

#[tokio::test]
async fn a_body_far_larger_than_the_memory_goes_through() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "[limits]\nmemory = \"8MiB\"\nbody = \"1GiB\"\n")?;
    let count = 64 << 20 >> 16;
    let answer = server
        .client()
        .post(server.at("/models/echo/production/predict"))
        .body(reqwest::Body::wrap_stream(chunks(count)))
        .send()
        .await?;
    assert_eq!(answer.status(), 200);
    let mut found = Sha256::new();
    let mut size = 0;
    let mut stream = answer.bytes_stream();
    while let Some(bytes) = stream.next().await {
        let bytes = bytes?;
        size += bytes.len();
        found.update(&bytes);
    }
    let mut wanted = Sha256::new();
    let mut sent = chunks(count);
    while let Some(bytes) = sent.next().await {
        wanted.update(&bytes?);
    }
    assert_eq!(size, count * CHUNK);
    assert_eq!(found.finalize(), wanted.finalize());
    Ok(())
}

#[tokio::test]
async fn an_answer_begins_before_the_request_ends() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    let (sender, receiver) = futures::channel::mpsc::unbounded::<std::io::Result<Bytes>>();
    sender.unbounded_send(Ok(Bytes::from_static(b"first")))?;
    let mut answer = server
        .client()
        .post(server.at("/models/echo/production/predict"))
        .body(reqwest::Body::wrap_stream(receiver))
        .send()
        .await?;
    assert_eq!(answer.chunk().await?.unwrap(), "first");
    sender.unbounded_send(Ok(Bytes::from_static(b"second")))?;
    assert_eq!(answer.chunk().await?.unwrap(), "second");
    drop(sender);
    assert_eq!(answer.chunk().await?, None);
    Ok(())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_while_it_streams() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "[limits]\nbody = \"1MiB\"\n")?;
    let url = server.at("/models/echo/production/predict");
    // Announced: refused before a byte is read.
    let announced = server
        .client()
        .post(&url)
        .body(vec![0; 2 << 20])
        .send()
        .await?;
    assert_eq!(announced.status(), 413);
    // Not announced, and without an end: the echo has begun, so its answer breaks off.
    let endless = futures::stream::repeat_with(|| std::io::Result::Ok(Bytes::from(vec![0; CHUNK])));
    let asked = server
        .client()
        .post(&url)
        .body(reqwest::Body::wrap_stream(endless))
        .send();
    let refused = tokio::time::timeout(Duration::from_secs(30), async {
        match asked.await {
            Ok(answer) if answer.status() == 413 => true,
            Ok(answer) => answer.bytes().await.is_err(),
            Err(_) => true,
        }
    });
    assert!(refused.await?, "an endless body was taken");
    let small = server.client().post(&url).body("small").send().await?;
    assert_eq!(small.text().await?, "small");
    Ok(())
}

#[tokio::test]
async fn who_does_not_read_holds_the_model_back_and_fills_no_memory() -> Result<()> {
    let server = Server::start()?;
    server.push("routes", "[autoscaling]\nmax_replica = 1\n")?;
    let resident_kib = || -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let word = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(word.unwrap_or_default().parse()?)
    };
    let url = server.at("/models/routes/production/stream?bytes=1000000000");
    let unread = server.client().get(url).send().await?;
    assert_eq!(unread.status(), 200);
    let before = resident_kib()?;
    // The guest would write hundreds of megabytes in this time.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let grown = resident_kib()?.saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more for one slow reader");
    Ok(())
}

/// Reads one answer with a known length, and tells its status.
async fn status_of(answers: &mut BufReader<OwnedReadHalf>) -> Result<u16> {
    let mut line = String::new();
    answers.read_line(&mut line).await?;
    let status = line
        .split(' ')
        .nth(1)
        .with_context(|| format!("{line:?} is no answer"))?;
    let status = status.parse()?;
    let mut chunked = false;
    let mut length = 0;
    loop {
        line.clear();
        answers.read_line(&mut line).await?;
        let line = line.trim_end().to_ascii_lowercase();
        chunked |= line == "transfer-encoding: chunked";
        if let Some(found) = line.strip_prefix("content-length: ") {
            length = found.parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    while chunked {
        line.clear();
        answers.read_line(&mut line).await?;
        let size = usize::from_str_radix(line.trim_end(), 16)?;
        answers.read_exact(&mut vec![0; size + 2]).await?;
        chunked = size > 0;
    }
    answers.read_exact(&mut vec![0; length]).await?;
    Ok(status)
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_cost_the_connection() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let address = server.url.trim_start_matches("http://");
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (answers, mut requests) = stream.into_split();
    let mut answers = BufReader::new(answers);
    let body = "x".repeat(100_000);
    for (path, wanted) in [
        ("/models/count/production/predict", 200),
        ("/models/nobody/production/predict", 404),
        ("/v1/nothing", 404),
        ("/models/count/production/predict", 200),
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
            server.key(),
            body.len()
        );
        requests.write_all(head.as_bytes()).await?;
        // The answer is there before the body is.
        assert_eq!(status_of(&mut answers).await?, wanted, "{path}");
        requests.write_all(body.as_bytes()).await?;
    }
    Ok(())
}
