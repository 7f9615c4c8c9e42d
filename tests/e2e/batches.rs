//! Calls of a deployment's replicas are joined where its manifest says so, and what was joined can be seen.

use anyhow::{Context, Result};
use futures::future::try_join_all;
use samovar_tests::onnx::{Node, Value as Port, model};
use samovar_tests::{PATIENCE, Server};
use serde_json::{Value, json};
use std::time::Instant;

fn add(dims: &[Option<u64>]) -> Vec<u8> {
    let port = |name| Port { name, ty: 1, dims };
    let node = Node {
        op: "Add",
        inputs: &["a", "b"],
        output: "out",
        attribute: None,
    };
    model(14, &[node], &[port("a"), port("b")], &[port("out")])
}

fn bundle(server: &Server, dims: &[Option<u64>]) -> Result<String> {
    let manifest = "[graphs.add]\nfile = \"add.onnx\"\nbackend = \"rten\"\nbatch = { max_size = 8, max_delay_ms = 200 }\n";
    let folder = server.bundle("tensors", "tensors", manifest)?;
    std::fs::write(folder.join("add.onnx"), add(dims))?;
    Ok(folder.to_str().context("path")?.to_owned())
}

/// The scale of a dynamically quantized tensor is that of all its rows: joined calls would change each other's answers.
#[tokio::test]
async fn a_dynamically_quantized_graph_is_not_joined() -> Result<()> {
    let server = Server::start()?;
    let port = |name, ty| Port {
        name,
        ty,
        dims: &[None, Some(2)],
    };
    let node = Node {
        op: "DynamicQuantizeLinear",
        inputs: &["x"],
        output: "q",
        attribute: None,
    };
    let graph = model(14, &[node], &[port("x", 1)], &[port("q", 2)]);
    let plain = "[graphs.g]\nfile = \"g.onnx\"\nbackend = \"rten\"\n";
    let joined = format!("{plain}batch = {{ max_size = 8, max_delay_ms = 1 }}\n");
    let folder = server.bundle("quantized", "tensors", &joined)?;
    std::fs::write(folder.join("g.onnx"), graph)?;
    let path = folder.to_str().context("path")?;
    let refused = server.cli(&["push", path])?;
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr);
    for part in ["DynamicQuantizeLinear (`", "take `batch` out"] {
        assert!(told.contains(part), "{told}");
    }
    server.bundle("quantized", "tensors", plain)?;
    server.cli_json(&["push", path])?;
    Ok(())
}

async fn sum(server: &Server, rows: usize, value: f32) -> Result<()> {
    let bytes: Vec<u8> = [value; 2]
        .repeat(rows)
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let input = |name| json!({ "name": name, "ty": "f32", "dims": [rows, 2], "data": bytes });
    let asked = json!({ "graph": "add", "inputs": [input("a"), input("b")] });
    let url = server.at("/models/tensors/production/predict");
    let answer = server.client().post(url).json(&asked).send().await?;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await?;
    let twice: Vec<u8> = [2.0 * value; 2]
        .repeat(rows)
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let output = json!([{ "name": "out", "ty": "f32", "dims": [rows, 2], "data": twice }]);
    assert_eq!(answer["Ok"], output, "{answer}");
    Ok(())
}

/// The value of a series of `GET /metrics`.
fn series(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_at_once_are_joined_and_each_gets_its_own_rows() -> Result<()> {
    let server = Server::start()?;
    server.cli_json(&["push", &bundle(&server, &[None, Some(2)])?])?;
    let begun = Instant::now();
    loop {
        let calls = (1..=12).map(|n| sum(&server, n % 3 + 1, n as f32));
        try_join_all(calls).await?;
        let answer = server.client().get(server.at("/metrics")).send().await?;
        assert_eq!(answer.status(), 200);
        let text = answer.text().await?;
        let of =
            |name: &str| series(&text, &format!("samovar_graph_{name}{{")).context(text.clone());
        let (runs, calls) = (of("batch_size_count")?, of("wait_seconds_count")?);
        assert!(runs <= calls, "{runs} runs of {calls} calls");
        assert_eq!(of("run_seconds_count")?, runs);
        assert_eq!(of("queue_length")?, 0.0);
        if runs < calls {
            return Ok(());
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "nothing was ever joined:\n{text}"
        );
    }
}

#[tokio::test]
async fn a_graph_of_fixed_rows_is_refused_by_the_name_of_what_is_fixed() -> Result<()> {
    let server = Server::start()?;
    let output = server.cli(&["push", &bundle(&server, &[Some(1), Some(2)])?])?;
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr)?;
    assert!(
        error.contains("`add`") && error.contains("input `a` is f32 [1, 2]"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn metrics_are_for_admins_and_tell_requests_and_replicas() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    let url = server.at("/models/echo/production/predict");
    let answer = server.client().post(url).body("hello").send().await?;
    assert_eq!(answer.status(), 200);
    answer.bytes().await?;
    let nobody = reqwest::Client::builder().no_proxy().build()?;
    let refused = nobody.get(server.at("/metrics")).send().await?;
    assert_eq!(refused.status(), 401);
    samovar_tests::eventually("the request is counted", || async {
        let answer = server.client().get(server.at("/metrics")).send().await;
        let Ok(answer) = answer else { return false };
        let ty = answer.headers()["content-type"]
            .to_str()
            .unwrap_or("")
            .to_owned();
        assert!(ty.starts_with("application/openmetrics-text"), "{ty}");
        let text = answer.text().await.unwrap_or_default();
        let own = "model=\"echo\",deployment=\"deployment-1\"";
        series(
            &text,
            &format!("samovar_requests_total{{{own},outcome=\"ok\"}}"),
        ) == Some(1.0)
            && series(&text, &format!("samovar_replicas{{{own},state=\"idle\"}}")) == Some(1.0)
    })
    .await
}
