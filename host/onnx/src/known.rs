//! What a graph's file tells of its values before any run: types, ranks and small constants.

use std::collections::HashMap;
use std::rc::Rc;

use super::tables::{GRAPH_PROTO, TENSOR_PROTO};
use super::wire::{Wide, fields, wide_numbers};
use super::{GraphProto, NodeProto, TensorProto, TypeProto, light, work};

/// Numbers of `TensorProto.DataType`.
pub const FLOAT: i32 = 1;
pub const UINT8: i32 = 2;
pub const INT8: i32 = 3;
pub const INT32: i32 = 6;
pub const INT64: i32 = 7;
pub const STRING: i32 = 8;
pub const BOOL: i32 = 9;
pub const DOUBLE: i32 = 11;

/// The most elements of a constant that is looked into.
const SMALL: usize = 64;

/// What is known within one graph.
#[derive(Default)]
pub struct Known {
    around: Option<Rc<Known>>,
    types: HashMap<String, i32>,
    ranks: HashMap<String, usize>,
    constants: HashMap<String, Vec<f64>>,
}

impl Known {
    /// What is known inside of a graph, given as its bytes, when this is known around it.
    pub fn inside(around: Option<Rc<Known>>, bytes: &[u8]) -> Self {
        let mut known = Self {
            around,
            ..Self::default()
        };
        let Ok(graph) = light::<GraphProto>(&GRAPH_PROTO, bytes) else {
            return known;
        };
        let infos = graph.input.iter().chain(&graph.output);
        for info in infos.chain(&graph.value_info) {
            let Some(tensor) = info.r#type.as_ref().and_then(TypeProto::tensor) else {
                continue;
            };
            known.types.insert(info.name.clone(), tensor.elem_type);
            if let Some(shape) = &tensor.shape {
                known.ranks.insert(info.name.clone(), shape.dim.len());
            }
        }
        for field in fields(bytes).filter(|field| field.tag == 5) {
            if let Ok(tensor) = light::<TensorProto>(&TENSOR_PROTO, field.payload) {
                known.weight(&tensor.name, &tensor, Some(field.payload));
            }
        }
        let raw_nodes = fields(bytes).filter(|field| field.tag == 1);
        for (node, raw) in graph.node.iter().zip(raw_nodes) {
            known.node(node, raw.payload);
        }
        known
    }

    /// The type of a value, as the standard numbers it.
    pub fn ty(&self, name: &str) -> Option<i32> {
        work::step();
        let here = self.types.get(name).copied();
        here.or_else(|| self.around.as_ref()?.ty(name))
    }

    /// Its number of dimensions.
    pub fn rank(&self, name: &str) -> Option<usize> {
        work::step();
        let here = self.ranks.get(name).copied();
        here.or_else(|| self.around.as_ref()?.rank(name))
    }

    /// Its elements, of a constant with few.
    pub fn constant(&self, name: &str) -> Option<&[f64]> {
        work::step();
        let here = self.constants.get(name).map(Vec::as_slice);
        here.or_else(|| self.around.as_ref()?.constant(name))
    }

    fn weight(&mut self, name: &str, tensor: &TensorProto, bytes: Option<&[u8]>) {
        self.types.insert(name.to_owned(), tensor.data_type);
        self.ranks.insert(name.to_owned(), tensor.dims.len());
        let count = tensor.dims.iter().try_fold(1usize, |count, dim| {
            count.checked_mul(usize::try_from(*dim).ok()?)
        });
        if let (Some(bytes), Some(count)) = (bytes, count.filter(|count| *count <= SMALL)) {
            let numbers = numbers(bytes, tensor.data_type);
            if numbers.len() == count {
                self.constants.insert(name.to_owned(), numbers);
            }
        }
    }

    fn node(&mut self, node: &NodeProto, raw: &[u8]) {
        if !node.is_standard() {
            return;
        }
        if node.op_type == "Constant" {
            return self.constant_node(node, raw);
        }
        let input = |at: usize| node.input.get(at).and_then(|name| self.ty(name));
        // All outputs from the second on are alike.
        let types = [0, 1].map(|at| output_type(node, at, input));
        for (at, output) in node.output.iter().enumerate() {
            if let Some(ty) = types[at.min(1)] {
                self.types.entry(output.clone()).or_insert(ty);
            }
        }
        if let (Some(rank), Some(output)) = (self.output_rank(node), node.output.first()) {
            self.ranks.entry(output.clone()).or_insert(rank);
        }
    }

    fn constant_node(&mut self, node: &NodeProto, raw: &[u8]) {
        let (Some(output), Some(attribute)) = (node.output.first(), node.attribute.first()) else {
            return;
        };
        let (ty, rank, values) = match attribute.name.as_str() {
            "value" => {
                let Some(tensor) = &attribute.t else { return };
                let attributes = fields(raw).filter(|field| field.tag == 5);
                let bytes = attributes
                    .flat_map(|attribute| fields(attribute.payload))
                    .find(|field| field.tag == 5);
                return self.weight(output, tensor, bytes.map(|field| field.payload));
            }
            "value_int" => (INT64, 0, vec![attribute.i as f64]),
            "value_ints" => (
                INT64,
                1,
                attribute.ints.iter().map(|value| *value as f64).collect(),
            ),
            "value_float" => (FLOAT, 0, vec![attribute.f.into()]),
            "value_floats" => (FLOAT, 1, Vec::new()),
            _ => return,
        };
        self.types.insert(output.clone(), ty);
        self.ranks.insert(output.clone(), rank);
        if !values.is_empty() && values.len() <= SMALL {
            self.constants.insert(output.clone(), values);
        }
    }

    fn output_rank(&self, node: &NodeProto) -> Option<usize> {
        let rank = |at: usize| node.input.get(at).and_then(|name| self.rank(name));
        let count = |at: usize| {
            let values = node.input.get(at).and_then(|name| self.constant(name));
            values.map(<[f64]>::len)
        };
        match node.op_type.as_str() {
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Equal" | "Greater" | "Less"
            | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor" => {
                Some(rank(0)?.max(rank(1)?))
            }
            "Where" => Some(rank(0)?.max(rank(1)?).max(rank(2)?)),
            "MatMul" => match (rank(0)?, rank(1)?) {
                (1, 1) => Some(0),
                (1, other) | (other, 1) => other.checked_sub(1),
                (a, b) => Some(a.max(b)),
            },
            "Gemm" | "Flatten" => Some(2),
            "Shape" => Some(1),
            "Size" => Some(0),
            "Gather" => rank(0)?.checked_add(rank(1)?)?.checked_sub(1),
            "Reshape" => count(1),
            "Unsqueeze" => {
                let axes = node.attribute("axes").map(|axes| axes.ints.len());
                rank(0)?.checked_add(axes.or_else(|| count(1))?)
            }
            "Squeeze" => {
                let axes = node.attribute("axes").map(|axes| axes.ints.len());
                rank(0)?.checked_sub(axes.or_else(|| count(1))?)
            }
            "Conv"
            | "ConvTranspose"
            | "MaxPool"
            | "AveragePool"
            | "GlobalAveragePool"
            | "GlobalMaxPool"
            | "BatchNormalization"
            | "InstanceNormalization"
            | "LayerNormalization"
            | "Transpose"
            | "Concat"
            | "Relu"
            | "Sigmoid"
            | "Tanh"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Neg"
            | "Abs"
            | "Erf"
            | "Gelu"
            | "LeakyRelu"
            | "Elu"
            | "Softplus"
            | "HardSigmoid"
            | "HardSwish"
            | "Clip"
            | "Cast"
            | "Softmax"
            | "LogSoftmax"
            | "Pad"
            | "Slice"
            | "Split"
            | "Resize"
            | "Upsample"
            | "Dropout"
            | "Identity"
            | "Round"
            | "Floor"
            | "Ceil"
            | "Reciprocal"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "TopK"
            | "CumSum"
            | "Tile"
            | "ScatterND"
            | "ScatterElements"
            | "Not"
            | "Sin"
            | "Cos"
            | "PRelu"
            | "LRN"
            | "Sign" => rank(0),
            _ => None,
        }
    }
}

