//! How much a backend makes of a model's constants when it loads it.
//!
//! Backends compute what is constant once, while they load, and keep it: a model of a hundred bytes can become gigabytes.
//! This walk over the graph bounds what each node that depends on constants alone gives, by the shapes that are known. It
//! decides how far constants may be folded. A model whose constants are not folded gives the same answers, and computes
//! them in each run.

mod sizes;

use std::collections::HashMap;
use std::rc::Rc;

use super::known::{INT32, INT64, Known};
use super::wire::fields;
use super::{GraphProto, ModelProto, NodeProto, work};
use sizes::{Size, element_values, size_of};

/// Elements that may be made of constants, beside [`PER_WEIGHT`] for each element of the weights.
const ELEMENTS: u64 = 16 << 20;
/// Weights are transposed, cast and scaled before they are used.
const PER_WEIGHT: u64 = 4;
/// Bytes of the largest element.
const ELEMENT_BYTES: u64 = 8;
/// Dimensions and elements of values that are followed, all together: what comes after them counts as unknown.
const FOLLOWED: usize = 4 << 20;

/// How far a backend may fold the constants of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Folding {
    /// Not at all.
    #[default]
    Off,
    /// What one node gives may take so many bytes: some sizes are not known before.
    Within { node_bytes: u64 },
    /// As it likes: all sizes are known, and small.
    On,
}

/// How far the constants of a model may be folded, given with its bytes.
pub fn folding(model: &ModelProto, bytes: &[u8]) -> Folding {
    let Some(graph) = &model.graph else {
        return Folding::Off;
    };
    let mut walk = Walk::default();
    let raw = fields(bytes).find(|field| field.tag == 7);
    let known = raw.map(|raw| Known::inside(None, raw.payload));
    walk.graph(graph, known.as_ref());
    for function in &model.functions {
        let before = walk.made;
        walk.scopes.push(HashMap::new());
        walk.nodes(&function.node, None);
        walk.scopes.pop();
        // It may be called many times.
        if walk.made > before {
            walk.unknown += 1;
        }
    }
    walk.folding()
}

/// A value of a graph.
#[derive(Clone, Debug, Default)]
pub(super) struct Value {
    /// Whether it depends on constants alone.
    constant: bool,
    size: Size,
    /// Its elements, where it is a short list of integers. One that is open varies from run to run.
    elements: Option<Vec<Option<i64>>>,
}

impl Value {
    /// Whether some of its elements are known, and others vary from run to run.
    fn varies_in_part(&self) -> bool {
        let elements = self.elements.as_ref();
        elements.is_some_and(|elements| elements.iter().any(Option::is_none))
    }
}

/// Operators that may take of a list the elements that do not vary.
const PICKING: [&str; 9] = [
    "Compress",
    "Gather",
    "GatherElements",
    "GatherND",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "Split",
    "Where",
];

#[derive(Default)]
struct Walk<'a> {
    /// Values by their names, those of graphs within others last.
    scopes: Vec<HashMap<&'a str, Rc<Value>>>,
    /// Dimensions and elements of all of them.
    followed: usize,
    weights: u64,
    /// Elements that nodes of known size give.
    made: u64,
    /// Nodes that give a constant of a size that is not known.
    unknown: u64,
}

impl<'a> Walk<'a> {
    fn folding(&self) -> Folding {
        let most = ELEMENTS.saturating_add(self.weights.saturating_mul(PER_WEIGHT));
        match self.unknown {
            _ if self.made > most => Folding::Off,
            0 => Folding::On,
            nodes => Folding::Within {
                node_bytes: most.saturating_mul(ELEMENT_BYTES) / nodes,
            },
        }
    }

    fn graph(&mut self, graph: &'a GraphProto, known: Option<&Known>) {
        let mut scope = HashMap::new();
        for info in &graph.input {
            let tensor = info.r#type.as_ref().and_then(super::TypeProto::tensor);
            let shape = tensor.and_then(|tensor| tensor.shape.as_ref());
            let value = Value {
                size: Size::of_input(
                    shape.map(|shape| shape.dim.iter().map(super::Dimension::size)),
                ),
                ..Value::default()
            };
            scope.insert(&*info.name, self.followed(value));
        }
        for weight in &graph.initializer {
            let value = Value {
                constant: true,
                size: Size::of_weight(&weight.dims),
                elements: known.and_then(|known| integers(known, &weight.name)),
            };
            self.weights = self.weights.saturating_add(value.size.count.unwrap_or(0));
            scope.insert(&*weight.name, self.followed(value));
        }
        self.scopes.push(scope);
        self.nodes(&graph.node, known);
        self.scopes.pop();
    }

