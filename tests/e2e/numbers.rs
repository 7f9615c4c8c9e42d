//! Tensors and models that are easily answered wrongly: scalars, inputs with defaults, classifiers, large integers.

use anyhow::{Context, Result};
use samovar_tests::onnx::{Attribute, Operator, Weight, maps, model_of, operator, port};
use samovar_tests::python::onnxruntime;
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};

use crate::open_inference::{F32, I64, at, f32s, infer};

const STANDARD: &[(&str, u64)] = &[("", 17)];
const WITH_ML: &[(&str, u64)] = &[("", 17), ("ai.onnx.ml", 3)];
const U8: u64 = 2;
const TEXT: u64 = 8;

/// A server, and the backends that a graph can be pushed for on it.
fn start() -> Result<(Server, Vec<&'static str>)> {
    Ok(match onnxruntime()? {
        Some(library) => (
            Server::start_with(&["--onnxruntime", &library])?,
            vec!["rten", "onnxruntime"],
        ),
        None => (Server::start()?, vec!["rten"]),
    })
}

/// Pushes a graph for one backend; its model's name is that of the backend.
fn push(server: &Server, backend: &str, bytes: &[u8]) -> Result<()> {
    push_as(server, backend, backend, bytes)
}

/// The same under another name.
fn push_as(server: &Server, name: &str, backend: &str, bytes: &[u8]) -> Result<()> {
    let folder = server.folder().join(name);
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("m.onnx"), bytes)?;
    let manifest =
        format!("name = \"{name}\"\n[graphs.{name}]\nfile = \"m.onnx\"\nbackend = \"{backend}\"\n");
    std::fs::write(folder.join("samovar.toml"), manifest)?;
    server.cli_json(&["push", folder.to_str().context("a path")?])?;
    Ok(())
}

async fn metadata(server: &Server, model: &str) -> Result<Value> {
    let url = at(server, model, &format!("/v2/models/{model}"));
    Ok(server.client().get(url).send().await?.json().await?)
}

fn tensor(name: &str, datatype: &str, shape: Value, data: Value) -> Value {
    json!({ "name": name, "datatype": datatype, "shape": shape, "data": data })
}

