//! What a graph declares: its inputs and outputs with their types and sizes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Dimensions that errors show.
const SHOWN_DIMS: usize = 8;

/// Type of an input or output as the graph declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortType {
    F32,
    U8,
    I8,
    I32,
    I64,
    Bool,
    F16,
    F64,
    Bf16,
}

impl PortType {
    /// From the numbers of `TensorProto.DataType`; `None` for those that wasi-nn cannot carry.
    pub fn from_onnx(number: i32) -> Option<Self> {
        Some(match number {
            1 => Self::F32,
            2 => Self::U8,
            3 => Self::I8,
            6 => Self::I32,
            7 => Self::I64,
            9 => Self::Bool,
            10 => Self::F16,
            11 => Self::F64,
            16 => Self::Bf16,
            _ => return None,
        })
    }

    /// The name that the standard has for one of these numbers.
    pub fn onnx_name(number: i32) -> &'static str {
        const NAMES: [&str; 24] = [
            "undefined",
            "float",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "int32",
            "int64",
            "string",
            "bool",
            "float16",
            "double",
            "uint32",
            "uint64",
            "complex64",
            "complex128",
            "bfloat16",
            "float8e4m3fn",
            "float8e4m3fnuz",
            "float8e5m2",
            "float8e5m2fnuz",
            "uint4",
            "int4",
            "float4e2m1",
        ];
        let named = usize::try_from(number).ok().and_then(|at| NAMES.get(at));
        named.copied().unwrap_or("unknown")
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool (as u8)",
            Self::I8 => "i8 (as u8)",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        })
    }
}

/// An input or output of a graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Its name in the graph.
    pub name: String,
    /// Type of its elements.
    pub ty: PortType,
    /// Its sizes, `None` where variable; `None` altogether when the graph does not say.
    pub dims: Option<Vec<Option<u32>>>,
    /// Whether a run may leave this input out, because the graph has a default for it.
    pub optional: bool,
    /// The classes of a classifier, one for each column of this output.
    pub labels: Option<Labels>,
}

/// The classes that a classifier tells apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Labels {
    Numbers(Vec<i64>),
    Names(Vec<String>),
}

impl Labels {
    /// How many there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Names(names) => names.len(),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.ty)?;
        match &self.dims {
            None => f.write_str("[…]"),
            Some(dims) => write_sizes(f, dims.len(), dims.iter().copied()),
        }
    }
}

/// Writes sizes as `[2, ?]`, the first of them when there are many.
///
/// # Errors
/// Those of the formatter.
pub fn write_sizes(
    f: &mut fmt::Formatter<'_>,
    rank: usize,
    dims: impl Iterator<Item = Option<u32>>,
) -> fmt::Result {
    f.write_str("[")?;
    for (at, dim) in dims.take(SHOWN_DIMS).enumerate() {
        let comma = if at > 0 { ", " } else { "" };
        match dim {
            Some(size) => write!(f, "{comma}{size}")?,
            None => write!(f, "{comma}?")?,
        }
    }
    if rank > SHOWN_DIMS {
        write!(f, ", … {} more", rank - SHOWN_DIMS)?;
    }
    f.write_str("]")
}

/// What a graph wants and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// What a run must be given.
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}
