//! HTTP as the standard has it, over HTTP/1.1 and HTTP/2 alike.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use samovar_tests::{PATIENCE, Server};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

async fn connect(server: &Server) -> Result<TcpStream> {
    Ok(TcpStream::connect(server.url.trim_start_matches("http://")).await?)
}

/// Sends bytes, and reads what comes until the connection ends.
async fn raw(server: &Server, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = connect(server).await?;
    stream.write_all(request).await?;
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await??;
    Ok(bytes)
}

/// Takes an answer of HTTP/1 apart, with all that follows its head as its body.
fn parsed(bytes: &[u8]) -> Result<Answer> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let end = text
        .find("\r\n\r\n")
        .with_context(|| format!("{text:?} is no answer"))?;
    let mut lines = text[..end].split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(": ").with_context(|| line.to_owned())?;
        headers.append(http::HeaderName::try_from(name)?, value.parse()?);
    }
    Ok(Answer {
        status: status.context("a status")?.parse()?,
        headers,
        body: bytes[end + 4..].to_vec(),
    })
}

/// Asks over HTTP/1.1, on a connection that ends with the answer.
async fn http1(
    server: &Server,
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Answer> {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    parsed(&raw(server, format!("{request}\r\n").as_bytes()).await?)
}

/// Asks over HTTP/2, with a client that takes any breach of the protocol for an error.
async fn http2(
    server: &Server,
    method: &Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Answer> {
    let (client, connection) = h2::client::handshake(connect(server).await?).await?;
    let driver = tokio::spawn(connection);
    let mut client = client.ready().await?;
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://localhost{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, _) = client.send_request(request.body(())?, true)?;
    let answer = tokio::time::timeout(PATIENCE, answer).await?;
    let (head, mut stream) = answer
        .with_context(|| format!("{method} {path}"))?
        .into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.with_context(|| format!("{method} {path}: {head:?}"))?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    drop(client);
    driver.abort();
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    })
}

