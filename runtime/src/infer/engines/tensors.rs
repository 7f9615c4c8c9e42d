//! Tensors on the engine's side: those that arrive with a run, those that depart with its end, and those that stay.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::shared::Shared;
use super::wire::{Elements, Failure, Head, MAX_INLINE_BYTES, MAX_INLINE_TOTAL_BYTES, Span, Then};
use crate::infer::backend::tensor::{Data, Kept, Place, Tensor};

/// Outputs that stay in the engine until the node drops them, by their numbers.
#[derive(Default)]
pub(super) struct Tensors {
    next: AtomicU64,
    kept: Mutex<HashMap<u64, Tensor>>,
}

/// An output as it goes to the node.
pub(super) struct Outgoing {
    pub head: Head,
    /// Its elements, if they go with the reply.
    pub inline: Vec<u8>,
}

/// An input whose elements lie in the arena.
struct InArena {
    arena: Shared,
    span: Span,
}

impl std::fmt::Debug for InArena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.span)
    }
}

impl Kept for InArena {
    fn bytes(&self) -> usize {
        self.span.bytes as usize
    }

    fn place(&self) -> Place {
        Place::Host
    }

    fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        // SAFETY: the node writes nothing there until the run has ended, and inputs go with their run.
        let bytes = unsafe { self.arena.slice(self.span) };
        bytes.map(Cow::Borrowed)
    }
}

impl Tensors {
    /// A run's inputs.
    pub fn arrived(
        &self,
        heads: Vec<Head>,
        mut behind: &[u8],
        arena: &Shared,
    ) -> Result<Vec<Tensor>, Failure> {
        let wrong = |what: String| Failure::Backend(format!("the node's message is wrong: {what}"));
        let mut tensors = Vec::with_capacity(heads.len());
        for head in heads {
            let data = match head.elements {
                Elements::Inline(bytes) => {
                    let Some((own, rest)) = behind.split_at_checked(bytes as usize) else {
                        return Err(wrong(format!("{bytes} bytes of elements are missing")));
                    };
                    behind = rest;
                    Data::Bytes(own.to_vec())
                }
                Elements::Arena(span) => Data::Kept(Arc::new(InArena {
                    arena: arena.clone(),
                    span,
                })),
                Elements::Held { tensor, then } => {
                    let mut kept = self.lock();
                    let found = match then {
                        Then::Keep => kept.get(&tensor).cloned(),
                        Then::Drop => kept.remove(&tensor),
                    };
                    found
                        .ok_or_else(|| wrong(format!("there is no tensor {tensor}")))?
                        .data
                }
                Elements::Stays { .. } => return Err(wrong("an input that stays".into())),
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

    /// A tensor that stays.
    pub fn get(&self, number: u64) -> Option<Tensor> {
        self.lock().get(&number).cloned()
    }

    /// Drops tensors.
    pub fn forget(&self, numbers: &[u64]) {
        let mut kept = self.lock();
        let gone: Vec<_> = numbers
            .iter()
            .filter_map(|number| kept.remove(number))
            .collect();
        drop(kept);
        // Outside of the lock: a large one takes its time.
        drop(gone);
    }

    /// Drops outputs of which the node will not hear.
    pub fn forget_all(&self, heads: &[Head]) {
        let stays = heads.iter().filter_map(|head| match head.elements {
            Elements::Stays { tensor, .. } => Some(tensor),
            _ => None,
        });
        self.forget(&stays.collect::<Vec<_>>());
    }

    fn keep(&self, tensor: Tensor) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, tensor);
        number
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Tensor>> {
        // A map of tensors is whole at every instant.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run's outputs: small ones go with the reply, the others stay.
///
/// # Errors
/// When one cannot be brought to the host that should go.
pub(super) fn departing(outputs: Vec<Tensor>, tensors: &Tensors) -> Result<Vec<Outgoing>, String> {
    let mut room = MAX_INLINE_TOTAL_BYTES;
    let mut going = Vec::with_capacity(outputs.len());
    for tensor in outputs {
        let (bytes, place) = (tensor.data.bytes(), tensor.data.place());
        let (ty, dims) = (tensor.ty, tensor.dims.clone());
        let goes = place == Place::Host && bytes <= MAX_INLINE_BYTES.min(room);
        let (elements, inline) = match goes {
            true => {
                room -= bytes;
                let inline = tensor.data.read()?.into_owned();
                (Elements::Inline(inline.len() as u32), inline)
            }
            false => {
                let tensor = tensors.keep(tensor);
                let stays = Elements::Stays {
                    tensor,
                    bytes: bytes as u64,
                    place,
                };
                (stays, Vec::new())
            }
        };
        going.push(Outgoing {
            head: Head { ty, dims, elements },
            inline,
        });
    }
    Ok(going)
}
