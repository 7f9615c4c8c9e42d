//! Classifiers as the exporters of scikit-learn and others write them by default: ZipMap, the last operator, makes a list
//! of maps from class to probability, which is no tensor. It is taken off: the probabilities are the output, one column a
//! class, and the classes are told beside it.

use std::collections::{HashMap, HashSet};

use prost::Message;

use super::known::FLOAT;
use super::wire::{Edit, edited};
use super::{
    Dimension, GraphProto, ModelProto, NodeProto, Shape, TensorType, TypeProto, ValueInfo,
    dimension, light, tables, type_proto,
};
use crate::port::{Labels, Port, PortType};

/// Domain of the operators of classical models.
const DOMAIN: &str = "ai.onnx.ml";

/// The outputs of the graph that a ZipMap gives and no other node reads, with the classes of their columns.
pub(super) fn zipped(graph: &GraphProto) -> HashMap<&str, Labels> {
    let outputs: HashSet<&str> = graph.output.iter().map(|info| info.name.as_str()).collect();
    let maps = graph.node.iter().filter_map(|node| {
        let output = node.output.first()?.as_str();
        (is_zip_map(node) && outputs.contains(output)).then(|| (output, labels(node)))
    });
    let mut zipped: HashMap<&str, Labels> = maps.collect();
    if !zipped.is_empty() {
        let read = graph.node.iter().flat_map(|node| &node.input);
        read.for_each(|name| drop(zipped.remove(name.as_str())));
    }
    zipped
}

fn is_zip_map(node: &NodeProto) -> bool {
    node.domain == DOMAIN && node.op_type == "ZipMap"
}

fn labels(node: &NodeProto) -> Labels {
    match node.attribute("classlabels_strings") {
        Some(names) if !names.strings.is_empty() => {
            let names = names.strings.iter();
            let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
            Labels::Names(names.collect())
        }
        _ => {
            let numbers = node.attribute("classlabels_int64s");
            Labels::Numbers(numbers.map_or(Vec::new(), |numbers| numbers.ints.clone()))
        }
    }
}

/// The port that stands for a ZipMap's output.
pub(super) fn port(name: &str, labels: Labels) -> Port {
    let columns = u32::try_from(labels.count()).ok();
    Port {
        name: name.to_owned(),
        ty: PortType::F32,
        dims: Some(vec![None, columns.filter(|columns| *columns > 0)]),
        optional: false,
        labels: Some(labels),
    }
}

/// A copy of the model without those operators, if it has any.
///
/// # Errors
/// When the copy cannot be written.
pub fn without_maps(model: &ModelProto, bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let Some(graph) = &model.graph else {
        return Ok(None);
    };
    let zipped = zipped(graph);
    if zipped.is_empty() {
        return Ok(None);
    }
    edited(bytes, &mut Unzip { zipped, depth: 0 }).map(Some)
}

struct Unzip<'a> {
    zipped: HashMap<&'a str, Labels>,
    depth: usize,
}

impl Edit for Unzip<'_> {
    fn enter(&mut self, _graph: &[u8]) {
        self.depth += 1;
    }

    fn leave(&mut self, _graph: &mut Vec<u8>) {
        self.depth -= 1;
    }

    fn node(&mut self, node: &[u8]) -> Result<Option<Vec<Vec<u8>>>, String> {
        if self.depth != 1 {
            return Ok(None);
        }
        let node = light::<NodeProto>(&tables::NODE_PROTO, node)?;
        let is_zipped = |name: &String| self.zipped.contains_key(name.as_str());
        if !is_zip_map(&node) || !node.output.first().is_some_and(is_zipped) {
            return Ok(None);
        }
        let identity = NodeProto {
            op_type: "Identity".into(),
            domain: String::new(),
            attribute: Vec::new(),
            ..node
        };
        Ok(Some(vec![identity.encode_to_vec()]))
    }

    fn output(&mut self, info: &[u8]) -> Result<Option<Vec<u8>>, String> {
        if self.depth != 1 {
            return Ok(None);
        }
        let info = light::<ValueInfo>(&tables::VALUE_INFO_PROTO, info)?;
        let Some(labels) = self.zipped.get(info.name.as_str()) else {
            return Ok(None);
        };
        let columns = i64::try_from(labels.count()).ok();
        let columns = columns.filter(|columns| *columns > 0);
        let columns = Dimension {
            value: columns.map(dimension::Value::DimValue),
            ..Default::default()
        };
        let shape = Shape {
            dim: vec![Dimension::default(), columns],
        };
        let tensor = TensorType {
            elem_type: FLOAT,
            shape: Some(shape),
        };
        let info = ValueInfo {
            r#type: Some(TypeProto {
                value: Some(type_proto::Value::TensorType(tensor)),
                ..Default::default()
            }),
            ..info
        };
        Ok(Some(info.encode_to_vec()))
    }
}

/// What helps where an output or input cannot be carried.
pub(super) fn cure(kind: &str, is_text: bool) -> &'static str {
    match (kind, is_text) {
        ("output", true) => {
            ": leave it out of the model (with skl2onnx: `select_model_inputs_outputs(model, outputs=[…])` of `skl2onnx.helpers.onnx_helper`), or train with numbers as classes"
        }
        ("output", false) => {
            ": make the exporter write tensors, in skl2onnx with `options={\"zipmap\": False}`, in onnxmltools with `zipmap=False`"
        }
        (_, true) => {
            ": turn text into numbers before the graph, in a component or in the client, and export only the rest of the model"
        }
        _ => "",
    }
}
