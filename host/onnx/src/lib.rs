//! The ONNX format: what a file says of its graph's inputs, outputs, operators and opset. Weights are not copied.
//!
//! Reads any bytes within bounds of memory and nesting, and runs nothing: the runtime decides with it what it loads, and
//! `samovar push` what a bundle needs.

// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod classes;
pub mod defaults;
pub mod external;
pub mod file;
pub mod fixed_cost;
pub mod folding;
mod inlined;
pub mod known;
mod mistaken;
pub mod mixing;
pub mod outside;
pub mod port;
mod scan;
pub mod schema;
pub mod wire;
mod work;
#[cfg(test)]
mod work_tests;

use std::collections::HashSet;

use prost::Message;

use crate::port::{Port, PortType};
use folding::Folding;
use outside::Reference;
use scan::scan;
pub use schema::messages::tensor_shape_proto::{Dimension, dimension};
pub use schema::messages::type_proto::{self, Tensor as TensorType};
pub use schema::messages::{
    AttributeProto as Attribute, GraphProto, ModelProto, NodeProto, TensorProto,
    TensorShapeProto as Shape, TypeProto, ValueInfoProto as ValueInfo,
};
pub use schema::messages::{OperatorSetIdProto as OperatorSetId, StringStringEntryProto as Entry};
pub use schema::tables;

/// The sources of the code that reads models and makes edited copies of them. A cache of copies has them in its key, so that a
/// change of this code makes the copies again.
pub const SOURCES: [&str; 4] = [
    include_str!("defaults.rs"),
    include_str!("known.rs"),
    include_str!("scan.rs"),
    include_str!("wire.rs"),
];

/// A model file, read.
#[derive(Debug)]
pub struct Onnx {
    pub model: ModelProto,
    /// What the model references outside itself, wherever in it that stands.
    pub references: Vec<Reference>,
    /// Memory that it takes here, at most.
    pub decoded_bytes: u64,
    /// Memory that a backend takes, at most, for what is not decoded here and is smaller in the file than in memory.
    pub unpacked_bytes: u64,
    /// How many operators it has, with its functions inlined.
    pub operators: u64,
    /// How far its constants may be folded.
    pub folding: Folding,
}

/// What a backend's session takes besides what a model holds: measured 70 KiB, and 2.5 KiB for each operator.
const SESSION_BYTES: u64 = 256 << 10;
const OPERATOR_BYTES: u64 = 4 << 10;

impl Onnx {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// Says what the bytes are, when they are not an ONNX model, or which limit they exceed.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let read = Self::read_within(bytes, scan::MAX_DECODED_BYTES)?;
        Ok(Self {
            folding: folding::folding(&read.model, bytes),
            ..read
        })
    }

    /// Reads a file's bytes, and takes no more memory for that than `max_bytes`. Constants of it are not folded, because
    /// who pays for a model by its size does not pay for them.
    ///
    /// # Errors
    /// As [`Self::read`] does.
    pub fn read_within(bytes: &[u8], max_bytes: u64) -> Result<Self, String> {
        if let Some(kind) = mistaken::kind(bytes) {
            return Err(format!("not an ONNX model: {kind}"));
        }
        let invalid = |why: &dyn std::fmt::Display| format!("not a valid ONNX model: {why}");
        if !scan::begins(&tables::MODEL_PROTO, bytes) {
            return Err(format!("not an ONNX model: {}", mistaken::unknown(bytes)));
        }
        let scan = scan(
            &tables::MODEL_PROTO,
            bytes,
            max_bytes.min(scan::MAX_DECODED_BYTES),
        )
        .map_err(|e| invalid(&e))?;
        let model = ModelProto::decode(scan.skeleton.as_slice()).map_err(|e| invalid(&e))?;
        if model.graph.is_none() {
            return Err(invalid(&"it holds no graph"));
        }
        let operators = inlined::operators(&model).map_err(|e| invalid(&e))?;
        Ok(Self {
            model,
            references: scan.references,
            decoded_bytes: scan.decoded_bytes,
            unpacked_bytes: scan.unpacked_bytes,
            operators,
            folding: Folding::Off,
        })
    }

    /// Memory that the model takes once a backend has loaded it from `file_bytes` without folding constants: its weights,
    /// laid out once more for the processor, what describes them, and its operators. What the file packs is there twice, unpacked.
    pub fn loaded_bytes(&self, file_bytes: u64) -> u64 {
        let operators = OPERATOR_BYTES.saturating_mul(self.operators);
        (3 * file_bytes)
            .saturating_add(self.unpacked_bytes.saturating_mul(2))
            .saturating_add(self.decoded_bytes)
            .saturating_add(operators)
            .saturating_add(SESSION_BYTES)
    }
}

/// Decodes a message that lies within a model that was read, without its weights.
pub fn light<M: Message + Default>(
    message: &'static schema::Message,
    bytes: &[u8],
) -> Result<M, String> {
    let scan = scan(message, bytes, scan::MAX_DECODED_BYTES)?;
    M::decode(scan.skeleton.as_slice()).map_err(|e| e.to_string())
}

impl TypeProto {
    /// Of a tensor, its type and shape.
    pub fn tensor(&self) -> Option<&TensorType> {
        match &self.value {
            Some(type_proto::Value::TensorType(tensor)) => Some(tensor),
            _ => None,
        }
    }
}

impl Dimension {
    /// Its size, if the file says one.
    pub fn size(&self) -> Option<u32> {
        match self.value {
            Some(dimension::Value::DimValue(size)) => {
                u32::try_from(size).ok().filter(|size| *size > 0)
            }
            _ => None,
        }
    }
}

impl Attribute {
    /// The graphs in it.
    pub fn inner_graphs(&self) -> impl Iterator<Item = &GraphProto> {
        self.g.as_deref().into_iter().chain(&self.graphs)
    }
}

