//! Adapts a model so that rten computes it correctly: rewrites some nodes, and refuses those that cannot be rewritten.

use std::path::Path;
use std::rc::Rc;

use prost::Message;
use samovar_onnx::known::{INT32, Known};
use samovar_onnx::wire::{Edit, GRAPH_OUTPUT, edited, fields, put};
use samovar_onnx::{
    ModelProto, NodeProto, Shape, TensorType, TypeProto, ValueInfo, light, tables, type_proto,
};

use super::overflow::Ranges;
use super::{refusals, rewrites, wide};

/// The version of this adaptation: the sources that determine its result, and the version of rten.
pub(super) fn key() -> String {
    let own = [
        super::VERSION,
        include_str!("adapted.rs"),
        include_str!("defaults.rs"),
        include_str!("overflow.rs"),
        include_str!("refusals.rs"),
        include_str!("rewrites.rs"),
        include_str!("wide.rs"),
    ];
    own.into_iter().chain(samovar_onnx::SOURCES).collect()
}

/// A model to adapt.
#[derive(Clone, Copy)]
pub(super) struct Adaptable<'a> {
    pub model: &'a ModelProto,
    /// Its encoded bytes.
    pub bytes: &'a [u8],
    /// Encoded bytes to adapt in place of `bytes`: the model without the defaults of its inputs.
    pub open: Option<&'a [u8]>,
    /// The folder with files of external weights.
    pub folder: Option<&'a Path>,
}

/// Returns a copy of the model for rten.
///
/// # Errors
/// The operator and node that rten would compute wrongly.
pub(super) fn adapted(from: &Adaptable<'_>) -> Result<Vec<u8>, String> {
    let Adaptable { model, bytes, .. } = *from;
    // Includes defaults, because rten clamps both defaults and constants.
    if let Some(why) = wide::refusal(model, bytes, from.folder) {
        return Err(why);
    }
    let mut adapt = Adapt {
        opset: model.opset(),
        scopes: Vec::new(),
        ranges: Ranges::default(),
    };
    edited(from.open.unwrap_or(bytes), &mut adapt)
}

/// Number of the field of a graph that lists its inputs.
const GRAPH_INPUT: u64 = 11;

struct Adapt {
    opset: i64,
    scopes: Vec<Rc<Known>>,
    ranges: Ranges,
}

impl Edit for Adapt {
    fn enter(&mut self, graph: &[u8]) {
        let inside = Known::inside(self.scopes.last().cloned(), graph);
        self.scopes.push(Rc::new(inside));
        let inputs = fields(graph).filter(|field| field.tag == GRAPH_INPUT);
        let names = inputs.filter_map(|info| {
            let name = fields(info.payload).find(|field| field.tag == 1)?;
            std::str::from_utf8(name.payload).ok()
        });
        self.ranges.enter(names);
    }

    fn leave(&mut self, graph: &mut Vec<u8>) {
        self.scopes.pop();
        self.ranges.leave();
        if self.scopes.is_empty() {
            for guard in self.ranges.guards.drain(..) {
                put(graph, GRAPH_OUTPUT, &guard_output(guard).encode_to_vec());
            }
        }
    }

