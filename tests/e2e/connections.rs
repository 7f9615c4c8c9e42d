//! Connections that ask for nothing end, and never keep those out that do ask.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use samovar_tests::{PATIENCE, Server, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// What clients send that never ask for anything.
const SILENT: [&[u8]; 4] = [
    b"",
    b"PRI * HTTP/2.",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n",
];

async fn connect(server: &Server) -> Result<TcpStream> {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads to the end of the connection.
async fn end_of(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    match read.await.context("the connection did not end")? {
        Ok(_) => {}
        // The server may end it before it has read everything.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error.into()),
    }
    Ok(bytes)
}

/// Asks on a connection of HTTP/1.1 and reads the answer's head and short body.
async fn ask(stream: &mut TcpStream, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = vec![0; 64 << 10];
    let length = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await??;
    bytes.truncate(length);
    Ok(String::from_utf8(bytes)?)
}

/// Raises the limit of open files of this process, and tells what it is then.
fn open_files() -> Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a valid pointer to a structure of ours.
    unsafe {
        ensure!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0);
        limit.rlim_cur = limit.rlim_max;
        ensure!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0);
    }
    Ok(limit.rlim_cur)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_lock_nobody_out() -> Result<()> {
    let server = Server::start()?;
    let status = server.cli_json(&["status"])?;
    let max = status["connections"]["max"].as_u64().context("a maximum")?;
    let room = open_files()?.saturating_sub(1000);
    ensure!(
        room > max,
        "{max} connections cannot be filled with {room} open files: raise `ulimit -n`"
    );
    // One that asked before, and goes on asking.
    let mut early = connect(&server).await?;
    assert!(ask(&mut early, "/healthz").await?.contains(" 200 "));
    let mut silent = Vec::new();
    let target = usize::try_from((max + 500).min(room))?;
    while silent.len() < target {
        // Each waits for its turn, so that none is counted that the server has not seen.
        let mut stream = connect(&server).await?;
        stream
            .write_all(SILENT[silent.len() % SILENT.len()])
            .await?;
        silent.push(stream);
        if silent.len() % 2000 == 0 {
            assert!(ask(&mut early, "/healthz").await?.contains(" 200 "));
        }
    }
    // A client and a connection of its own each time.
    let open = async || -> Result<u64> { Ok(server.api().status().await?.connections.open as u64) };
    ensure!(open().await? <= max);
    ensure!(
        open().await? > max / 2,
        "silent connections are not counted"
    );
    // New clients, who need a connection each.
    for _ in 0..200 {
        let mut stream = connect(&server).await?;
        let answer = ask(&mut stream, "/healthz").await?;
        assert!(answer.contains(" 200 "), "{answer:?}");
    }
    assert!(ask(&mut early, "/healthz").await?.contains(" 200 "));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_ends() -> Result<()> {
    let server = Server::start_with(&["--header-timeout", "1s", "--idle-timeout", "300s"])?;
    for bytes in SILENT {
        let mut stream = connect(&server).await?;
        stream.write_all(bytes).await?;
        end_of(&mut stream).await?;
    }
    // A head that comes byte by byte, and never whole.
    let begun = Instant::now();
    let mut stream = connect(&server).await?;
    while stream.write_all(b"G").await.is_ok() {
        ensure!(begun.elapsed() < PATIENCE, "a dripping head has no end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A client of HTTP/2 that only pings.
    let mut stream = connect(&server).await?;
    stream.write_all(&[PREFACE, SETTINGS].concat()).await?;
    let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0], &[7; 8][..]].concat();
    while stream.write_all(&ping).await.is_ok() {
        ensure!(begun.elapsed() < PATIENCE, "pings keep a connection open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_ends_and_a_busy_one_does_not() -> Result<()> {
    let server = Server::start_with(&["--no-auth", "--idle-timeout", "1s"])?;
    server.push("hostile", "")?;
    let mut stream = connect(&server).await?;
    let path = "/models/hostile/production/sleep?4000";
    let answer = ask(&mut stream, path).await?;
    assert!(answer.contains(" 200 "), "{answer:?}");
    end_of(&mut stream).await?;

    // HTTP/2: the same, and the connection says goodbye (GOAWAY) before it ends.
    let mut stream = connect(&server).await?;
    // GET /healthz of localhost, by literals without an index.
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(4, "/healthz"), (1, "localhost")] {
        block.extend([name, u8::try_from(value.len())?]);
        block.extend(value.as_bytes());
    }
    let head = [0, 0, u8::try_from(block.len())?, 1, 5, 0, 0, 0, 1];
    stream
        .write_all(&[PREFACE, SETTINGS, &head, &block].concat())
        .await?;
    let bytes = end_of(&mut stream).await?;
    let frames = frames(&bytes);
    ensure!(frames.contains(&1), "no answer among the frames {frames:?}");
    ensure!(frames.contains(&7), "no GOAWAY among the frames {frames:?}");
    Ok(())
}

/// The types of frames of HTTP/2.
fn frames(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, ..] = *bytes {
        types.push(kind);
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        bytes = bytes.get(9 + length..).unwrap_or_default();
    }
    types
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_sending_gets_its_answer() -> Result<()> {
    let server = Server::start_with(&["--no-auth"])?;
    server.push("hostile", "")?;
    for path in ["/", "/sleep?1000"] {
        let mut stream = connect(&server).await?;
        let head = format!(
            "POST /models/hostile/production{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.shutdown().await?;
        let answer = String::from_utf8(end_of(&mut stream).await?)?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised_and_reported() -> Result<()> {
    let server = Server::start_under("ulimit -S -n 256", &[])?;
    let status = server.cli_json(&["status"])?;
    let limit = status["open_files_limit"].as_u64();
    ensure!(limit.is_none_or(|limit| limit > 256), "{limit:?} files");
    eventually("the log tells", async || {
        server.log().iter().any(|line| line.contains("open_files"))
    })
    .await?;

    let server = Server::start_under("ulimit -n 256", &[])?;
    let status = server.cli_json(&["status"])?;
    assert_eq!(status["open_files_limit"], 256);
    assert_eq!(status["connections"]["max"], 192);

    let refused = Server::start_under("ulimit -n 256", &["--max-connections", "193"]);
    let said = refused.err().context("193 connections fit")?.to_string();
    assert!(said.contains("256 open files"), "{said}");
    assert!(said.contains("at most 192"), "{said}");
    Ok(())
}

#[tokio::test]
async fn replicas_start_where_address_space_is_limited() -> Result<()> {
    // 6 GiB: less than two memories would reserve.
    let server = Server::start_under("ulimit -v 6291456", &["--no-auth"])?;
    assert_eq!(server.cli_json(&["status"])?["allocator"], "ondemand");
    server.push("routes", "")?;
    let url = server.at("/models/routes/production/predict");
    let answer = server.client().post(url).body("[1, 2]").send().await?;
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await?.contains("3"));
    Ok(())
}
