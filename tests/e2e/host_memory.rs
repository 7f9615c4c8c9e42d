//! Whatever a guest makes the host allocate, the server grows by no more than the limit of its replica and a constant.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use samovar_tests::onnx::{Node, Value as Port, model};
use samovar_tests::{Server, repository};
use serde_json::Value;
use tokio::sync::oneshot;

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

/// A server with a hostile guest, as the model `hostile`, and a neighbour.
fn server(guest: &str) -> Result<Server> {
    let server = Server::start()?;
    server.limit_memory(CEILING)?;
    let authority = server.url.trim_start_matches("http://");
    let manifest = format!(
        "files = [\"large.bin\"]\nload_graphs_from_bytes = true\n\
         [limits]\nmemory = \"64MiB\"\ntimeout = \"20s\"\n\
         [autoscaling]\nmax_replica = 1\n\
         [network]\nallow = [\"{authority}\"]\n\
         [environment_variables]\nAUTHORITY = \"{authority}\"\n\
         [graphs.double]\nfile = \"double.onnx\"\nbackend = \"rten\"\n"
    );
    let folder = server.bundle("hostile", guest, &manifest)?;
    std::fs::write(folder.join("double.onnx"), double())?;
    std::fs::write(folder.join("large.bin"), vec![1; 1 << 20])?;
    server.cli_json(&["push", folder.to_str().unwrap()])?;
    server.push("count", "")?;
    Ok(server)
}

/// Calls the neighbour until told to stop; gives how often it was served.
async fn neighbour(server: &Server, mut stop: oneshot::Receiver<()>) -> Result<usize> {
    let (client, url) = (server.client(), server.at("/models/count/production/x"));
    let mut served = 0;
    loop {
        let answer = client.get(&url).send().await?;
        ensure!(answer.status() == 200, "the neighbour: {}", answer.status());
        served += 1;
        if stop.try_recv().is_ok() {
            return Ok(served);
        }
    }
}

/// Makes the guest keep, or not, what each of these cases gives, and compares the server's peak with what it had before all.
async fn attack(guest: &str, how: &str, cases: &[&str]) -> Result<()> {
    ensure!(!cases.is_empty());
    let server = server(guest)?;
    let client = server.client();
    let ask = async |path: &str| -> Result<(u16, String)> {
        let url = server.at(&format!("/models/hostile/production/{path}"));
        let answer = client.get(url).send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    };
    ensure!(ask("").await? == (200, "ok".into()));
    let (stop, stopped) = oneshot::channel();
    stop.send(()).unwrap();
    neighbour(&server, stopped).await?;
    server.forget_peak_memory()?;
    let before = server.peak_memory()?;
    let mut failures = Vec::new();
    for case in cases {
        server.forget_peak_memory()?;
        let (stop, stopped) = oneshot::channel();
        let path = format!("{how}?{case}");
        let attacked = async {
            let answer = ask(&path).await;
            // Whoever listened has failed, which is seen below.
            let _ = stop.send(());
            answer
        };
        let (answer, served) = tokio::join!(attacked, neighbour(&server, stopped));
        let (status, text) = answer?;
        let served = served?;
        let grown = server.peak_memory()?.saturating_sub(before);
        eprintln!(
            "{how} {case}: {status} {text}, grown by {} MiB, {served} served beside it",
            grown / MIB
        );
        // It holds what it wants, is refused, or is stopped for it: each is right.
        if !matches!(status, 200 | 500) || text.contains("no case") {
            failures.push(format!("{how} {case}: {status} {text}"));
        }
        if grown >= MEMORY + SLACK {
            failures.push(format!(
                "{how} {case}: the server grew by {} MiB",
                grown / MIB
            ));
        }
        ensure!(ask("").await? == (200, "ok".into()), "after {case}");
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holding_what_the_host_gives_stays_within_the_limit() -> Result<()> {
    attack("hostile", "hold", &cases(false)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calling_again_and_again_stays_within_the_limit() -> Result<()> {
    attack("hostile", "call", &cases(false)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holding_and_calling_by_wasi_03_stay_within_the_limit() -> Result<()> {
    attack("hostile-p3", "hold", &cases(true)).await?;
    attack("hostile-p3", "call", &cases(true)).await
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
