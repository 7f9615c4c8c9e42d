//! The protocol's data types, and the corresponding types of `wasi:nn`.

use samovar_sdk::tensor::ElementType;
use serde::{Deserialize, Serialize};

/// A data type of the protocol that inputs and outputs of graphs can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Datatype {
    Bool,
    Uint8,
    Int8,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
}

impl Datatype {
    /// All data types.
    #[cfg(not(target_family = "wasm"))]
    pub const ALL: [Self; 9] = [
        Self::Bool,
        Self::Uint8,
        Self::Int8,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
    ];

    /// The corresponding type of `wasi:nn`: bools and signed bytes are bytes.
    pub fn element_type(self) -> ElementType {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => ElementType::U8,
            Self::Int32 => ElementType::I32,
            Self::Int64 => ElementType::I64,
            Self::Fp16 => ElementType::F16,
            Self::Bf16 => ElementType::Bf16,
            Self::Fp32 => ElementType::F32,
            Self::Fp64 => ElementType::F64,
        }
    }

    /// Size of one element in bytes.
    pub fn size(self) -> usize {
        self.element_type().size()
    }

    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Int8 => "INT8",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
        }
    }

    /// Whether it is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64)
    }

    /// Its range, for messages.
    pub fn range(self) -> &'static str {
        match self {
            Self::Bool => "0 to 1",
            Self::Uint8 => "0 to 255",
            Self::Int8 => "-128 to 127",
            Self::Int32 => "-2147483648 to 2147483647",
            Self::Int64 => "-9223372036854775808 to 9223372036854775807",
            Self::Fp16 => "-65504 to 65504",
            Self::Bf16 => "-3.3895314e38 to 3.3895314e38",
            Self::Fp32 => "-3.4028235e38 to 3.4028235e38",
            Self::Fp64 => "-1.7976931348623157e308 to 1.7976931348623157e308",
        }
    }
}
