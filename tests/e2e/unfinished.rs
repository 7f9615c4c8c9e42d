//! An answer whose body its guest leaves unfinished breaks off, in the eyes of its client and of whoever counts.

use std::time::Duration;

use anyhow::{Context as _, Result};
use samovar_tests::skip::{Need, skip};
use samovar_tests::{Server, eventually, guest, http2};
use samovar_types::names::PRODUCTION;

const MANIFEST: &str = "[limits]\ntimeout = \"2s\"\n";

/// Asks over HTTP/1; says what came of the body, and whether it came to its end.
async fn http1(server: &Server, path: &str) -> Result<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    // The head may be gone with the connection before it was sent.
    let Ok(mut answer) = server.client().get(server.at(path)).send().await else {
        return Ok((body, false));
    };
    assert_eq!(answer.status(), 200, "{path}");
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok((body, true)),
            Err(_) => return Ok((body, false)),
        }
    }
}

/// Asks over both; each time the answer must break off, in time, after what was written.
async fn breaks_off(server: &Server, path: &str, written: &str) -> Result<()> {
    let asked = async {
        let (body, whole) = http1(server, path).await?;
        let body = String::from_utf8(body)?;
        assert!(!whole, "{path} looks whole over HTTP/1: {body:?}");
        assert!(written.starts_with(&body), "{path}: {body:?}");
        let answer = http2::get(server, path).await?;
        let body = String::from_utf8(answer.body)?;
        assert!(
            answer.broken.is_some(),
            "{path} looks whole over HTTP/2: {body:?}"
        );
        assert!(written.starts_with(&body), "{path}: {body:?}");
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), asked).await?
}

/// How many requests to a model ended well and how many failed.
async fn counted(server: &Server, model: &str) -> Result<(u64, u64)> {
    let text = server.client().get(server.at("/metrics")).send().await?;
    let text = text.text().await?;
    let (mut well, mut failed) = (0, 0);
    let of_model = |line: &&str| {
        line.starts_with("samovar_requests_total{") && line.contains(&format!("\"{model}\""))
    };
    for line in text.lines().filter(of_model) {
        let count: f64 = line.rsplit(' ').next().unwrap_or("0").parse()?;
        match line.contains("outcome=\"ok\"") {
            true => well += count as u64,
            false => failed += count as u64,
        }
    }
    Ok((well, failed))
}

/// Every request failed but one for each greeting, and the log says so.
async fn told(server: &Server, model: &str, well: u64, failed: u64, log: &str) -> Result<()> {
    eventually("all are counted", async || {
        counted(server, model).await.unwrap() == (well, failed)
    })
    .await?;
    eventually("the log says what was not finished", async || {
        let logs = server.cli(&["logs", model]).unwrap();
        String::from_utf8_lossy(&logs.stdout).contains(log)
    })
    .await
}

#[tokio::test]
async fn a_body_left_open_breaks_off_when_the_handler_returns() -> Result<()> {
    let server = Server::start()?;
    // The timeout is not what ends it.
    server.push("hostile", "[limits]\ntimeout = \"600s\"\n")?;
    for how in ["stream", "body", "dropped"] {
        let path = format!("/models/hostile/production/unfinished?{how}");
        breaks_off(&server, &path, "the first half").await?;
        let (body, whole) = http1(&server, "/models/hostile/production/").await?;
        assert_eq!((body.as_slice(), whole), (&b"ok"[..], true), "after {how}");
    }
    told(&server, "hostile", 3, 6, "without finishing the body").await?;
    told(&server, "hostile", 3, 6, "broke off the body").await
}

#[tokio::test]
async fn a_stream_of_wasi_0_3_left_open_breaks_off_at_the_timeout() -> Result<()> {
    let server = Server::start()?;
    server.push("p3-hello", MANIFEST)?;
    for (path, written) in [
        ("/unfinished", "the first half"),
        ("/trailers", "all but the end"),
    ] {
        let path = format!("/models/p3-hello/production{path}");
        breaks_off(&server, &path, written).await?;
        let (_, whole) = http1(&server, "/models/p3-hello/production/").await?;
        assert!(whole);
    }
    told(&server, "p3-hello", 2, 4, "did not finish the body").await
}

#[tokio::test]
async fn python_and_javascript_leave_nobody_waiting() -> Result<()> {
    let server = Server::start()?;
    for model in ["python-hello", "js-hello"] {
        if !guest(model).exists() {
            let reason = format!("`cargo xtask guests` made no {model}, for want of its language");
            skip(Need::Guest, &reason);
            continue;
        }
        // Their start is no part of a request's time here.
        server.push(
            model,
            "[limits]\ntimeout = \"5s\"\nrequests_per_replica = 1\n",
        )?;
        let path = format!("/models/{model}/production/unfinished");
        breaks_off(&server, &path, "the first half").await?;
        told(&server, model, 0, 2, "the body of its answer").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_replica_does_not_end_an_answer_as_if_it_were_whole() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", "[limits]\ntimeout = \"3s\"\n")?;
    let mut answer = server
        .client()
        .get(server.at("/models/hostile/production/slow"))
        .send()
        .await?;
    assert!(answer.chunk().await?.is_some());
    let api = server.api();
    let found = api.replicas("hostile", PRODUCTION).await?;
    let replica = &found.replicas.first().context("a replica")?.id;
    api.terminate_replica("hostile", PRODUCTION, replica)
        .await?;
    // It finishes its request first, and this one never ends.
    let rest = async {
        loop {
            match answer.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    let rest = tokio::time::timeout(Duration::from_secs(20), rest).await?;
    assert!(rest.is_err(), "the answer looks whole");
    told(&server, "hostile", 0, 1, "did not finish the body").await
}
