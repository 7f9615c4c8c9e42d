//! The built-in component, which serves graphs by the Open Inference Protocol if a bundle has no component, and the description of the
//! graphs for it.

use std::collections::BTreeMap;

use samovar_onnx::port::{Labels, Port, PortType, Ports};
use serde::Serialize;
use serde_json::Value;

/// The component, which `cargo xtask built-in` builds from `examples/open-inference`. It is committed so that building this program
/// needs no toolchain for guests.
pub static COMPONENT: &[u8] = include_bytes!("../assets/open-inference.wasm");
/// Path of the description in the bundle.
pub const DESCRIPTION: &str = "open-inference.json";

/// Largest number of elements of an input in an example.
const EXAMPLE_ELEMENTS: u64 = 64;
/// Longest example, in bytes.
const EXAMPLE_BYTES: usize = 500;

/// The description as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    name: String,
    graphs: BTreeMap<String, Surface>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Surface {
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Tensor {
    name: String,
    datatype: &'static str,
    /// -1 for a dimension that varies; `None` if even the number of dimensions is unknown.
    shape: Option<Vec<i64>>,
    /// Whether the input is optional.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
    /// The class of each column, for the output of a classifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Value>,
}

impl Description {
    /// The description of a model's graphs.
    pub fn new(name: &str, graphs: BTreeMap<String, Ports>) -> Self {
        let all = |ports: Vec<Port>| ports.into_iter().map(tensor).collect();
        let surface = |ports: Ports| Surface {
            inputs: all(ports.inputs),
            outputs: all(ports.outputs),
        };
        Self {
            name: name.to_owned(),
            graphs: graphs
                .into_iter()
                .map(|(name, ports)| (name, surface(ports)))
                .collect(),
        }
    }

    /// The description as JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        // Text keys and plain values leave the writer nothing to fail on.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// A name for clients to use: the model's if it names a graph, otherwise the name of the first graph.
    pub fn served_name(&self) -> &str {
        let is_served = self.graphs.len() == 1
            || self.graphs.contains_key("default")
            || self.graphs.contains_key(&self.name);
        let first = self.graphs.keys().next().filter(|_| !is_served);
        first.unwrap_or(&self.name)
    }

    /// An example request to the graph of [`served_name`](Self::served_name) with zeros for its inputs; `None` if it would be long.
    pub fn example(&self) -> Option<String> {
        let graph = match self.graphs.get(&self.name) {
            Some(graph) => graph,
            None => self.graphs.get("default").or(self.graphs.values().next())?,
        };
        let needed = graph.inputs.iter().filter(|input| !input.optional);
        let inputs: Option<Vec<String>> = needed.map(zeros).collect();
        let example = format!(r#"{{"inputs": [{}]}}"#, inputs?.join(", "));
        (example.len() <= EXAMPLE_BYTES).then_some(example)
    }
}

fn tensor(port: Port) -> Tensor {
    let sizes = |dims: Vec<Option<u32>>| dims.into_iter().map(|dim| dim.map_or(-1, i64::from));
    Tensor {
        name: port.name,
        datatype: datatype(port.ty),
        shape: port.dims.map(|dims| sizes(dims).collect()),
        optional: port.optional,
        labels: port.labels.map(|labels| match labels {
            Labels::Numbers(numbers) => numbers.into(),
            Labels::Names(names) => names.into(),
        }),
    }
}

fn datatype(ty: PortType) -> &'static str {
    match ty {
        PortType::Bool => "BOOL",
        PortType::U8 => "UINT8",
        PortType::I8 => "INT8",
        PortType::I32 => "INT32",
        PortType::I64 => "INT64",
        PortType::F16 => "FP16",
        PortType::Bf16 => "BF16",
        PortType::F32 => "FP32",
        PortType::F64 => "FP64",
    }
}

fn zeros(tensor: &Tensor) -> Option<String> {
    let sizes = tensor.shape.as_ref()?.iter();
    let shape: Vec<u64> = sizes
        .map(|size| u64::try_from(*size).unwrap_or(1))
        .collect();
    let elements = shape
        .iter()
        .try_fold(1u64, |all, size| all.checked_mul(*size))
        .filter(|elements| *elements <= EXAMPLE_ELEMENTS)?;
    let list = |items: Vec<String>| items.join(", ");
    Some(format!(
        r#"{{"name": {}, "datatype": "{}", "shape": [{}], "data": [{}]}}"#,
        Value::from(tensor.name.clone()),
        tensor.datatype,
        list(shape.iter().map(u64::to_string).collect()),
        list((0..elements).map(|_| "0".to_owned()).collect()),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn port(name: &str, ty: PortType, dims: Option<&[Option<u32>]>) -> Port {
        Port {
            name: name.into(),
            ty,
            dims: dims.map(<[_]>::to_vec),
            optional: false,
            labels: None,
        }
    }

    fn ports(inputs: Vec<Port>) -> Ports {
        Ports {
            inputs,
            outputs: vec![port("y", PortType::Bool, None)],
        }
    }

    #[test]
    fn a_graph_is_described_as_the_protocol_does() {
        let x = port("x", PortType::F32, Some(&[None, Some(4)]));
        let graphs = BTreeMap::from([("default".to_owned(), ports(vec![x]))]);
        let description = Description::new("iris", graphs);
        let written: Value = serde_json::from_slice(&description.to_json()).unwrap();
        assert_eq!(
            written,
            json!({ "name": "iris", "graphs": { "default": {
                "inputs": [{ "name": "x", "datatype": "FP32", "shape": [-1, 4] }],
                "outputs": [{ "name": "y", "datatype": "BOOL", "shape": null }],
            }}})
        );
        assert_eq!(
            description.example().unwrap(),
            r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 0, 0]}]}"#
        );
    }

    #[test]
    fn what_may_be_left_out_and_classes_are_told() {
        let optional = Port {
            optional: true,
            ..port("scale", PortType::F32, Some(&[]))
        };
        let labels = Labels::Names(vec!["cat".into(), "dog".into()]);
        let probabilities = Port {
            labels: Some(labels),
            ..port("p", PortType::F32, Some(&[None, Some(2)]))
        };
        let graph = Ports {
            inputs: vec![port("x", PortType::I32, Some(&[Some(1)])), optional],
            outputs: vec![probabilities],
        };
        let description = Description::new("m", BTreeMap::from([("default".to_owned(), graph)]));
        let written: Value = serde_json::from_slice(&description.to_json()).unwrap();
        let graph = &written["graphs"]["default"];
        assert_eq!(graph["inputs"][0].get("optional"), None);
        assert_eq!(graph["inputs"][1]["optional"], true);
        assert_eq!(graph["outputs"][0]["labels"], json!(["cat", "dog"]));
        let example = description.example().unwrap();
        assert!(!example.contains("scale"), "{example}");
    }

    #[test]
    fn an_example_that_would_be_long_is_left_out() {
        for dims in [Some(&[Some(65)][..]), Some(&[Some(u32::MAX); 3]), None] {
            let x = port("x", PortType::I64, dims);
            let graphs = BTreeMap::from([("default".to_owned(), ports(vec![x]))]);
            assert_eq!(Description::new("m", graphs).example(), None);
        }
        let many = (0..10).map(|number| port(&number.to_string(), PortType::I64, Some(&[])));
        let graphs = BTreeMap::from([("default".to_owned(), ports(many.collect()))]);
        assert_eq!(Description::new("m", graphs).example(), None);
    }

    #[test]
    fn the_name_to_ask_by_is_one_that_is_served() {
        let named = |graphs: &[&str]| {
            let graphs = graphs
                .iter()
                .map(|name| (name.to_string(), ports(Vec::new())));
            let description = Description::new("m", graphs.collect());
            description.served_name().to_owned()
        };
        assert_eq!(named(&["only"]), "m");
        assert_eq!(named(&["a", "default"]), "m");
        assert_eq!(named(&["b", "a"]), "a");
        assert_eq!(named(&["a", "m"]), "m");
    }
}