/// The type of an output: the first or any other.
fn output_type(node: &NodeProto, at: usize, input: impl Fn(usize) -> Option<i32>) -> Option<i32> {
    let named = |name: &str| {
        let value = node.attribute(name)?.i;
        i32::try_from(value).ok().filter(|ty| *ty != 0)
    };
    match (node.op_type.as_str(), at) {
        ("Cast" | "BitCast", _) => named("to"),
        ("CastLike", _) => input(1),
        ("Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" | "NonMaxSuppression", _)
        | ("TopK" | "MaxPool" | "Unique", 1..) => Some(INT64),
        (
            "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "And" | "Or" | "Not"
            | "Xor" | "IsNaN" | "IsInf",
            _,
        )
        | ("Dropout", 1) => Some(BOOL),
        ("Where", _) => input(1),
        ("OneHot", _) => input(2),
        ("DequantizeLinear", _) => named("output_dtype").or_else(|| input(1)),
        ("QuantizeLinear", _) => {
            let given = named("output_dtype").or_else(|| input(2));
            given.or((node.input.len() < 3).then_some(UINT8))
        }
        ("DynamicQuantizeLinear", 1) => Some(FLOAT),
        ("DynamicQuantizeLinear", _) => Some(UINT8),
        ("MatMulInteger" | "ConvInteger", _) => Some(INT32),
        ("QLinearMatMul" | "QLinearConv", _) => input(7),
        ("ConstantOfShape", _) => match node.attribute("value") {
            Some(value) => value.t.as_ref().map(|tensor| tensor.data_type),
            None => Some(FLOAT),
        },
        ("RandomNormal" | "RandomUniform", _) => Some(named("dtype").unwrap_or(FLOAT)),
        ("EyeLike" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" | "Multinomial", _) => {
            named("dtype").or_else(|| input(0))
        }
        ("LayerNormalization", 1..) => Some(FLOAT),
        // What these give is told by inner graphs, or is no tensor.
        ("If" | "Loop" | "Scan", _) => None,
        (op, _) if op.starts_with("Sequence") || op.starts_with("Optional") => None,
        ("SplitToSequence" | "ConcatFromSequence" | "StringSplit", _) => None,
        _ => input(0),
    }
}

