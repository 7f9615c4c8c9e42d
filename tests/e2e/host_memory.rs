//! Whatever a guest makes the host allocate, the server and its engines grow by no more than the limit of its replica and a constant.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use samovar_tests::children::{children, proportional_bytes};
use samovar_tests::onnx::{Node, Value as Port, Weight, field, model, model_with, number};
use samovar_tests::python::onnxruntime;
use samovar_tests::{Server, repository};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const MIB: u64 = 1 << 20;
/// The limit of the hostile replica.
const MEMORY: u64 = 64 * MIB;
/// What the server may grow beyond it.
const SLACK: u64 = 64 * MIB;
/// No test may take the machine down.
const CEILING: u64 = 4096 * MIB;

/// Each function that a component can import: how it is attacked, or why it need not be.
const FUNCTIONS: &str = include_str!("../host_functions.txt");

/// The cases of the table for guests of WASI 0.2 or 0.3.
fn cases(of_03: bool) -> Vec<&'static str> {
    let attacked = FUNCTIONS
        .lines()
        .filter_map(|line| Some(line.split_once(" = ")?.1));
    let mut cases: Vec<_> = attacked.flat_map(str::split_whitespace).collect();
    cases.retain(|case| case.starts_with("p3-") == of_03);
    cases.sort_unstable();
    cases.dedup();
    cases
}

fn double() -> Vec<u8> {
    let port = |name| Port {
        name,
        ty: 1,
        dims: &[None],
    };
    let node = Node {
        op: "Add",
        inputs: &["x", "x"],
        output: "out",
        attribute: None,
    };
    model(13, &[node], &[port("x")], &[port("out")])
}

/// `y`, of which a backend that computes what is constant while it loads makes 1 GiB.
fn swelling() -> Vec<u8> {
    let shape: Vec<u8> = [16i64 << 10; 2]
        .into_iter()
        .flat_map(i64::to_le_bytes)
        .collect();
    let shape = Weight {
        name: "shape",
        ty: 7,
        dims: &[2],
        data: &shape,
    };
    let fill = Node {
        op: "ConstantOfShape",
        inputs: &["shape"],
        output: "y",
        attribute: None,
    };
    let y = Port {
        name: "y",
        ty: 1,
        dims: &[None, None],
    };
    model_with(14, &[fill], &[shape], &[], &[y])
}

/// The bytes of a model with this graph.
fn model_around(graph: &[u8]) -> Vec<u8> {
    let mut set = Vec::new();
    number(&mut set, 2, 14);
    let mut bytes = Vec::new();
    number(&mut bytes, 1, 8);
    field(&mut bytes, 7, graph);
    field(&mut bytes, 8, &set);
    bytes
}

/// A model with a weight of a million numbers, each of which takes one byte in the file and eight in memory.
fn packed() -> Vec<u8> {
    const COUNT: usize = 1 << 20;
    let mut weight = Vec::new();
    number(&mut weight, 1, COUNT as u64);
    number(&mut weight, 2, 7);
    field(&mut weight, 7, &vec![1; COUNT]);
    field(&mut weight, 8, b"w");
    let mut first = Vec::new();
    field(&mut first, 1, b"w");
    field(&mut first, 2, b"y");
    field(&mut first, 4, b"Identity");
    let mut graph = Vec::new();
    field(&mut graph, 1, &first);
    field(&mut graph, 2, b"test");
    field(&mut graph, 5, &weight);
    field(&mut graph, 12, &samovar_tests::onnx::port("y", 7, &[None]));
    model_around(&graph)
}

/// A model of nodes of two bytes each, which are a hundred times as large in memory.
fn many_nodes() -> Vec<u8> {
    let mut graph = Vec::new();
    (0..400_000).for_each(|_| field(&mut graph, 1, b""));
    model_around(&graph)
}

/// Answers any number of requests: with as many headers as may be, or with a body that has no end. What is sent is what is taken.
async fn flood(listener: TcpListener) {
    while let Ok((connection, _)) = listener.accept().await {
        tokio::spawn(async move {
            // It ends when the server has gone.
            let _ = answer_without_end(connection).await;
        });
    }
}

async fn answer_without_end(mut connection: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(connection.read_u8().await?);
    }
    let mut head = "HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n".to_owned();
    if request.starts_with(b"GET /headers") {
        for number in 0..60 {
            head += &format!("x-{number}: {}\r\n", "y".repeat(4000));
        }
    }
    head += "\r\n";
    connection.write_all(head.as_bytes()).await?;
    let chunk = vec![b'z'; 64 << 10];
    loop {
        connection.write_all(&chunk).await?;
    }
}

