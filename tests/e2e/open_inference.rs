//! A model file alone is served by the Open Inference Protocol, to the clients that people have.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use samovar_tests::onnx::{Node, Outside, Value as Port, Weight, model, model_beside, model_with};
use samovar_tests::python::{Python, onnxruntime};
use samovar_tests::{Server, binary, repository};
use serde_json::{Value, json};

pub const HEADER_LENGTH: &str = "inference-header-content-length";
pub const F32: u64 = 1;
pub const I64: u64 = 7;

pub fn node<'a>(op: &'a str, inputs: &'a [&'a str], output: &'a str) -> Node<'a> {
    Node {
        op,
        inputs,
        output,
        attribute: None,
    }
}

/// `y = x` of this type, with any number of rows of two.
pub fn identity(ty: u64) -> Vec<u8> {
    let dims = &[None, Some(2)];
    let port = |name| Port { name, ty, dims };
    model(
        14,
        &[node("Identity", &["x"], "y")],
        &[port("x")],
        &[port("y")],
    )
}

/// `y = a + b`, of f32, with any number of rows of two.
pub fn sum() -> Vec<u8> {
    let dims = &[None, Some(2)];
    let port = |name| Port {
        name,
        ty: F32,
        dims,
    };
    let ports = [port("a"), port("b")];
    model(14, &[node("Add", &["a", "b"], "y")], &ports, &[port("y")])
}

