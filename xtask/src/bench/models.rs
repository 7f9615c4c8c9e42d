//! The models that are measured: those that a few lines make, and those that the examples have.

use std::path::{Path, PathBuf};

use super::onnx::{Node, Value, Weight, model_with};
use crate::guests;

const FLOAT: u64 = 1;
const INT64: u64 = 7;
const OPSET: u64 = 17;

/// Features and classes of the tiny model.
const FEATURES: u64 = 4;
const CLASSES: u64 = 3;
/// Side of the shared model's largest weight: 100 MB of floats.
const SIDE: u64 = 5000;

/// Magika, as its example has it.
pub fn magika() -> PathBuf {
    crate::repository().join("examples/magika/model.onnx")
}

/// PP-OCR's recogniser, as its example has it.
pub fn recogniser() -> PathBuf {
    guests::ocr_folder().join("rec.onnx")
}

/// Logistic regression: MatMul, Add, Softmax.
pub fn tiny() -> Vec<u8> {
    let weight = floats(FEATURES * CLASSES);
    let bias = floats(CLASSES);
    model_with(
        OPSET,
        &[
            node("MatMul", &["X", "W"], "product", None),
            node("Add", &["product", "B"], "sum", None),
            node("Softmax", &["sum"], "probabilities", None),
        ],
        &[
            weight_of("W", &[FEATURES, CLASSES], &weight),
            weight_of("B", &[CLASSES], &bias),
        ],
        &[value("X", &[None, Some(FEATURES)])],
        &[value("probabilities", &[None, Some(CLASSES)])],
    )
}

/// The same surface with so much to compute that a run takes long.
pub fn slow() -> Vec<u8> {
    const LAYERS: usize = 8;
    const WIDTH: u64 = 1000;
    let (wide, square, narrow) = (
        floats(FEATURES * WIDTH),
        floats(WIDTH * WIDTH),
        floats(WIDTH * CLASSES),
    );
    let names: Vec<String> = (0..=LAYERS).map(|layer| format!("h{layer}")).collect();
    let inputs: Vec<[&str; 2]> = names.iter().map(|name| [name.as_str(), "W2"]).collect();
    let mut nodes = vec![node("MatMul", &["X", "W1"], &names[0], None)];
    for layer in 0..LAYERS {
        nodes.push(node("MatMul", &inputs[layer], &names[layer + 1], None));
    }
    let last = [names[LAYERS].as_str(), "W3"];
    nodes.push(node("MatMul", &last, "narrow", None));
    nodes.push(node("Softmax", &["narrow"], "probabilities", None));
    model_with(
        OPSET,
        &nodes,
        &[
            weight_of("W1", &[FEATURES, WIDTH], &wide),
            weight_of("W2", &[WIDTH, WIDTH], &square),
            weight_of("W3", &[WIDTH, CLASSES], &narrow),
        ],
        &[value("X", &[None, Some(FEATURES)])],
        &[value("probabilities", &[None, Some(CLASSES)])],
    )
}

/// The same surface around 100 MB of weights.
pub fn shared() -> Vec<u8> {
    let (wide, square, narrow) = (
        floats(FEATURES * SIDE),
        floats(SIDE * SIDE),
        floats(SIDE * CLASSES),
    );
    model_with(
        OPSET,
        &[
            node("MatMul", &["X", "W1"], "wide", None),
            node("MatMul", &["wide", "W2"], "mixed", None),
            node("MatMul", &["mixed", "W3"], "narrow", None),
            node("Softmax", &["narrow"], "probabilities", None),
        ],
        &[
            weight_of("W1", &[FEATURES, SIDE], &wide),
            weight_of("W2", &[SIDE, SIDE], &square),
            weight_of("W3", &[SIDE, CLASSES], &narrow),
        ],
        &[value("X", &[None, Some(FEATURES)])],
        &[value("probabilities", &[None, Some(CLASSES)])],
    )
}

/// The first state of a decoder: a token, in the shape that is asked for.
pub fn decoder_start() -> Vec<u8> {
    model_with(
        OPSET,
        &[node("Expand", &["token", "shape"], "state", None)],
        &[],
        &[
            value("token", &[Some(1), Some(1)]),
            Value {
                name: "shape",
                ty: INT64,
                dims: &[Some(2)],
            },
        ],
        &[value("state", &[Some(1), None])],
    )
}

/// One step of a decoder, as far as its memory goes: a new state out of the old one, and a token out of it.
pub fn decoder_step() -> Vec<u8> {
    model_with(
        OPSET,
        &[
            node("Add", &["state", "token"], "next_state", None),
            node("Gather", &["next_state", "first"], "one", Some(("axis", 1))),
            node("Tanh", &["one"], "next_token", None),
        ],
        &[Weight {
            name: "first",
            ty: INT64,
            dims: &[1],
            data: &0i64.to_le_bytes(),
        }],
        &[
            value("token", &[Some(1), Some(1)]),
            value("state", &[Some(1), None]),
        ],
        &[
            value("next_state", &[Some(1), None]),
            value("next_token", &[Some(1), Some(1)]),
        ],
    )
}

/// Puts a model into the folder of a bundle.
pub fn write(folder: &Path, bytes: &[u8]) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("model.onnx");
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// Random floats from -1 to 1, the same in each run.
pub fn floats(count: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..count)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0).to_le_bytes()
        })
        .collect()
}

fn node<'a>(
    op: &'a str,
    inputs: &'a [&'a str],
    output: &'a str,
    attribute: Option<(&'a str, u64)>,
) -> Node<'a> {
    Node {
        op,
        inputs,
        output,
        attribute,
    }
}

fn weight_of<'a>(name: &'a str, dims: &'a [u64], data: &'a [u8]) -> Weight<'a> {
    Weight {
        name,
        ty: FLOAT,
        dims,
        data,
    }
}

fn value<'a>(name: &'a str, dims: &'a [Option<u64>]) -> Value<'a> {
    Value {
        name,
        ty: FLOAT,
        dims,
    }
}
