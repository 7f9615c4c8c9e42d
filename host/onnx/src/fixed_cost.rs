//! Whether the time that a run takes follows from the shapes of its inputs, whatever their values are.
//!
//! Only runs of such graphs may happen on a thread of the executor: what earlier runs took says what the next will take.
//! Operators are allowed by name, so that one which is not known here counts as unpredictable.

use std::collections::HashSet;

use super::{GraphProto, ModelProto, NodeProto, work};

/// Operators whose outputs have shapes that follow from those of their inputs, and which do the same work for any values.
const FIXED: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Attention",
    "AveragePool",
    "BatchNormalization",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Concat",
    "Constant",
    "Conv",
    "ConvInteger",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "DepthToSpace",
    "DequantizeLinear",
    "Det",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Einsum",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "EyeLike",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GridSample",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "MatMul",
    "MatMulInteger",
    "Max",
    "MaxPool",
    "Mean",
    "MeanVarianceNormalization",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "PRelu",
    "Pow",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RMSNormalization",
    "Reciprocal",
    "Relu",
    "ReverseSequence",
    "RotaryEmbedding",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Softmax",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Sqrt",
    "Sub",
    "Sum",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Transpose",
    "Trilu",
    "Where",
    "Xor",
];

/// Operators of which that holds where these inputs are known before the run, or follow from shapes.
const FIXED_IF_KNOWN: &[(&str, &[usize])] = &[
    ("ConstantOfShape", &[0]),
    ("CumSum", &[1]),
    ("Expand", &[1]),
    ("GRU", &[4]),
    ("LSTM", &[4]),
    ("OneHot", &[1]),
    ("Pad", &[1, 3]),
    ("RNN", &[4]),
    ("Range", &[0, 1, 2]),
    ("ReduceL1", &[1]),
    ("ReduceL2", &[1]),
    ("ReduceLogSum", &[1]),
    ("ReduceLogSumExp", &[1]),
    ("ReduceMax", &[1]),
    ("ReduceMean", &[1]),
    ("ReduceMin", &[1]),
    ("ReduceProd", &[1]),
    ("ReduceSum", &[1]),
    ("ReduceSumSquare", &[1]),
    ("Reshape", &[1]),
    ("Resize", &[1, 2, 3]),
    ("Slice", &[1, 2, 3, 4]),
    ("Split", &[1]),
    ("Squeeze", &[1]),
    ("Tile", &[1]),
    ("TopK", &[1]),
    ("Unsqueeze", &[1]),
    ("Upsample", &[1]),
];

/// The same for the operators of classical models.
const FIXED_CLASSICAL: &[&str] = &[
    "ArrayFeatureExtractor",
    "Binarizer",
    "FeatureVectorizer",
    "Imputer",
    "LinearClassifier",
    "LinearRegressor",
    "Normalizer",
    "Scaler",
];

/// Whether every run with inputs of the same shapes does the same work.
pub fn has_fixed_cost(model: &ModelProto) -> bool {
    // Functions stand for operators that are not known here.
    let graph = model.graph.as_ref().filter(|_| model.functions.is_empty());
    graph.is_some_and(|graph| Values::of(graph).are_fixed_in(&graph.node))
}

/// Values of a graph that are the same in all runs with inputs of the same shapes.
struct Values<'a>(HashSet<&'a str>);

impl<'a> Values<'a> {
    fn of(graph: &'a GraphProto) -> Self {
        // A weight that is an input, too, may be given by the caller.
        let given: HashSet<&str> = graph.input.iter().map(|info| info.name.as_str()).collect();
        let weights = graph.initializer.iter().map(|weight| weight.name.as_str());
        Self(weights.filter(|name| !given.contains(name)).collect())
    }

    /// Follows the nodes, which are in an order in which they can run.
    fn are_fixed_in(mut self, nodes: &'a [NodeProto]) -> bool {
        for node in nodes {
            if !self.is_fixed(node) {
                return false;
            }
            let known = match node.op_type.as_str() {
                "Shape" | "Size" => true,
                _ => node.input.iter().all(|name| self.knows(name)),
            };
            if known {
                self.0.extend(node.output.iter().map(String::as_str));
            }
        }
        true
    }

