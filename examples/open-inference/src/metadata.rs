//! The graphs of the bundle, their inputs and outputs, and the names that clients use for them.

use std::collections::BTreeMap;

use samovar_sdk::{Error, Graph};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::datatype::Datatype;

/// Path of the description of the graphs in the bundle.
const FILE: &str = "/open-inference.json";
/// The only version of a model in a deployment.
const VERSION: &str = "1";

/// `open-inference.json`.
#[derive(Deserialize)]
struct Description {
    /// The model's name, which is also a name of the only graph, or of the one called `default`.
    name: String,
    graphs: BTreeMap<String, Ports>,
}

#[derive(Deserialize)]
struct Ports {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// An input or output of a graph.
#[derive(Clone, Debug, Deserialize)]
pub struct Port {
    pub name: String,
    pub datatype: Datatype,
    /// The size of each dimension, -1 if it varies; `None` if their number is unknown.
    pub shape: Option<Vec<i64>>,
    /// Whether the input is optional, because the graph has a default for it.
    #[serde(default)]
    optional: bool,
    /// The class of each column, for the output of a classifier.
    #[serde(default)]
    labels: Option<Value>,
}

impl Port {
    /// A required port, for graphs outside of a component.
    #[cfg(not(target_family = "wasm"))]
    pub fn new(name: &str, datatype: Datatype, shape: Option<Vec<i64>>) -> Self {
        Self {
            name: name.to_owned(),
            datatype,
            shape,
            optional: false,
            labels: None,
        }
    }

    fn metadata(&self) -> Value {
        let any = [-1];
        let shape = self.shape.as_deref().unwrap_or(&any);
        let mut told = json!({ "name": self.name, "datatype": self.datatype, "shape": shape });
        if self.optional {
            told["parameters"]["optional"] = true.into();
        }
        if let Some(labels) = &self.labels {
            told["parameters"]["labels"] = labels.clone();
        }
        told
    }

    /// Whether it is known to have no dimensions.
    pub fn is_scalar(&self) -> bool {
        self.shape.as_ref().is_some_and(Vec::is_empty)
    }
}

/// A graph with one of its names.
pub struct Served {
    name: String,
    pub graph: Graph,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

impl Served {
    /// A graph with these inputs and outputs, outside of a component.
    #[cfg(not(target_family = "wasm"))]
    pub fn new(graph: Graph, inputs: Vec<Port>, outputs: Vec<Port>) -> Self {
        Self {
            name: graph.name().to_owned(),
            graph,
            inputs,
            outputs,
        }
    }

    /// The name in the request.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The metadata of a model, as the protocol defines it.
    pub fn metadata(&self) -> Value {
        let all = |ports: &[Port]| ports.iter().map(Port::metadata).collect::<Vec<_>>();
        json!({
            "name": self.name,
            "versions": [VERSION],
            "platform": "onnx",
            "inputs": all(&self.inputs),
            "outputs": all(&self.outputs),
        })
    }

    /// Refuses other versions.
    pub fn check_version(&self, version: &str) -> Result<(), Error> {
        if version == VERSION {
            return Ok(());
        }
        Err(Error::not_found(format!(
            "model {:?} has no version {version:?}, only {VERSION:?}: Samovar has deployments instead of versions",
            self.name
        )))
    }
}

/// The graphs of the bundle.
pub struct Repository {
    served: Vec<Served>,
}

impl Repository {
    /// Reads the description and loads the graphs.
    pub fn read() -> Result<Self, Error> {
        let failed = |e: &dyn std::fmt::Display| Error::internal(format!("{FILE}: {e}"));
        let text = std::fs::read(FILE).map_err(|e| failed(&e))?;
        let description: Description = serde_json::from_slice(&text).map_err(|e| failed(&e))?;
        let alone = description.graphs.len() == 1;
        // A graph of that name is the one that is meant.
        let is_free = !description.graphs.contains_key(&description.name);
        let mut served = Vec::new();
        for (name, ports) in description.graphs {
            let graph = Graph::load(&name)?;
            let named = |name: String| Served {
                name,
                graph: graph.clone(),
                inputs: ports.inputs.clone(),
                outputs: ports.outputs.clone(),
            };
            if (alone || name == "default") && is_free {
                served.push(named(description.name.clone()));
            }
            served.push(named(name));
        }
        Ok(Self { served })
    }

    /// The graph with this name.
    pub fn find(&self, name: &str) -> Result<&Served, Error> {
        let found = self.served.iter().find(|served| served.name == name);
        found.ok_or_else(|| {
            Error::not_found(format!(
                "there is no model {name:?}; there is {}",
                self.names()
            ))
        })
    }

    /// All names, for messages.
    pub fn names(&self) -> String {
        let names: Vec<&str> = self.served.iter().map(Served::name).collect();
        names.join(", ")
    }
}