fn file(server: &Server, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = server.folder().join(name);
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// Pushes a model file alone.
pub fn push(server: &Server, name: &str, bytes: &[u8]) -> Result<Value> {
    let path = file(server, &format!("{name}.onnx"), bytes)?;
    server.cli_json(&["push", path.to_str().context("a path")?])
}

/// Pushes a folder of this manifest, without a component.
pub fn push_folder(
    server: &Server,
    name: &str,
    graphs: &[(&str, Vec<u8>)],
    more: &str,
) -> Result<()> {
    let folder = server.folder().join(name);
    std::fs::create_dir_all(&folder)?;
    let mut manifest = format!("name = \"{name}\"\n{more}");
    for (graph, bytes) in graphs {
        manifest += &format!("[graphs.{graph}]\nfile = \"{graph}.onnx\"\n");
        std::fs::write(folder.join(format!("{graph}.onnx")), bytes)?;
    }
    std::fs::write(folder.join("samovar.toml"), manifest)?;
    server.cli_json(&["push", folder.to_str().context("a path")?])?;
    Ok(())
}

pub fn at(server: &Server, model: &str, path: &str) -> String {
    server.at(&format!("/models/{model}/production/sync{path}"))
}

async fn get(server: &Server, model: &str, path: &str) -> Result<(u16, Value)> {
    let url = at(server, model, path);
    let answer = server.client().get(url).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

pub async fn infer(server: &Server, model: &str, body: &Value) -> Result<(u16, Value)> {
    let url = at(server, model, &format!("/v2/models/{model}/infer"));
    let answer = server.client().post(url).json(body).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

/// Sends JSON with tensors behind it.
pub async fn infer_binary(
    server: &Server,
    model: &str,
    header_length: &str,
    body: Vec<u8>,
) -> Result<reqwest::Response> {
    let url = at(server, model, &format!("/v2/models/{model}/infer"));
    let request = server
        .client()
        .post(url)
        .header(HEADER_LENGTH, header_length);
    let request = request.header("content-type", "application/octet-stream");
    Ok(request.body(body).send().await?)
}

/// The JSON of an answer and the bytes behind it.
pub async fn parts(answer: reqwest::Response) -> Result<(Value, Vec<u8>)> {
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    let length = answer.headers().get(HEADER_LENGTH).context("no length")?;
    let length: usize = length.to_str()?.parse()?;
    let bytes = answer.bytes().await?;
    let json = serde_json::from_slice(bytes.get(..length).context("the length is too long")?)?;
    Ok((json, bytes[length..].to_vec()))
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    bytes.collect()
}

#[tokio::test]
async fn a_model_file_alone_is_served() -> Result<()> {
    let server = Server::start()?;
    let pushed = push(&server, "My Sum", &sum())?;
    assert_eq!(pushed["model"]["name"], "my-sum");
    assert_eq!(pushed["deployment"]["status"], "ACTIVE");
    assert_eq!(pushed["uploaded"].as_array().map(Vec::len), Some(3));
    let base = server.at("/models/my-sum/production/sync");
    assert_eq!(pushed["open_inference_url"], base);
    assert_eq!(pushed["url"], format!("{base}/v2/models/my-sum/infer"));

    let (_, told) = get(&server, "my-sum", "/v2").await?;
    assert_eq!(told["extensions"], json!(["binary_tensor_data"]));
    for (path, key) in [
        ("/v2/health/live", "live"),
        ("/v2/health/ready", "ready"),
        ("/v2/models/my-sum/ready", "ready"),
        ("/v2/models/default/versions/1/ready", "ready"),
    ] {
        let (status, told) = get(&server, "my-sum", path).await?;
        assert_eq!((status, &told[key]), (200, &json!(true)), "{path}: {told}");
    }
    let (_, told) = get(&server, "my-sum", "/v2/models/my-sum").await?;
    let port = |name| json!({ "name": name, "datatype": "FP32", "shape": [-1, 2] });
    assert_eq!(told["inputs"], json!([port("a"), port("b")]));
    assert_eq!(told["outputs"], json!([port("y")]));
    for path in ["/v2/models/other", "/v2/models/my-sum/versions/2", "/v1"] {
        let (status, told) = get(&server, "my-sum", path).await?;
        assert_eq!(status, 404, "{path}: {told}");
        assert!(told["error"].as_str().unwrap().contains("my-sum") || path == "/v1");
    }
    let tensor = |name, data: Value| json!({ "name": name, "datatype": "FP32", "shape": [2, 2], "data": data });
    let asked = json!({ "id": "7", "inputs": [
        tensor("a", json!([1, 2, 3, 4])), tensor("b", json!([[0.5, 0.5], [1.5, 1.5]])),
    ]});
    let (status, told) = infer(&server, "my-sum", &asked).await?;
    assert_eq!(status, 200, "{told}");
    assert_eq!(
        (&told["id"], &told["model_name"]),
        (&json!("7"), &json!("my-sum"))
    );
    assert_eq!(
        told["outputs"],
        json!([{ "name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1.5, 2.5, 4.5, 5.5] }])
    );
    Ok(())
}

#[test]
fn what_a_push_shows_next_works_as_it_is_printed() -> Result<()> {
    let server = Server::start()?;
    let path = file(&server, "sum.onnx", &sum())?;
    let output = server.cli(&["push", path.to_str().context("a path")?])?;
    let said = String::from_utf8(output.stdout)?;
    let mut ran = 0;
    for command in ["samovar predict", "curl"] {
        let mut lines = said.lines().map(str::trim);
        let line = lines.find(|line| line.starts_with(command));
        let line = line.with_context(|| format!("no {command} in {said}"))?;
        if command == "curl" && Command::new("curl").arg("-V").output().is_err() {
            continue;
        }
        let folder = binary().parent().context("a folder")?.to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
        let output = Command::new("sh")
            .args(["-c", line])
            .env("PATH", std::env::join_paths(folders)?)
            .env("SAMOVAR_URL", &server.url)
            .env("SAMOVAR_API_KEY", server.key())
            .env("SAMOVAR_CONFIG", server.folder().join("config.toml"))
            .output()?;
        let answer = String::from_utf8(output.stdout)?;
        assert!(
            answer.contains(r#""shape":[1,2],"data":[0.0,0.0]"#),
            "{line}: {answer}"
        );
        ran += 1;
    }
    assert!(ran > 0);
    Ok(())
}

#[tokio::test]
async fn the_name_that_a_push_gives_is_the_one_to_ask_by() -> Result<()> {
    let server = Server::start()?;
    let path = file(&server, "model.onnx", &identity(F32))?;
    let path = path.to_str().context("a path")?;
    server.cli_json(&["push", path, "--model", "iris"])?;
    let (status, told) = get(&server, "iris", "/v2/models/iris").await?;
    assert_eq!((status, &told["name"]), (200, &json!("iris")));
    let (status, told) = get(&server, "iris", "/v2/models/model").await?;
    assert_eq!(status, 404, "{told}");
    assert_eq!(
        told["error"],
        "there is no model \"model\"; there is iris, default"
    );
    Ok(())
}

#[tokio::test]
async fn graphs_of_a_folder_are_served_by_their_names() -> Result<()> {
    let server = Server::start()?;
    let graphs = [("sum", sum()), ("same", identity(I64))];
    push_folder(&server, "two", &graphs, "")?;
    let (_, told) = get(&server, "two", "/v2/models/same").await?;
    assert_eq!(told["inputs"][0]["datatype"], "INT64");
    let (_, told) = get(&server, "two", "/v2/models/sum").await?;
    assert_eq!(told["inputs"].as_array().map(Vec::len), Some(2));
    // Neither is the one that the model's name could mean.
    let (status, told) = get(&server, "two", "/v2/models/two").await?;
    assert_eq!(status, 404);
    assert_eq!(
        told["error"],
        "there is no model \"two\"; there is same, sum"
    );

    let graphs = [("default", sum()), ("same", identity(I64))];
    push_folder(&server, "main", &graphs, "")?;
    let (_, told) = get(&server, "main", "/v2/models/main").await?;
    assert_eq!(told["inputs"].as_array().map(Vec::len), Some(2));
    // A graph of the model's own name is what that name means.
    let graphs = [("default", sum()), ("own", identity(I64))];
    push_folder(&server, "own", &graphs, "")?;
    let (_, told) = get(&server, "own", "/v2/models/own").await?;
    assert_eq!(told["inputs"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[tokio::test]
async fn a_model_file_is_swapped_under_development() -> Result<()> {
    let server = Server::start()?;
    for (ty, datatype) in [(F32, "FP32"), (I64, "INT64")] {
        let path = file(&server, "same.onnx", &identity(ty))?;
        let path = path.to_str().context("a path")?;
        let pushed = server.cli_json(&["push", path, "--development"])?;
        let base = pushed["open_inference_url"]
            .as_str()
            .context("an address")?;
        assert_eq!(base, server.at("/models/same/development/sync"));
        let url = format!("{base}/v2/models/same");
        let told: Value = server.client().get(url).send().await?.json().await?;
        assert_eq!(told["inputs"][0]["datatype"], datatype, "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn weights_beside_a_model_file_are_pushed_with_it() -> Result<()> {
    let server = Server::start()?;
    let port = |name| Port {
        name,
        ty: F32,
        dims: &[Some(2)],
    };
    let weight = Outside {
        name: "w",
        dims: &[2],
        location: "scale.onnx.data",
        offset: 0,
    };
    let nodes = [node("Mul", &["x", "w"], "y")];
    let scale = model_beside(14, &nodes, &[weight], &[port("x")], &[port("y")]);
    let path = file(&server, "scale.onnx", &scale)?;
    let output = server.cli(&["push", path.to_str().context("a path")?])?;
    let said = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains(
            "scale.onnx: weight `w` is stored in `scale.onnx.data`, which does not exist"
        ),
        "{said}"
    );
    file(&server, "scale.onnx.data", &f32s(&[2., 3.]))?;
    push(&server, "scale", &scale)?;
    let asked =
        json!({ "inputs": [{ "name": "x", "datatype": "FP32", "shape": [2], "data": [5, 7] }] });
    let (_, told) = infer(&server, "scale", &asked).await?;
    assert_eq!(told["outputs"][0]["data"], json!([10., 21.]), "{told}");
    Ok(())
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_is_sent() -> Result<()> {
    let server = Server::start()?;
    let refused = |name: &str| -> Result<String> {
        let path = server.folder().join(name);
        let output = server.cli(&["push", path.to_str().context("a path")?])?;
        ensure!(output.status.code() == Some(1) && output.stdout.is_empty());
        Ok(String::from_utf8(output.stderr)?)
    };
    let said = refused("none.onnx")?;
    assert!(said.contains("none.onnx: No such file"), "{said}");
    file(&server, "text.onnx", b"not a model")?;
    let said = refused("text.onnx")?;
    assert!(said.contains("text.onnx: not an ONNX model"), "{said}");
    file(&server, "string.onnx", &identity(8))?;
    let said = refused("string.onnx")?;
    assert!(
        said.contains(
            "string.onnx: input `x` has the ONNX type string (8), which wasi-nn does not support"
        ),
        "{said}"
    );
    let models = server.cli_json(&["model", "list"])?;
    assert_eq!(models["models"], json!([]), "{models}");
    Ok(())
}

/// Request by request what `kserve.InferenceRESTClient` sends; the client itself would come with 450 MB.
#[tokio::test]
async fn kserves_rest_calls_are_answered() -> Result<()> {
    let server = Server::start()?;
    push(&server, "sum", &sum())?;
    for (path, key) in [("/v2/health/live", "live"), ("/v2/health/ready", "ready")] {
        assert_eq!(get(&server, "sum", path).await?.1[key], true);
    }
    assert_eq!(get(&server, "sum", "/v2/models/sum/ready").await?.0, 200);
    let input = |name: &str, more: Value| {
        let mut input = json!({ "name": name, "shape": [1, 2], "datatype": "FP32" });
        let fields = more.as_object().cloned().unwrap_or_default();
        input.as_object_mut().unwrap().extend(fields);
        input
    };
    let data = json!({ "data": [1.0, 2.0] });
    let asked = json!({
        "id": null, "model_name": "sum", "inputs": [input("a", data.clone()), input("b", data)],
    });
    let (status, told) = infer(&server, "sum", &asked).await?;
    assert_eq!(
        (status, &told["outputs"][0]["data"]),
        (200, &json!([2.0, 4.0]))
    );

    let sized = json!({ "parameters": { "binary_data_size": 8 } });
    let head = json!({
        "id": "5", "model_name": "sum", "inputs": [input("a", sized.clone()), input("b", sized)],
        "parameters": { "binary_data_output": true },
    })
    .to_string();
    let tensors = f32s(&[1., 2., 3., 4.]);
    let body = [head.as_bytes(), &tensors].concat();
    let answer = infer_binary(&server, "sum", &head.len().to_string(), body).await?;
    let (told, found) = parts(answer).await?;
    assert_eq!(told["id"], "5");
    assert_eq!(found, f32s(&[4., 6.]));
    Ok(())
}

#[test]
fn tritonclient_works_with_its_defaults() -> Result<()> {
    let Some(python) = Python::with("tritonclient, geventhttpclient and onnx") else {
        return Ok(());
    };
    let library = onnxruntime()?.context("the Python of the tests has ONNX Runtime")?;
    let server = Server::start_with(&["--no-auth", "--onnxruntime", &library])?;
    let folder = server.folder().to_str().context("a path")?;
    python.run("open_inference_client.py", &["make", folder])?;
    let path = server.folder().join("model.onnx");
    let path = path.to_str().context("a path")?;
    let pushed = server.cli_json(&["push", path, "--model", "types"])?;
    let address = pushed["open_inference_url"]
        .as_str()
        .context("an address")?;
    let said = python.run("open_inference_client.py", &["triton", address, "types"])?;
    assert_eq!(said, "right\n", "{:?}", server.log());
    Ok(())
}

/// The book's, letter by letter but for the address and the key.
#[test]
fn the_client_of_the_book_gets_its_answer() -> Result<()> {
    let Some(python) = Python::with("tritonclient and geventhttpclient") else {
        return Ok(());
    };
    let server = Server::start()?;
    let port = |name, size| Port {
        name,
        ty: F32,
        dims: if size == 4 {
            &[None, Some(4)]
        } else {
            &[None, Some(3)]
        },
    };
    let weights = Weight {
        name: "w",
        ty: F32,
        dims: &[4, 3],
        data: &f32s(&[0.; 12]),
    };
    let nodes = [
        node("MatMul", &["X", "w"], "scores"),
        node("Softmax", &["scores"], "probabilities"),
    ];
    let (inputs, outputs) = ([port("X", 4)], [port("probabilities", 3)]);
    push(
        &server,
        "iris",
        &model_with(14, &nodes, &[weights], &inputs, &outputs),
    )?;
    let script = repository().join("examples/open-inference/clients/with_triton.py");
    let script = std::fs::read_to_string(script)?;
    let place = server.url.trim_start_matches("http://");
    let script = script
        .replace("127.0.0.1:8080", place)
        .replace("KEY", &server.key());
    let output = Command::new(python.path()).args(["-c", &script]).output()?;
    let said = String::from_utf8(output.stdout)?;
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("0.333").count(), 3, "{said}{why}");
    Ok(())
}
