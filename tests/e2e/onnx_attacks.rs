//! Models that try to read the server's files or to exhaust it are refused, and ONNX Runtime reports to nobody.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use samovar_tests::onnx::{Node, Value as Port, leaking, model};
use samovar_tests::python::onnxruntime;
use samovar_tests::{PATIENCE, Server, binary, guest};
use samovar_types::api::models::PushRequest;
use samovar_types::bundle::Bundle;
use samovar_types::error::ErrorCode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// A file in the working directory of the server under test, which is that of the tests.
const FILE: &str = "Cargo.toml";
const FROM_BYTES: &str = "load_graphs_from_bytes = true\n";

/// Servers on each backend that there is.
fn servers() -> Result<Vec<Server>> {
    let mut servers = vec![Server::start_with(&["--default-backend", "rten"])?];
    if let Some(library) = onnxruntime()? {
        let arguments = [
            "--default-backend",
            "onnxruntime",
            "--onnxruntime",
            &library,
        ];
        servers.push(Server::start_with(&arguments)?);
    }
    Ok(servers)
}

/// Has the guest load a graph from these bytes and run it.
async fn load(server: &Server, bytes: &[u8], inputs: Value) -> Result<Value> {
    load_in("tensors", server, bytes, inputs).await
}

async fn load_in(model: &str, server: &Server, bytes: &[u8], inputs: Value) -> Result<Value> {
    let url = server.at(&format!("/models/{model}/production/predict"));
    let asked = json!({ "bytes": bytes, "inputs": inputs });
    let answer = server.client().post(url).json(&asked).send().await?;
    Ok(answer.json().await?)
}

#[tokio::test]
async fn a_function_s_default_attribute_reads_no_file() -> Result<()> {
    assert!(Path::new(FILE).is_file());
    for server in servers()? {
        server.push("tensors", FROM_BYTES)?;
        let answer = load(&server, &leaking(FILE, 8), json!([])).await?;
        assert_eq!(
            answer["Err"]["code"], "ErrorCode::InvalidEncoding",
            "{answer}"
        );
        let why = answer["Err"]["data"].as_str().context("a reason")?;
        assert!(
            why.contains("weight `stolen` is stored in another file"),
            "{why}"
        );
    }
    Ok(())
}

/// Pushes a graph as a client could that checks nothing, and answers why it is not served.
async fn refusal(server: &Server, name: &str, graph: &[u8]) -> Result<String> {
    let component = server.upload(&std::fs::read(guest("tensors"))?).await?;
    let mut stored = serde_json::to_value(server.upload(graph).await?)?;
    stored["file"] = json!("model.onnx");
    let bundle = Bundle {
        graphs: [("default".to_owned(), serde_json::from_value(stored)?)].into(),
        ..Bundle::new(name, component)
    };
    let request = PushRequest {
        name: Some(name.to_owned()),
        ..PushRequest::new(bundle)
    };
    let pushed = server.api().push(&request, PATIENCE).await;
    let refused = pushed.err().context("it is served")?;
    assert_eq!(refused.code(), Some(ErrorCode::GraphRefused), "{refused}");
    Ok(refused.to_string())
}

