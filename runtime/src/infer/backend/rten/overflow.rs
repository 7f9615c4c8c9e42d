//! Detects overflow of 64-bit integers, which rten computes with 32 bits.
//!
//! A range analysis finds the operators that could overflow. A guard is added to each: the same computation in floats, and a graph
//! output that counts the elements that do not fit. A run whose guards count any fails instead of returning wrong results.

use std::collections::HashMap;

use samovar_onnx::NodeProto;
use samovar_onnx::known::{BOOL, FLOAT, INT8, INT32, INT64, Known, UINT8};
use samovar_onnx::wire::{Wide, fields, wide_numbers};

use super::rewrites::{NodeBuilder, int};

/// Prefix of the names of guards. The rest describes the node for errors.
pub(super) const GUARD: &str = "samovar/guard/";

/// The largest integer of rten.
const MAX_INT: f64 = i32::MAX as f64;
/// The largest value that a guard accepts: less than [`MAX_INT`], because floats are rounded.
const MAX_GUARDED: f32 = 2.1e9;
/// Upper bound of sizes and positions in arithmetic with other numbers. No tensor has so many elements.
const MAX_ELEMENTS: f64 = (1 << 30) as f64;
/// The product of a size and a constant up to this is still a size.
const SMALL: f64 = 4096.0;

/// The range of the elements of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Range {
    /// The size of something, computed from shapes and small constants.
    Size,
    /// A position in a tensor, or in a flattened tensor.
    Position,
    /// Between two numbers, inclusive. Infinite for floats.
    Between(f64, f64),
}

use Range::{Between, Position, Size};

/// The effect of an operator on its output.
enum Outcome {
    /// It has this range, which fits into 32 bits.
    Fits(Range),
    /// It may not fit into 32 bits.
    Exceeds,
}

/// Ranges of the values of a graph and of the graphs around it.
#[derive(Default)]
pub(super) struct Ranges {
    scopes: Vec<HashMap<String, Range>>,
    /// Names of the guards that were added.
    pub guards: Vec<String>,
}

