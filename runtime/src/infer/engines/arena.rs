//! Memory that a node shares with an engine, for the elements of large tensors.
//!
//! The node says which part belongs to which run. What is in it an engine may change at any time, so the node only ever
//! copies bytes out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offset_allocator::{Allocation, Allocator};

use super::shared::Shared;
use super::wire::Span;

/// Addresses that an arena takes; memory only as it is written to. The next smaller is taken where there are too few.
const SIZES: [u64; 4] = [64 << 30, 16 << 30, 4 << 30, 1 << 30];
/// Parts begin at multiples of this, so that elements of any type can be used where they are.
const UNIT: u64 = 4096;
/// Parts at once.
const MAX_PARTS: u32 = 16 << 10;
/// Memory that stays with an arena of which nothing is in use.
const KEPT_BYTES: u64 = 32 << 20;
/// A part of this size is given back to the system as soon as it is free.
const LARGE_BYTES: u64 = 64 << 20;

/// The memory, as the node hands it out.
#[derive(Debug)]
pub(super) struct Arena {
    shared: Shared,
    fd: OwnedFd,
    parts: Mutex<Parts>,
}

struct Parts {
    allocator: Allocator<u32>,
    in_use: usize,
    /// Everything beyond was never written to, or is given back.
    touched: u64,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} parts, {} bytes touched", self.in_use, self.touched)
    }
}

impl Arena {
    /// Makes one, of which nothing is in use.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn create() -> io::Result<Arc<Self>> {
        let mut last = io::Error::other("there is no size");
        for bytes in SIZES {
            match Self::of(bytes) {
                Ok(arena) => return Ok(Arc::new(arena)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn of(bytes: u64) -> io::Result<Self> {
        let (fd, shared) = Shared::create("samovar-tensors", bytes)?;
        let units = u32::try_from(bytes / UNIT).map_err(io::Error::other)?;
        Ok(Self {
            shared,
            fd,
            parts: Mutex::new(Parts {
                allocator: Allocator::with_max_allocs(units, MAX_PARTS),
                in_use: 0,
                touched: 0,
            }),
        })
    }

    /// The file behind it, for the engine.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A part of so many bytes, until it is dropped.
    ///
    /// # Errors
    /// When no part of the arena is so large, or everything is in use.
    pub fn part(self: &Arc<Self>, bytes: usize) -> Result<Part, String> {
        let units = (bytes as u64).div_ceil(UNIT).max(1);
        let mut parts = self.lock();
        let allocation = u32::try_from(units)
            .ok()
            .and_then(|units| parts.allocator.allocate(units));
        let Some(allocation) = allocation else {
            return Err(format!(
                "{bytes} bytes do not fit the memory for tensors on their way, of which {} parts are in use",
                parts.in_use
            ));
        };
        let span = Span {
            at: u64::from(allocation.offset) * UNIT,
            bytes: bytes as u64,
        };
        parts.in_use += 1;
        parts.touched = parts.touched.max(span.at + units * UNIT);
        Ok(Part {
            arena: self.clone(),
            allocation,
            span,
        })
    }

    /// A part with a copy of these bytes.
    ///
    /// # Errors
    /// When there is no room.
    pub fn part_of(self: &Arc<Self>, bytes: &[u8]) -> Result<Part, String> {
        let part = self.part(bytes.len())?;
        self.shared.write(part.span, bytes)?;
        Ok(part)
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        // Whole at every instant: nothing under the lock can panic but the allocator itself.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, at: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        // SAFETY: nobody uses the part, neither here nor, as its run has ended, in the engine; one that writes there all the
        // same harms its own tensors.
        let given = unsafe { self.shared.give_back(Span { at, bytes }) };
        if let Err(error) = given {
            tracing::debug!(%error, "memory of tensors stays with the node");
        }
    }
}

/// A part of an arena that belongs to somebody.
pub(super) struct Part {
    arena: Arc<Arena>,
    allocation: Allocation<u32>,
    span: Span,
}

impl Part {
    /// Where it is.
    pub fn span(&self) -> Span {
        self.span
    }

    /// A copy of what is in it.
    ///
    /// # Errors
    /// Never, as the part is one of this arena.
    pub fn copy(&self) -> Result<Vec<u8>, String> {
        self.arena.shared.copy(self.span)
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.span)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.span.bytes >= LARGE_BYTES {
            self.arena.give_back(self.span.at, self.span.bytes);
        }
        let mut parts = self.arena.lock();
        parts.allocator.free(self.allocation);
        parts.in_use -= 1;
        if parts.in_use == 0 && parts.touched > KEPT_BYTES {
            let touched = std::mem::take(&mut parts.touched);
            // Under the lock, so that nobody gets a part of it meanwhile.
            self.arena.give_back(0, touched);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};

    use super::*;

    #[test]
    fn both_sides_see_the_same_and_nobody_beyond() {
        let arena = Arena::create().unwrap();
        let engine = Shared::open(&arena.fd().try_clone_to_owned().unwrap()).unwrap();
        let part = arena.part_of(b"hello").unwrap();
        assert_eq!(engine.copy(part.span()).unwrap(), b"hello");
        engine.write(part.span(), b"HE").unwrap();
        assert_eq!(part.copy().unwrap(), b"HEllo");
        assert!(engine.write(part.span(), b"longer").is_err());
        for (at, bytes) in [(u64::MAX, 2), (0, u64::MAX), (64 << 30, 1)] {
            assert!(engine.copy(Span { at, bytes }).is_err());
        }
    }

    #[test]
    fn an_engine_cannot_cut_it_off() {
        let arena = Arena::create().unwrap();
        let fd = arena.fd().try_clone_to_owned().unwrap();
        assert!(ftruncate(&fd, 0).is_err());
        assert!(fcntl_add_seals(&fd, SealFlags::empty()).is_err());
    }

    #[test]
    fn what_is_free_is_used_again_and_large_parts_go_back() {
        let arena = Arena::create().unwrap();
        let first = arena.part(100).unwrap().span();
        assert_eq!(arena.part(100).unwrap().span().at, first.at);
        let large = vec![1; LARGE_BYTES as usize];
        drop(arena.part_of(&large).unwrap());
        let blocks = rustix::fs::fstat(arena.fd()).unwrap().st_blocks * 512;
        assert!(blocks < 1 << 20, "{blocks}");
        assert!(arena.part(usize::MAX / 2).is_err());
    }
}
