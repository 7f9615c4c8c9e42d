//! What graphs take of the memory together: idle ones make room, what does not fit is refused, and what is not needed any more
//! goes back.

use anyhow::{Context, Result};
use samovar_tests::children::{self, children};
use samovar_tests::onnx::{Value as Port, Weight, model, model_with};
use samovar_tests::python::onnxruntime;
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};

use crate::engines::{RTEN, measured, shape, sums};
use crate::events::Events;
use crate::open_inference::{F32, I64, infer, node, push_folder, sum};

const MIB: u64 = 1 << 20;

/// `y = x + w` with a `w` of so many mebibytes, which begins with this number.
fn heavy(mib: u64, first: f32) -> Vec<u8> {
    let elements = mib * MIB / 4;
    let mut data = first.to_le_bytes().to_vec();
    data.resize((elements * 4) as usize, 0);
    let weight = Weight {
        name: "w",
        ty: F32,
        dims: &[elements],
        data: &data,
    };
    let x = Port {
        name: "x",
        ty: F32,
        dims: &[Some(1)],
    };
    let y = Port {
        name: "y",
        ty: F32,
        dims: &[Some(1)],
    };
    let index = Weight {
        name: "zero",
        ty: I64,
        dims: &[1],
        data: &[0; 8],
    };
    model_with(
        14,
        &[
            node("Gather", &["w", "zero"], "first"),
            node("Add", &["x", "first"], "y"),
        ],
        &[weight, index],
        &[x],
        &[y],
    )
}