impl Ranges {
    /// Enters a graph. Control flow passes counters and positions to inner graphs.
    pub fn enter<'a>(&mut self, inputs: impl Iterator<Item = &'a str>) {
        let mut scope = HashMap::new();
        if !self.scopes.is_empty() {
            scope.extend(inputs.map(|name| (name.to_owned(), Position)));
        }
        self.scopes.push(scope);
    }

    /// Leaves a graph.
    pub fn leave(&mut self) {
        self.scopes.pop();
    }

    /// Records the range of the outputs of a node. Returns the nodes of its guard, if it needs one.
    ///
    /// # Errors
    /// If it needs a guard in an inner graph, where guards are impossible.
    pub fn node(
        &mut self,
        node: &NodeProto,
        raw: &[u8],
        known: &Known,
    ) -> Result<Vec<NodeProto>, &'static str> {
        let outcome = self.outcome(node, raw, known);
        let Some(output) = node.output.first().filter(|name| !name.is_empty()) else {
            return Ok(Vec::new());
        };
        let is_wide = known.ty(output) == Some(INT64);
        let exceeds = is_wide && matches!(outcome, Outcome::Exceeds);
        let range = match outcome {
            Outcome::Fits(range) => range,
            Outcome::Exceeds => of_type(known.ty(output)),
        };
        let mut guards = Vec::new();
        if exceeds && self.scopes.len() > 1 {
            // An output of the outer graph cannot count in an inner one. Sums in loops are counters, and casts there compute sizes.
            let harmless = [
                "Add",
                "Sub",
                "Sum",
                "CumSum",
                "ReduceSum",
                "Cast",
                "CastLike",
            ];
            if !harmless.contains(&node.op_type.as_str()) {
                return Err(
                    "within control flow its numbers of 64 bits could exceed the 32 that rten computes with",
                );
            }
        } else if exceeds {
            let (number, operator, label) = (self.guards.len(), &node.op_type, node.label());
            let name = format!("{GUARD}{number}/operator {operator} of node `{label}`");
            guards = guard(node, &name);
            self.guards.push(name);
        }
        if let Some(scope) = self.scopes.last_mut() {
            for name in &node.output {
                scope.insert(name.clone(), range);
            }
            if matches!(node.op_type.as_str(), "TopK" | "MaxPool" | "Unique") {
                let places = node.output.iter().skip(1);
                scope.extend(places.map(|name| (name.clone(), Position)));
            }
        }
        Ok(guards)
    }

    fn of(&self, name: &str, known: &Known) -> Range {
        let mut scopes = self.scopes.iter().rev();
        if let Some(range) = scopes.find_map(|scope| scope.get(name)) {
            return *range;
        }
        match known.constant(name) {
            Some([]) | None => of_type(known.ty(name)),
            Some(values) => Between(
                values.iter().copied().fold(f64::INFINITY, f64::min),
                values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ),
        }
    }

    fn outcome(&self, node: &NodeProto, raw: &[u8], known: &Known) -> Outcome {
        let inputs: Vec<Range> = node
            .input
            .iter()
            .filter(|name| !name.is_empty())
            .map(|name| self.of(name, known))
            .collect();
        let first = inputs.first().copied();
        let hull_of = |places: &[usize]| {
            let ranges = places.iter().filter_map(|at| inputs.get(*at));
            hull(ranges.copied())
        };
        let own = || of_type(node.output.first().and_then(|name| known.ty(name)));
        let range = match node.op_type.as_str() {
            _ if !node.is_standard() => own(),
            "Shape" | "Size" => Size,
            "ArgMax" | "ArgMin" | "NonZero" | "NonMaxSuppression" => Position,
            "Constant" => match node.output.first() {
                Some(name) => self.of(name, known),
                None => own(),
            },
            "ConstantOfShape" => filled(node, raw),
            "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Transpose" | "Slice" | "Gather"
            | "GatherElements" | "GatherND" | "Expand" | "Tile" | "Flatten" | "Split"
            | "Compress" | "ReduceMax" | "ReduceMin" | "ReduceMean" | "TopK" | "Unique"
            | "DepthToSpace" | "SpaceToDepth" | "Dropout" | "Floor" | "Ceil" | "Round"
            | "ReverseSequence" => hull_of(&[0]),
            "Trilu" => hull([hull_of(&[0]), Between(0.0, 0.0)].into_iter()),
            "Pad" => hull([hull_of(&[0, 2]), Between(0.0, 0.0)].into_iter()),
            "Concat" | "Min" | "Max" => hull(inputs.iter().copied()),
            "Clip" => clipped(&inputs),
            "Where" => hull_of(&[1, 2]),
            "ScatterElements" | "ScatterND"
                if node.text("reduction").is_none_or(|how| how == "none") =>
            {
                hull_of(&[0, 2])
            }
            "OneHot" => hull_of(&[2]),
            "Range" => match hull(inputs.iter().copied()) {
                Size => Position,
                range => range,
            },
            "Neg" => match first {
                Some(Between(low, high)) => Between(-high, -low),
                other => other.unwrap_or_else(own),
            },
            "Abs" => match first {
                Some(Between(low, high)) => Between(0.0, low.abs().max(high.abs())),
                other => other.unwrap_or_else(own),
            },
            "Mod" => match inputs.get(1).copied().map(interval) {
                Some((low, high)) => {
                    let most = low.abs().max(high.abs());
                    Between(-most, most)
                }
                None => own(),
            },
            "Div" => match (first, inputs.get(1)) {
                (Some(size @ (Size | Position)), _) => size,
                (Some(Between(low, high)), _) => {
                    let most = low.abs().max(high.abs());
                    Between(-most, most)
                }
                (None, _) => own(),
            },
            "Cast" | "CastLike" => return cast(first, node, known),
            "Add" | "Sub" | "Sum" | "Mul" => return arithmetic(&node.op_type, &inputs),
            // A count of elements is at most the number of elements.
            "CumSum" | "ReduceSum" => match first {
                Some(Between(low, high)) if low >= -1.0 && high <= 1.0 => Position,
                _ => return Outcome::Exceeds,
            },
            "ReduceProd" => match first {
                Some(Size) => Size,
                _ => return Outcome::Exceeds,
            },
            "Pow" | "MatMul" | "Gemm" | "Einsum" | "ReduceL1" | "ReduceSumSquare"
            | "ScatterElements" | "ScatterND" => return Outcome::Exceeds,
            _ => own(),
        };
        Outcome::Fits(range)
    }
}