    fn node(&mut self, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>, String> {
        let node = light::<NodeProto>(&tables::NODE_PROTO, bytes)
            .map_err(|e| format!("not a valid ONNX model: {e}"))?;
        let known = self.scopes.last().cloned().unwrap_or_default();
        let refused = |why: &str| {
            let (operator, label) = (&node.op_type, node.label());
            format!("operator {operator} of node `{label}`: {why}")
        };
        let rewritten = match node.is_standard() {
            true => {
                if let Some(why) = refusals::of_node(&node, &known, self.opset) {
                    return Err(refused(why));
                }
                rewrites::of_node(&node, &known, self.opset)
            }
            false => rewrites::of_contributed(&node),
        };
        let guards = self.ranges.node(&node, bytes, &known).map_err(refused)?;
        let encoded = |nodes: &[NodeProto]| -> Vec<Vec<u8>> {
            nodes.iter().map(Message::encode_to_vec).collect()
        };
        let mut nodes = match rewritten {
            Some(nodes) => encoded(&nodes),
            None if !node.name.is_empty() && guards.is_empty() => return Ok(None),
            // Gives the node a name for the errors of rten.
            None => {
                let mut named = bytes.to_vec();
                if node.name.is_empty() {
                    put(&mut named, 3, rewrites::node_name(&node).as_bytes());
                }
                vec![named]
            }
        };
        nodes.extend(encoded(&guards));
        Ok(Some(nodes))
    }
}

/// The graph output that holds the count of a guard.
fn guard_output(guard: String) -> ValueInfo {
    let tensor = TensorType {
        elem_type: INT32,
        shape: Some(Shape::default()),
    };
    ValueInfo {
        name: guard,
        r#type: Some(TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use samovar_onnx::known::{FLOAT, INT64};
    use samovar_onnx::testing::{sized, tensor};
    use samovar_onnx::{Attribute, GraphProto, Onnx, OperatorSetId, Shape, TensorProto, ValueInfo};

    use super::*;

    /// A weight as the file holds it.
    fn weight(name: &str, ty: i32, dims: &[i64], raw: &[u8]) -> Vec<u8> {
        let mut bytes = TensorProto {
            name: name.into(),
            dims: dims.to_vec(),
            data_type: ty,
            ..Default::default()
        }
        .encode_to_vec();
        put(&mut bytes, 9, raw);
        bytes
    }

    fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, i64)]) -> NodeProto {
        let attributes = attributes.iter().map(|(name, i)| Attribute {
            name: name.to_string(),
            i: *i,
            r#type: 2,
            ..Default::default()
        });
        NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            name: format!("the {output}"),
            op_type: op.into(),
            attribute: attributes.collect(),
            ..Default::default()
        }
    }

    /// Adapts a graph of these nodes with one input `x` of this rank; gives the operators that came of it.
    fn adapt(
        opset: i64,
        rank: Option<usize>,
        nodes: Vec<NodeProto>,
        weights: &[Vec<u8>],
    ) -> Result<Vec<String>, String> {
        let shape = rank.map(|rank| Shape {
            dim: vec![sized(2); rank],
        });
        let input = ValueInfo {
            name: "x".into(),
            r#type: Some(tensor(FLOAT, shape)),
            ..Default::default()
        };
        let mut graph = GraphProto {
            node: nodes,
            input: vec![input],
            ..Default::default()
        }
        .encode_to_vec();
        for weight in weights {
            put(&mut graph, 5, weight);
        }
        let mut bytes = ModelProto {
            opset_import: vec![OperatorSetId {
                domain: String::new(),
                version: opset,
            }],
            ..Default::default()
        }
        .encode_to_vec();
        put(&mut bytes, 7, &graph);
        let model = Onnx::read(&bytes)?.model;
        let from = Adaptable {
            model: &model,
            bytes: &bytes,
            open: None,
            folder: None,
        };
        let adapted = Onnx::read(&adapted(&from)?)?.model;
        let nodes = adapted.graph.into_iter().flat_map(|graph| graph.node);
        Ok(nodes.map(|node| node.op_type).collect())
    }

    fn alone(opset: i64, rank: Option<usize>, one: NodeProto) -> Result<Vec<String>, String> {
        adapt(opset, rank, vec![one], &[])
    }

    #[test]
    fn old_softmax_is_flattened_unless_along_the_last_axis() {
        let soft = |axis: &[(&str, i64)]| node("Softmax", &["x"], "y", axis);
        let flat = ["Shape", "Flatten", "Softmax", "Reshape"];
        assert_eq!(alone(12, Some(4), soft(&[("axis", 1)])).unwrap(), flat);
        assert_eq!(alone(12, Some(3), soft(&[])).unwrap(), flat);
        assert_eq!(alone(9, None, soft(&[("axis", 1)])).unwrap(), flat);
        assert_eq!(alone(12, Some(2), soft(&[])).unwrap(), ["Softmax"]);
        assert_eq!(
            alone(12, Some(4), soft(&[("axis", 3)])).unwrap(),
            ["Softmax"]
        );
        assert_eq!(alone(12, None, soft(&[("axis", -1)])).unwrap(), ["Softmax"]);
        assert_eq!(
            alone(13, Some(4), soft(&[("axis", 1)])).unwrap(),
            ["Softmax"]
        );
    }

    #[test]
    fn nodes_of_inner_graphs_are_looked_at() {
        let mut outer = node("If", &["x"], "y", &[]);
        outer.attribute.push(Attribute {
            name: "then_branch".into(),
            g: Some(Box::new(GraphProto {
                node: vec![node("NonMaxSuppression", &["x", "x"], "z", &[])],
                ..Default::default()
            })),
            r#type: 5,
            ..Default::default()
        });
        let error = alone(13, None, outer).unwrap_err();
        assert!(
            error.starts_with("operator NonMaxSuppression of node `the z`"),
            "{error}"
        );
    }

    #[test]
    fn corners_are_aligned_by_whole_scales() {
        let resize = || {
            let mut resize = node("Resize", &["x", "", "scales"], "y", &[]);
            resize.attribute.push(Attribute {
                name: "coordinate_transformation_mode".into(),
                s: b"align_corners".to_vec(),
                r#type: 3,
                ..Default::default()
            });
            vec![resize]
        };
        let scales = |scale: f32| {
            let raw = [1.0, 1.0, scale, scale].map(f32::to_le_bytes).concat();
            [weight("scales", FLOAT, &[4], &raw)]
        };
        assert!(adapt(13, Some(4), resize(), &scales(2.0)).is_ok());
        let error = adapt(13, Some(4), resize(), &scales(0.6)).unwrap_err();
        assert!(error.contains("operator Resize of node `the y`"), "{error}");
        assert!(adapt(13, Some(4), resize(), &[]).is_err());
    }

    #[test]
    fn padding_at_the_lower_end_is_refused() {
        let mut pool = node("MaxPool", &["x"], "y", &[]);
        pool.attribute.push(Attribute {
            name: "kernel_shape".into(),
            ints: vec![2, 2],
            r#type: 7,
            ..Default::default()
        });
        assert!(alone(13, Some(4), pool.clone()).is_ok());
        pool.attribute.push(Attribute {
            name: "auto_pad".into(),
            s: b"SAME_LOWER".to_vec(),
            r#type: 3,
            ..Default::default()
        });
        assert!(alone(13, Some(4), pool).unwrap_err().contains("MaxPool"));
    }

    #[test]
    fn a_scale_of_unknown_shape_is_not_guessed_at() {
        let quantize = || vec![node("QuantizeLinear", &["x", "s", "z"], "y", &[])];
        let zero = weight("z", 2, &[], &[0]);
        let one = weight("s", FLOAT, &[], &1f32.to_le_bytes());
        let many = weight("s", FLOAT, &[2], &[0; 8]);
        let ops = adapt(13, Some(4), quantize(), &[zero.clone(), one]).unwrap();
        assert_eq!(ops.last().unwrap(), "Cast");
        assert!(
            !ops.contains(&"QuantizeLinear".to_owned()) && !ops.contains(&"Reshape".to_owned())
        );
        let ops = adapt(13, Some(4), quantize(), &[zero.clone(), many.clone()]).unwrap();
        assert!(ops.contains(&"Reshape".to_owned()));
        assert!(adapt(13, None, quantize(), &[zero.clone(), many]).is_err());
        let error = adapt(13, Some(4), quantize(), &[zero]).unwrap_err();
        assert!(error.contains("QuantizeLinear"), "{error}");
    }

    #[test]
    fn numbers_of_64_bits_may_only_mean_without_end() {
        let most = weight("n", INT64, &[1], &i64::MAX.to_le_bytes());
        let slice = node("Slice", &["x", "zero", "ends"], "y", &[]);
        let through = node("Unsqueeze", &["n"], "ends", &[]);
        assert!(adapt(13, None, vec![through, slice], std::slice::from_ref(&most)).is_ok());
        let add = node("Add", &["x", "n"], "y", &[]);
        let error = adapt(13, None, vec![add.clone()], &[most]).unwrap_err();
        assert!(
            error.contains("`n` holds 9223372036854775807")
                && error.contains("operator Add of node `the y`"),
            "{error}"
        );
        let fits = weight("n", INT64, &[1], &7i64.to_le_bytes());
        assert!(adapt(13, None, vec![add.clone()], &[fits]).is_ok());
        let large = weight("n", 11, &[1], &1e300f64.to_le_bytes());
        assert!(
            adapt(13, None, vec![add], &[large])
                .unwrap_err()
                .contains("`n`")
        );
    }
}
