//! What rten 0.27 would compute wrongly without a word, refused by operator and node.
//!
//! Found by running the ONNX standard's own node tests against it.

use std::collections::HashMap;

use super::onnx::{GraphProto, ModelProto, NodeProto, known_ranks};

/// From this opset on, Softmax and its kin work along one axis; before, they flatten to two dimensions.
const SOFTMAX_ALONG_AXIS: i64 = 13;

/// Why rten must not run the model, if it must not.
pub(crate) fn refusal(model: &ModelProto) -> Option<String> {
    in_graph(model.graph.as_ref()?, model.opset())
}

fn in_graph(graph: &GraphProto, opset: i64) -> Option<String> {
    let ranks = known_ranks(graph);
    for node in &graph.node {
        if matches!(node.domain.as_str(), "" | "ai.onnx")
            && let Some(why) = of_node(node, opset, &ranks)
        {
            return Some(format!(
                "operator {} of node `{}`: {why}",
                node.op_type,
                if node.name.is_empty() {
                    node.output.first().map_or("", String::as_str)
                } else {
                    &node.name
                }
            ));
        }
        let inner = node
            .attribute
            .iter()
            .flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs));
        for graph in inner {
            if let Some(why) = in_graph(graph, opset) {
                return Some(why);
            }
        }
    }
    None
}

fn of_node(node: &NodeProto, opset: i64, ranks: &HashMap<&str, usize>) -> Option<&'static str> {
    let rank = |at: usize| {
        node.input
            .get(at)
            .and_then(|name| ranks.get(name.as_str()))
            .copied()
    };
    let is = |name: &str, value: &str| node.text(name) == Some(value);
    match node.op_type.as_str() {
        "Softmax" | "LogSoftmax" | "Hardmax" if opset < SOFTMAX_ALONG_AXIS => {
            let axis = node.attribute("axis").map_or(1, |attribute| attribute.i);
            let last = match rank(0) {
                Some(rank) => axis == -1 || axis == i64::try_from(rank).unwrap_or(0) - 1,
                None => axis == -1,
            };
            (!last).then_some("before opset 13 it flattens its input, unless its axis is the last")
        }
        "Sign" => Some("the sign of 0 would be 1"),
        "ArgMax" | "ArgMin" => Some("of equal values the last would be taken, not the first"),
        "Resize" if is("mode", "cubic") => Some("cubic interpolation would differ"),
        "Resize" if is("coordinate_transformation_mode", "align_corners") => {
            Some("aligned corners would differ")
        }
        "NonMaxSuppression" => Some("several batches, classes or flipped corners would differ"),
        "DynamicQuantizeLinear" => Some("results would differ by one"),
        "BitCast" => Some("64-bit values would be cut"),
        "Dropout" if node.input.len() > 2 => Some("training mode would be ignored"),
        "MatMul" if rank(0).is_some_and(|rank| rank > 3) && rank(1) == Some(1) => {
            Some("the product with a vector would have another shape")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::backend::onnx::{
        Attribute, Dimension, OperatorSetId, Shape, TensorType, TypeProto, ValueInfo,
    };

    fn model(op: &str, opset: i64, axis: Option<i64>, rank: Option<usize>) -> ModelProto {
        let input = ValueInfo {
            name: "x".into(),
            r#type: Some(TypeProto {
                tensor_type: Some(TensorType {
                    elem_type: 1,
                    shape: rank.map(|rank| Shape {
                        dim: vec![Dimension { dim_value: 2 }; rank],
                    }),
                }),
            }),
        };
        let node = NodeProto {
            input: vec!["x".into()],
            output: vec!["y".into()],
            name: "n".into(),
            op_type: op.into(),
            attribute: axis
                .map(|i| Attribute {
                    name: "axis".into(),
                    i,
                    ..Default::default()
                })
                .into_iter()
                .collect(),
            domain: String::new(),
        };
        ModelProto {
            graph: Some(GraphProto {
                node: vec![node],
                input: vec![input],
                ..Default::default()
            }),
            opset_import: vec![OperatorSetId {
                domain: String::new(),
                version: opset,
            }],
            ..Default::default()
        }
    }

    #[test]
    fn old_softmax_passes_only_along_the_last_axis() {
        for op in ["Softmax", "LogSoftmax", "Hardmax"] {
            assert!(
                refusal(&model(op, 12, Some(1), Some(4)))
                    .unwrap()
                    .contains("node `n`")
            );
            assert!(refusal(&model(op, 12, None, Some(3))).is_some());
            assert!(refusal(&model(op, 9, Some(1), None)).is_some());
            assert!(refusal(&model(op, 12, None, Some(2))).is_none());
            assert!(refusal(&model(op, 12, Some(3), Some(4))).is_none());
            assert!(refusal(&model(op, 12, Some(-1), None)).is_none());
            assert!(refusal(&model(op, 13, Some(1), Some(4))).is_none());
        }
    }

    #[test]
    fn nodes_of_inner_graphs_are_looked_at() {
        let inner = model("Sign", 13, None, None).graph;
        let mut outer = model("If", 13, None, None);
        outer.graph.as_mut().unwrap().node[0]
            .attribute
            .push(Attribute {
                name: "then_branch".into(),
                g: inner,
                ..Default::default()
            });
        assert!(refusal(&outer).unwrap().starts_with("operator Sign"));
    }
}
