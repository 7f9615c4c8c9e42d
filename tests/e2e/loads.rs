//! A graph that takes too long to load, or is a very long chain of operators, harms only its own deployment, and its load ends
//! with the deployment.

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use samovar_tests::onnx::{Value as Port, doubling, model};
use samovar_tests::python::onnxruntime;
use samovar_tests::{Server, children, eventually};
use serde_json::{Value, json};

use crate::engines::{RTEN, shape, shared_engine, sums, zeros};
use crate::events::Events;
use crate::open_inference::{F32, infer, node, push_folder, sum};

/// The end of an engine on account of a graph.
fn ended(event: &Value) -> bool {
    event["type"] == "engine" && event["ended"] == true && event["graphs"] != json!([])
}

#[tokio::test]
async fn a_graph_that_loads_too_long_costs_only_its_pusher() -> Result<()> {
    let server = Server::start_with(&[&RTEN[..], &["--load-timeout", "2s"]].concat())?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    let mut events = Events::of(&server, "", None).await?;
    // What the engine is asked for from now on is never done.
    let engine = shared_engine(&server)?;
    children::stop(engine)?;
    let refused = push_folder(&server, "slow", &[("slow", zeros())], "");
    let error = format!("{:#}", refused.err().context("it was taken")?);
    assert!(
        error.contains("graph `slow`") && error.contains("--load-timeout"),
        "{error}"
    );
    let seen = events.up_to(ended).await?;
    let end = seen.last().context("an event")?;
    assert_eq!(end["reason"], "overdue_load", "{end}");
    assert_eq!(end["process"], engine, "{end}");
    assert_eq!(end["graphs"].as_array().map(Vec::len), Some(1), "{end}");
    // Its neighbour is loaded again, beside others; it is loaded alone the next time.
    sums(&server).await?;
    push_folder(&server, "again", &[("slow", zeros())], "")?;
    let (status, told) = infer(&server, "again", &shape(2, 3)).await?;
    assert_eq!(status, 200, "{told}");
    let status = server.cli_json(&["status"])?;
    let shown = status["engines"].as_array().context("a list")?;
    let alone = shown.iter().filter(|one| one["suspect"] == true);
    assert_eq!(alone.count(), 1, "{status}");
    sums(&server).await
}

/// Begins to push a model file.
fn begin_push(server: &Server, name: &str, bytes: &[u8]) -> Result<Child> {
    let model = server.folder().join(format!("{name}.onnx"));
    std::fs::write(&model, bytes)?;
    let mut push = server.command(&["push", model.to_str().context("a path")?]);
    push.stdin(Stdio::null());
    Ok(push.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?)
}

#[tokio::test]
async fn runs_of_others_are_repeated_when_a_load_takes_too_long() -> Result<()> {
    let server = Server::start_with(&[&RTEN[..], &["--load-timeout", "2s"]].concat())?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    children::stop(shared_engine(&server)?)?;
    let mut push = begin_push(&server, "slow", &zeros())?;
    // Its run waits in the engine that is ended on account of the other graph.
    sums(&server).await?;
    assert!(!push.wait()?.success());
    Ok(())
}

#[tokio::test]
async fn a_load_ends_with_its_deployment() -> Result<()> {
    let server = Server::start_with(&RTEN)?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    sums(&server).await?;
    let mut events = Events::of(&server, "", None).await?;
    let engine = shared_engine(&server)?;
    children::stop(engine)?;
    let mut push = begin_push(&server, "slow", &zeros())?;
    eventually("it loads", async || {
        server
            .cli_json(&["deployment", "list", "slow"])
            .is_ok_and(|listed| listed["deployments"][0]["status"] == "LOADING_MODEL")
    })
    .await?;
    server.cli_json(&["model", "delete", "slow", "--yes"])?;
    let seen = events.up_to(ended).await?;
    let end = seen.last().context("an event")?;
    assert_eq!(end["reason"], "abandoned_load", "{end}");
    assert_eq!(end["process"], engine, "{end}");
    assert!(!push.wait()?.success());
    sums(&server).await
}

