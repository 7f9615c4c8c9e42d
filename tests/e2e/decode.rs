//! A state goes from one run of a graph into the next without entering the sandbox.

use anyhow::Result;
use samovar_tests::Server;
use samovar_tests::onnx::{Node, Value as Port, model};
use samovar_tests::python::onnxruntime;
use serde_json::{Value, json};

/// 50 MB of floats.
const ELEMENTS: u64 = 12_500_000;
const F32: u64 = 1;
const I64: u64 = 7;

/// `state = token` everywhere, in the shape that is asked for.
fn start() -> Vec<u8> {
    let node = Node {
        op: "Expand",
        inputs: &["token", "shape"],
        output: "state",
        attribute: None,
    };
    let token = port("token", F32, &[Some(1), Some(1)]);
    let shape = port("shape", I64, &[Some(2)]);
    let state = port("state", F32, &[Some(1), None]);
    model(14, &[node], &[token, shape], &[state])
}

/// `next_state = state + token`, `next_token` is its mean.
fn step() -> Vec<u8> {
    let add = Node {
        op: "Add",
        inputs: &["state", "token"],
        output: "next_state",
        attribute: None,
    };
    let mean = Node {
        op: "ReduceMean",
        inputs: &["next_state"],
        output: "next_token",
        attribute: Some(("keepdims", 1)),
    };
    let state = |name| port(name, F32, &[Some(1), None]);
    let token = |name| port(name, F32, &[Some(1), Some(1)]);
    let inputs = [token("token"), state("state")];
    let outputs = [state("next_state"), token("next_token")];
    model(14, &[add, mean], &inputs, &outputs)
}

fn port<'a>(name: &'a str, ty: u64, dims: &'a [Option<u64>]) -> Port<'a> {
    Port { name, ty, dims }
}

fn pushed(backend: &str, memory: &str, args: &[&str]) -> Result<Server> {
    let server = Server::start_with(args)?;
    let graph =
        |name| format!("[graphs.{name}]\nfile = \"{name}.onnx\"\nbackend = \"{backend}\"\n");
    let manifest = format!(
        "{}{}[limits]\nmemory = \"{memory}\"\n",
        graph("start"),
        graph("step")
    );
    let folder = server.bundle("decode", "decode", &manifest)?;
    std::fs::write(folder.join("start.onnx"), start())?;
    std::fs::write(folder.join("step.onnx"), step())?;
    server.cli_json(&["push", folder.to_str().unwrap()])?;
    Ok(server)
}

async fn ask(server: &Server, asked: Value) -> Result<(u16, Value)> {
    let url = server.at("/models/decode/production/predict");
    let answer = server.client().post(url).json(&asked).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

/// What each step's token is, as the graphs compute it.
fn tokens(steps: usize) -> Vec<f32> {
    let mut state = 0.0;
    let mut tokens = vec![0.5];
    for _ in 0..steps {
        state += tokens[tokens.len() - 1];
        tokens.push(state);
    }
    tokens
}

fn close(found: &Value, wanted: &[f32]) {
    let found: Vec<f64> = serde_json::from_value(found.clone()).unwrap();
    let near = |(found, wanted): (&f64, &f32)| (found / f64::from(*wanted) - 1.0).abs() < 1e-4;
    assert!(
        found.len() == wanted.len() && found.iter().zip(wanted).all(near),
        "{found:?}, wanted {wanted:?}"
    );
}

/// The state fits once into what the replica may hold, beside the guest itself: neither twice, nor once more into the guest.
async fn loops_without_room_for_the_state(backend: &str, args: &[&str]) -> Result<()> {
    let server = pushed(backend, "64MiB", args)?;
    for _ in 0..2 {
        let (status, answer) = ask(&server, json!({ "elements": ELEMENTS, "steps": 6 })).await?;
        assert_eq!(status, 200, "{answer}");
        close(&answer["Ok"]["tokens"], &tokens(6));
        assert_eq!(answer["Ok"]["state"], json!([1, ELEMENTS]));
    }
    let read = json!({ "elements": ELEMENTS, "steps": 1, "read": true });
    let (status, answer) = ask(&server, read).await?;
    assert_eq!(status, 500, "{answer}");
    let text = answer.to_string();
    assert!(text.contains("ran out of memory"), "{text}");
    Ok(())
}

async fn reads_the_state_at_its_end(backend: &str, args: &[&str]) -> Result<()> {
    let server = pushed(backend, "64MiB", args)?;
    let asked = json!({ "elements": 1_000_001, "steps": 3, "read": true });
    let (status, answer) = ask(&server, asked).await?;
    assert_eq!(status, 200, "{answer}");
    let last = tokens(3)[3];
    close(&answer["Ok"]["ends"], &[last, last]);
    Ok(())
}

#[tokio::test]
async fn a_state_larger_than_the_guest_is_decoded_with_rten() -> Result<()> {
    loops_without_room_for_the_state("rten", &[]).await?;
    reads_the_state_at_its_end("rten", &[]).await
}

#[tokio::test]
async fn a_state_larger_than_the_guest_is_decoded_with_onnxruntime() -> Result<()> {
    let Some(library) = onnxruntime()? else {
        return Ok(());
    };
    let args = ["--onnxruntime", &library];
    loops_without_room_for_the_state("onnxruntime", &args).await?;
    reads_the_state_at_its_end("onnxruntime", &args).await
}
