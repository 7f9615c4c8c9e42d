//! Memory that two processes share. The file behind it is sealed, so that neither can cut it off under the other.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};

use super::wire::Span;

/// The memory, as one side sees it.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    map: Arc<MmapRaw>,
}

impl Shared {
    /// Makes memory of so many bytes, and the file that the other side opens.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn create(name: &str, bytes: u64) -> io::Result<(OwnedFd, Self)> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, bytes)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let shared = Self::map(fd.as_fd(), bytes)?;
        Ok((fd, shared))
    }

    /// Maps what the other side made.
    ///
    /// # Errors
    /// When it is no sealed memory, or cannot be mapped.
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

    /// How many bytes there are.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Where a part begins. It is mapped as long as this is there.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn at(&self, span: Span) -> Result<*mut u8, String> {
        let end = span.at.checked_add(span.bytes);
        if end.is_none_or(|end| end > self.bytes()) {
            return Err(format!("{span:?} is no part of the shared memory"));
        }
        // SAFETY: the part begins within the map, as was just compared; the numbers are smaller than its length.
        Ok(unsafe { self.map.as_mut_ptr().add(span.at as usize) })
    }

    /// Writes bytes to the begin of a part.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn write(&self, span: Span, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() as u64 > span.bytes {
            return Err(format!("{} bytes do not fit {span:?}", bytes.len()));
        }
        let to = self.at(span)?;
        // SAFETY: the part is within the map and as long as the bytes, which are no part of it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Appends a copy of a part to `copy`.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn append_to(&self, span: Span, copy: &mut Vec<u8>) -> Result<(), String> {
        let from = self.at(span)?;
        let bytes = span.bytes as usize;
        copy.reserve(bytes);
        // SAFETY: the part is within the map, the vector has room for it behind its end, and all of it is written. What the
        // other side writes meanwhile makes the copy wrong, and nothing else.
        unsafe {
            let end = copy.as_mut_ptr().add(copy.len());
            std::ptr::copy_nonoverlapping(from.cast_const(), end, bytes);
            copy.set_len(copy.len() + bytes);
        }
        Ok(())
    }

    /// A copy of a part.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn copy(&self, span: Span) -> Result<Vec<u8>, String> {
        let mut copy = Vec::new();
        self.append_to(span, &mut copy)?;
        Ok(copy)
    }

    /// A part where it is.
    ///
    /// # Errors
    /// When there is no such part.
    ///
    /// # Safety
    /// The other side must not write to the part while the slice is there.
    pub unsafe fn slice(&self, span: Span) -> Result<&[u8], String> {
        let from = self.at(span)?;
        // SAFETY: within the map; the caller promises that nobody writes.
        Ok(unsafe { std::slice::from_raw_parts(from.cast_const(), span.bytes as usize) })
    }

    /// Gives the memory of a part back to the system. It reads as zeros from then on.
    ///
    /// # Errors
    /// When the system keeps it.
    ///
    /// # Safety
    /// Nobody on this side may have a slice of it.
    pub unsafe fn give_back(&self, span: Span) -> io::Result<()> {
        self.at(span).map_err(io::Error::other)?;
        let (at, bytes) = (span.at as usize, span.bytes as usize);
        // SAFETY: within the map; the caller promises that nobody has a slice of it.
        unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::Remove, at, bytes)
        }
    }
}