/// The elements of a small tensor whose data lie in the file; none for types that nobody asks for.
fn numbers(tensor: &[u8], ty: i32) -> Vec<f64> {
    let raw = fields(tensor).find(|field| field.tag == 9);
    let raw = raw.map(|field| field.payload);
    match ty {
        INT64 => wide_numbers(tensor, Wide::I64).collect(),
        DOUBLE => wide_numbers(tensor, Wide::F64).collect(),
        FLOAT => {
            let floats = fields(tensor).filter(|field| field.tag == 4);
            let packed = floats.flat_map(|field| {
                let alone = &field.whole[field.whole.len().saturating_sub(4)..];
                let bytes = if field.payload.is_empty() {
                    alone
                } else {
                    field.payload
                };
                bytes.as_chunks::<4>().0.to_vec()
            });
            let chunks = match raw {
                Some(raw) => raw.as_chunks::<4>().0.to_vec(),
                None => packed.collect(),
            };
            chunks
                .into_iter()
                .map(|b| f32::from_le_bytes(b).into())
                .collect()
        }
        BOOL | UINT8 | INT8 | INT32 => {
            let Some(raw) = raw else {
                return small_integers(tensor);
            };
            match ty {
                INT32 => raw
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|b| i32::from_le_bytes(*b).into())
                    .collect(),
                INT8 => raw.iter().map(|byte| byte.cast_signed().into()).collect(),
                _ => raw.iter().map(|byte| (*byte).into()).collect(),
            }
        }
        _ => Vec::new(),
    }
}

/// `int32_data`, in which all small types may come.
fn small_integers(tensor: &[u8]) -> Vec<f64> {
    let mut values = Vec::new();
    for field in fields(tensor).filter(|field| field.tag == 5) {
        let mut rest = match field.payload {
            [] => super::wire::varint(field.whole).map_or(&[][..], |(_, rest)| rest),
            packed => packed,
        };
        while let Some((value, after)) = super::wire::varint(rest) {
            values.push(value.cast_signed() as f64);
            rest = after;
        }
    }
    values
}