    fn nodes(&mut self, nodes: &'a [NodeProto], known: Option<&Known>) {
        for node in nodes {
            for attribute in &node.attribute {
                for graph in attribute.inner_graphs() {
                    self.graph(graph, None);
                }
            }
            let value = self.value(node, known);
            let value = self.followed(value);
            if let Some(scope) = self.scopes.last_mut() {
                for output in node.output.iter().filter(|name| !name.is_empty()) {
                    scope.insert(output, value.clone());
                }
            }
        }
    }

    /// What the outputs of a node are, each of them.
    fn value(&mut self, node: &'a NodeProto, known: Option<&Known>) -> Value {
        if node.op_type == "Constant" && node.is_standard() {
            return constant(node, known);
        }
        let inputs: Vec<&Value> = node
            .input
            .iter()
            .map(|name| self.find(name).unwrap_or(&ABSENT))
            .collect();
        let elements = match node.is_standard() {
            true => element_values(node, &inputs),
            false => None,
        };
        if let Some(elements) = elements {
            let size = Size::known(vec![elements.len() as u64]);
            let constant = elements.iter().all(Option::is_some);
            return Value {
                constant,
                size,
                elements: Some(elements),
            };
        }
        let op = node.op_type.as_str();
        let picks = PICKING.contains(&op);
        let is_constant = match inputs.first() {
            // Of a value that varies: known where its shape does not vary, or where that cannot be told.
            Some(first) if matches!(op, "Shape" | "Size") => first.constant || !first.size.open,
            _ => node.input.iter().zip(&inputs).all(|(name, value)| {
                name.is_empty() || value.constant || (picks && value.varies_in_part())
            }),
        };
        if !is_constant {
            return Value::default();
        }
        let size = match node.is_standard() {
            true => size_of(node, &inputs),
            false => Size::default(),
        };
        let outputs = node.output.iter().filter(|name| !name.is_empty()).count();
        match size.count {
            Some(count) => {
                // A split gives each element once.
                let times = if op == "Split" { 1 } else { outputs as u64 };
                self.made = self.made.saturating_add(count.saturating_mul(times));
            }
            None => self.unknown += 1,
        }
        Value {
            constant: true,
            size,
            elements: None,
        }
    }

    /// The value as it is kept, for all that have it.
    fn followed(&mut self, mut value: Value) -> Rc<Value> {
        let dims = value.size.dims.as_ref().map_or(0, Vec::len);
        let elements = value.elements.as_ref().map_or(0, Vec::len);
        self.followed = self.followed.saturating_add(dims + elements);
        if self.followed > FOLLOWED {
            (value.size.dims, value.elements) = (None, None);
        }
        Rc::new(value)
    }

    fn find(&self, name: &str) -> Option<&Value> {
        let mut scopes = self.scopes.iter().rev();
        scopes.find_map(|scope| {
            work::step();
            scope.get(name).map(Rc::as_ref)
        })
    }
}

/// One that is left out, or comes from outside: nothing is known of it.
static ABSENT: Value = Value {
    constant: false,
    size: Size {
        dims: None,
        count: None,
        open: false,
    },
    elements: None,
};

/// What a node gives that holds its value itself, which is in the file already.
fn constant(node: &NodeProto, known: Option<&Known>) -> Value {
    let attribute = node.attribute.first();
    let size = attribute.map(|attribute| match &attribute.t {
        Some(tensor) => Size::of_weight(&tensor.dims),
        None => {
            let many = [
                attribute.ints.len(),
                attribute.floats.len(),
                attribute.strings.len(),
            ];
            match many.into_iter().max() {
                Some(0) | None => Size::known(Vec::new()),
                Some(count) => Size::known(vec![count as u64]),
            }
        }
    });
    let name = node.output.first().map_or("", String::as_str);
    Value {
        constant: true,
        size: size.unwrap_or_default(),
        elements: known.and_then(|known| integers(known, name)),
    }
}

/// The elements of a short list of integers.
fn integers(known: &Known, name: &str) -> Option<Vec<Option<i64>>> {
    // Exact up to there, and far beyond any size.
    const MOST: f64 = 9e15;
    if !matches!(known.ty(name), Some(INT32 | INT64)) {
        return None;
    }
    let numbers = known.constant(name)?.iter();
    let exact = |number: &f64| (number.abs() < MOST).then_some(Some(*number as i64));
    numbers.map(exact).collect()
}

#[cfg(test)]
#[path = "folding_tests.rs"]
mod tests;
