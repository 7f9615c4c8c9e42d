//! Passes tensors and graphs to `wasi:nn` as a test tells it, and answers what came back.

use serde::{Deserialize, Serialize};
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({ path: "../../../runtime/wit/wasi-nn", world: "ml" });

use wasi::nn::errors::Error as NnError;
use wasi::nn::graph::{ExecutionTarget, Graph, GraphEncoding, load, load_by_name};
use wasi::nn::tensor::{Tensor, TensorType};

/// What a test asks for: a graph by name or by its bytes, and a run of it.
#[derive(Deserialize)]
struct Asked {
    graph: Option<String>,
    bytes: Option<Vec<u8>>,
    inputs: Vec<Named>,
}

#[derive(Deserialize, Serialize)]
struct Named {
    name: String,
    ty: String,
    dims: Vec<u32>,
    data: Vec<u8>,
}

#[derive(Serialize)]
struct Failed {
    code: String,
    data: String,
}

impl From<NnError> for Failed {
    fn from(error: NnError) -> Self {
        Self {
            code: format!("{:?}", error.code()),
            data: error.data(),
        }
    }
}

const TYPES: [(&str, TensorType); 7] = [
    ("f16", TensorType::Fp16),
    ("f32", TensorType::Fp32),
    ("f64", TensorType::Fp64),
    ("bf16", TensorType::Bf16),
    ("u8", TensorType::U8),
    ("i32", TensorType::I32),
    ("i64", TensorType::I64),
];

fn run(asked: Asked) -> Result<Vec<Named>, Failed> {
    let graph: Graph = match (asked.graph, asked.bytes) {
        (Some(name), _) => load_by_name(&name)?,
        (None, bytes) => load(
            &[bytes.unwrap_or_default()],
            GraphEncoding::Onnx,
            ExecutionTarget::Cpu,
        )?,
    };
    let context = graph.init_execution_context()?;
    let inputs = asked.inputs.into_iter().map(|input| {
        let ty = TYPES.iter().find(|(name, _)| *name == input.ty);
        let ty = ty.expect("a test names a type that there is").1;
        (input.name, Tensor::new(&input.dims, ty, &input.data))
    });
    let outputs = context.compute(inputs.collect())?;
    let outputs = outputs.into_iter().map(|(name, tensor)| Named {
        name,
        ty: TYPES
            .iter()
            .find(|(_, ty)| *ty == tensor.ty())
            .map_or("?", |(name, _)| name)
            .to_owned(),
        dims: tensor.dimensions(),
        data: tensor.data(),
    });
    Ok(outputs.collect())
}

struct Tensors;

impl wasip2::exports::http::incoming_handler::Guest for Tensors {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let incoming = request.consume().unwrap();
        let stream = incoming.stream().unwrap();
        let mut body = Vec::new();
        while let Ok(bytes) = stream.blocking_read(1 << 20) {
            body.extend(bytes);
        }
        let asked: Asked = serde_json::from_slice(&body).expect("a test sends what fits");
        let answer = serde_json::to_vec(&run(asked)).unwrap();
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

wasip2::http::proxy::export!(Tensors);
