//! The example `ocr` reads on pages what the Python package that its models come from reads.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use samovar_tests::python::{Python, onnxruntime};
use samovar_tests::{Server, repository};
use serde_json::Value;

/// How far a corner may lie from where the package has it, in pixels.
const NEAR: f64 = 3.0;

#[tokio::test]
async fn it_agrees_with_the_python_package() -> Result<()> {
    let Some(python) = Python::with("the package rapidocr-onnxruntime") else {
        return Ok(());
    };
    let server = push()?;
    let folder = server.folder().join("pages");
    std::fs::create_dir(&folder)?;
    let wanted = python.json("ocr_oracle.py", &[folder.as_path()])?;

    let (mut wrong, mut read) = (Vec::new(), 0);
    for page in wanted.as_array().context("a list")? {
        let path = PathBuf::from(page["path"].as_str().context("a path")?);
        let (status, found) = ask(&server, std::fs::read(&path)?).await?;
        ensure!(status == 200, "{}: {status} {found}", path.display());
        let lines = |answer: &Value| answer["lines"].as_array().cloned().unwrap_or_default();
        let (found, wanted) = (lines(&found), lines(page));
        read += wanted.len();
        if found.len() != wanted.len() || !found.iter().zip(&wanted).all(|(a, b)| same(a, b)) {
            wrong.push(format!(
                "{}: found {found:#?}, wanted {wanted:#?}",
                path.display()
            ));
        }
    }
    assert!(read >= 30, "only {read} lines on all pages");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let (status, answer) = ask(&server, b"no image".to_vec()).await?;
    assert_eq!(
        (status, &answer["error_code"]),
        (400, &"bad_request".into())
    );
    Ok(())
}

/// Pushes the example to a node with the ONNX Runtime that came with the package.
fn push() -> Result<Server> {
    let library = onnxruntime()?.context("no Python")?;
    let server = Server::start_with(&["--onnxruntime", &library])?;
    server.cli_json(&[
        "push",
        "--no-build",
        repository().join("examples/ocr").to_str().context("path")?,
    ])?;
    Ok(server)
}

async fn ask(server: &Server, page: Vec<u8>) -> Result<(u16, Value)> {
    let answer = server
        .client()
        .post(server.at("/models/ocr/production/predict"))
        .body(page)
        .send()
        .await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

fn same(found: &Value, wanted: &Value) -> bool {
    let numbers = |line: &Value| -> Vec<f64> {
        let corners = line["box"].as_array().into_iter().flatten();
        corners
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(Value::as_f64)
            .collect()
    };
    let (a, b) = (numbers(found), numbers(wanted));
    let score = |line: &Value| line["score"].as_f64().unwrap_or(-1.0);
    found["text"] == wanted["text"]
        && (score(found) - score(wanted)).abs() < 0.05
        && (a.len(), b.len()) == (8, 8)
        && a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= NEAR)
}
