//! Tensors on their way to an engine and back, as the node packs them and checks what comes.

use std::fmt;
use std::sync::Arc;

use super::Running;
use crate::infer::backend::tensor::{Data, Tensor};
use crate::infer::engines::arena::Part;
use crate::infer::engines::kept::KeptAway;
use crate::infer::engines::wire::{
    self, Elements, Head, MAX_INLINE_BYTES, MAX_INLINE_TOTAL_BYTES, MAX_MESSAGE_BYTES, Request,
};

#[derive(Default)]
pub(super) struct Packed {
    pub heads: Vec<Head>,
    /// Elements of small inputs, which go behind the message.
    pub behind: Vec<u8>,
    pub parts: Vec<Part>,
}

impl Running {
    pub(super) fn pack(self: &Arc<Self>, inputs: &[Tensor]) -> Result<Packed, String> {
        let mut room = MAX_INLINE_TOTAL_BYTES;
        let mut packed = Packed::default();
        for tensor in inputs {
            let elements = match KeptAway::of(&tensor.data) {
                Some(kept) if kept.is_in(self) => Elements::Held {
                    tensor: kept.number(),
                    then: kept.then(&tensor.data),
                },
                _ if tensor.is_absent() => Elements::Absent,
                _ => {
                    let bytes = tensor.data.read()?;
                    if bytes.len() <= MAX_INLINE_BYTES.min(room) {
                        room -= bytes.len();
                        packed.behind.extend_from_slice(&bytes);
                        Elements::Inline(bytes.len() as u32)
                    } else {
                        let part = self.arena.part_of(&bytes)?;
                        let span = part.span();
                        packed.parts.push(part);
                        Elements::Arena(span)
                    }
                }
            };
            packed.heads.push(Head {
                ty: tensor.ty,
                dims: tensor.dims.clone(),
                elements,
            });
        }
        Ok(packed)
    }

    /// The message, or, when it is too long for the socket, one that says where in the arena it is.
    pub(super) fn shortened(
        &self,
        message: Vec<u8>,
        parts: &mut Vec<Part>,
    ) -> Result<Vec<u8>, String> {
        if message.len() <= MAX_MESSAGE_BYTES {
            return Ok(message);
        }
        let part = self.arena.part_of(&message)?;
        let short = wire::encode(&Request::Long(part.span()));
        parts.push(part);
        short
    }

    /// Outputs as the node has them, checked: an engine may say anything.
    pub(super) fn unpack(
        self: &Arc<Self>,
        heads: Vec<Head>,
        mut behind: &[u8],
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
                Elements::Stays { bytes, .. } => usize::try_from(*bytes).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            if found != wanted {
                return Err(wrong(&format_args!(
                    "found {found} bytes, its shape wants {wanted}"
                )));
            }
            tensor.data = match head.elements {
                Elements::Stays {
                    tensor,
                    bytes,
                    place,
                } => Data::Kept(Arc::new(KeptAway::new(
                    self.clone(),
                    tensor,
                    usize::try_from(bytes).unwrap_or(usize::MAX),
                    place,
                ))),
                _ => {
                    let (own, rest) = behind
                        .split_at_checked(wanted)
                        .ok_or_else(|| wrong(&"its elements are missing"))?;
                    behind = rest;
                    Data::Bytes(own.to_vec())
                }
            };
            outputs.push(tensor);
        }
        Ok(outputs)
    }
}
