//! Inputs with a default, for backends that take an input's default for a constant: the model without these defaults, and a
//! model that gives them.

use std::collections::HashSet;

use prost::Message as _;

use super::ValueInfo;
use super::wire::{Field, GRAPH_OUTPUT, fields, nested, put};

/// Numbers of the fields of a model and of its graph.
const IR_VERSION: u64 = 1;
const GRAPH: u64 = 7;
const OPSET_IMPORT: u64 = 8;
const INITIALIZER: u64 = 5;

/// A copy of a model in which inputs of these names have no default any more.
///
/// # Errors
/// When the copy cannot be written.
pub fn without(model: &[u8], names: &HashSet<&str>) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(model.len());
    for field in fields(model) {
        if field.tag != GRAPH {
            out.extend_from_slice(field.whole);
            continue;
        }
        nested(&mut out, &field, |graph, out| {
            let kept = fields(graph).filter(|field| default_of(field, names).is_none());
            kept.for_each(|field| out.extend_from_slice(field.whole));
            Ok(())
        })?;
    }
    Ok(out)
}

/// A model without inputs whose outputs are the defaults of the inputs of these names.
///
/// # Errors
/// When it cannot be written.
pub fn alone(model: &[u8], names: &HashSet<&str>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for field in fields(model) {
        match field.tag {
            IR_VERSION | OPSET_IMPORT => out.extend_from_slice(field.whole),
            GRAPH => nested(&mut out, &field, |graph, out| {
                for field in fields(graph) {
                    let Some(name) = default_of(&field, names) else {
                        continue;
                    };
                    out.extend_from_slice(field.whole);
                    let output = ValueInfo {
                        name: name.to_owned(),
                        ..Default::default()
                    };
                    put(out, GRAPH_OUTPUT, &output.encode_to_vec());
                }
                Ok(())
            })?,
            _ => {}
        }
    }
    Ok(out)
}

/// The name of the input whose default this field of a graph is, if it is the default of one of these.
fn default_of<'a>(field: &Field<'a>, names: &HashSet<&str>) -> Option<&'a str> {
    const NAME: u64 = 8;
    if field.tag != INITIALIZER {
        return None;
    }
    let name = fields(field.payload).find(|field| field.tag == NAME)?;
    let name = std::str::from_utf8(name.payload).ok()?;
    names.contains(name).then_some(name)
}

#[cfg(test)]
mod tests {
    use crate::testing::{sized, tensor};
    use crate::{GraphProto, ModelProto, NodeProto, Onnx, OperatorSetId, Shape, TensorProto};

    use super::*;

    fn weight(name: &str) -> TensorProto {
        TensorProto {
            name: name.into(),
            dims: vec![2],
            data_type: 1,
            float_data: vec![1.0, 2.0],
            ..Default::default()
        }
    }

    /// `y = x * s` with the default `s`, an input, and the weight `w`, none.
    fn model() -> Vec<u8> {
        let info = |name: &str| ValueInfo {
            name: name.into(),
            r#type: Some(tensor(
                1,
                Some(Shape {
                    dim: vec![sized(2)],
                }),
            )),
            ..Default::default()
        };
        let graph = GraphProto {
            node: vec![NodeProto {
                op_type: "Mul".into(),
                input: vec!["x".into(), "s".into()],
                output: vec!["y".into()],
                ..Default::default()
            }],
            input: vec![info("x"), info("s")],
            output: vec![info("y")],
            initializer: vec![weight("s"), weight("w")],
            ..Default::default()
        };
        ModelProto {
            ir_version: 8,
            graph: Some(graph),
            opset_import: vec![OperatorSetId {
                version: 13,
                ..Default::default()
            }],
            ..Default::default()
        }
        .encode_to_vec()
    }

    fn initializers(model: &[u8]) -> Vec<String> {
        let graph = ModelProto::decode(model).unwrap().graph.unwrap();
        graph.initializer.into_iter().map(|one| one.name).collect()
    }

    #[test]
    fn an_input_without_its_default_must_be_given() {
        let names = HashSet::from(["s"]);
        let (model, optional) = (model(), |model: &[u8]| {
            let inputs = Onnx::read(model).unwrap().model.inputs().unwrap();
            let optional = inputs.into_iter().map(|port| (port.name, port.optional));
            optional.collect::<Vec<_>>()
        });
        let [x, s] = ["x", "s"].map(str::to_owned);
        assert_eq!(optional(&model), [(x.clone(), false), (s.clone(), true)]);
        let without = without(&model, &names).unwrap();
        assert_eq!(optional(&without), [(x, false), (s, false)]);
        assert_eq!(initializers(&without), ["w"]);
    }

    #[test]
    fn defaults_alone_are_the_outputs_of_a_model() {
        let alone = alone(&model(), &HashSet::from(["s"])).unwrap();
        assert_eq!(initializers(&alone), ["s"]);
        let alone = ModelProto::decode(alone.as_slice()).unwrap();
        assert_eq!((alone.ir_version, alone.opset()), (8, 13));
        let graph = alone.graph.unwrap();
        assert_eq!(graph.initializer, [weight("s")]);
        assert_eq!(
            (graph.output.len(), graph.output[0].name.as_str()),
            (1, "s")
        );
        assert!(graph.node.is_empty() && graph.input.is_empty());
    }
}