/// The range of a type if nothing else is known. Inputs of runs that exceed 32 bits are refused before the run.
fn of_type(ty: Option<i32>) -> Range {
    match ty {
        Some(BOOL) => Between(0.0, 1.0),
        Some(UINT8) => Between(0.0, 255.0),
        Some(INT8) => Between(-128.0, 127.0),
        Some(INT32 | INT64) => Between(-MAX_INT, MAX_INT),
        _ => Between(f64::NEG_INFINITY, f64::INFINITY),
    }
}

fn interval(range: Range) -> (f64, f64) {
    match range {
        Size | Position => (-MAX_ELEMENTS, MAX_ELEMENTS),
        Between(low, high) => (low, high),
    }
}

fn is_small(range: Range) -> bool {
    matches!(range, Between(low, high) if low >= -SMALL && high <= SMALL)
}

/// The smallest range that contains all of these.
fn hull(ranges: impl Iterator<Item = Range>) -> Range {
    let both = |one: Range, other: Range| match (one, other) {
        (Size, Size) => Size,
        (Size, small) | (small, Size) if is_small(small) => Size,
        (Size | Position, Size | Position) => Position,
        (Position, small) | (small, Position) if is_small(small) => Position,
        _ => {
            let ((a, b), (c, d)) = (interval(one), interval(other));
            Between(a.min(c), b.max(d))
        }
    };
    ranges
        .reduce(both)
        .unwrap_or(Between(f64::NEG_INFINITY, f64::INFINITY))
}

fn clipped(inputs: &[Range]) -> Range {
    let (low, high) = inputs
        .first()
        .map_or((-MAX_INT, MAX_INT), |first| interval(*first));
    // One of the two bounds may be omitted, and it is unknown which, so each may be either.
    match inputs {
        [first] => *first,
        [_, bounds @ ..] => {
            let (least, _) = interval(hull(bounds.iter().copied()));
            let (_, greatest) = interval(hull(bounds.iter().copied()));
            Between(low.min(least), high.max(greatest))
        }
        [] => Between(low, high),
    }
}

fn arithmetic(op: &str, inputs: &[Range]) -> Outcome {
    let multiplies = op == "Mul";
    let of_sizes = |range: &Range| !matches!(range, Between(..)) || is_small(*range);
    let positions = inputs.iter().filter(|range| **range == Position).count();
    let any = inputs.iter().any(|range| !matches!(range, Between(..)));
    if any && inputs.iter().all(of_sizes) && !(multiplies && positions > 1) {
        return Outcome::Fits(if positions > 0 { Position } else { Size });
    }
    let mut ranges = inputs.iter().copied().map(interval);
    let Some(first) = ranges.next() else {
        return Outcome::Exceeds;
    };
    let (low, high) = ranges.fold(first, |(a, b), (c, d)| match op {
        "Mul" => {
            let corners = [a * c, a * d, b * c, b * d];
            // Zero times infinity is NaN in floats, and zero for integers.
            let corners = corners.map(|corner| if corner.is_nan() { 0.0 } else { corner });
            (
                corners.into_iter().fold(f64::INFINITY, f64::min),
                corners.into_iter().fold(f64::NEG_INFINITY, f64::max),
            )
        }
        "Sub" => (a - d, b - c),
        _ => (a + c, b + d),
    });
    match low >= -MAX_INT && high <= MAX_INT {
        true => Outcome::Fits(Between(low, high)),
        false => Outcome::Exceeds,
    }
}

fn cast(from: Option<Range>, node: &NodeProto, known: &Known) -> Outcome {
    let to = node.output.first().and_then(|name| known.ty(name));
    match (from, to) {
        (_, Some(BOOL)) => Outcome::Fits(Between(0.0, 1.0)),
        (Some(Between(low, high)), Some(INT64)) if low < -MAX_INT || high > MAX_INT => {
            Outcome::Exceeds
        }
        (Some(range), _) => Outcome::Fits(range),
        (None, ty) => Outcome::Fits(of_type(ty)),
    }
}