/// A server with a hostile guest, as the model `hostile`, and a neighbour.
async fn server(guest: &str, args: &[&str]) -> Result<Server> {
    let server = Server::start_with(args)?;
    server.limit_memory(CEILING)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let others = listener.local_addr()?;
    tokio::spawn(flood(listener));
    let authority = server.url.trim_start_matches("http://");
    let files = [
        ("large.bin", vec![1; 1 << 20]),
        ("small.onnx", double()),
        ("swelling.onnx", swelling()),
        ("packed.onnx", packed()),
        ("many-nodes.onnx", many_nodes()),
    ];
    let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
    let manifest = format!(
        "files = {names:?}\nload_graphs_from_bytes = true\n\
         [limits]\nmemory = \"64MiB\"\ntimeout = \"20s\"\n\
         [autoscaling]\nmax_replica = 1\n\
         [network]\nallow = [\"{authority}\", \"{others}\"]\n\
         [environment_variables]\nAUTHORITY = \"{authority}\"\nFLOOD = \"{others}\"\n\
         [graphs.double]\nfile = \"double.onnx\"\nbackend = \"rten\"\n"
    );
    let folder = server.bundle("hostile", guest, &manifest)?;
    std::fs::write(folder.join("double.onnx"), double())?;
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes)?;
    }
    server.cli_json(&["push", folder.to_str().context("a path")?])?;
    server.push("count", "")?;
    Ok(server)
}

/// Calls the neighbour until told to stop; gives how often it was served.
async fn neighbour(server: &Server, stop: watch::Receiver<bool>) -> Result<usize> {
    let (client, url) = (server.client(), server.at("/models/count/production/x"));
    let mut served = 0;
    loop {
        let answer = client.get(&url).send().await?;
        ensure!(answer.status() == 200, "the neighbour: {}", answer.status());
        served += 1;
        if *stop.borrow() {
            return Ok(served);
        }
    }
}

/// What the server and its engines take together.
fn together(server: &Server) -> Result<u64> {
    let engines = children(server, "engine")?;
    let all = engines.into_iter().chain([server.pid()]);
    Ok(all.map(proportional_bytes).sum())
}

