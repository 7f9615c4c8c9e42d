//! Tests of how far constants may be folded.

use prost::Message as _;

use super::super::{Attribute, Dimension, Shape, TensorProto, ValueInfo};
use super::*;
use crate::testing::{sized, tensor};

fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: op.into(),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.into()],
        ..NodeProto::default()
    }
}

fn integers_of(name: &str, values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![values.len() as i64],
        data_type: 7,
        raw_data: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        ..TensorProto::default()
    }
}

fn weight(name: &str, dims: &[i64]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: dims.to_vec(),
        data_type: 1,
        ..TensorProto::default()
    }
}

/// What may be folded of a model with the inputs `x` of `[?, 128]` and `fixed` of `[4, 8]`.
fn of(weights: &[TensorProto], nodes: &[NodeProto]) -> Folding {
    let input = |name: &str, dims: Vec<Dimension>| ValueInfo {
        name: name.into(),
        r#type: Some(tensor(1, Some(Shape { dim: dims }))),
        ..ValueInfo::default()
    };
    let open = Dimension::default();
    let model = ModelProto {
        graph: Some(GraphProto {
            node: nodes.to_vec(),
            initializer: weights.to_vec(),
            input: vec![
                input("x", vec![open, sized(128)]),
                input("fixed", vec![sized(4), sized(8)]),
            ],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    let bytes = model.encode_to_vec();
    folding(&model, &bytes)
}

#[test]
fn what_swells_is_not_folded() {
    let shape = |sizes: &[i64]| integers_of("shape", sizes);
    let fill = || node("ConstantOfShape", &["shape"], "y");
    assert_eq!(of(&[shape(&[10, 10])], &[fill()]), Folding::On);
    assert_eq!(of(&[shape(&[1 << 20, 1 << 20])], &[fill()]), Folding::Off);
    let column = weight("column", &[10_000, 1]);
    let row = weight("row", &[1, 10_000]);
    for op in ["Add", "MatMul", "Where"] {
        let nodes = [node(op, &["column", "row"], "y")];
        assert_eq!(
            of(&[column.clone(), row.clone()], &nodes),
            Folding::Off,
            "{op}"
        );
    }
    // Doubled again and again.
    let mut nodes = vec![node("Concat", &["row", "row"], "y0")];
    for step in 0..30 {
        let from = format!("y{step}");
        nodes.push(node("Concat", &[&from, &from], &format!("y{}", step + 1)));
    }
    assert_eq!(of(std::slice::from_ref(&row), &nodes), Folding::Off);
    let nodes = [node("Tile", &["row", "times"], "y")];
    let times = integers_of("times", &[1 << 20, 1 << 20]);
    assert_eq!(of(&[row.clone(), times], &nodes), Folding::Off);
    let nodes = [node("Expand", &["row", "shape"], "y")];
    assert_eq!(of(&[row, shape(&[1 << 20, 1])], &nodes), Folding::Off);
    // By its shape, which is fixed whatever it holds.
    let nodes = [
        node("Shape", &["fixed"], "s"),
        node("Mul", &["s", "shape"], "large"),
        node("ConstantOfShape", &["large"], "y"),
    ];
    assert_eq!(of(&[shape(&[1 << 20, 1 << 20])], &nodes), Folding::Off);
}

#[test]
fn weights_that_are_turned_and_scaled_are_folded() {
    let nodes = [
        node("Transpose", &["w"], "turned"),
        node("Mul", &["turned", "scale"], "scaled"),
        node("Cast", &["scaled"], "cast"),
        node("MatMul", &["x", "cast"], "y"),
    ];
    let weights = [weight("w", &[3072, 10_000]), weight("scale", &[3072])];
    assert_eq!(of(&weights, &nodes), Folding::On);
}

#[test]
fn what_follows_from_an_open_shape_is_no_constant() {
    let gather = |place: &str, output: &str| node("Gather", &["s", place], output);
    let zero = integers_of("zero", &[0]);
    let one = integers_of("one", &[1]);
    let mask = [
        node("Shape", &["x"], "s"),
        node("ConstantOfShape", &["s"], "mask"),
        gather("zero", "rows"),
        node("Concat", &["rows", "one"], "wanted"),
        node("Expand", &["one", "wanted"], "y"),
        node("Range", &["zero", "rows", "one"], "places"),
    ];
    assert_eq!(of(&[zero.clone(), one.clone()], &mask), Folding::On);
    // The other dimension is known, and small.
    let columns = [
        node("Shape", &["x"], "s"),
        gather("one", "columns"),
        node("ConstantOfShape", &["columns"], "y"),
    ];
    assert_eq!(of(std::slice::from_ref(&one), &columns), Folding::On);
    // What it is cannot be told.
    let hidden = [
        node("Reshape", &["x", "one"], "r"),
        node("Shape", &["r"], "s"),
        node("ConstantOfShape", &["s"], "y"),
    ];
    let node_bytes = (ELEMENTS + PER_WEIGHT) * ELEMENT_BYTES;
    assert_eq!(of(&[one], &hidden), Folding::Within { node_bytes });
}

#[test]
fn unknown_operators_graphs_within_and_functions_are_not_trusted() {
    let small = weight("w", &[4]);
    let mut foreign = node("Swell", &["w"], "y");
    foreign.domain = "com.example".into();
    let node_bytes = (ELEMENTS + 4 * PER_WEIGHT) * ELEMENT_BYTES;
    let limited = Folding::Within { node_bytes };
    assert_eq!(of(std::slice::from_ref(&small), &[foreign]), limited);
    let resized = [node("Resize", &["w", "", "w"], "y")];
    assert_eq!(of(std::slice::from_ref(&small), &resized), limited);
    let mut inner = GraphProto::default();
    inner.node.push(node("MatMul", &["column", "row"], "z"));
    let mut branch = node("If", &["x"], "y");
    branch.attribute.push(Attribute {
        name: "then_branch".into(),
        g: Some(Box::new(inner)),
        ..Attribute::default()
    });
    let outer = [weight("column", &[10_000, 1]), weight("row", &[1, 10_000])];
    assert_eq!(of(&outer, &[branch]), Folding::Off);
}
