//! Memory that a node shares with an engine, for the elements of large tensors.
//!
//! The node decides which block belongs to which run. An engine may change the content at any time, so the node only ever
//! copies bytes out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offset_allocator::{Allocation, Allocator};

use super::shared_memory::SharedMemory;
use super::wire::Span;

/// Sizes of address space to try, largest first. Memory is used only once it is written to.
const SIZES: [u64; 4] = [64 << 30, 16 << 30, 4 << 30, 1 << 30];
/// Alignment of blocks, so that elements of any type can be used in place.
const UNIT: u64 = 4096;
/// Most blocks in use.
const MAX_BLOCKS: u32 = 16 << 10;
/// Memory that an arena keeps when no block is in use.
const RETAINED_BYTES: u64 = 32 << 20;
/// From this size on, the memory of a block is returned to the system when the block is freed.
const LARGE_BYTES: u64 = 64 << 20;

/// The node's side of the arena, which allocates blocks.
#[derive(Debug)]
pub(super) struct Arena {
    shared: SharedMemory,
    fd: OwnedFd,
    blocks: Mutex<Blocks>,
}

struct Blocks {
    allocator: Allocator<u32>,
    in_use: usize,
    /// Memory beyond was never written to, or was returned to the system.
    touched: u64,
}

impl std::fmt::Debug for Blocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} blocks, {} bytes touched", self.in_use, self.touched)
    }
}

impl Arena {
    /// Creates an arena.
    ///
    /// # Errors
    /// The error of the system.
    pub fn create() -> io::Result<Arc<Self>> {
        let mut last = io::Error::other("no size to try");
        for bytes in SIZES {
            match Self::with_size(bytes) {
                Ok(arena) => return Ok(Arc::new(arena)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn with_size(bytes: u64) -> io::Result<Self> {
        let (fd, shared) = SharedMemory::create("samovar-tensors", bytes)?;
        let units = u32::try_from(bytes / UNIT).map_err(io::Error::other)?;
        Ok(Self {
            shared,
            fd,
            blocks: Mutex::new(Blocks {
                allocator: Allocator::with_max_allocs(units, MAX_BLOCKS),
                in_use: 0,
                touched: 0,
            }),
        })
    }

    /// The file of the memory, for the engine.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Allocates a block.
    ///
    /// # Errors
    /// If there is no free block of this size.
    pub fn block(self: &Arc<Self>, bytes: usize) -> Result<Block, String> {
        let units = (bytes as u64).div_ceil(UNIT).max(1);
        let mut blocks = self.lock();
        let allocation = u32::try_from(units)
            .ok()
            .and_then(|units| blocks.allocator.allocate(units));
        let Some(allocation) = allocation else {
            return Err(format!(
                "{bytes} bytes do not fit into the memory shared with the engine, in which {} blocks are in use",
                blocks.in_use
            ));
        };
        let span = Span {
            at: u64::from(allocation.offset) * UNIT,
            bytes: bytes as u64,
        };
        blocks.in_use += 1;
        blocks.touched = blocks.touched.max(span.at + units * UNIT);
        Ok(Block {
            arena: self.clone(),
            allocation,
            span,
        })
    }

    /// Allocates a block with a copy of these bytes.
    ///
    /// # Errors
    /// If there is no free block of this size.
    pub fn block_of(self: &Arc<Self>, bytes: &[u8]) -> Result<Block, String> {
        let block = self.block(bytes.len())?;
        self.shared.write(block.span, bytes)?;
        Ok(block)
    }

    fn lock(&self) -> MutexGuard<'_, Blocks> {
        // Only the allocator itself could panic under the lock.
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discard(&self, at: u64, bytes: u64) {
        if bytes == 0 {
            return;
        }
        // SAFETY: no slice of the block exists in this process. If the engine still writes there, it only corrupts its own tensors.
        let discarded = unsafe { self.shared.discard(Span { at, bytes }) };
        if let Err(error) = discarded {
            tracing::debug!(%error, "memory of tensors cannot be returned to the system");
        }
    }
}

/// An allocated block of an arena, which is freed on drop.
pub(super) struct Block {
    arena: Arc<Arena>,
    allocation: Allocation<u32>,
    span: Span,
}

impl Block {
    /// Its span in the shared memory.
    pub fn span(&self) -> Span {
        self.span
    }

    /// A copy of its bytes.
    ///
    /// # Errors
    /// Never, because the block is within the arena.
    pub fn copy(&self) -> Result<Vec<u8>, String> {
        self.arena.shared.copy(self.span)
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.span)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.span.bytes >= LARGE_BYTES {
            self.arena.discard(self.span.at, self.span.bytes);
        }
        let mut blocks = self.arena.lock();
        blocks.allocator.free(self.allocation);
        blocks.in_use -= 1;
        if blocks.in_use == 0 && blocks.touched > RETAINED_BYTES {
            let touched = std::mem::take(&mut blocks.touched);
            // Under the lock, so that no block is allocated meanwhile.
            self.arena.discard(0, touched);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};

    use super::*;

    #[test]
    fn both_processes_see_the_same_memory() {
        let arena = Arena::create().unwrap();
        let engine = SharedMemory::open(&arena.fd().try_clone_to_owned().unwrap()).unwrap();
        let block = arena.block_of(b"hello").unwrap();
        assert_eq!(engine.copy(block.span()).unwrap(), b"hello");
        engine.write(block.span(), b"HE").unwrap();
        assert_eq!(block.copy().unwrap(), b"HEllo");
        assert!(engine.write(block.span(), b"longer").is_err());
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
    fn free_blocks_are_reused_and_large_ones_discarded() {
        let arena = Arena::create().unwrap();
        let first = arena.block(100).unwrap().span();
        assert_eq!(arena.block(100).unwrap().span().at, first.at);
        let large = vec![1; LARGE_BYTES as usize];
        drop(arena.block_of(&large).unwrap());
        let blocks = rustix::fs::fstat(arena.fd()).unwrap().st_blocks * 512;
        assert!(blocks < 1 << 20, "{blocks}");
        assert!(arena.block(usize::MAX / 2).is_err());
    }
}
