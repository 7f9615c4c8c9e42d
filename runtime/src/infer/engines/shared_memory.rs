//! Memory that two processes share. Its file is sealed, so that neither process can truncate it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};

use super::wire::Span;

/// The mapping of one process.
#[derive(Clone, Debug)]
pub(super) struct SharedMemory {
    map: Arc<MmapRaw>,
}

impl SharedMemory {
    /// Creates shared memory of this size. Returns the file for the other process.
    ///
    /// # Errors
    /// The error of the system.
    pub fn create(name: &str, bytes: u64) -> io::Result<(OwnedFd, Self)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, bytes)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let shared = Self::map(fd.as_fd(), bytes)?;
        Ok((fd, shared))
    }

    /// Maps the file of the other process.
    ///
    /// # Errors
    /// If it is not sealed or cannot be mapped.
    pub fn open(fd: &OwnedFd) -> io::Result<Self> {
        let seals = fcntl_get_seals(fd)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(io::Error::other("the shared memory is not sealed"));
        }
        let bytes = rustix::fs::fstat(fd)?.st_size;
        Self::map(fd.as_fd(), u64::try_from(bytes).unwrap_or(0))
    }

    fn map(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let file = File::from(fd.try_clone_to_owned()?);
        let map = MmapOptions::new()
            .len(bytes)
            .no_reserve_swap()
            .map_raw(&file)?;
        Ok(Self { map: Arc::new(map) })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The address of a span, which is valid as long as `self`.
    ///
    /// # Errors
    /// If the span is out of bounds.
    pub fn address(&self, span: Span) -> Result<*mut u8, String> {
        let end = span.at.checked_add(span.bytes);
        if end.is_none_or(|end| end > self.bytes()) {
            return Err(format!("{span:?} is out of bounds of the shared memory"));
        }
        // SAFETY: the span is within the map, as just checked.
        Ok(unsafe { self.map.as_mut_ptr().add(span.at as usize) })
    }

    /// Writes bytes to the start of a span.
    ///
    /// # Errors
    /// If they do not fit, or the span is out of bounds.
    pub fn write(&self, span: Span, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() as u64 > span.bytes {
            return Err(format!("{} bytes do not fit {span:?}", bytes.len()));
        }
        let to = self.address(span)?;
        // SAFETY: the span is within the map and at least as long as the bytes, which are not part of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Appends a copy of a span to `copy`.
    ///
    /// # Errors
    /// If the span is out of bounds.
    pub fn append_to(&self, span: Span, copy: &mut Vec<u8>) -> Result<(), String> {
        let from = self.address(span)?;
        let bytes = span.bytes as usize;
        copy.reserve(bytes);
        // SAFETY: the span is within the map, the vector has capacity for it, and all of it is initialized. A concurrent write of the
        // other process can only make the copy inconsistent.
        unsafe {
            let end = copy.as_mut_ptr().add(copy.len());
            std::ptr::copy_nonoverlapping(from.cast_const(), end, bytes);
            copy.set_len(copy.len() + bytes);
        }
        Ok(())
    }

    /// A copy of a span.
    ///
    /// # Errors
    /// If the span is out of bounds.
    pub fn copy(&self, span: Span) -> Result<Vec<u8>, String> {
        let mut copy = Vec::new();
        self.append_to(span, &mut copy)?;
        Ok(copy)
    }

    /// A span without a copy.
    ///
    /// # Errors
    /// If the span is out of bounds.
    ///
    /// # Safety
    /// The other process must not write to the span during the lifetime of the slice.
    pub unsafe fn slice(&self, span: Span) -> Result<&[u8], String> {
        let from = self.address(span)?;
        // SAFETY: within the map; the caller guarantees that no process writes.
        Ok(unsafe { std::slice::from_raw_parts(from.cast_const(), span.bytes as usize) })
    }

    /// Returns the memory of a span to the system. It then reads as zeros.
    ///
    /// # Errors
    /// The error of the system.
    ///
    /// # Safety
    /// No slice of the span may exist in this process.
    pub unsafe fn discard(&self, span: Span) -> io::Result<()> {
        self.address(span).map_err(io::Error::other)?;
        let (at, bytes) = (span.at as usize, span.bytes as usize);
        // SAFETY: within the map; the caller guarantees that no slice exists.
        unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::Remove, at, bytes)
        }
    }
}