#[tokio::test]
async fn a_pushed_model_reads_no_file_that_its_bundle_does_not_name() -> Result<()> {
    for server in servers()? {
        let key = std::fs::read(server.folder().join("data/secrets.key"))?;
        let blob = hex::encode(Sha256::digest(&key));
        // Beside its own blob in the store, up from there, and from the root.
        for location in [blob.as_str(), "../../secrets.key", "/etc/passwd"] {
            let why = refusal(&server, "thief", &leaking(location, 8)).await?;
            assert!(why.contains("weight `stolen` is stored in"), "{why}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn graphs_from_bytes_are_off_unless_the_manifest_allows_them() -> Result<()> {
    let server = Server::start()?;
    server.push("tensors", "")?;
    let answer = load(&server, &relu(4), json!([])).await?;
    assert_eq!(answer["Err"]["code"], "ErrorCode::Security", "{answer}");
    let why = answer["Err"]["data"].as_str().context("a reason")?;
    assert!(why.contains("load_graphs_from_bytes = true"), "{why}");

    server.push_as("allowed", "tensors", FROM_BYTES)?;
    let x = json!([{ "name": "x", "ty": "f32", "dims": [4], "data": vec![0; 16] }]);
    let answer = load_in("allowed", &server, &relu(4), x).await?;
    assert!(answer["Ok"].is_array(), "{answer}");
    Ok(())
}

fn relu(size: u64) -> Vec<u8> {
    let node = Node {
        op: "Relu",
        inputs: &["x"],
        output: "out",
        attribute: None,
    };
    let dims = [Some(size)];
    let port = |name| Port {
        name,
        ty: 1,
        dims: &dims,
    };
    model(14, &[node], &[port("x")], &[port("out")])
}

/// Memory of a process that is its own.
fn anonymous_bytes(server: &Server) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find(|line| line.starts_with("RssAnon"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kilobytes.context("no RssAnon")?.parse::<u64>()? * 1024)
}

#[tokio::test]
async fn a_graph_from_bytes_is_charged_for_what_it_takes() -> Result<()> {
    // Empty nodes: two bytes each in the model, and hundreds in memory.
    let many = 1_000_000;
    let mut graph = Vec::with_capacity(2 * many + 16);
    for _ in 0..many {
        graph.extend([0x0a, 0x00]);
    }
    let mut bomb = vec![8, 8, 0x3a];
    let mut length = graph.len();
    while length >= 0x80 {
        bomb.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bomb.push(length as u8);
    bomb.extend(graph);
    for server in servers()? {
        server.push(
            "tensors",
            &format!("{FROM_BYTES}[limits]\nmemory = \"64MiB\"\n"),
        )?;
        // The guest is up, and what a first load takes for good is taken.
        load(&server, &relu(4), json!([])).await?;
        let before = anonymous_bytes(&server)?;
        let answer = load(&server, &bomb, json!([])).await?;
        let why = answer["Err"]["data"].as_str().context("a reason")?;
        assert!(why.contains("NodeProto"), "{why}");
        let grown = anonymous_bytes(&server)?.saturating_sub(before);
        assert!(grown < 128 << 20, "{grown} bytes");
    }
    Ok(())
}

#[tokio::test]
async fn files_that_are_no_models_are_told_apart() -> Result<()> {
    let server = Server::start()?;
    let cases: [(&str, &[u8], &str); 4] = [
        ("empty", b"", "the file is empty"),
        (
            "pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "the file is a Git LFS pointer",
        ),
        (
            "page",
            b"<!DOCTYPE html>\n<html></html>",
            "the file is an HTML page",
        ),
        ("noise", &[0xff; 64], "has an unknown format"),
    ];
    for (name, bytes, wanted) in cases {
        let path = server.folder().join(format!("{name}.onnx"));
        std::fs::write(&path, bytes)?;
        let output = server.cli(&["push", path.to_str().context("a path")?])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(wanted),
            "{name}: {said}"
        );
    }
    Ok(())
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let nested = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() => files_below(&path),
        path => vec![path],
    });
    nested.collect()
}

#[test]
fn onnxruntime_leaves_nothing_in_the_home_folder() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let home = folder.path().join("home");
    std::fs::create_dir(&home)?;
    let mut server = Command::new(binary())
        .args([
            "--json",
            "serve",
            "--addr",
            "127.0.0.1:0",
            "--onnxruntime",
            &library,
            "--data",
        ])
        .arg(folder.path().join("data"))
        .env_clear()
        .env("HOME", &home)
        .env("SAMOVAR_CONFIG", folder.path().join("config.toml"))
        // Even one who wants it to report does not make it.
        .env("ORT_DISABLE_TELEMETRY", "0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    let stdout = server.stdout.take().context("no stdout")?;
    let read = BufReader::new(stdout).read_line(&mut line);
    server.kill()?;
    server.wait()?;
    read?;
    let ready: Value = serde_json::from_str(&line)?;
    assert!(ready["url"].is_string(), "{ready}");
    assert_eq!(files_below(&home), Vec::<PathBuf>::new());
    Ok(())
}
