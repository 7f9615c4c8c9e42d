//! Just enough of the ONNX file format to know a graph's inputs, outputs, operators and opset.
//!
//! Field numbers are those of `onnx.proto3`. Weights are skipped, not copied.

use std::collections::HashMap;

use prost::Message;

use super::port::{Port, PortType};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetId>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSetId {
    #[prost(string, tag = "1")]
    pub domain: String,
    #[prost(int64, tag = "2")]
    pub version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct GraphProto {
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorProto {
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
    #[prost(string, tag = "8")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeProto {
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(string, tag = "4")]
    pub op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphProto>,
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypeProto {
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorType {
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dimension {
    #[prost(int64, tag = "1")]
    pub dim_value: i64,
}

impl NodeProto {
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute
            .iter()
            .find(|attribute| attribute.name == name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(&self.attribute(name)?.s).ok()
    }
}

impl ModelProto {
    /// Reads a file's bytes.
    ///
    /// # Errors
    /// In words, when they are not an ONNX model.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let model = Self::decode(bytes).map_err(|e| format!("not an ONNX model: {e}"))?;
        if model.graph.is_none() {
            return Err("not an ONNX model: it holds no graph".into());
        }
        Ok(model)
    }

    /// The version of the standard operators.
    pub fn opset(&self) -> i64 {
        self.opset_import
            .iter()
            .find(|set| matches!(set.domain.as_str(), "" | "ai.onnx"))
            .map_or(1, |set| set.version)
    }

    /// Inputs that a run must give: those without a default of their own.
    pub fn inputs(&self) -> Result<Vec<Port>, String> {
        let Some(graph) = &self.graph else {
            return Ok(Vec::new());
        };
        let has_default = |info: &&ValueInfo| {
            graph
                .initializer
                .iter()
                .any(|weight| weight.name == info.name)
        };
        graph
            .input
            .iter()
            .filter(|info| !has_default(info))
            .map(|info| port("input", info))
            .collect()
    }

    /// What a run gives.
    pub fn outputs(&self) -> Result<Vec<Port>, String> {
        let outputs = self.graph.iter().flat_map(|graph| &graph.output);
        outputs.map(|info| port("output", info)).collect()
    }
}

fn port(kind: &str, info: &ValueInfo) -> Result<Port, String> {
    let tensor = info
        .r#type
        .as_ref()
        .and_then(|ty| ty.tensor_type.as_ref())
        .ok_or_else(|| format!("{kind} `{}` is not a tensor", info.name))?;
    let ty = PortType::from_onnx(tensor.elem_type).ok_or_else(|| {
        format!(
            "{kind} `{}` has the ONNX type {}, which wasi-nn cannot carry",
            info.name, tensor.elem_type
        )
    })?;
    let dims = tensor.shape.as_ref().map(|shape| {
        let sizes = shape.dim.iter();
        sizes
            .map(|dim| u32::try_from(dim.dim_value).ok().filter(|size| *size > 0))
            .collect()
    });
    Ok(Port {
        name: info.name.clone(),
        ty,
        dims,
    })
}

/// Ranks of values as far as the file tells them.
pub(crate) fn known_ranks(graph: &GraphProto) -> HashMap<&str, usize> {
    let infos = graph
        .input
        .iter()
        .chain(&graph.output)
        .chain(&graph.value_info);
    let mut ranks: HashMap<&str, usize> = infos
        .filter_map(|info| {
            let shape = info.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
            Some((info.name.as_str(), shape.dim.len()))
        })
        .collect();
    for weight in &graph.initializer {
        ranks.insert(&weight.name, weight.dims.len());
    }
    ranks
}
