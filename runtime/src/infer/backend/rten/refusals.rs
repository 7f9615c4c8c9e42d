//! Refuses nodes that rten 0.27 would silently compute wrongly and that cannot be rewritten with its other operators, and nodes
//! that rten would refuse only in the first run.
//!
//! Found with the node tests of the ONNX standard (`tests/e2e/conformance.rs`).

use samovar_onnx::NodeProto;
use samovar_onnx::known::{BOOL, FLOAT, INT8, Known, UINT8};

/// From this opset on, Dropout drops elements only if an input requests it. Before opset 7 it does unless an attribute disables it.
const DROPOUT_TRAINS_BY_INPUT: i64 = 12;
const DROPOUT_TRAINS_BY_DEFAULT_BEFORE: i64 = 7;
/// From this opset on, ReduceMax accepts bools.
const REDUCES_BOOLS: i64 = 20;

/// The reason to refuse a node; `None` if rten computes it correctly.
pub(super) fn of_node(node: &NodeProto, known: &Known, opset: i64) -> Option<&'static str> {
    let input = |at: usize| {
        let name = node.input.get(at).map(String::as_str);
        name.filter(|name| !name.is_empty())
    };
    let is = |name: &str, value: &str| node.text(name) == Some(value);
    match node.op_type.as_str() {
        "Resize" if is("mode", "cubic") => Some("it would interpolate linearly, not cubically"),
        "Resize" if is("coordinate_transformation_mode", "align_corners") => {
            let by_size = input(3).is_some();
            let whole = input(2)
                .and_then(|scales| known.constant(scales))
                .is_some_and(|scales| scales.iter().all(|scale| scale.fract() == 0.0));
            (!by_size && !whole)
                .then_some("corners would be aligned otherwise for a fractional scale")
        }
        "Conv" | "ConvInteger" | "ConvTranspose" | "AveragePool" | "MaxPool" | "LpPool"
            if is("auto_pad", "SAME_LOWER") =>
        {
            Some("it would pad at the upper end, not the lower")
        }
        "ConvInteger" if pads(node) => Some("it would pad with 0, not with the zero point"),
        "NonMaxSuppression" => Some(
            "it would join classes and batches, drop what only a dropped box overlaps, and not know flipped corners",
        ),
        "BitCast" => Some("64-bit values would be cut"),
        "Dropout" if trains(node, known, opset) => {
            Some("it would not drop anything, as training wants")
        }
        "SequenceInsert" => {
            let first = input(2).is_none_or(|position| {
                let position = known.constant(position);
                position.is_some_and(|position| position.iter().all(|at| *at >= 0.0))
            });
            (!first).then_some("a position counted from the end would be off by one")
        }
        "ReduceMax" if opset >= REDUCES_BOOLS => {
            let ty = input(0).and_then(|name| known.ty(name));
            ty.is_none().then_some(
                "the type of its input cannot be told, and the maximum of no bools would be true",
            )
        }
        "QuantizeLinear" => unquantized(node, known, opset),
        _ => unsupported(node, known),
    }
}

/// The reason for which rten would refuse the node in the first run, if it can be determined now.
fn unsupported(node: &NodeProto, known: &Known) -> Option<&'static str> {
    let first = node.input.first().map_or("", String::as_str);
    let bytes = matches!(known.ty(first), Some(UINT8 | INT8));
    match node.op_type.as_str() {
        "Add" | "Sub" | "Mul" | "Div" | "Equal" | "Greater" | "GreaterOrEqual" | "Less"
        | "LessOrEqual" | "Max" | "Min" | "Clip"
            if bytes =>
        {
            Some("it does not compute with bytes")
        }
        "MaxPool" | "AveragePool" if bytes => Some("it does not pool bytes"),
        "Conv" | "ConvTranspose" | "MaxPool" | "AveragePool"
            if known.rank(first).is_some_and(|rank| rank > 4) =>
        {
            Some("it knows one and two spatial dimensions, not three")
        }
        "LayerNormalization" if node.output.iter().skip(1).any(|name| !name.is_empty()) => {
            Some("it does not give the mean and the deviation")
        }
        "Pad" if node.input.get(3).is_some_and(|axes| !axes.is_empty()) => {
            Some("it does not pad chosen axes alone")
        }
        "GRU"
            if node
                .attribute("linear_before_reset")
                .is_none_or(|flag| flag.i == 0) =>
        {
            Some("it knows this one only with linear_before_reset = 1")
        }
        _ => None,
    }
}

fn pads(node: &NodeProto) -> bool {
    let auto = node.text("auto_pad").unwrap_or("NOTSET");
    let given = node
        .attribute("pads")
        .is_some_and(|pads| pads.ints.iter().any(|pad| *pad != 0));
    given || !matches!(auto, "NOTSET" | "VALID")
}

fn trains(node: &NodeProto, known: &Known, opset: i64) -> bool {
    if opset < DROPOUT_TRAINS_BY_DEFAULT_BEFORE {
        return node.attribute("is_test").is_none_or(|test| test.i == 0);
    }
    let training = node.input.get(2).filter(|name| !name.is_empty());
    opset >= DROPOUT_TRAINS_BY_INPUT
        && training.is_some_and(|name| known.constant(name) != Some(&[0.0]))
}

/// QuantizeLinear is rewritten, which requires the type of the output and the axis of the scales.
fn unquantized(node: &NodeProto, known: &Known, opset: i64) -> Option<&'static str> {
    let blocks = node.attribute("block_size").is_some_and(|size| size.i != 0);
    let ty = quantized_type(node, known);
    if blocks || !matches!(ty, Some(UINT8 | INT8) | None) {
        // rten refuses it itself.
        return None;
    }
    if ty.is_none() {
        return Some("the type of its zero point cannot be told");
    }
    let input_ty = node.input.first().and_then(|name| known.ty(name));
    if input_ty.is_some_and(|ty| ty != FLOAT) {
        return None;
    }
    let alone = scale_is_alone(node, known, opset);
    let rank = node.input.first().and_then(|name| known.rank(name));
    match (alone, rank) {
        (None, _) => Some("whether it has one scale or many cannot be told"),
        (Some(false), None) => Some("along which axis its scales lie cannot be told"),
        _ => None,
    }
}

/// The type of the output of a QuantizeLinear.
pub(super) fn quantized_type(node: &NodeProto, known: &Known) -> Option<i32> {
    let named = node.attribute("output_dtype").filter(|ty| ty.i != 0);
    if let Some(named) = named {
        return i32::try_from(named.i).ok();
    }
    match node.input.get(2).filter(|name| !name.is_empty()) {
        Some(zero_point) => known.ty(zero_point),
        None => Some(UINT8),
    }
}

/// Whether a QuantizeLinear has a single scale; `None` if unknown.
pub(super) fn scale_is_alone(node: &NodeProto, known: &Known, opset: i64) -> Option<bool> {
    /// From this opset on, scales may differ along an axis.
    const SCALES_ALONG_AXIS: i64 = 13;
    let scale = node.input.get(1)?;
    if opset < SCALES_ALONG_AXIS || known.rank(scale) == Some(0) {
        return Some(true);
    }
    if let Some(values) = known.constant(scale) {
        return Some(values.len() == 1);
    }
    // A large constant, or a computed value.
    known.rank(scale).map(|_| false)
}

/// Whether a ReduceMax has an input of bools.
pub(super) fn reduces_bools(node: &NodeProto, known: &Known) -> bool {
    node.input.first().and_then(|name| known.ty(name)) == Some(BOOL)
}