    fn is_fixed(&self, node: &NodeProto) -> bool {
        let holds_graphs = |one: &super::Attribute| one.g.is_some() || !one.graphs.is_empty();
        if node.attribute.iter().any(holds_graphs) {
            return false;
        }
        let op = node.op_type.as_str();
        if node.domain == "ai.onnx.ml" {
            return FIXED_CLASSICAL.contains(&op);
        }
        if !node.is_standard() {
            return false;
        }
        if FIXED.contains(&op) {
            return true;
        }
        let wanted = FIXED_IF_KNOWN.iter().find(|(name, _)| *name == op);
        wanted.is_some_and(|(_, inputs)| {
            let mut given = inputs.iter().filter_map(|at| node.input.get(*at));
            given.all(|name| self.knows(name))
        })
    }

    /// Whether a value is known; one that is left out is.
    fn knows(&self, name: &str) -> bool {
        work::step();
        name.is_empty() || self.0.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NodeProto, TensorProto, ValueInfo};
    use super::*;

    fn node(op: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: op.into(),
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            ..NodeProto::default()
        }
    }

    /// A model of these nodes with the inputs `x` and `n` and the weight `w`.
    fn model(nodes: Vec<NodeProto>) -> ModelProto {
        let input = |name: &str| ValueInfo {
            name: name.into(),
            ..ValueInfo::default()
        };
        let weight = TensorProto {
            name: "w".into(),
            ..TensorProto::default()
        };
        ModelProto {
            graph: Some(GraphProto {
                node: nodes,
                initializer: vec![weight],
                input: vec![input("x"), input("n")],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn what_values_decide_is_not_fixed() {
        for (inputs, op) in [
            (&["x"][..], "NonZero"),
            (&["x", "n"], "Expand"),
            (&["x", "n"], "Tile"),
            (&["x", "n"], "TopK"),
            (&["x", "n"], "Reshape"),
            (&["x", "w", "n"], "Slice"),
            (&["n"], "ConstantOfShape"),
            (&["w", "n", "w"], "Range"),
            (&["x", "", "", "n"], "Resize"),
            (&["x", "w", "w", "", "n"], "LSTM"),
            (&["x"], "Unique"),
            (&["x", "w"], "NonMaxSuppression"),
            (&["x", "w"], "SomethingNew"),
        ] {
            assert!(!has_fixed_cost(&model(vec![node(op, inputs, "y")])), "{op}");
        }
        let mut foreign = node("Add", &["x", "w"], "y");
        foreign.domain = "com.example".into();
        assert!(!has_fixed_cost(&model(vec![foreign])));
        let mut branch = node("Identity", &["x"], "y");
        branch.attribute.push(super::super::Attribute {
            g: Some(Default::default()),
            ..Default::default()
        });
        assert!(!has_fixed_cost(&model(vec![branch])));
    }

    #[test]
    fn what_is_known_before_a_run_or_follows_from_shapes_is_fixed() {
        for (inputs, op) in [
            (&["x", "w"][..], "Expand"),
            (&["x", "w"], "Reshape"),
            (&["x", "", "w"], "Resize"),
            (&["x", "w", "w"], "LSTM"),
            (&["x", "n"], "Add"),
            (&["x"], "Softmax"),
        ] {
            assert!(has_fixed_cost(&model(vec![node(op, inputs, "y")])), "{op}");
        }
        let by_shape = vec![
            node("Shape", &["x"], "shape"),
            node("Gather", &["shape", "w"], "batch"),
            node("Concat", &["batch", "w"], "wanted"),
            node("Reshape", &["x", "wanted"], "y"),
        ];
        assert!(has_fixed_cost(&model(by_shape)));
        let by_value = vec![
            node("Cast", &["n"], "wanted"),
            node("Reshape", &["x", "wanted"], "y"),
        ];
        assert!(!has_fixed_cost(&model(by_value)));
    }

    #[test]
    fn a_weight_that_callers_may_give_is_not_known() {
        let mut model = model(vec![node("Expand", &["x", "w"], "y")]);
        if let Some(graph) = &mut model.graph {
            graph.input.push(ValueInfo {
                name: "w".into(),
                ..ValueInfo::default()
            });
        }
        assert!(!has_fixed_cost(&model));
    }
}
