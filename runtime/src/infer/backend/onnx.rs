//! Just enough of the ONNX file format to know a graph's inputs, outputs, operators and opset.
//!
//! Field numbers are those of `onnx.proto3`. Weights are skipped, not copied.

pub(crate) mod external;
pub(crate) mod known;
pub(crate) mod mixing;
pub(crate) mod wire;

use prost::Message;

use super::port::{Port, PortType};

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetId>,
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
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
    #[prost(message, repeated, tag = "15")]
    pub sparse_initializer: Vec<SparseTensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    #[prost(string, tag = "8")]
    pub name: String,
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<Entry>,
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SparseTensorProto {
    #[prost(message, optional, tag = "1")]
    pub values: Option<TensorProto>,
    #[prost(message, optional, tag = "2")]
    pub indices: Option<TensorProto>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    #[prost(string, tag = "1")]
    pub key: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FunctionProto {
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeProto>,
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
    #[prost(float, tag = "2")]
    pub f: f32,
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphProto>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
    #[prost(int32, tag = "20")]
    pub r#type: i32,
    #[prost(message, optional, tag = "22")]
    pub sparse_tensor: Option<SparseTensorProto>,
    #[prost(message, repeated, tag = "23")]
    pub sparse_tensors: Vec<SparseTensorProto>,
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

    /// What a backend says of the model, with the node that it seems to mean where it names none.
    pub fn explain(&self, message: &str) -> String {
        let words: Vec<&str> = message
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .collect();
        let nodes = || self.graph.iter().flat_map(|graph| &graph.node);
        if nodes().any(|node| !node.name.is_empty() && message.contains(&node.name)) {
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
        !self.functions.is_empty()
            || attributes.any(|one| one.g.is_some() || !one.graphs.is_empty())
    }

    /// Number of its operators, for what it takes in memory.
    pub fn nodes(&self) -> u32 {
        let nodes = self.graph.iter().map(|graph| graph.node.len());
        let functions = self.functions.iter().map(|function| function.node.len());
        u32::try_from(nodes.chain(functions).sum::<usize>()).map_or(u32::MAX, |nodes| nodes.max(1))
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
            "{kind} `{}` has the ONNX type {} ({}), which wasi-nn cannot carry: it carries bool, int8, uint8, int32, int64, float16, bfloat16, float and double",
            info.name,
            PortType::onnx_name(tensor.elem_type),
            tensor.elem_type
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
