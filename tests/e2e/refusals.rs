//! What a backend cannot do right is refused when it is pushed, by operator and node; `auto` takes one that can.

use std::path::Path;

use anyhow::{Context, Result};
use samovar_tests::Server;
use samovar_tests::onnx::{Node, Value as Port, model};
use samovar_tests::python::onnxruntime;
use serde_json::{Value, json};

/// A graph that only ONNX Runtime does right.
fn non_max_suppression() -> Vec<u8> {
    let node = Node {
        op: "NonMaxSuppression",
        inputs: &["boxes", "scores"],
        output: "chosen",
        attribute: None,
    };
    let f32s = |name, dims| Port { name, ty: 1, dims };
    let boxes = f32s("boxes", &[Some(1), Some(2), Some(4)]);
    let scores = f32s("scores", &[Some(1), Some(2), Some(2)]);
    let chosen = Port {
        name: "chosen",
        ty: 7,
        dims: &[None, Some(3)],
    };
    model(14, &[node], &[boxes, scores], &[chosen])
}

fn bundle(server: &Server, model: &str, backend: &str) -> Result<String> {
    let manifest = format!("[graphs.default]\nfile = \"m.onnx\"\nbackend = \"{backend}\"\n");
    let folder = server.bundle(model, "tensors", &manifest)?;
    std::fs::write(folder.join("m.onnx"), non_max_suppression())?;
    Ok(folder.to_str().context("a path")?.to_owned())
}

#[tokio::test]
async fn rten_refuses_by_operator_and_node_and_auto_takes_the_other() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    let output = server.cli(&["push", &bundle(&server, "only-rten", "rten")?])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains("operator NonMaxSuppression of node `the-node`"),
        "{said}"
    );

    server.cli_json(&["push", &bundle(&server, "any", "auto")?])?;
    let floats = |values: &[f32]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    let inputs = json!([
        { "name": "boxes", "ty": "f32", "dims": [1, 2, 4], "data": floats(&[0., 0., 1., 1., 5., 5., 6., 6.]) },
        { "name": "scores", "ty": "f32", "dims": [1, 2, 2], "data": floats(&[0.9, 0.8, 0.7, 0.6]) },
    ]);
    let url = server.at("/models/any/production/predict");
    let asked = json!({ "graph": "default", "inputs": inputs });
    let answer: Value = server
        .client()
        .post(url)
        .json(&asked)
        .send()
        .await?
        .json()
        .await?;
    // Without a number of boxes wanted, none are chosen.
    assert_eq!(answer["Ok"][0]["dims"], json!([0, 3]), "{answer}");
    let graphs = server.cli_json(&["status"])?["loaded_graphs"].clone();
    assert_eq!(graphs[0]["backend"], "onnxruntime", "{graphs}");
    Ok(())
}

#[tokio::test]
async fn without_onnxruntime_the_refusal_says_so() -> Result<()> {
    let missing = Path::new("/nowhere/libonnxruntime.so");
    let server = Server::start_with(&["--onnxruntime", missing.to_str().context("a path")?])?;
    let output = server.cli(&["push", &bundle(&server, "any", "auto")?])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    for part in [
        "NonMaxSuppression of node `the-node`",
        "onnxruntime, which could perhaps run it",
        "/nowhere",
    ] {
        assert!(said.contains(part), "{said}");
    }
    Ok(())
}
