//! Tensors on the engine's side: unpacks inputs, packs outputs, and stores outputs that stay in the engine.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::shared_memory::SharedMemory;
use super::wire::{
    AfterRun, Elements, Failure, MAX_INLINE_BYTES, MAX_INLINE_TOTAL_BYTES, Span, TensorHead,
};
use crate::infer::backend::tensor::{Data, Kept, Place, Tensor};

/// Outputs that stay in the engine until the node drops them, by number.
#[derive(Default)]
pub(super) struct TensorStore {
    next_number: AtomicU64,
    stored: Mutex<HashMap<u64, Tensor>>,
}

/// An output on its way to the node.
pub(super) struct Outgoing {
    pub head: TensorHead,
    /// Its elements, if they follow the reply.
    pub inline: Vec<u8>,
}

/// An input whose elements are in the arena.
struct ArenaData {
    arena: SharedMemory,
    span: Span,
}

impl std::fmt::Debug for ArenaData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.span)
    }
}

impl Kept for ArenaData {
    fn bytes(&self) -> usize {
        self.span.bytes as usize
    }

    fn place(&self) -> Place {
        Place::Host
    }

    fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        // SAFETY: the node does not write there before the run has ended, and inputs are dropped with their run.
        let bytes = unsafe { self.arena.slice(self.span) };
        bytes.map(Cow::Borrowed)
    }
}

impl TensorStore {
    /// Unpacks the inputs of a run.
    pub fn unpack(
        &self,
        heads: Vec<TensorHead>,
        mut inline: &[u8],
        arena: &SharedMemory,
    ) -> Result<Vec<Tensor>, Failure> {
        let wrong = |what: String| Failure::Backend(format!("invalid message of the node: {what}"));
        let mut tensors = Vec::with_capacity(heads.len());
        for head in heads {
            let data = match head.elements {
                Elements::Inline(bytes) => {
                    let Some((own, rest)) = inline.split_at_checked(bytes as usize) else {
                        return Err(wrong(format!("{bytes} bytes of elements are missing")));
                    };
                    inline = rest;
                    Data::Bytes(own.to_vec())
                }
                Elements::Arena(span) => Data::Kept(Arc::new(ArenaData {
                    arena: arena.clone(),
                    span,
                })),
                Elements::Stored { tensor, after_run } => {
                    let mut stored = self.lock();
                    let found = match after_run {
                        AfterRun::Keep => stored.get(&tensor).cloned(),
                        AfterRun::Drop => stored.remove(&tensor),
                    };
                    found
                        .ok_or_else(|| wrong(format!("there is no tensor {tensor}")))?
                        .data
                }
                Elements::StoredOutput { .. } => return Err(wrong("an output as an input".into())),
                Elements::Absent => Data::Absent,
            };
            tensors.push(Tensor {
                ty: head.ty,
                dims: head.dims,
                data,
            });
        }
        Ok(tensors)
    }

    /// A stored tensor.
    pub fn get(&self, number: u64) -> Option<Tensor> {
        self.lock().get(&number).cloned()
    }

    /// Drops stored tensors.
    pub fn remove(&self, numbers: &[u64]) {
        let mut stored = self.lock();
        let removed: Vec<_> = numbers
            .iter()
            .filter_map(|number| stored.remove(number))
            .collect();
        drop(stored);
        // Without the lock, because dropping a large tensor takes time.
        drop(removed);
    }

    /// Drops outputs that are not sent to the node.
    pub fn remove_outputs(&self, heads: &[TensorHead]) {
        let stored = heads.iter().filter_map(|head| match head.elements {
            Elements::StoredOutput { tensor, .. } => Some(tensor),
            _ => None,
        });
        self.remove(&stored.collect::<Vec<_>>());
    }

    fn insert(&self, tensor: Tensor) -> u64 {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, tensor);
        number
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Tensor>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Packs the outputs of a run: small ones on the host follow the reply, and others are stored.
///
/// # Errors
/// If the elements of a small output cannot be read.
pub(super) fn pack(outputs: Vec<Tensor>, tensors: &TensorStore) -> Result<Vec<Outgoing>, String> {
    let mut room = MAX_INLINE_TOTAL_BYTES;
    let mut packed = Vec::with_capacity(outputs.len());
    for tensor in outputs {
        let (bytes, place) = (tensor.data.bytes(), tensor.data.place());
        let (ty, dims) = (tensor.ty, tensor.dims.clone());
        let is_inline = place == Place::Host && bytes <= MAX_INLINE_BYTES.min(room);
        let (elements, inline) = match is_inline {
            true => {
                room -= bytes;
                let inline = tensor.data.read()?.into_owned();
                (Elements::Inline(inline.len() as u32), inline)
            }
            false => {
                let tensor = tensors.insert(tensor);
                let stored = Elements::StoredOutput {
                    tensor,
                    bytes: bytes as u64,
                    place,
                };
                (stored, Vec::new())
            }
        };
        packed.push(Outgoing {
            head: TensorHead { ty, dims, elements },
            inline,
        });
    }
    Ok(packed)
}