#[tokio::test]
async fn a_tensor_without_dimensions_has_none_in_the_answer() -> Result<()> {
    let (server, backends) = start()?;
    let square = model_of(
        STANDARD,
        &[operator("Mul", &["x", "x"], &["y"])],
        &[],
        &[port("x", F32, &[])],
        &[port("y", F32, &[])],
    );
    for backend in backends {
        push(&server, backend, &square)?;
        let told = metadata(&server, backend).await?;
        assert_eq!(told["outputs"][0]["shape"], json!([]));
        for (shape, data) in [
            (json!([]), json!(3)),
            (json!([]), json!([3])),
            (json!([1]), json!([3])),
        ] {
            let asked = json!({ "inputs": [tensor("x", "FP32", shape, data)] });
            let (status, told) = infer(&server, backend, &asked).await?;
            assert_eq!(status, 200, "{told}");
            let wanted = tensor("y", "FP32", json!([]), json!([9.0]));
            assert_eq!(told["outputs"], json!([wanted]), "{backend}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_input_with_a_default_may_be_given_or_left_out() -> Result<()> {
    let (server, backends) = start()?;
    let default = f32s(&[2.0]);
    let scale = Weight {
        name: "s",
        ty: F32,
        dims: &[],
        data: &default,
    };
    let scaled = model_of(
        STANDARD,
        &[operator("Mul", &["x", "s"], &["y"])],
        &[scale],
        &[port("s", F32, &[]), port("x", F32, &[None])],
        &[port("y", F32, &[None])],
    );
    let x = || tensor("x", "FP32", json!([2]), json!([1, 5]));
    let s = || tensor("s", "FP32", json!([]), json!([3]));
    for backend in backends {
        push(&server, backend, &scaled)?;
        let told = metadata(&server, backend).await?;
        let needed = json!({ "name": "x", "datatype": "FP32", "shape": [-1] });
        let optional = json!({
            "name": "s", "datatype": "FP32", "shape": [], "parameters": { "optional": true },
        });
        assert_eq!(told["inputs"], json!([needed, optional]));
        let left_out = json!({ "inputs": [x()] });
        let (status, told) = infer(&server, backend, &left_out).await?;
        assert_eq!(status, 200, "{told}");
        assert_eq!(told["outputs"][0]["data"], json!([2.0, 10.0]), "{backend}");
        let given = json!({ "inputs": [s(), x()] });
        let (status, told) = infer(&server, backend, &given).await?;
        assert_eq!(status, 200, "{told}");
        assert_eq!(told["outputs"][0]["data"], json!([3.0, 15.0]), "{backend}");
        let (_, told) = infer(&server, backend, &left_out).await?;
        assert_eq!(told["outputs"][0]["data"], json!([2.0, 10.0]), "{backend}");
        let (status, told) = infer(&server, backend, &json!({ "inputs": [s()] })).await?;
        let error = told["error"].as_str().context("an error")?;
        assert!(
            status == 400 && error.contains("input `x` is missing"),
            "{error}"
        );
    }
    Ok(())
}

/// Probabilities of two classes as exporters write them by default: a list of maps.
fn zipped(labels: Attribute<'_>) -> Vec<u8> {
    let (name, key) = match labels {
        Attribute::Texts(_) => ("classlabels_strings", TEXT),
        _ => ("classlabels_int64s", I64),
    };
    let attributes = [(name, labels)];
    let zip = Operator {
        domain: "ai.onnx.ml",
        attributes: &attributes,
        ..operator("ZipMap", &["p"], &["output_probability"])
    };
    model_of(
        WITH_ML,
        &[operator("Softmax", &["x"], &["p"]), zip],
        &[],
        &[port("x", F32, &[None, Some(2)])],
        &[maps("output_probability", key)],
    )
}

#[tokio::test]
async fn probabilities_in_maps_are_a_tensor_and_its_classes_are_told() -> Result<()> {
    let (server, backends) = start()?;
    for backend in backends {
        for (kind, labels, wanted) in [
            ("numbers", Attribute::Ints(&[10, 20]), json!([10, 20])),
            (
                "names",
                Attribute::Texts(&["cat", "dog"]),
                json!(["cat", "dog"]),
            ),
        ] {
            let name = format!("{backend}-{kind}");
            push_as(&server, &name, backend, &zipped(labels))?;
            let told = metadata(&server, &name).await?;
            let output = json!({
                "name": "output_probability", "datatype": "FP32", "shape": [-1, 2],
                "parameters": { "labels": wanted },
            });
            assert_eq!(told["outputs"], json!([output]), "{backend}");
            let x = tensor("x", "FP32", json!([2, 2]), json!([0, 0, 1000, 0]));
            let (status, told) = infer(&server, &name, &json!({ "inputs": [x] })).await?;
            assert_eq!(status, 200, "{backend}: {told}");
            let wanted = tensor(
                "output_probability",
                "FP32",
                json!([2, 2]),
                json!([0.5, 0.5, 1.0, 0.0]),
            );
            assert_eq!(told["outputs"], json!([wanted]), "{backend}");
        }
    }
    Ok(())
}

/// What scikit-learn's logistic regression becomes with the defaults of its exporter.
#[tokio::test]
async fn a_classifier_with_its_exporters_defaults_is_served() -> Result<()> {
    let (server, backends) = start()?;
    if !backends.contains(&"onnxruntime") {
        return Ok(());
    }
    let classify = Operator {
        domain: "ai.onnx.ml",
        attributes: &[
            ("classlabels_ints", Attribute::Ints(&[3, 7])),
            ("coefficients", Attribute::Floats(&[-1.0, 0.0, 1.0, 0.0])),
            ("intercepts", Attribute::Floats(&[0.0, 0.0])),
            ("multi_class", Attribute::Int(1)),
            ("post_transform", Attribute::Text("LOGISTIC")),
        ],
        ..operator("LinearClassifier", &["X"], &["label", "p"])
    };
    let normalize = Operator {
        domain: "ai.onnx.ml",
        attributes: &[("norm", Attribute::Text("L1"))],
        ..operator("Normalizer", &["p"], &["probabilities"])
    };
    let zip = Operator {
        domain: "ai.onnx.ml",
        attributes: &[("classlabels_int64s", Attribute::Ints(&[3, 7]))],
        ..operator("ZipMap", &["probabilities"], &["output_probability"])
    };
    let classifier = model_of(
        WITH_ML,
        &[classify, normalize, zip],
        &[],
        &[port("X", F32, &[None, Some(2)])],
        &[port("label", I64, &[None]), maps("output_probability", I64)],
    );
    push(&server, "onnxruntime", &classifier)?;
    let x = tensor("X", "FP32", json!([2, 2]), json!([5, 0, -5, 0]));
    let (status, told) = infer(&server, "onnxruntime", &json!({ "inputs": [x] })).await?;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["outputs"][0]["data"], json!([7, 3]));
    assert_eq!(told["outputs"][1]["shape"], json!([2, 2]));
    let first = told["outputs"][1]["data"][1].as_f64().context("a number")?;
    assert!((first - 0.993_307).abs() < 1e-4, "{told}");
    Ok(())
}

#[test]
fn what_cannot_be_carried_is_refused_with_its_cure() -> Result<()> {
    let server = Server::start()?;
    let refused = |bytes: &[u8]| -> Result<String> {
        let path = server.folder().join("m.onnx");
        std::fs::write(&path, bytes)?;
        let output = server.cli(&["push", path.to_str().context("a path")?])?;
        assert_eq!(output.status.code(), Some(1));
        Ok(String::from_utf8(output.stderr)?)
    };
    let same = |input: Vec<u8>, output: Vec<u8>| {
        let nodes = [operator("Identity", &["x"], &["y"])];
        model_of(STANDARD, &nodes, &[], &[input], &[output])
    };
    let texts = |name: &str| port(name, TEXT, &[None]);
    let said = refused(&same(texts("x"), texts("y")))?;
    assert!(
        said.contains("input `x` has the ONNX type string") && said.contains("before the graph"),
        "{said}"
    );
    let said = refused(&same(port("x", I64, &[None]), texts("y")))?;
    assert!(
        said.contains("output `y` has the ONNX type string") && said.contains("leave it out"),
        "{said}"
    );
    let said = refused(&same(port("x", I64, &[None]), maps("y", I64)))?;
    assert!(
        said.contains("output `y` is not a tensor") && said.contains("zipmap"),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn integers_beyond_32_bits_are_right_or_an_error() -> Result<()> {
    let (server, backends) = start()?;
    let (factor, modulus) = (1_000_003i64.to_le_bytes(), 100_007i64.to_le_bytes());
    let weight = |name, data| Weight {
        name,
        ty: I64,
        dims: &[],
        data,
    };
    let hash = model_of(
        STANDARD,
        &[
            operator("Mul", &["x", "factor"], &["product"]),
            operator("Mod", &["product", "modulus"], &["y"]),
        ],
        &[weight("factor", &factor), weight("modulus", &modulus)],
        &[port("x", I64, &[None])],
        &[port("y", I64, &[None])],
    );
    for backend in backends {
        push(&server, backend, &hash)?;
        let asked =
            |x: Value, count: usize| json!({ "inputs": [tensor("x", "INT64", json!([count]), x)] });
        let (status, told) = infer(&server, backend, &asked(json!([2, -3]), 2)).await?;
        assert_eq!(status, 200, "{told}");
        let wanted = [2, -3].map(|x: i64| (x * 1_000_003).rem_euclid(100_007));
        assert_eq!(told["outputs"][0]["data"], json!(wanted), "{backend}");
        let (status, told) = infer(&server, backend, &asked(json!([]), 0)).await?;
        assert_eq!(status, 200, "{told}");
        let (status, told) = infer(&server, backend, &asked(json!([123_456_789]), 1)).await?;
        if backend == "rten" {
            let error = told["error"].as_str().context("an error")?;
            // In a debug build rten's own check of the product comes first.
            let own = error.contains("multiply with overflow");
            let told_by_guard = status == 400 && error.contains("operator Mul of node `the-Mul`");
            assert!(told_by_guard || own, "{status} {error}");
        } else {
            assert_eq!(told["outputs"][0]["data"], json!([74114]), "{told}");
        }
        let (status, told) =
            infer(&server, backend, &asked(json!([1, 4_294_967_296_i64]), 2)).await?;
        if backend == "rten" {
            assert_eq!(status, 400, "{told}");
            let error = told["error"].as_str().context("an error")?;
            let words = "input `x`: element 1 is 4294967296, wanted -2147483647 to 2147483647";
            assert!(error.contains(words), "{error}");
        } else {
            assert_eq!(status, 200, "{told}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn values_that_an_operator_does_not_take_are_the_callers_fault() -> Result<()> {
    let (server, backends) = start()?;
    let table = f32s(&[1.0, 2.0, 3.0]);
    let table = Weight {
        name: "table",
        ty: F32,
        dims: &[3],
        data: &table,
    };
    let lookup = model_of(
        STANDARD,
        &[operator("Gather", &["table", "at"], &["y"])],
        &[table],
        &[port("at", I64, &[None])],
        &[port("y", F32, &[None])],
    );
    for backend in backends {
        push(&server, backend, &lookup)?;
        let asked = |at: i64| json!({ "inputs": [tensor("at", "INT64", json!([1]), json!([at]))] });
        let (status, told) = infer(&server, backend, &asked(2)).await?;
        assert_eq!(status, 200, "{told}");
        assert_eq!(told["outputs"][0]["data"], json!([3.0]), "{backend}");
        let (status, told) = infer(&server, backend, &asked(7)).await?;
        assert_eq!(status, 400, "{backend}: {told}");
        assert!(
            told["error"]
                .as_str()
                .context("an error")?
                .contains("Gather"),
            "{told}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_shape_of_a_quantized_lstm_is_right() -> Result<()> {
    let (server, backends) = start()?;
    let (hidden, inputs) = (3, 2);
    let (w, r) = (
        vec![128u8; inputs * 4 * hidden],
        vec![128u8; hidden * 4 * hidden],
    );
    let one = f32s(&[1.0]);
    let bytes = |name, dims, data| Weight {
        name,
        ty: U8,
        dims,
        data,
    };
    let weights = [
        bytes("w", &[1, 2, 12], &w),
        bytes("r", &[1, 3, 12], &r),
        bytes("zero", &[1], &[128]),
        Weight {
            name: "one",
            ty: F32,
            dims: &[1],
            data: &one,
        },
    ];
    let lstm = Operator {
        domain: "com.microsoft",
        attributes: &[("hidden_size", Attribute::Int(3))],
        ..operator(
            "DynamicQuantizeLSTM",
            &[
                "x", "w", "r", "", "", "", "", "", "one", "zero", "one", "zero",
            ],
            &["y"],
        )
    };
    let model = model_of(
        &[("", 17), ("com.microsoft", 1)],
        &[
            lstm,
            operator("Shape", &["y"], &["shape"]),
            operator("Identity", &["y"], &["same"]),
        ],
        &weights,
        &[port("x", F32, &[None, Some(1), Some(2)])],
        &[
            port("same", F32, &[None, Some(1), Some(1), Some(3)]),
            port("shape", I64, &[Some(4)]),
        ],
    );
    for backend in backends {
        push(&server, backend, &model)?;
        let x = tensor("x", "FP32", json!([2, 1, 2]), json!([1, 2, 3, 4]));
        let (status, told) = infer(&server, backend, &json!({ "inputs": [x] })).await?;
        assert_eq!(status, 200, "{backend}: {told}");
        assert_eq!(
            told["outputs"][0]["shape"],
            json!([2, 1, 1, 3]),
            "{backend}"
        );
        assert_eq!(told["outputs"][1]["data"], json!([2, 1, 1, 3]), "{backend}");
    }
    Ok(())
}

#[tokio::test]
async fn a_shape_that_is_not_kept_is_told_once() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let server = Server::start_with(&["--onnxruntime", &library])?;
    let same = model_of(
        STANDARD,
        &[operator("Abs", &["x"], &["y"])],
        &[],
        &[port("x", F32, &[None])],
        &[port("y", F32, &[Some(3)])],
    );
    push(&server, "onnxruntime", &same)?;
    for count in [1, 2, 4, 5] {
        let x = tensor("x", "FP32", json!([count]), json!(vec![1; count]));
        let (status, told) = infer(&server, "onnxruntime", &json!({ "inputs": [x] })).await?;
        assert_eq!(status, 200, "{told}");
    }
    let lines = || {
        let log = server.log();
        let lines = log
            .iter()
            .filter(|line| line.contains("does not match actual shape"));
        lines.count()
    };
    eventually("the line", || async { lines() > 0 }).await?;
    assert_eq!(lines(), 1, "{:?}", server.log());
    Ok(())
}

/// A model as it lies in the cache of Hugging Face: links into a folder of blobs.
#[cfg(unix)]
#[tokio::test]
async fn a_model_in_a_cache_of_links_is_pushed_with_its_weights() -> Result<()> {
    use samovar_tests::onnx::{Node, Outside, Value as Port, model_beside};
    use std::os::unix::fs::symlink;
    let server = Server::start()?;
    let cache = server.folder().join("models--me--scale");
    let snapshot = cache.join("snapshots/0123/onnx");
    std::fs::create_dir_all(cache.join("blobs"))?;
    std::fs::create_dir_all(&snapshot)?;
    let dims = &[Some(2)];
    let port = |name| Port {
        name,
        ty: F32,
        dims,
    };
    let node = Node {
        op: "Mul",
        inputs: &["x", "w"],
        output: "y",
        attribute: None,
    };
    let weight = Outside {
        name: "w",
        dims: &[2],
        location: "model.onnx_data",
        offset: 0,
    };
    let bytes = model_beside(14, &[node], &[weight], &[port("x")], &[port("y")]);
    std::fs::write(cache.join("blobs/aa"), bytes)?;
    std::fs::write(cache.join("blobs/bb"), f32s(&[2.0, 3.0]))?;
    symlink("../../../blobs/aa", snapshot.join("model.onnx"))?;
    symlink("../../../blobs/bb", snapshot.join("model.onnx_data"))?;
    let path = snapshot.join("model.onnx");
    server.cli_json(&["push", path.to_str().context("a path")?, "--model", "scale"])?;
    let x = tensor("x", "FP32", json!([2]), json!([5, 7]));
    let (status, told) = infer(&server, "scale", &json!({ "inputs": [x] })).await?;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["outputs"][0]["data"], json!([10.0, 21.0]));
    Ok(())
}
