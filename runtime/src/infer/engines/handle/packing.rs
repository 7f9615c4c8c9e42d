//! Packs tensors for an engine, and checks and unpacks those that it returns.

use std::fmt;
use std::sync::Arc;

use super::EngineHandle;
use crate::infer::backend::tensor::{Data, Tensor};
use crate::infer::engines::arena::Block;
use crate::infer::engines::remote_data::RemoteData;
use crate::infer::engines::wire::{
    self, Elements, MAX_INLINE_BYTES, MAX_INLINE_TOTAL_BYTES, MAX_MESSAGE_BYTES, Request,
    TensorHead,
};

#[derive(Default)]
pub(super) struct Packed {
    pub heads: Vec<TensorHead>,
    /// Elements of small inputs, which follow the message.
    pub inline: Vec<u8>,
    pub blocks: Vec<Block>,
}

impl EngineHandle {
    pub(super) fn pack(self: &Arc<Self>, inputs: &[Tensor]) -> Result<Packed, String> {
        let mut room = MAX_INLINE_TOTAL_BYTES;
        let mut packed = Packed::default();
        for tensor in inputs {
            let elements = match RemoteData::of(&tensor.data) {
                Some(kept) if kept.is_in(self) => Elements::Stored {
                    tensor: kept.number(),
                    after_run: kept.after_run(&tensor.data),
                },
                _ if tensor.is_absent() => Elements::Absent,
                _ => {
                    let bytes = tensor.data.read()?;
                    if bytes.len() <= MAX_INLINE_BYTES.min(room) {
                        room -= bytes.len();
                        packed.inline.extend_from_slice(&bytes);
                        Elements::Inline(bytes.len() as u32)
                    } else {
                        let block = self.arena.block_of(&bytes)?;
                        let span = block.span();
                        packed.blocks.push(block);
                        Elements::Arena(span)
                    }
                }
            };
            packed.heads.push(TensorHead {
                ty: tensor.ty,
                dims: tensor.dims.clone(),
                elements,
            });
        }
        Ok(packed)
    }

    /// Returns the message, or one that refers to its copy in the arena if it is too long for the ring.
    pub(super) fn move_long_message(
        &self,
        message: Vec<u8>,
        blocks: &mut Vec<Block>,
    ) -> Result<Vec<u8>, String> {
        if message.len() <= MAX_MESSAGE_BYTES {
            return Ok(message);
        }
        let block = self.arena.block_of(&message)?;
        let short = wire::encode(&Request::Long(block.span()));
        blocks.push(block);
        short
    }

    /// Checks and unpacks outputs. The engine is not trusted.
    pub(super) fn unpack(
        self: &Arc<Self>,
        heads: Vec<TensorHead>,
        mut inline: &[u8],
    ) -> Result<Vec<Tensor>, String> {
        let mut outputs = Vec::with_capacity(heads.len());
        for (at, head) in heads.into_iter().enumerate() {
            let wrong = |what: &dyn fmt::Display| format!("output {at} of an engine: {what}");
            let mut tensor = Tensor {
                ty: head.ty,
                dims: head.dims,
                data: Data::Absent,
            };
            let wanted = tensor
                .wanted_bytes()
                .ok_or_else(|| wrong(&"larger than memory"))?;
            let found = match &head.elements {
                Elements::Inline(bytes) => *bytes as usize,
                Elements::StoredOutput { bytes, .. } => {
                    usize::try_from(*bytes).unwrap_or(usize::MAX)
                }
                _ => usize::MAX,
            };
            if found != wanted {
                return Err(wrong(&format_args!(
                    "found {found} bytes, expected {wanted} for its shape"
                )));
            }
            tensor.data = match head.elements {
                Elements::StoredOutput {
                    tensor,
                    bytes,
                    place,
                } => Data::Kept(Arc::new(RemoteData::new(
                    self.clone(),
                    tensor,
                    usize::try_from(bytes).unwrap_or(usize::MAX),
                    place,
                ))),
                _ => {
                    let (own, rest) = inline
                        .split_at_checked(wanted)
                        .ok_or_else(|| wrong(&"its elements are missing"))?;
                    inline = rest;
                    Data::Bytes(own.to_vec())
                }
            };
            outputs.push(tensor);
        }
        Ok(outputs)
    }
}