/// The most that was seen of that until told to stop.
async fn most_together(server: &Server, stop: watch::Receiver<bool>) -> Result<u64> {
    let mut most = 0;
    loop {
        most = most.max(together(server)?);
        if *stop.borrow() {
            return Ok(most);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Makes the guest keep, or not, what each of these cases gives, and compares the server's peak, and what was seen of it with its
/// engines, with what there was before all.
async fn attack(guest: &str, how: &str, cases: &[&str], args: &[&str]) -> Result<()> {
    ensure!(!cases.is_empty());
    let server = server(guest, args).await?;
    let client = server.client();
    let ask = async |path: &str| -> Result<(u16, String)> {
        let url = server.at(&format!("/models/hostile/production/{path}"));
        let answer = client.get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    ensure!(ask("").await? == (200, "ok".into()));
    // So that an engine for models from bytes is there: what it takes for itself is none of the replica's.
    if cases.contains(&"nn-load-small") {
        ask("call?nn-load-small").await?;
    }
    neighbour(&server, watch::channel(true).1).await?;
    server.forget_peak_memory()?;
    let (before, together_before) = (server.peak_memory()?, together(&server)?);
    let mut failures = Vec::new();
    for case in cases {
        server.forget_peak_memory()?;
        let (stop, stopped) = watch::channel(false);
        let path = format!("{how}?{case}");
        let attacked = async {
            let answer = ask(&path).await;
            // Whoever listened has failed, which is seen below.
            let _ = stop.send(true);
            answer
        };
        let (answer, served, most) = tokio::join!(
            attacked,
            neighbour(&server, stopped.clone()),
            most_together(&server, stopped)
        );
        let (status, text) = answer?;
        let served = served?;
        let grown = server.peak_memory()?.saturating_sub(before);
        let grown_together = most?.saturating_sub(together_before);
        eprintln!(
            "{how} {case}: {status} {text}, grown by {} MiB, with engines {} MiB, {served} served beside it",
            grown / MIB,
            grown_together / MIB,
        );
        // It holds what it wants, is refused, or is stopped for it: each is right.
        if !matches!(status, 200 | 500) || text.contains("no case") {
            failures.push(format!("{how} {case}: {status} {text}"));
        }
        for (who, grown) in [("server", grown), ("server with engines", grown_together)] {
            if grown >= MEMORY + SLACK {
                let grown = grown / MIB;
                failures.push(format!("{how} {case}: the {who} grew by {grown} MiB"));
            }
        }
        ensure!(ask("").await? == (200, "ok".into()), "after {case}");
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holding_what_the_host_gives_stays_within_the_limit() -> Result<()> {
    attack("hostile", "hold", &cases(false), &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calling_again_and_again_stays_within_the_limit() -> Result<()> {
    attack("hostile", "call", &cases(false), &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holding_and_calling_by_wasi_03_stay_within_the_limit() -> Result<()> {
    attack("hostile-p3", "hold", &cases(true), &[]).await?;
    attack("hostile-p3", "call", &cases(true), &[]).await
}

/// Those with graphs once more, with the other backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graphs_from_bytes_stay_within_the_limit_with_onnx_runtime() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let mut graphs = cases(false);
    graphs.retain(|case| case.starts_with("nn-load-"));
    let args = ["--onnxruntime", library.as_str()];
    attack("hostile", "hold", &graphs, &args).await?;
    attack("hostile", "call", &graphs, &args).await
}

#[test]
fn the_table_names_each_function_that_is_linked() -> Result<()> {
    let named: BTreeSet<String> = FUNCTIONS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = ").or_else(|| line.split_once(" - ")))
        .map(|(function, _)| function.to_owned())
        .collect();
    let mut linked = BTreeSet::new();
    for folder in interfaces()? {
        linked.extend(functions(&folder)?);
    }
    // So that nothing is compared with nothing.
    ensure!(linked.len() > 300, "{} functions found", linked.len());
    let missing: Vec<_> = linked.difference(&named).collect();
    let gone: Vec<_> = named.difference(&linked).collect();
    ensure!(
        missing.is_empty() && gone.is_empty(),
        "tests/host_functions.txt: missing {missing:#?}, not linked any more {gone:#?}"
    );
    Ok(())
}

/// The folders of WIT that the sandbox is linked with.
fn interfaces() -> Result<Vec<PathBuf>> {
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .current_dir(repository())
        .output()?;
    let metadata: Value = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let folder = |name: &str| -> Result<PathBuf> {
        let package = packages.iter().find(|package| package["name"] == name);
        let manifest = package.context(name.to_owned())?["manifest_path"].as_str();
        let folder = Path::new(manifest.context("no path")?).parent();
        Ok(folder.context("no folder")?.to_owned())
    };
    let (wasi, http) = (folder("wasmtime-wasi")?, folder("wasmtime-wasi-http")?);
    Ok(vec![
        wasi.join("src/p2/wit/deps"),
        wasi.join("src/p3/wit/deps"),
        http.join("wit/deps"),
        http.join("src/p3/wit/deps"),
        folder("wasmtime-wasi-config")?.join("wit/deps/config"),
        repository().join("runtime/wit/logging"),
        repository().join("runtime/wit/wasi-nn"),
    ])
}

/// The functions of a folder of WIT, as the table names them: `wasi:io@0.2/streams input-stream.read`.
fn functions(folder: &Path) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "wit") {
            texts.push(std::fs::read_to_string(path)?);
        }
    }
    // One file of a package names it for all.
    let package_of = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("package "));
        line.map(|line| line.trim_end_matches(';').to_owned())
    };
    let shared = texts.iter().find_map(|text| package_of(text));
    let mut found = Vec::new();
    for text in &texts {
        let package = package_of(text).or_else(|| shared.clone());
        let package = package.context("a package has a name")?;
        let (name, version) = package.split_once('@').context("it has a version")?;
        let version: Vec<_> = version.split('.').take(2).collect();
        let package = format!("{name}@{}", version.join("."));
        let (mut interface, mut resource, mut depth) = (None, None, 0);
        for line in text.lines() {
            let line = line.split("//").next().unwrap_or_default().trim();
            if let Some(name) = line.strip_prefix("interface ") {
                interface = name.split_whitespace().next();
            }
            if let Some(name) = line.strip_prefix("resource ")
                && line.ends_with('{')
            {
                resource = name.split_whitespace().next();
            }
            let function = match line.split_once(':') {
                _ if line.starts_with("constructor(") => Some("constructor"),
                Some((name, rest)) if rest.contains("func(") => Some(name),
                _ => None,
            };
            if let (Some(interface), Some(function)) = (interface, function) {
                let owner = resource.map_or(String::new(), |resource| format!("{resource}."));
                let function = function.trim_start_matches('%');
                found.push(format!("{package}/{interface} {owner}{function}"));
            }
            depth += line.matches('{').count();
            depth -= line.matches('}').count();
            if depth < 2 {
                resource = None;
            }
            if depth < 1 {
                interface = None;
            }
        }
    }
    Ok(found)
}