/// The range of the output of a ConstantOfShape.
fn filled(node: &NodeProto, raw: &[u8]) -> Range {
    let Some(value) = node.attribute("value").and_then(|value| value.t.as_ref()) else {
        return Between(0.0, 0.0);
    };
    if value.data_type != INT64 {
        return of_type(Some(value.data_type));
    }
    let attributes = fields(raw).filter(|field| field.tag == 5);
    let mut tensors = attributes
        .flat_map(|attribute| fields(attribute.payload))
        .filter(|field| field.tag == 5);
    let number = tensors.find_map(|tensor| wide_numbers(tensor.payload, Wide::I64).next());
    number.map_or(of_type(Some(INT64)), |number| Between(number, number))
}

/// Nodes that count the elements that do not fit into 32 bits.
fn guard(node: &NodeProto, name: &str) -> Vec<NodeProto> {
    let Some(mut builder) = NodeBuilder::of(node) else {
        return Vec::new();
    };
    let sums = matches!(
        node.op_type.as_str(),
        "Sum" | "CumSum" | "ReduceSum" | "MatMul" | "Gemm" | "ScatterElements" | "ScatterND"
    );
    // Inputs with axes or indices stay integers.
    let is_number = |at: usize| match node.op_type.as_str() {
        "CumSum" | "Cast" | "CastLike" => at == 0,
        op if op.starts_with("Reduce") => at == 0,
        op if op.starts_with("Scatter") => at != 1,
        _ => true,
    };
    let mut inputs = Vec::with_capacity(node.input.len());
    for (at, name) in node.input.iter().enumerate() {
        if name.is_empty() || !is_number(at) {
            inputs.push(name.clone());
            continue;
        }
        let float = builder.op("Cast", &[name.as_str()], &[int("to", FLOAT.into())]);
        inputs.push(match sums {
            true => builder.op("Abs", &[&float], &[]),
            false => float,
        });
    }
    let value = match node.op_type.as_str() {
        "Cast" | "CastLike" => inputs.first().cloned().unwrap_or_default(),
        op => {
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            builder.op(op, &inputs, &node.attribute)
        }
    };
    let size = builder.op("Abs", &[&value], &[]);
    let most = builder.float(MAX_GUARDED);
    let exceeds = builder.op("Greater", &[&size, &most], &[]);
    let exceeds = builder.op("Cast", &[&exceeds], &[int("to", INT32.into())]);
    builder.named("ReduceSum", &[&exceeds], &[int("keepdims", 0)], name);
    builder.nodes
}

