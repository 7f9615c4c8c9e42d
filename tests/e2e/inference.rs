//! Tensors of every type go through a graph and back, and what does not fit is refused in words.

use anyhow::Result;
use samovar_tests::Server;
use samovar_tests::onnx::{Node, Value as Port, model};
use serde_json::{Value, json};

const F32: u64 = 1;

fn graph(
    op: &str,
    opset: u64,
    inputs: &[&str],
    dims: &[Option<u64>],
    attribute: Option<(&str, u64)>,
) -> Vec<u8> {
    typed(op, opset, inputs, F32, dims, attribute)
}

fn typed(
    op: &str,
    opset: u64,
    inputs: &[&str],
    ty: u64,
    dims: &[Option<u64>],
    attribute: Option<(&str, u64)>,
) -> Vec<u8> {
    let port = |name| Port { name, ty, dims };
    let ports: Vec<_> = inputs.iter().map(|name| port(*name)).collect();
    let node = Node {
        op,
        inputs,
        output: "out",
        attribute,
    };
    model(opset, &[node], &ports, &[port("out")])
}

fn server(graphs: &[(&str, Vec<u8>)]) -> Result<Server> {
    let server = Server::start()?;
    let mut manifest = "load_graphs_from_bytes = true\n".to_owned();
    for (name, _) in graphs {
        manifest += &format!("[graphs.{name}]\nfile = \"{name}.onnx\"\nbackend = \"rten\"\n");
    }
    let folder = server.bundle("tensors", "tensors", &manifest)?;
    for (name, bytes) in graphs {
        std::fs::write(folder.join(format!("{name}.onnx")), bytes)?;
    }
    server.cli_json(&["push", folder.to_str().unwrap()])?;
    Ok(server)
}

fn tensor(name: &str, ty: &str, dims: &[u32], data: &[u8]) -> Value {
    json!({ "name": name, "ty": ty, "dims": dims, "data": data })
}

fn f32s(name: &str, dims: &[u32], values: &[f32]) -> Value {
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    tensor(name, "f32", dims, &bytes)
}

async fn run(server: &Server, asked: Value) -> Result<Value> {
    let url = server.at("/models/tensors/production/predict");
    let answer = server.client().post(url).json(&asked).send().await?;
    assert_eq!(answer.status(), 200);
    Ok(answer.json().await?)
}

#[tokio::test]
async fn a_graph_computes_and_batches_vary() -> Result<()> {
    let add = graph("Add", 14, &["a", "b"], &[None, Some(2)], None);
    let server = server(&[("add", add)])?;
    for rows in [1u32, 3] {
        let count = rows as usize * 2;
        let values: Vec<f32> = (0..count).map(|n| n as f32).collect();
        let twice: Vec<f32> = values.iter().map(|value| value * 2.0).collect();
        let inputs = json!([
            f32s("b", &[rows, 2], &values),
            f32s("a", &[rows, 2], &values)
        ]);
        let answer = run(&server, json!({ "graph": "add", "inputs": inputs })).await?;
        assert_eq!(answer["Ok"], json!([f32s("out", &[rows, 2], &twice)]));
    }
    Ok(())
}

