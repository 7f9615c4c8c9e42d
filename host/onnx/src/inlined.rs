//! How many operators a model has once its functions are put in the place of their calls.
//!
//! ONNX Runtime does that when it loads a model, and 24 functions that call each other twice are 16 million operators.

use std::collections::HashMap;

use super::schema::messages::FunctionProto;
use super::{GraphProto, ModelProto, NodeProto, work};

/// The most operators of a model, with functions inlined.
const MAX_OPERATORS: u64 = 500_000;
/// How deep functions may call each other.
const MAX_CALLS: usize = 64;

type Name<'a> = (&'a str, &'a str, &'a str);

/// The number of operators of a model with its functions inlined.
///
/// # Errors
/// When there are too many of them, or functions call each other in a circle.
pub(super) fn operators(model: &ModelProto) -> Result<u64, String> {
    let functions = model.functions.iter().map(|function| {
        let name = name(&function.domain, &function.name, &function.overload);
        (name, function)
    });
    let mut counter = Counter {
        functions: functions.collect(),
        counted: HashMap::new(),
    };
    let mut operators = 0u64;
    if let Some(graph) = &model.graph {
        operators = counter.graph(graph, 0)?;
    }
    for function in &model.functions {
        let function = counter.nodes(&function.node, 0)?;
        operators = operators.max(function);
    }
    if operators > MAX_OPERATORS {
        return Err(format!(
            "it has {operators} operators with its functions inlined; the limit is {MAX_OPERATORS}"
        ));
    }
    Ok(operators)
}

struct Counter<'a> {
    functions: HashMap<Name<'a>, &'a FunctionProto>,
    /// `None` while a function is being counted.
    counted: HashMap<Name<'a>, Option<u64>>,
}

impl<'a> Counter<'a> {
    fn graph(&mut self, graph: &'a GraphProto, calls: usize) -> Result<u64, String> {
        self.nodes(&graph.node, calls)
    }

    fn nodes(&mut self, nodes: &'a [NodeProto], calls: usize) -> Result<u64, String> {
        let mut sum = 0u64;
        for node in nodes {
            sum = sum.saturating_add(self.node(node, calls)?);
        }
        Ok(sum)
    }

    fn node(&mut self, node: &'a NodeProto, calls: usize) -> Result<u64, String> {
        work::step();
        let mut sum = 1u64;
        for attribute in &node.attribute {
            for graph in attribute.inner_graphs() {
                sum = sum.saturating_add(self.graph(graph, calls)?);
            }
        }
        let name = name(&node.domain, &node.op_type, &node.overload);
        let Some(function) = self.functions.get(&name).copied() else {
            return Ok(sum);
        };
        let (_, shown, _) = name;
        let inlined = match self.counted.get(&name) {
            Some(Some(counted)) => *counted,
            Some(None) => return Err(format!("function `{shown}` calls itself")),
            None if calls >= MAX_CALLS => {
                return Err(format!(
                    "function `{shown}` is called from {calls} functions deep; the limit is {MAX_CALLS}"
                ));
            }
            None => {
                self.counted.insert(name, None);
                let counted = self.nodes(&function.node, calls + 1)?;
                self.counted.insert(name, Some(counted));
                counted
            }
        };
        Ok(sum.saturating_add(inlined))
    }
}

/// What tells functions apart. The default domain has two names.
fn name<'a>(domain: &'a str, name: &'a str, overload: &'a str) -> Name<'a> {
    let domain = if domain == "ai.onnx" { "" } else { domain };
    (domain, name, overload)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(op: &str) -> NodeProto {
        NodeProto {
            domain: "f".into(),
            op_type: op.into(),
            ..Default::default()
        }
    }

    fn function(name: &str, calls: &[&str]) -> FunctionProto {
        FunctionProto {
            domain: "f".into(),
            name: name.into(),
            node: calls.iter().map(|op| call(op)).collect(),
            ..Default::default()
        }
    }

    fn model(functions: Vec<FunctionProto>) -> ModelProto {
        ModelProto {
            graph: Some(GraphProto {
                node: vec![call("f0")],
                ..Default::default()
            }),
            functions,
            ..Default::default()
        }
    }

    #[test]
    fn functions_that_double_are_counted_inlined() {
        let doubling = |count: usize| {
            let names: Vec<String> = (0..=count).map(|at| format!("f{at}")).collect();
            let functions = names.windows(2).map(|pair| {
                let [name, next] = pair else { unreachable!() };
                function(name, &[next, next])
            });
            operators(&model(functions.collect()))
        };
        assert_eq!(doubling(10), Ok(2047));
        let error = doubling(24).unwrap_err();
        assert!(error.contains("operators with its functions"), "{error}");
        let error = doubling(100).unwrap_err();
        assert!(error.contains("functions deep"), "{error}");
    }

    #[test]
    fn circles_of_functions_are_refused() {
        let circle = vec![function("f0", &["f1"]), function("f1", &["f0"])];
        let error = operators(&model(circle)).unwrap_err();
        assert!(error.contains("calls itself"), "{error}");
    }
}
