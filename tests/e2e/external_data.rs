//! Models whose weights lie in files beside them are pushed and run like any others.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use samovar_tests::Server;
use samovar_tests::onnx::{Node, Outside, Value as Port, model_beside};
use samovar_tests::python::onnxruntime;
use serde_json::{Value, json};

/// `out = x * a + b`, with `a` and `b` in files of their own, one of them deeper.
fn line() -> Vec<u8> {
    let node = |op, inputs, output| Node {
        op,
        inputs,
        output,
        attribute: None,
    };
    let port = |name| Port {
        name,
        ty: 1,
        dims: &[Some(2)],
    };
    let weight = |name, location, offset| Outside {
        name,
        dims: &[2],
        location,
        offset,
    };
    model_beside(
        14,
        &[
            node("Mul", &["x", "a"], "product"),
            node("Add", &["product", "b"], "out"),
        ],
        &[
            weight("a", "m.onnx.data", 0),
            weight("b", "./deep/b.weights", 4),
        ],
        &[port("x")],
        &[port("out")],
    )
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

async fn run(server: &Server, model: &str, graph: &str, x: &[f32]) -> Result<Value> {
    let inputs = json!([{ "name": "x", "ty": "f32", "dims": [2], "data": bytes(x) }]);
    let url = server.at(&format!("/models/{model}/production/predict"));
    let asked = json!({ "graph": graph, "inputs": inputs });
    Ok(server
        .client()
        .post(url)
        .json(&asked)
        .send()
        .await?
        .json()
        .await?)
}

/// Pushes two graphs that differ in nothing but their weights.
fn push(server: &Server, model: &str, backend: &str) -> Result<()> {
    let graph = |name: &str| {
        format!("[graphs.{name}]\nfile = \"{name}/m.onnx\"\nbackend = \"{backend}\"\n")
    };
    let manifest = graph("one") + &graph("two");
    let folder = server.bundle(model, "tensors", &manifest)?;
    for (name, a, b) in [("one", [2., 3.], [10., 20.]), ("two", [5., 7.], [0., 1.])] {
        let folder = folder.join(name);
        std::fs::create_dir_all(folder.join("deep"))?;
        std::fs::write(folder.join("m.onnx"), line())?;
        std::fs::write(folder.join("m.onnx.data"), bytes(&a))?;
        std::fs::write(folder.join("deep/b.weights"), bytes(&[-1., b[0], b[1]]))?;
    }
    server.cli_json(&["push", folder.to_str().context("a path")?])?;
    Ok(())
}

async fn computes(server: &Server, model: &str) -> Result<()> {
    for (graph, wanted) in [("one", [12., 26.]), ("two", [5., 15.])] {
        let answer = run(server, model, graph, &[1., 2.]).await?;
        assert_eq!(
            answer["Ok"][0]["data"],
            json!(bytes(&wanted)),
            "{graph}: {answer}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn weights_come_from_the_files_that_were_pushed() -> Result<()> {
    let server = Server::start()?;
    push(&server, "on-rten", "rten")?;
    computes(&server, "on-rten").await?;
    let graphs = server.cli_json(&["status"])?["loaded_graphs"].clone();
    let bytes = graphs[0]["size"].as_u64().context("a size")?;
    assert_eq!(bytes, line().len() as u64 + 8 + 12, "{graphs}");
    let inside = |folder: &Path| -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder)?;
        Ok(entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?)
    };
    let folder = server.folder().join("data/graphs");
    let engines = folder.join("engines");
    assert_eq!(
        inside(&folder)?,
        std::slice::from_ref(&engines),
        "of loaded graphs"
    );
    // Each engine lays out models in a folder of its own.
    let own = inside(&engines)?;
    assert!(!own.is_empty());
    for own in own {
        assert_eq!(inside(&own)?, Vec::<PathBuf>::new(), "of loaded graphs");
    }
    let server = server.restart()?;
    computes(&server, "on-rten").await
}

#[tokio::test]
async fn onnxruntime_reads_them_too() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    push(&server, "on-onnxruntime", "onnxruntime")?;
    computes(&server, "on-onnxruntime").await
}

#[tokio::test]
async fn a_missing_file_is_named_and_bytes_have_none() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("alone", "tensors", "[graphs.one]\nfile = \"m.onnx\"\n")?;
    std::fs::write(folder.join("m.onnx"), line())?;
    let output = server.cli(&["push", folder.to_str().context("a path")?])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("weight `b` is stored in `deep/b.weights`, which does not exist"),
        "{said}"
    );

    server.push("tensors", "load_graphs_from_bytes = true\n")?;
    let url = server.at("/models/tensors/production/predict");
    let asked = json!({ "bytes": line(), "inputs": [] });
    let answer: Value = server
        .client()
        .post(url)
        .json(&asked)
        .send()
        .await?
        .json()
        .await?;
    let why = answer["Err"]["data"].as_str().context("a reason")?;
    assert!(
        why.contains("weight `a` is stored in another file"),
        "{why}"
    );
    Ok(())
}