#[tokio::test]
async fn every_type_that_rten_computes_comes_back_as_it_went() -> Result<()> {
    let cases = [
        ("f32", 1, 4),
        ("u8", 2, 1),
        ("i8", 3, 1),
        ("i32", 6, 4),
        ("i64", 7, 8),
        ("bool", 9, 1),
    ];
    let graphs: Vec<_> = cases
        .iter()
        .map(|(name, ty, _)| (*name, typed("Identity", 16, &["in"], *ty, &[Some(2)], None)))
        .collect();
    let server = server(&graphs)?;
    for (name, _, size) in cases {
        let carrier = match name {
            "i8" | "bool" => "u8",
            other => other,
        };
        let data: Vec<u8> = (0..2 * size).map(|n| u8::from(n % size == 0)).collect();
        let inputs = json!([tensor("in", carrier, &[2], &data)]);
        let answer = run(&server, json!({ "graph": name, "inputs": inputs })).await?;
        assert_eq!(
            answer["Ok"],
            json!([tensor("out", carrier, &[2], &data)]),
            "{name}"
        );
    }
    let large = i64::from(i32::MAX) + 1;
    let data: Vec<u8> = [large, 0]
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let inputs = json!([tensor("in", "i64", &[2], &data)]);
    let answer = run(&server, json!({ "graph": "i64", "inputs": inputs })).await?;
    assert!(
        answer["Err"]["data"]
            .as_str()
            .unwrap()
            .contains("2147483648"),
        "{answer}"
    );
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name_found_and_wanted() -> Result<()> {
    let add = graph("Add", 14, &["a", "b"], &[None, Some(2)], None);
    let server = server(&[("add", add)])?;
    let a = || f32s("a", &[1, 2], &[1.0, 2.0]);
    for (inputs, text) in [
        (json!([a()]), "input `b` is missing"),
        (json!([a(), a()]), "input `a` is given twice"),
        (
            json!([a(), f32s("c", &[1, 2], &[1.0, 2.0])]),
            "no input `c`",
        ),
        (
            json!([a(), f32s("b", &[1, 3], &[1.0, 2.0, 3.0])]),
            "input `b`: found f32 [1, 3], wanted f32 [?, 2]",
        ),
        (
            json!([a(), tensor("b", "i32", &[1, 2], &[0; 8])]),
            "input `b`: found i32 [1, 2], wanted f32 [?, 2]",
        ),
        (
            json!([a(), tensor("b", "f32", &[1, 2], &[0; 7])]),
            "has 7 bytes of data, wanted 8",
        ),
        (
            json!([
                a(),
                tensor("b", "f32", &[u32::MAX, u32::MAX, u32::MAX], &[])
            ]),
            "more than there is memory",
        ),
    ] {
        let answer = run(&server, json!({ "graph": "add", "inputs": inputs })).await?;
        assert_eq!(
            answer["Err"]["code"], "ErrorCode::InvalidArgument",
            "{answer}"
        );
        let data = answer["Err"]["data"].as_str().unwrap();
        assert!(data.contains(text), "{data}, wanted {text}");
    }
    let fine = json!([a(), f32s("b", &[1, 2], &[1.0, 1.0])]);
    let answer = run(&server, json!({ "graph": "add", "inputs": fine })).await?;
    assert_eq!(answer["Ok"][0]["dims"], json!([1, 2]));
    Ok(())
}

#[tokio::test]
async fn graphs_are_those_of_the_manifest_or_from_bytes() -> Result<()> {
    let relu = graph("Relu", 14, &["x"], &[Some(2)], None);
    let server = server(&[("default", relu.clone())])?;
    let inputs = json!([f32s("x", &[2], &[-1.0, 1.0])]);
    let missing = run(&server, json!({ "graph": "other", "inputs": inputs })).await?;
    assert_eq!(missing["Err"]["code"], "ErrorCode::NotFound", "{missing}");
    let loaded = run(&server, json!({ "bytes": relu, "inputs": inputs })).await?;
    assert_eq!(
        loaded["Ok"],
        json!([f32s("out", &[2], &[0.0, 1.0])]),
        "{loaded}"
    );
    let broken = run(&server, json!({ "bytes": [1, 2, 3], "inputs": [] })).await?;
    assert_eq!(
        broken["Err"]["code"], "ErrorCode::InvalidEncoding",
        "{broken}"
    );
    Ok(())
}

#[tokio::test]
async fn an_old_softmax_flattens_as_it_did() -> Result<()> {
    let old = graph(
        "Softmax",
        11,
        &["in"],
        &[Some(1), Some(2), Some(2)],
        Some(("axis", 1)),
    );
    let server = server(&[("old", old)])?;
    let inputs = json!([f32s("in", &[1, 2, 2], &[0.0; 4])]);
    let answer = run(&server, json!({ "graph": "old", "inputs": inputs })).await?;
    let quarters = f32s("out", &[1, 2, 2], &[0.25; 4]);
    assert_eq!(answer["Ok"], json!([quarters]), "{answer}");
    Ok(())
}