impl NodeProto {
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|attribute| {
            work::step();
            attribute.name == name
        })
    }

    /// What people find it by: its name, or that of its first output.
    pub fn label(&self) -> &str {
        if self.name.is_empty() {
            let mut outputs = self.output.iter();
            outputs
                .find(|name| !name.is_empty())
                .map_or("", String::as_str)
        } else {
            &self.name
        }
    }

    /// Whether it is an operator of the standard.
    pub fn is_standard(&self) -> bool {
        matches!(self.domain.as_str(), "" | "ai.onnx")
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(&self.attribute(name)?.s).ok()
    }
}

impl ModelProto {
    /// What a backend says of the model, with the node that it seems to mean where it names none.
    pub fn explain(&self, message: &str) -> String {
        /// A backend quotes what it found in a model, however long that is. Each node is looked for in so much of it.
        const LOOKED_AT: usize = 1 << 10;
        let begin = &message[..message.floor_char_boundary(LOOKED_AT)];
        let words: HashSet<&str> = begin
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .collect();
        let nodes = || self.graph.iter().flat_map(|graph| &graph.node);
        let named = |node: &NodeProto| {
            work::step();
            !node.name.is_empty() && begin.contains(&node.name)
        };
        if nodes().any(named) {
            return message.to_owned();
        }
        let meant = nodes().find(|node| words.contains(&node.op_type.as_str()));
        match meant {
            Some(node) => format!(
                "{message} (the first {} is node `{}`)",
                node.op_type,
                node.label()
            ),
            None => message.to_owned(),
        }
    }

    /// Whether it has graphs inside of graphs, as control flow has.
    pub fn has_inner_graphs(&self) -> bool {
        let nodes = self.graph.iter().flat_map(|graph| &graph.node);
        let functions = self.functions.iter().flat_map(|function| &function.node);
        let mut attributes = nodes.chain(functions).flat_map(|node| &node.attribute);
        !self.functions.is_empty() || attributes.any(|one| one.inner_graphs().next().is_some())
    }

    /// The version of the standard operators.
    pub fn opset(&self) -> i64 {
        self.opset_import
            .iter()
            .find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"))
            .map_or(1, |set| set.version)
    }

    /// Inputs that a run must give, then those that it may give because they have a default.
    pub fn inputs(&self) -> Result<Vec<Port>, String> {
        /// Before this version of the format each weight had to be listed as an input, and none could be replaced.
        const DEFAULTS_CAN_BE_REPLACED: i64 = 4;
        let Some(graph) = &self.graph else {
            return Ok(Vec::new());
        };
        let sparse = graph.sparse_initializer.iter();
        let sparse = sparse.filter_map(|weight| weight.values.as_ref());
        let weights = graph.initializer.iter().chain(sparse);
        let defaults: HashSet<&str> = weights.map(|weight| weight.name.as_str()).collect();
        let (optional, needed): (Vec<_>, Vec<_>) = graph
            .input
            .iter()
            .partition(|info| defaults.contains(info.name.as_str()));
        let needed = needed.into_iter().map(|info| port("input", info));
        let mut inputs = needed.collect::<Result<Vec<_>, _>>()?;
        if self.ir_version >= DEFAULTS_CAN_BE_REPLACED {
            // One of a type that cannot be carried is left to its default.
            let optional = optional
                .into_iter()
                .filter_map(|info| port("input", info).ok());
            inputs.extend(optional.map(|port| Port {
                optional: true,
                ..port
            }));
        }
        Ok(inputs)
    }

    /// What a run gives.
    pub fn outputs(&self) -> Result<Vec<Port>, String> {
        let Some(graph) = &self.graph else {
            return Ok(Vec::new());
        };
        let mut zipped = classes::zipped(graph);
        let outputs = graph.output.iter();
        outputs
            .map(|info| match zipped.remove(info.name.as_str()) {
                Some(labels) => Ok(classes::port(&info.name, labels)),
                None => port("output", info),
            })
            .collect()
    }
}

fn port(kind: &str, info: &ValueInfo) -> Result<Port, String> {
    let tensor = info
        .r#type
        .as_ref()
        .and_then(TypeProto::tensor)
        .ok_or_else(|| {
            let cure = classes::cure(kind, false);
            format!("{kind} `{}` is not a tensor{cure}", info.name)
        })?;
    let ty = PortType::from_onnx(tensor.elem_type).ok_or_else(|| {
        let is_text = tensor.elem_type == known::STRING;
        format!(
            "{kind} `{}` has the ONNX type {} ({}), which wasi-nn does not support: it supports bool, int8, uint8, int32, int64, float16, bfloat16, float and double{}",
            info.name,
            PortType::onnx_name(tensor.elem_type),
            tensor.elem_type,
            if is_text { classes::cure(kind, true) } else { "" }
        )
    })?;
    let dims = tensor
        .shape
        .as_ref()
        .map(|shape| shape.dim.iter().map(Dimension::size).collect());
    Ok(Port {
        name: info.name.clone(),
        ty,
        dims,
        optional: false,
        labels: None,
    })
}

/// Short ways to write types in tests.
pub mod testing {
    use super::{Dimension, Shape, TensorType, TypeProto, dimension, type_proto};

    /// A dimension of this size.
    pub fn sized(size: i64) -> Dimension {
        Dimension {
            value: Some(dimension::Value::DimValue(size)),
            ..Default::default()
        }
    }

    pub fn tensor(elem_type: i32, shape: Option<Shape>) -> TypeProto {
        TypeProto {
            value: Some(type_proto::Value::TensorType(TensorType {
                elem_type,
                shape,
            })),
            ..Default::default()
        }
    }
}