/// Asks over both, compares what must not differ, and answers what came over HTTP/2.
async fn both(
    server: &Server,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Answer> {
    let one = http1(server, &method, path, headers).await?;
    let two = http2(server, &method, path, headers).await?;
    let at = format!("{method} {path}: {one:?} and {two:?}");
    ensure!(one.status == two.status, "{at}");
    for name in ["content-length", "content-type", "allow"] {
        ensure!(one.header(name) == two.header(name), "{name} of {at}");
    }
    ensure!(one.body.is_empty() == two.body.is_empty(), "{at}");
    Ok(two)
}

#[tokio::test]
async fn answers_without_a_body_have_none_in_either_version() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    server.push("hostile", "")?;
    let at = |rest: &str| format!("/models/hostile/production{rest}");
    for (method, path, status, length) in [
        (Method::GET, at("/body?200"), 200, Some("4")),
        (Method::HEAD, at("/body?200"), 200, Some("4")),
        (Method::HEAD, at("/"), 200, None),
        (Method::HEAD, "/healthz".into(), 200, Some("3")),
        (Method::HEAD, "/v1/models".into(), 200, None),
        (Method::HEAD, "/nosuch".into(), 404, None),
        (
            Method::HEAD,
            "/models/nosuch/production/x".into(),
            404,
            None,
        ),
        (Method::GET, at("/body?204"), 204, None),
        (Method::GET, at("/body?304"), 304, None),
    ] {
        let answer = both(&server, method.clone(), &path, &[]).await?;
        assert_eq!(answer.status, status, "{method} {path}");
        let has_body = method == Method::GET && status == 200;
        assert_eq!(
            !answer.body.is_empty(),
            has_body,
            "{method} {path}: {answer:?}"
        );
        if let Some(length) = length {
            assert_eq!(
                answer.header("content-length"),
                Some(length),
                "{method} {path}"
            );
        }
        if [204, 304].contains(&status) {
            assert_eq!(answer.header("content-length"), None);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_status_that_ends_no_request_is_an_error_of_the_model() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    server.push("hostile", "")?;
    for status in [100, 101, 103, 199] {
        let path = format!("/models/hostile/production/status?{status}");
        let answer = both(&server, Method::GET, &path, &[]).await?;
        assert_eq!(answer.status, 500, "{status}");
        assert_eq!(answer.json()["error_code"], "application_error", "{status}");
        assert!(
            answer.json()["error"]
                .to_string()
                .contains(&status.to_string())
        );
    }
    Ok(())
}

#[tokio::test]
async fn http_1_1_needs_one_host() -> Result<()> {
    let server = Server::start()?;
    for (request, wanted) in [
        ("GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n", 400),
        (
            "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
            400,
        ),
        (
            "GET /healthz HTTP/1.1\r\nhost: a\r\nhost: a\r\nconnection: close\r\n\r\n",
            400,
        ),
        (
            "GET /healthz HTTP/1.1\r\nhost: a/b\r\nconnection: close\r\n\r\n",
            400,
        ),
        (
            "GET http://a/healthz HTTP/1.1\r\nconnection: close\r\n\r\n",
            400,
        ),
        (
            "GET http://a/healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            200,
        ),
        (
            "GET /healthz HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n",
            200,
        ),
        ("GET /healthz HTTP/1.0\r\n\r\n", 200),
        ("GET /healthz HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n", 400),
    ] {
        let answer = parsed(&raw(&server, request.as_bytes()).await?)?;
        assert_eq!(answer.status, wanted, "{request:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_client_of_http_1_0_keeps_its_connection_when_lengths_are_known() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    server.push("hostile", "")?;
    let ask = |path: &str| format!("GET {path} HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
    // The end of the connection is the end of the body, and the head says so.
    let streamed = parsed(&raw(&server, ask("/models/hostile/production/").as_bytes()).await?)?;
    assert_eq!((streamed.status, &*streamed.body), (200, &b"ok"[..]));
    assert_eq!(streamed.header("connection"), Some("close"));
    assert_eq!(streamed.header("transfer-encoding"), None);
    // Two in a row, and the second ends it.
    let first = ask("/models/hostile/production/body?200");
    let both = format!("{first}GET /healthz HTTP/1.0\r\n\r\n");
    let answers = raw(&server, both.as_bytes()).await?;
    let first = parsed(&answers)?;
    assert_eq!(first.header("connection"), Some("keep-alive"));
    assert!(first.body.starts_with(b"bodyHTTP/1.0 200"), "{first:?}");
    Ok(())
}

#[tokio::test]
async fn headers_between_neighbours_and_of_the_platform_end_here() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    server.push("echo", "")?;
    let path = "/models/echo/production/inspect";
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close, x-hop\r\nx-hop: 1\r\nte: trailers\r\n\
         keep-alive: timeout=5\r\nx-samovar-shadow: 1\r\nx-samovar-environment: mine\r\nx-kept: yes\r\n\r\n"
    );
    let seen = raw(&server, request.as_bytes()).await?;
    let seen = String::from_utf8(seen)?.to_lowercase();
    let (_, seen) = seen
        .split_once("method::get")
        .context("what the component saw")?;
    assert!(seen.contains("x-kept: yes"), "{seen}");
    assert!(seen.contains("x-samovar-environment: production"), "{seen}");
    for gone in [
        "x-hop",
        "te: ",
        "keep-alive",
        "connection",
        "shadow",
        "mine",
    ] {
        assert!(!seen.contains(gone), "{gone} in {seen}");
    }
    let headers = [("te", "trailers"), ("x-samovar-shadow", "1")];
    let seen = String::from_utf8(http2(&server, &Method::GET, path, &headers).await?.body)?;
    assert!(!seen.contains("te: ") && !seen.contains("shadow"), "{seen}");
    Ok(())
}

/// Posts a body of so many bytes in chunks, as long as they are taken, and answers the status.
async fn post_chunked(server: &Server, path: &str, mut bytes: usize) -> Result<u16> {
    const CHUNK: usize = 64 << 10;
    let (mut answers, mut requests) = connect(server).await?.into_split();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n",
        server.key()
    );
    let sending = tokio::spawn(async move {
        requests.write_all(head.as_bytes()).await?;
        while bytes > 0 {
            let size = bytes.min(CHUNK);
            let mut chunk = format!("{size:x}\r\n").into_bytes();
            chunk.resize(chunk.len() + size, b' ');
            chunk.extend_from_slice(b"\r\n");
            requests.write_all(&chunk).await?;
            bytes -= size;
        }
        requests.write_all(b"0\r\n\r\n").await?;
        anyhow::Ok(requests)
    });
    let mut head = vec![0; 4096];
    let read = tokio::time::timeout(PATIENCE, answers.read(&mut head));
    let length = read.await.context("no answer")??;
    let status = parsed(&head[..length])?.status;
    sending.abort();
    Ok(status)
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_at_any_size() -> Result<()> {
    const MIB: usize = 1 << 20;
    let server = Server::start()?;
    server.push("routes", "[limits]\nbody = \"1MiB\"\n")?;
    for beyond in [1, MIB, 9 * MIB, 64 * MIB] {
        for path in ["/predict", "/count"] {
            let path = format!("/models/routes/production{path}");
            let status = post_chunked(&server, &path, MIB + beyond).await?;
            assert_eq!(status, 413, "{path}, {beyond} bytes over the limit");
        }
        for (path, limit) in [
            ("/models/routes/production/async_predict", 256 << 10),
            ("/v1/models", MIB),
            ("/v1/secrets", MIB),
        ] {
            let status = post_chunked(&server, path, limit + beyond).await?;
            assert_eq!(status, 413, "{path}, {beyond} bytes over the limit");
        }
    }
    // HTTP/2, without a length, as long as the window is open.
    let (client, connection) = h2::client::handshake(connect(&server).await?).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post("http://localhost/models/routes/production/count")
        .header("authorization", format!("Bearer {}", server.key()))
        .body(())?;
    let (answer, mut body) = client.ready().await?.send_request(request, false)?;
    let sending = tokio::spawn(async move {
        loop {
            body.reserve_capacity(64 << 10);
            let Some(Ok(size)) = futures::future::poll_fn(|cx| body.poll_capacity(cx)).await else {
                return;
            };
            if body
                .send_data(Bytes::from(vec![b' '; size]), false)
                .is_err()
            {
                return;
            }
        }
    });
    let answer = tokio::time::timeout(PATIENCE, answer).await??;
    assert_eq!(answer.status(), 413);
    sending.abort();
    driver.abort();
    Ok(())
}

#[tokio::test]
async fn a_method_that_an_address_does_not_take_is_told_those_that_it_does() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    server.push("count", "")?;
    for (method, path, allow) in [
        (Method::PUT, "/v1/models", "GET,HEAD,POST"),
        (Method::DELETE, "/healthz", "GET,HEAD"),
        (Method::POST, "/openapi.json", "GET,HEAD"),
        (
            Method::GET,
            "/v1/models/count/deployments/x/promote",
            "POST",
        ),
        (Method::GET, "/models/count/production/wake", "POST"),
        (
            Method::DELETE,
            "/models/count/production/async_queue_status",
            "GET, HEAD",
        ),
        (
            Method::GET,
            "/models/count/production/async_predict",
            "POST",
        ),
    ] {
        let answer = both(&server, method.clone(), path, &[]).await?;
        assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        assert!(answer.json()["error_code"].is_string(), "{answer:?}");
    }
    Ok(())
}
