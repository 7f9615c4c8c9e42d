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
    #[prost(int64, repeated, tag = "1")]
    pub dims: Vec<i64>,
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
    #[prost(int64, tag = "3")]
    pub i: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub s: Vec<u8>,
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphProto>,
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
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
        let Some(graph) = &model.graph else {
            return Err("not an ONNX model: it holds no graph".into());
        };
        // A backend would read such a file from wherever the model points: another deployment's data, say.
        let outside = outside_of_graph(graph).or_else(|| {
            model
                .functions
                .iter()
                .find_map(|function| outside_of_nodes(&function.node))
        });
        if let Some(name) = outside {
            return Err(format!(
                "weight `{name}` lies in another file, which this release does not read: save the model as one file"
            ));
        }
        Ok(model)
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

fn outside_of_graph(graph: &GraphProto) -> Option<&str> {
    graph
        .initializer
        .iter()
        .find_map(outside)
        .or_else(|| graph.sparse_initializer.iter().find_map(outside_of_sparse))
        .or_else(|| outside_of_nodes(&graph.node))
}

fn outside_of_nodes(nodes: &[NodeProto]) -> Option<&str> {
    nodes
        .iter()
        .flat_map(|node| &node.attribute)
        .find_map(|one| {
            let tensors = one.t.iter().chain(&one.tensors);
            let sparse = one.sparse_tensor.iter().chain(&one.sparse_tensors);
            let graphs = one.g.iter().chain(&one.graphs);
            tensors
                .into_iter()
                .find_map(outside)
                .or_else(|| sparse.into_iter().find_map(outside_of_sparse))
                .or_else(|| graphs.into_iter().find_map(outside_of_graph))
        })
}

fn outside_of_sparse(tensor: &SparseTensorProto) -> Option<&str> {
    tensor
        .values
        .iter()
        .chain(&tensor.indices)
        .find_map(outside)
}

fn outside(tensor: &TensorProto) -> Option<&str> {
    let outside = tensor.data_location != 0 || !tensor.external_data.is_empty();
    outside.then_some(tensor.name.as_str())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(graph: GraphProto) -> Result<ModelProto, String> {
        let model = ModelProto {
            graph: Some(graph),
            ..Default::default()
        };
        ModelProto::parse(&model.encode_to_vec())
    }

    #[test]
    fn weights_in_other_files_are_refused_wherever_they_hide() {
        let outside = TensorProto {
            name: "w".into(),
            data_location: 1,
            ..Default::default()
        };
        let direct = GraphProto {
            initializer: vec![outside],
            ..Default::default()
        };
        let inner = GraphProto {
            node: vec![NodeProto {
                attribute: vec![Attribute {
                    g: Some(direct.clone()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        for graph in [direct, inner] {
            assert!(parse(graph).unwrap_err().contains("weight `w`"));
        }
        assert!(parse(GraphProto::default()).is_ok());
        assert!(ModelProto::parse(b"not a model").is_err());
    }
}
