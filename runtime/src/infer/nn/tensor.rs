//! Tensors of guests.
//!
//! The standard's constructor cannot fail, so data that does not fit its dimensions is kept as it came and refused
//! when it is computed with.

use wasmtime::component::Resource;

use super::NnView;
use super::bindings::tensor::{Host, HostTensor, TensorType};
use crate::infer::backend::tensor::{Data, ElementType, Tensor};

impl From<TensorType> for ElementType {
    fn from(ty: TensorType) -> Self {
        match ty {
            TensorType::Fp16 => Self::Fp16,
            TensorType::Fp32 => Self::Fp32,
            TensorType::Fp64 => Self::Fp64,
            TensorType::Bf16 => Self::Bf16,
            TensorType::U8 => Self::U8,
            TensorType::I32 => Self::I32,
            TensorType::I64 => Self::I64,
        }
    }
}

impl From<ElementType> for TensorType {
    fn from(ty: ElementType) -> Self {
        match ty {
            ElementType::Fp16 => Self::Fp16,
            ElementType::Fp32 => Self::Fp32,
            ElementType::Fp64 => Self::Fp64,
            ElementType::Bf16 => Self::Bf16,
            ElementType::U8 => Self::U8,
            ElementType::I32 => Self::I32,
            ElementType::I64 => Self::I64,
        }
    }
}

/// What a tensor counts for in its replica's limit: its data and its dimensions.
pub(super) fn weight(tensor: &Tensor) -> u64 {
    (tensor.data.as_bytes().len() + 4 * tensor.dims.len()) as u64
}

impl Host for NnView<'_> {}

impl HostTensor for NnView<'_> {
    fn new(
        &mut self,
        dims: Vec<u32>,
        ty: TensorType,
        data: Vec<u8>,
    ) -> wasmtime::Result<Resource<Tensor>> {
        let tensor = Tensor {
            ty: ty.into(),
            dims,
            data: Data::Bytes(data),
        };
        self.ctx.hold(weight(&tensor))?;
        Ok(self.table.push(tensor)?)
    }

    fn dimensions(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u32>> {
        Ok(self.table.get(&tensor)?.dims.clone())
    }

    fn ty(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<TensorType> {
        Ok(self.table.get(&tensor)?.ty.into())
    }

    fn data(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u8>> {
        Ok(self.table.get(&tensor)?.data.as_bytes().to_vec())
    }

    fn drop(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<()> {
        let tensor = self.table.delete(tensor)?;
        self.ctx.release(weight(&tensor));
        Ok(())
    }
}
