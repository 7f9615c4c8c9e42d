//! A decode loop: the state that each step gives goes into the next as it is, and only a token is read.
//!
//! The graph `start` makes the first state out of a shape, the graph `step` makes the next state and token.

use serde::{Deserialize, Serialize};
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({ path: "../../../runtime/wit/wasi-nn", world: "ml" });

use wasi::nn::errors::Error as NnError;
use wasi::nn::graph::load_by_name;
use wasi::nn::inference::GraphExecutionContext;
use wasi::nn::tensor::{Tensor, TensorType};

/// What is asked for.
#[derive(Deserialize)]
struct Asked {
    /// Elements of the state.
    elements: i64,
    steps: u32,
    /// Whether the last state shall be brought into the guest.
    #[serde(default)]
    read: bool,
}

#[derive(Serialize)]
struct Decoded {
    tokens: Vec<f32>,
    /// Dimensions of the last state.
    state: Vec<u32>,
    /// The last state's first and last element, if it was read.
    ends: Option<[f32; 2]>,
}

fn context(graph: &str) -> Result<GraphExecutionContext, NnError> {
    load_by_name(graph)?.init_execution_context()
}

fn token(value: f32) -> (String, Tensor) {
    let tensor = Tensor::new(&[1, 1], TensorType::Fp32, &value.to_le_bytes());
    ("token".to_owned(), tensor)
}

fn float(bytes: &[u8]) -> f32 {
    bytes.try_into().map_or(f32::NAN, f32::from_le_bytes)
}

fn take(outputs: &mut Vec<(String, Tensor)>, name: &str) -> Tensor {
    let at = outputs.iter().position(|(found, _)| found == name);
    outputs
        .swap_remove(at.expect("the graph has this output"))
        .1
}

fn decode(asked: &Asked) -> Result<Decoded, NnError> {
    let shape: Vec<u8> = [1, asked.elements]
        .iter()
        .flat_map(|size| size.to_le_bytes())
        .collect();
    let shape = Tensor::new(&[2], TensorType::I64, &shape);
    let mut begun = context("start")?.compute(vec![token(0.0), ("shape".to_owned(), shape)])?;
    let mut state = take(&mut begun, "state");
    let step = context("step")?;
    let mut tokens = vec![0.5];
    for _ in 0..asked.steps {
        let last = tokens[tokens.len() - 1];
        let mut outputs = step.compute(vec![token(last), ("state".to_owned(), state)])?;
        state = take(&mut outputs, "next_state");
        tokens.push(float(&take(&mut outputs, "next_token").data()));
    }
    Ok(Decoded {
        tokens,
        state: state.dimensions(),
        ends: asked.read.then(|| {
            let bytes = state.data();
            [float(&bytes[..4]), float(&bytes[bytes.len() - 4..])]
        }),
    })
}

struct Decode;

impl wasip2::exports::http::incoming_handler::Guest for Decode {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let incoming = request.consume().unwrap();
        let stream = incoming.stream().unwrap();
        let mut body = Vec::new();
        while let Ok(bytes) = stream.blocking_read(1 << 16) {
            body.extend(bytes);
        }
        let asked: Asked = serde_json::from_slice(&body).expect("a test sends what fits");
        let answer = decode(&asked).map_err(|error| error.data());
        let answer = serde_json::to_vec(&answer).unwrap();
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().unwrap();
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().unwrap();
        for chunk in answer.chunks(4096) {
            let _ = stream.blocking_write_and_flush(chunk);
        }
        drop(stream);
        let _ = OutgoingBody::finish(body, None);
    }
}

wasip2::http::proxy::export!(Decode);
