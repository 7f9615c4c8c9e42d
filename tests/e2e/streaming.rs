//! Bodies stream both ways, larger than any memory limit, and are bounded.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use samovar_tests::Server;
use sha2::{Digest, Sha256};

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