/// Sends 1, and returns what comes.
async fn ask(server: &Server, name: &str) -> Result<f64> {
    let one = json!({ "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]});
    let (status, told) = infer(server, name, &one).await?;
    assert_eq!(status, 200, "{name}: {told}");
    told["outputs"][0]["data"][0].as_f64().context("a number")
}

/// The names of the graphs that are in memory, and the bytes that all take.
fn loaded(server: &Server) -> Result<(Vec<String>, u64)> {
    let status = server.cli_json(&["status"])?;
    let graphs = status["loaded_graphs"].as_array().context("a list")?;
    let there = graphs.iter().filter(|graph| graph["memory_bytes"].is_u64());
    let names = there.filter_map(|graph| Some(graph["name"].as_str()?.to_owned()));
    let used = status["graph_memory"]["used_bytes"].as_u64();
    Ok((names.collect(), used.context("a number")?))
}

#[tokio::test]
async fn graphs_that_are_idle_make_room_and_come_back() -> Result<()> {
    let server = Server::start_with(&[&RTEN[..], &["--memory", "100MiB"]].concat())?;
    let mut events = Events::of(&server, "", None).await?;
    let names = ["a", "b", "c", "d"];
    for (at, name) in names.iter().enumerate() {
        let graph = [(*name, heavy(30, at as f32))];
        push_folder(&server, name, &graph, "")?;
    }
    // Their replicas stay, and each graph is loaded again by the run that needs it.
    for _ in 0..2 {
        for (at, name) in names.iter().enumerate() {
            assert_eq!(ask(&server, name).await?, 1.0 + at as f64);
            let (there, used) = loaded(&server)?;
            assert!(there.contains(&(*name).to_owned()), "{name}: {there:?}");
            assert!(there.len() < names.len(), "{there:?}");
            assert!(used <= 100 * MIB, "{used}");
        }
    }
    // The first that had to go is the one that was not used for longest.
    let seen = events.up_to(|event| event["type"] == "eviction").await?;
    let eviction = seen.last().context("an event")?;
    assert_eq!(eviction["graph"]["name"], "a", "{eviction}");
    assert!(eviction["bytes"].as_u64() >= Some(30 * MIB), "{eviction}");
    let shown = server.cli_json(&["deployment", "show", "a", "production"])?;
    let concerned = json!([{ "model_id": shown["model_id"], "deployment_id": shown["id"] }]);
    assert_eq!(eviction["deployments"], concerned, "{eviction}");
    assert!(measured(&server, "samovar_graph_evictions_total").await? >= 4);
    Ok(())
}

#[tokio::test]
async fn a_graph_that_does_not_fit_is_refused_with_the_figures() -> Result<()> {
    let server = Server::start_with(&[&RTEN[..], &["--memory", "40MiB"]].concat())?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    let refused = push_folder(&server, "large", &[("large", heavy(60, 0.0))], "");
    let error = format!("{:#}", refused.err().context("it was taken")?);
    for part in ["65 MiB", "40 MiB", "--memory"] {
        assert!(error.contains(part), "no {part} in {error}");
    }
    sums(&server).await
}

/// A field of `/proc/PID/status` that is a size.
fn status_bytes(pid: u32, field: &str) -> Result<u64> {
    let text = children::status(pid, field)?;
    let kib: u64 = text.trim_end_matches("kB").trim().parse()?;
    Ok(kib << 10)
}

/// Memory of its own that a process has.
fn own_memory(pid: u32) -> Result<u64> {
    status_bytes(pid, "RssAnon")
}

/// The one engine that runs.
fn the_engine(server: &Server) -> Result<u32> {
    let engine = children(server, "engine")?.into_iter().next();
    engine.context("an engine")
}

/// `y` is 1, by way of two tensors of as many elements as `shape` says.
fn ones() -> Vec<u8> {
    let port = |name, ty, dims| Port { name, ty, dims };
    model(
        14,
        &[
            node("ConstantOfShape", &["shape"], "zeros"),
            node("Exp", &["zeros"], "ones"),
            node("ReduceMax", &["ones"], "y"),
        ],
        &[port("shape", I64, &[None])],
        &[port("y", F32, &[None, None])],
    )
}

/// The same by another operator, so that it is another graph.
fn more_ones() -> Vec<u8> {
    let port = |name, ty, dims| Port { name, ty, dims };
    model(
        14,
        &[
            node("ConstantOfShape", &["shape"], "zeros"),
            node("Cos", &["zeros"], "ones"),
            node("ReduceMax", &["ones"], "y"),
        ],
        &[port("shape", I64, &[None])],
        &[port("y", F32, &[None, None])],
    )
}

/// Runs `ones` on so many rows and columns.
async fn run_ones(server: &Server, rows: u64, columns: u64) -> Result<()> {
    let (status, told) = infer(server, "ones", &shape(rows, columns)).await?;
    assert_eq!(
        (status, &told["outputs"][0]["data"]),
        (200, &json!([1.0])),
        "{told}"
    );
    Ok(())
}

#[tokio::test]
async fn what_runs_took_goes_back() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    push_folder(&server, "sum", &[("sum", sum())], "")?;
    push_folder(&server, "ones", &[("ones", ones())], "")?;
    let engine = the_engine(&server)?;
    let mut highest = 0;
    for number in 0..60u64 {
        // Between 1 and 64 MiB for each of two tensors, of ever other shapes.
        let (rows, columns) = (1 + number * 1103 % 4096, 64 + number * 769 % 4032);
        run_ones(&server, rows, columns).await?;
        highest = own_memory(engine)?.max(highest);
    }
    assert!(highest < 1024 * MIB, "{highest}");
    // The engine stays for its other graph.
    let listed = server.cli_json(&["deployment", "list", "ones"])?;
    let deployment: &Value = &listed["deployments"][0]["id"];
    let deployment = deployment.as_str().context("an id")?;
    server.cli_json(&["deployment", "deactivate", "ones", deployment])?;
    eventually("its memory is given back", async || {
        own_memory(engine).is_ok_and(|bytes| bytes < 100 * MIB)
    })
    .await?;
    sums(&server).await
}

/// Runs of two graphs within the same second leave most of what they took with ONNX Runtime. No run comes after them.
#[tokio::test]
async fn what_the_last_runs_took_goes_back_without_another_run() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    push_folder(&server, "ones", &[("ones", ones())], "")?;
    push_folder(&server, "more", &[("more", more_ones())], "")?;
    let engine = the_engine(&server)?;
    let (first, second) = (shape(8_000, 8_000), shape(8_000, 8_000));
    let (first, second) = tokio::join!(
        infer(&server, "ones", &first),
        infer(&server, "more", &second)
    );
    assert_eq!((first?.0, second?.0), (200, 200));
    let highest = status_bytes(engine, "VmHWM")?;
    assert!(highest > 450 * MIB, "{highest}");
    eventually("their memory is given back", async || {
        own_memory(engine).is_ok_and(|bytes| bytes < 300 * MIB)
    })
    .await
}

/// A run of about a gigabyte leaves most of it with the arena of ONNX Runtime, which small runs give back, also when it was the first.
#[tokio::test]
async fn what_a_large_run_took_goes_back_while_its_graph_stays() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    push_folder(&server, "ones", &[("ones", ones())], "")?;
    let engines = children(&server, "engine")?;
    let engine = the_engine(&server)?;
    // 488 MiB for each of two tensors.
    run_ones(&server, 8_000, 16_000).await?;
    let highest = status_bytes(engine, "VmHWM")?;
    assert!(highest > 450 * MIB, "{highest}");
    eventually("small runs give its memory back", async || {
        run_ones(&server, 1, 64).await.is_ok()
            && own_memory(engine).is_ok_and(|bytes| bytes < 400 * MIB)
    })
    .await?;
    assert_eq!(children(&server, "engine")?, engines);
    let (there, _) = loaded(&server)?;
    assert_eq!(there, ["ones"]);
    Ok(())
}
