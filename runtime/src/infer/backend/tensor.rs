//! Tensors on the host: typed or raw bytes, with dimensions.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Element types of wasi-nn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ElementType {
    Fp16,
    Fp32,
    Fp64,
    Bf16,
    U8,
    I32,
    I64,
}

impl ElementType {
    /// Size of one element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Fp16 | Self::Bf16 => 2,
            Self::Fp32 | Self::I32 => 4,
            Self::Fp64 | Self::I64 => 8,
        }
    }

    /// The name in errors and in the API, such as `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "f16",
            Self::Fp32 => "f32",
            Self::Fp64 => "f64",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The memory that holds a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// Host memory.
    #[default]
    Host,
    /// Memory of a CUDA GPU, by its number.
    Cuda(i32),
}

/// Elements in a backend's own form, which stay where the backend put them until they are read.
pub trait Kept: Any + fmt::Debug + Send + Sync {
    /// Size in bytes.
    fn bytes(&self) -> usize;

    /// The memory that holds them.
    fn place(&self) -> Place;

    /// The elements as little-endian bytes: borrowed from host memory, copied from other memory.
    ///
    /// # Errors
    /// The backend's error, if they cannot be copied to the host.
    fn read(&self) -> Result<Cow<'_, [u8]>, String>;

    /// The same for callers that must not block; `None` if `read` does not block.
    fn fetched(&self) -> Option<BoxFuture<'static, Result<Vec<u8>, String>>> {
        None
    }
}

/// Elements in the form in which they arrived: bytes of a guest, or an output of a backend.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Data {
    Bytes(Vec<u8>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    I32(Vec<i32>),
    I64(Vec<i64>),
    Kept(Arc<dyn Kept>),
    /// None: an optional input for which the graph's default is used.
    Absent,
}

impl Data {
    /// Size of the elements in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Bytes(data) => data.len(),
            Self::F16(data) => size_of_val(&data[..]),
            Self::Bf16(data) => size_of_val(&data[..]),
            Self::F32(data) => size_of_val(&data[..]),
            Self::F64(data) => size_of_val(&data[..]),
            Self::I32(data) => size_of_val(&data[..]),
            Self::I64(data) => size_of_val(&data[..]),
            Self::Kept(data) => data.bytes(),
            Self::Absent => 0,
        }
    }

    /// The memory that holds the elements.
    pub fn place(&self) -> Place {
        match self {
            Self::Kept(data) => data.place(),
            _ => Place::Host,
        }
    }

    /// The elements as little-endian bytes, borrowed if they are in host memory.
    ///
    /// # Errors
    /// If a backend cannot copy them to the host.
    pub fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        Ok(Cow::Borrowed(match self {
            Self::Bytes(data) => data,
            Self::F16(data) => bytemuck::cast_slice(data),
            Self::Bf16(data) => bytemuck::cast_slice(data),
            Self::F32(data) => bytemuck::cast_slice(data),
            Self::F64(data) => bytemuck::cast_slice(data),
            Self::I32(data) => bytemuck::cast_slice(data),
            Self::I64(data) => bytemuck::cast_slice(data),
            Self::Kept(data) => return data.read(),
            Self::Absent => &[],
        }))
    }

    /// The elements as `T`, borrowed if they are aligned. Bytes after the last whole element are ignored.
    ///
    /// # Errors
    /// If a backend cannot copy them to the host.
    pub fn elements<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
    ) -> Result<Cow<'_, [T]>, String> {
        let whole = |bytes: &[u8]| bytes.len() - bytes.len() % size_of::<T>().max(1);
        Ok(match self.read()? {
            Cow::Borrowed(bytes) => {
                let bytes = &bytes[..whole(bytes)];
                match bytemuck::try_cast_slice(bytes) {
                    Ok(elements) => Cow::Borrowed(elements),
                    Err(_) => Cow::Owned(bytemuck::pod_collect_to_vec(bytes)),
                }
            }
            Cow::Owned(bytes) => Cow::Owned(bytemuck::pod_collect_to_vec(&bytes[..whole(&bytes)])),
        })
    }
}

/// A tensor.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Element type.
    pub ty: ElementType,
    /// Dimensions, outermost first.
    pub dims: Vec<u32>,
    /// The elements, in row-major order.
    pub data: Data,
}

impl Tensor {
    /// Represents an omitted optional input.
    pub fn absent(ty: ElementType) -> Self {
        Self {
            ty,
            dims: Vec::new(),
            data: Data::Absent,
        }
    }

    /// Whether it represents an omitted optional input.
    pub fn is_absent(&self) -> bool {
        matches!(self.data, Data::Absent)
    }

    /// Number of bytes for the type and the dimensions; `None` if it overflows.
    ///
    /// A dimension of zero does not hide an overflow of the others, because a backend would multiply them anyway.
    pub fn wanted_bytes(&self) -> Option<usize> {
        let without_zeros = self.dims.iter().filter(|dim| **dim != 0);
        let product = without_zeros
            .into_iter()
            .try_fold(self.ty.size(), |product, dim| {
                product.checked_mul(*dim as usize)
            })?;
        if product > isize::MAX as usize {
            return None;
        }
        Some(if self.dims.contains(&0) { 0 } else { product })
    }

    /// The dimensions in the type that backends use.
    pub fn shape(&self) -> Vec<usize> {
        self.dims.iter().map(|dim| *dim as usize).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dimensions_that_overflow_want_no_number_of_bytes() {
        let tensor = Tensor {
            ty: ElementType::Fp64,
            dims: vec![u32::MAX; 3],
            data: Data::Bytes(Vec::new()),
        };
        assert_eq!(tensor.wanted_bytes(), None);
        let hidden = Tensor {
            dims: vec![0, u32::MAX, u32::MAX, u32::MAX],
            ..tensor
        };
        assert_eq!(hidden.wanted_bytes(), None);
    }

    proptest! {
        #[test]
        fn elements_survive_the_way_through_bytes(values: Vec<i64>, rest in 0usize..8) {
            let mut bytes: Vec<u8> = bytemuck::cast_slice(&values).to_vec();
            bytes.extend(std::iter::repeat_n(0, rest));
            let data = Data::Bytes(bytes);
            prop_assert_eq!(data.elements::<i64>().unwrap().into_owned(), values);
        }
    }
}