#[tokio::test]
async fn functions_that_become_many_operators_do_not_load_for_ever() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library, "--load-timeout", "1s"])?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    let few = doubling(4);
    push_folder(&server, "few", &[("few", few)], "")?;
    let input = json!({ "inputs": [
        {"name": "x", "shape": [1], "datatype": "FP32", "data": [2.5]},
    ]});
    let (status, told) = infer(&server, "few", &input).await?;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["outputs"][0]["data"], json!([2.5]));
    // 262,143 operators, of a file of 4 KiB.
    let refused = push_folder(&server, "many", &[("many", doubling(17))], "");
    let error = format!(
        "{:#}",
        refused.err().context("it was loaded within a second")?
    );
    assert!(error.contains("--load-timeout"), "{error}");
    sums(&server).await?;
    let (status, told) = infer(&server, "few", &input).await?;
    assert_eq!(status, 200, "{told}");
    Ok(())
}

/// `y = x` (one f32) after so many operators in a row, of which each changes the sign. The number must be even.
fn chain(operators: usize) -> Vec<u8> {
    let mut names: Vec<String> = (0..=operators).map(|at| format!("v{at}")).collect();
    "x".clone_into(&mut names[0]);
    "y".clone_into(&mut names[operators]);
    let inputs: Vec<[&str; 1]> = names.iter().map(|name| [name.as_str()]).collect();
    let outputs = names.iter().skip(1);
    let nodes = inputs.iter().zip(outputs);
    let nodes: Vec<_> = nodes
        .map(|(input, output)| node("Neg", input, output))
        .collect();
    let port = |name| Port {
        name,
        ty: F32,
        dims: &[Some(1)],
    };
    model(14, &nodes, &[port("x")], &[port("y")])
}

/// Writes a folder with a graph for this backend.
fn folder_for(server: &Server, name: &str, backend: &str, bytes: &[u8]) -> Result<PathBuf> {
    let folder = server.folder().join(name);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("m.onnx"), bytes)?;
    let graph = format!("[graphs.chain]\nfile = \"m.onnx\"\nbackend = \"{backend}\"\n");
    let manifest = format!("name = \"{name}\"\n{graph}");
    std::fs::write(folder.join("samovar.toml"), manifest)?;
    Ok(folder)
}

/// Pushes a chain of operators while a neighbour is asked again and again. It is served right, or refused with an error, when
/// it is pushed or when it runs.
async fn served_or_refused(server: &Server, operators: usize, backend: &str) -> Result<()> {
    let name = format!("{backend}-{operators}");
    let folder = folder_for(server, &name, backend, &chain(operators))?;
    let mut push = server.command(&["push", folder.to_str().context("a path")?]);
    push.stdin(Stdio::null()).stdout(Stdio::null());
    let mut push = push.stderr(Stdio::piped()).spawn()?;
    while push.try_wait()?.is_none() {
        sums(server).await?;
        // The cores are for the load.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pushed = push.wait_with_output()?;
    let said = String::from_utf8_lossy(&pushed.stderr);
    if !pushed.status.success() {
        // Not by a signal or a panic of the CLI.
        assert_eq!(pushed.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains("error: "), "{name}: {said}");
        eprintln!("{name} is refused: {said}");
        return Ok(());
    }
    let input = json!({ "inputs": [
        {"name": "x", "shape": [1], "datatype": "FP32", "data": [2.5]},
    ]});
    let (status, told) = infer(server, &name, &input).await?;
    if status == 200 {
        assert_eq!(told["outputs"][0]["data"], json!([2.5]), "{name}");
    } else {
        let error = told["error"].as_str().context("an error")?;
        assert!(
            status >= 500 && !error.is_empty(),
            "{name}: {status} {told}"
        );
        eprintln!("{name} fails: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn long_chains_of_operators_are_served_or_refused() -> Result<()> {
    let library = onnxruntime()?;
    let mut args = [&RTEN[..], &["--load-timeout", "5m"]].concat();
    let mut backends = vec!["rten"];
    if let Some(library) = &library {
        args.extend(["--onnxruntime", library.as_str()]);
        backends.push("onnxruntime");
    }
    let mut server = Server::start_with(&args)?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    for operators in [8_000, 100_000] {
        for backend in &backends {
            served_or_refused(&server, operators, backend).await?;
            // The node is never started again here: it is the same process.
            assert!(server.is_running()?, "{backend} {operators}");
            let healthy = server.client().get(server.at("/healthz")).send().await?;
            assert_eq!(healthy.status(), 200, "{backend} {operators}");
            sums(&server).await?;
        }
    }
    Ok(())
}