/// The description of the node from the name of its guard.
pub(super) fn guarded(guard: &str) -> Option<&str> {
    let (_, what) = guard.strip_prefix(GUARD)?.split_once('/')?;
    Some(what)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use prost::Message as _;
    use samovar_onnx::testing::tensor;
    use samovar_onnx::wire::put;
    use samovar_onnx::{Attribute, GraphProto, TensorProto, ValueInfo};

    use super::*;

    fn node(op: &str, inputs: &[&str], output: &str, attributes: &[Attribute]) -> NodeProto {
        NodeProto {
            input: inputs.iter().map(ToString::to_string).collect(),
            output: vec![output.into()],
            name: format!("the {output}"),
            op_type: op.into(),
            attribute: attributes.to_vec(),
            ..Default::default()
        }
    }

    fn to(ty: i32) -> [Attribute; 1] {
        [int("to", ty.into())]
    }

    /// The graph of these nodes over `x` of i64, `f` of f32, `flag` of bool and some constants.
    fn graph(nodes: &[NodeProto]) -> Vec<u8> {
        let info = |name: &str, ty| ValueInfo {
            name: name.into(),
            r#type: Some(tensor(ty, None)),
            ..Default::default()
        };
        let mut bytes = GraphProto {
            node: nodes.to_vec(),
            input: vec![info("x", INT64), info("f", FLOAT), info("flag", BOOL)],
            ..Default::default()
        }
        .encode_to_vec();
        for (name, value) in [("one", 1), ("two", 2), ("prime", 1_000_003)] {
            let mut weight = TensorProto {
                name: name.into(),
                data_type: INT64,
                ..Default::default()
            }
            .encode_to_vec();
            put(&mut weight, 9, &i64::to_le_bytes(value));
            put(&mut bytes, 5, &weight);
        }
        bytes
    }

    /// Which of the nodes need a guard, by their outputs.
    fn guarded_nodes(nodes: &[NodeProto]) -> Vec<String> {
        let known = Known::inside(None, &graph(nodes));
        let mut ranges = Ranges::default();
        ranges.enter(std::iter::empty());
        let guarded = nodes.iter().filter(|node| {
            let guards = ranges.node(node, &node.encode_to_vec(), &known).unwrap();
            !guards.is_empty()
        });
        guarded.map(|node| node.output[0].clone()).collect()
    }

    #[test]
    fn what_inputs_can_make_too_large_is_guarded() {
        let nodes = [
            node("Mul", &["x", "prime"], "product", &[]),
            node("Add", &["x", "one"], "next", &[]),
            node("Pow", &["x", "two"], "power", &[]),
            node("ReduceSum", &["x"], "sum", &[]),
            node("Cast", &["f"], "cast", &to(INT64)),
            node("Shape", &["x"], "shape", &[]),
            node("Range", &["one", "shape", "one"], "positions", &[]),
            node("Mul", &["positions", "prime"], "hash", &[]),
            node("Mul", &["positions", "positions"], "squares", &[]),
        ];
        let wanted = ["product", "next", "power", "sum", "cast", "hash", "squares"];
        assert_eq!(guarded_nodes(&nodes), wanted);
    }

    #[test]
    fn what_models_do_with_sizes_and_masks_is_not() {
        let nodes = [
            node("Shape", &["x"], "shape", &[]),
            node("Gather", &["shape", "one"], "size", &[]),
            node("Mul", &["size", "size"], "flat", &[]),
            node("Add", &["flat", "two"], "larger", &[]),
            node("Cast", &["size"], "float", &to(FLOAT)),
            node("Floor", &["float"], "floor", &[]),
            node("Cast", &["floor"], "half", &to(INT64)),
            // Positions of tokens, as RoBERTa counts them.
            node("Equal", &["x", "one"], "pads", &[]),
            node("Cast", &["pads"], "mask", &to(INT64)),
            node("CumSum", &["mask", "one"], "counts", &[]),
            node("Mul", &["counts", "mask"], "masked", &[]),
            node("Add", &["masked", "two"], "positions", &[]),
            // The flattened place of the best of each row.
            node("ArgMax", &["f"], "best", &[]),
            node("Mul", &["best", "size"], "offset", &[]),
            node("Add", &["offset", "best"], "place", &[]),
            // An id is looked up, compared and kept, whatever it is.
            node("Where", &["flag", "x", "one"], "kept", &[]),
            node("Mod", &["kept", "prime"], "rest", &[]),
            node("Mul", &["f", "f"], "floats", &[]),
        ];
        assert_eq!(guarded_nodes(&nodes), [""; 0]);
    }

    #[test]
    fn within_control_flow_products_are_refused_and_counters_are_not() {
        let around = Rc::new(Known::inside(None, &graph(&[])));
        let mut ranges = Ranges::default();
        ranges.enter(std::iter::empty());
        ranges.enter(std::iter::empty());
        let mut checked = |node: &NodeProto| {
            let inner = GraphProto {
                node: vec![node.clone()],
                ..Default::default()
            };
            let known = Known::inside(Some(around.clone()), &inner.encode_to_vec());
            ranges.node(node, &[], &known).map(|guards| guards.len())
        };
        assert!(checked(&node("Mul", &["x", "prime"], "hash", &[])).is_err());
        assert_eq!(checked(&node("Add", &["x", "one"], "next", &[])), Ok(0));
    }

    #[test]
    fn a_guard_says_whose_it_is() {
        let known = Known::inside(None, &graph(&[node("Mul", &["x", "x"], "y", &[])]));
        let mut ranges = Ranges::default();
        ranges.enter(std::iter::empty());
        let mul = node("Mul", &["x", "x"], "y", &[]);
        let guards = ranges.node(&mul, &[], &known).unwrap();
        let last = &guards.last().unwrap().output[0];
        assert_eq!(guarded(last), Some("operator Mul of node `the y`"));
        assert_eq!(guarded("y"), None);
    }
}
