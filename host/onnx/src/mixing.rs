//! Operators that compute over all rows of a batch at once, so that joined calls would change each other's answers.
//!
//! Dynamic quantization takes one scale from the whole tensor, and a BatchNormalization that trains one mean and variance.
//! That the number of rows is right tells nothing of it. What a reduction along the first dimension is used for cannot be
//! told from the operator; those that give other rows than they were given are found when they run.

use super::{GraphProto, ModelProto, NodeProto, work};

/// Operators whose scales are those of the whole tensor, of the standard and of ONNX Runtime.
const DYNAMIC_QUANTIZATION: [&str; 4] = [
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "DynamicQuantizeAttention",
];

/// The first operator of a model that mixes rows, with its node, wherever in the model it stands.
pub fn operator(model: &ModelProto) -> Option<String> {
    let graph = model.graph.as_ref().and_then(of_graph);
    graph.or_else(|| {
        let mut nodes = model.functions.iter().flat_map(|function| &function.node);
        nodes.find_map(of_node)
    })
}

fn of_graph(graph: &GraphProto) -> Option<String> {
    graph.node.iter().find_map(of_node)
}

fn of_node(node: &NodeProto) -> Option<String> {
    work::step();
    if mixes(node) {
        return Some(format!("{} (`{}`)", node.op_type, node.label()));
    }
    node.attribute.iter().find_map(|attribute| {
        let own = attribute.g.iter().find_map(|graph| of_graph(graph));
        own.or_else(|| attribute.graphs.iter().find_map(of_graph))
    })
}

fn mixes(node: &NodeProto) -> bool {
    let trains = || {
        let mode = node.attribute("training_mode");
        mode.is_some_and(|mode| mode.i != 0)
    };
    DYNAMIC_QUANTIZATION.contains(&node.op_type.as_str())
        || node.op_type == "BatchNormalization" && trains()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(op: &str, name: &str) -> NodeProto {
        NodeProto {
            op_type: op.into(),
            name: name.into(),
            output: vec![format!("{op}_out")],
            ..NodeProto::default()
        }
    }

    fn model(nodes: Vec<NodeProto>) -> ModelProto {
        ModelProto {
            graph: Some(GraphProto {
                node: nodes,
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn dynamic_quantization_is_found_with_its_node() {
        assert_eq!(operator(&model(vec![node("MatMulInteger", "a")])), None);
        for op in DYNAMIC_QUANTIZATION {
            let found = operator(&model(vec![node("Relu", "a"), node(op, "b")]));
            assert_eq!(found.unwrap(), format!("{op} (`b`)"));
            let unnamed = operator(&model(vec![node(op, "")]));
            assert_eq!(unnamed.unwrap(), format!("{op} (`{op}_out`)"));
        }
    }

    #[test]
    fn it_is_found_in_branches_and_functions() {
        let inner = model(vec![node("DynamicQuantizeLinear", "deep")]);
        let mut branch = node("If", "if");
        branch.attribute.push(super::super::Attribute {
            name: "then_branch".into(),
            g: inner.graph.clone().map(Into::into),
            ..Default::default()
        });
        assert_eq!(
            operator(&model(vec![branch])).unwrap(),
            "DynamicQuantizeLinear (`deep`)"
        );
        let mut called = model(vec![node("Quantized", "call")]);
        called.functions.push(Default::default());
        called.functions[0]
            .node
            .push(node("DynamicQuantizeLSTM", "f"));
        assert_eq!(operator(&called).unwrap(), "DynamicQuantizeLSTM (`f`)");
    }

    #[test]
    fn a_batch_normalization_mixes_rows_only_in_training() {
        let mut normalization = node("BatchNormalization", "bn");
        assert_eq!(operator(&model(vec![normalization.clone()])), None);
        normalization.attribute.push(super::super::Attribute {
            name: "training_mode".into(),
            i: 1,
            ..Default::default()
        });
        assert!(operator(&model(vec![normalization])).is_some());
    }
}
