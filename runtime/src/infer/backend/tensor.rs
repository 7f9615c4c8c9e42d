//! Tensors as the host holds them: typed or raw bytes, with their dimensions.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Types of elements that travel through wasi-nn.
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
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Fp16 | Self::Bf16 => 2,
            Self::Fp32 | Self::I32 => 4,
            Self::Fp64 | Self::I64 => 8,
        }
    }

    /// The name in errors and answers, as `f32`.
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

/// The memory that a tensor lies in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Place {
    /// The machine's own.
    #[default]
    Host,
    /// That of a CUDA card, by its number.
    Cuda(i32),
}

/// Elements that stay where a backend made them, in the backend's own form, until somebody reads them.
pub trait Kept: Any + fmt::Debug + Send + Sync {
    /// Bytes that they take.
    fn bytes(&self) -> usize;

    /// Where they lie.
    fn place(&self) -> Place;

    /// The elements as little-endian bytes: borrowed on the host, copied from anywhere else.
    ///
    /// # Errors
    /// In the backend's words, when they cannot be brought to the host.
    fn read(&self) -> Result<Cow<'_, [u8]>, String>;

    /// The same for those who may not wait on their thread: nothing when `read` does not wait.
    fn fetched(&self) -> Option<BoxFuture<'static, Result<Vec<u8>, String>>> {
        None
    }
}

/// Elements, in whatever form they came: a guest's bytes, or a backend's output taken over as it is.
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
    /// None: an optional input that a run leaves to the graph's default.
    Absent,
}

impl Data {
    /// How many bytes the elements take.
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

    /// Where the elements lie.
    pub fn place(&self) -> Place {
        match self {
            Self::Kept(data) => data.place(),
            _ => Place::Host,
        }
    }

    /// The elements as little-endian bytes, borrowed when they lie on the host.
    ///
    /// # Errors
    /// When a backend cannot bring them there.
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

    /// The elements as `T`, borrowed where alignment allows. Bytes beyond the last whole element are left out.
    ///
    /// # Errors
    /// When a backend cannot bring them to the host.
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

/// An array of elements.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Type of the elements.
    pub ty: ElementType,
    /// Sizes, outermost first.
    pub dims: Vec<u32>,
    /// The elements, in row-major order.
    pub data: Data,
}

impl Tensor {
    /// Stands for an optional input that is left out.
    pub fn absent(ty: ElementType) -> Self {
        Self {
            ty,
            dims: Vec::new(),
            data: Data::Absent,
        }
    }

    /// Whether it stands for an optional input that is left out.
    pub fn is_absent(&self) -> bool {
        matches!(self.data, Data::Absent)
    }

    /// Bytes that the type and the dimensions ask for; `None` when no memory could hold them.
    ///
    /// A dimension of zero does not hide an overflow of the others, which a backend would multiply all the same.
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

    /// The dimensions as backends take them.
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
