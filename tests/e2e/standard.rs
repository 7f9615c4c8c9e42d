//! What the plain toolchains of other languages and libraries make runs as it is, without anything of Samovar's in it.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use samovar_tests::skip::{Need, skip};
use samovar_tests::{Server, guest};

/// A guest's address for a path.
fn at(server: &Server, guest: &str, path: &str) -> String {
    server.at(&format!("/models/{guest}/production{path}"))
}

/// Greets twice, so that the second request meets a replica that served before.
async fn greets(server: &Server, guest: &str, path: &str, greeting: &str) -> Result<()> {
    for _ in 0..2 {
        let answer = server.client().get(at(server, guest, path)).send().await?;
        assert_eq!(answer.status(), 200, "{guest}");
        let text = answer.text().await?;
        assert!(text.starts_with(greeting), "{guest}: {text}");
    }
    Ok(())
}

/// Streams: the first half comes back before the second is sent.
async fn streams(server: &Server, guest: &str, path: &str) -> Result<()> {
    let (sender, receiver) = futures::channel::mpsc::unbounded::<std::io::Result<Bytes>>();
    sender.unbounded_send(Ok(Bytes::from_static(b"first")))?;
    let request = server.client().post(at(server, guest, path));
    let body = reqwest::Body::wrap_stream(receiver);
    let mut answer = request.body(body).send().await?;
    assert_eq!(answer.chunk().await?.context(guest.to_owned())?, "first");
    sender.unbounded_send(Ok(Bytes::from_static(b"second")))?;
    assert_eq!(answer.chunk().await?.context(guest.to_owned())?, "second");
    drop(sender);
    assert_eq!(answer.chunk().await?, None, "{guest}");
    Ok(())
}

/// Fails: that one request, with an error; the next is served.
async fn fails(server: &Server, guest: &str, greeting: &str) -> Result<()> {
    let request = server.client().get(at(server, guest, "/fail"));
    let answer = request.send().await?;
    assert_eq!(answer.status(), 500, "{guest}");
    greets(server, guest, "/x", greeting).await
}

#[tokio::test]
async fn wasip2_alone() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    greets(&server, "echo", "/inspect", "Method::Get /inspect\n").await?;
    streams(&server, "echo", "/predict").await
}

#[tokio::test]
async fn wstd_alone() -> Result<()> {
    let server = Server::start()?;
    server.push("wstd-hello", "")?;
    greets(&server, "wstd-hello", "/x", "Hello from wstd at /x\n").await?;
    streams(&server, "wstd-hello", "/echo").await?;
    fails(&server, "wstd-hello", "Hello from wstd").await
}

#[tokio::test]
async fn wasi_0_3_by_wit_bindgen() -> Result<()> {
    let server = Server::start()?;
    server.push("p3-hello", "")?;
    greets(&server, "p3-hello", "/x", "Hello, 1 at once\n").await?;
    streams(&server, "p3-hello", "/echo").await
}

#[tokio::test]
async fn python_by_componentize_py() -> Result<()> {
    let server = Server::start()?;
    if !is_built("python-hello") {
        return Ok(());
    }
    server.push("python-hello", "")?;
    greets(&server, "python-hello", "/x", "Hello from Python at /x\n").await?;
    streams(&server, "python-hello", "/echo").await?;
    fails(&server, "python-hello", "Hello from Python").await?;
    // Why it failed is in the log, as Python prints it.
    let logs = server.cli(&["logs", "python-hello"])?;
    let logs = String::from_utf8(logs.stdout)?;
    assert!(logs.contains("RuntimeError: told to fail"), "{logs}");
    Ok(())
}

#[tokio::test]
async fn javascript_by_componentize_js() -> Result<()> {
    let server = Server::start()?;
    if !is_built("js-hello") {
        return Ok(());
    }
    // An instance of it serves one request.
    server.push("js-hello", "[limits]\nrequests_per_replica = 1\n")?;
    greets(&server, "js-hello", "/x", "Hello from JavaScript at /x\n").await?;
    streams(&server, "js-hello", "/echo").await?;
    fails(&server, "js-hello", "Hello from JavaScript").await
}

fn is_built(name: &str) -> bool {
    let built = guest(name).exists();
    if !built {
        let reason = format!("`cargo xtask guests` made no {name}, for want of its language");
        skip(Need::Guest, &reason);
    }
    built
}

#[tokio::test]
async fn sockets_are_there_to_import_and_nothing_else() -> Result<()> {
    let server = Server::start()?;
    server.push("sockets", "")?;
    let answer = server.client().get(at(&server, "sockets", "/")).send();
    let text = answer.await?.text().await?;
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.lines().all(|line| line.starts_with("Err(")), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_replica_serves_as_many_requests_as_its_manifest_says() -> Result<()> {
    let server = Server::start()?;
    let pushed = server.push("count", "[limits]\nrequests_per_replica = 2\n")?;
    let mut counts = Vec::new();
    for _ in 0..5 {
        let answer = server
            .client()
            .post(at(&server, "count", "/predict"))
            .send();
        counts.push(answer.await?.text().await?);
    }
    assert_eq!(counts, ["1", "2", "1", "2", "1"]);
    // The manifest that is shown says so too.
    let id = pushed["deployment"]["id"].as_str().context("an id")?;
    let model = pushed["model"]["id"].as_str().context("an id")?;
    let config = server.api().config(model, id).await?.into_inner();
    let text = config.raw_config.context("a manifest")?;
    assert!(text.contains("requests_per_replica = 2"), "{text}");
    Ok(())
}
