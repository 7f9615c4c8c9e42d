//! Messages from one process to another in a ring in shared memory, without system calls while both are awake.
//!
//! Only the sender changes the write position and only the receiver the read position, and each keeps its own copy in private memory.
//! Values of the other process are validated before use, and messages are copied before they are decoded, so a malicious peer can only
//! get its own messages refused. In each process a mutex lets threads share an end.
//!
//! A receiver sets a flag before it sleeps. A sender that finds the flag set clears it and wakes the receiver. Likewise, a sender sets a
//! flag if the ring is full. Threads of an engine sleep on a counter of wakes (a futex), so that no wake is lost.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::shared_memory::SharedMemory;
use super::wire::{MAX_MESSAGE_BYTES, Span};

/// Bytes for messages: a few of the longest, or hundreds of typical ones.
const CAPACITY: u64 = 256 << 10;
/// Bytes of the header in front of them.
const HEAD_BYTES: u64 = 4096;
/// Bytes of one ring.
const RING_BYTES: u64 = HEAD_BYTES + CAPACITY;
/// Bytes of the length in front of each message, and the alignment of messages.
const LENGTH_BYTES: u64 = 8;

/// The header of a ring, each field in its own cache line.
#[repr(C)]
struct Header {
    written: Line<AtomicU64>,
    read: Line<AtomicU64>,
    sleeps: Line<AtomicU32>,
    wakes: Line<AtomicU32>,
    wants_room: Line<AtomicU32>,
}

#[repr(C, align(128))]
struct Line<T>(T);

const _: () = assert!(size_of::<Header>() as u64 <= HEAD_BYTES);
const _: () = assert!(CAPACITY >= 2 * (MAX_MESSAGE_BYTES as u64 + LENGTH_BYTES));

/// The result of sending a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Sent, and the receiver is awake.
    Awake,
    /// Sent, and the receiver sleeps: the caller must wake it.
    Asleep,
    /// Not sent, because the ring is full. The receiver will wake the sender when there is room.
    Full,
}

/// Creates both rings of an engine: for requests and for replies.
pub(super) fn create() -> io::Result<(std::os::fd::OwnedFd, SharedMemory)> {
    SharedMemory::create("samovar-messages", 2 * RING_BYTES)
}

/// The node's ends of both rings.
///
/// # Errors
/// If the memory is too small.
pub(super) fn node_ends(shared: &SharedMemory) -> io::Result<(Sender, Receiver)> {
    Ok((
        Sender::new(Ring::at(shared, 0)?),
        Receiver::new(Ring::at(shared, RING_BYTES)?),
    ))
}

/// The engine's ends of both rings.
///
/// # Errors
/// If the memory is too small.
pub(super) fn engine_ends(shared: &SharedMemory) -> io::Result<(Receiver, Sender)> {
    Ok((
        Receiver::new(Ring::at(shared, 0)?),
        Sender::new(Ring::at(shared, RING_BYTES)?),
    ))
}

/// One ring in the shared memory.
struct Ring {
    shared: SharedMemory,
    at: u64,
}

impl Ring {
    fn at(shared: &SharedMemory, at: u64) -> io::Result<Self> {
        let span = Span {
            at,
            bytes: RING_BYTES,
        };
        shared.address(span).map_err(io::Error::other)?;
        let shared = shared.clone();
        Ok(Self { shared, at })
    }

    fn head(&self) -> &Header {
        let span = Span {
            at: self.at,
            bytes: HEAD_BYTES,
        };
        let head = self.shared.address(span);
        // Checked when the ring was created.
        let head = head.unwrap_or_else(|error| unreachable!("{error}"));
        // SAFETY: within the map, which lives as long as `self` and is page-aligned; all fields are atomics, which may have any value
        // and may change at any time.
        unsafe { &*head.cast::<Header>() }
    }

    /// The one or two spans of memory for `bytes` from the position `from` on.
    fn spans(&self, from: u64, bytes: u64) -> [Span; 2] {
        let begin = from % CAPACITY;
        let first = bytes.min(CAPACITY - begin);
        let data = self.at + HEAD_BYTES;
        [
            Span {
                at: data + begin,
                bytes: first,
            },
            Span {
                at: data,
                bytes: bytes - first,
            },
        ]
    }

    /// Whether it has no messages, according to both processes.
    fn is_empty(&self) -> bool {
        let head = self.head();
        let read = head.read.0.load(Ordering::Relaxed);
        head.written.0.load(Ordering::Relaxed) == read
    }

    fn wake(&self, threads: i32) {
        let wakes = &self.head().wakes.0;
        wakes.fetch_add(1, Ordering::SeqCst);
        futex::wake(wakes, threads);
    }

    fn write(&self, from: u64, mut bytes: &[u8]) -> io::Result<()> {
        for span in self.spans(from, bytes.len() as u64) {
            let (now, rest) = bytes.split_at(span.bytes as usize);
            self.shared.write(span, now).map_err(io::Error::other)?;
            bytes = rest;
        }
        Ok(())
    }

    fn read(&self, from: u64, bytes: u64, into: &mut Vec<u8>) -> io::Result<()> {
        for span in self.spans(from, bytes) {
            let read = self.shared.append_to(span, into);
            read.map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// Copies the message between these positions to `message`, replacing its content. Returns the position of the next one; `None` if
    /// there is no message.
    ///
    /// # Errors
    /// If the positions or the length are invalid.
    fn message(&self, read: u64, written: u64, message: &mut Vec<u8>) -> io::Result<Option<u64>> {
        message.clear();
        let there = bytes_between(read, written)?;
        if there == 0 {
            return Ok(None);
        }
        self.read(read, LENGTH_BYTES, message)?;
        let length = message.as_slice().try_into().map(u64::from_le_bytes);
        let bytes = length.map_err(io::Error::other)?;
        if bytes > MAX_MESSAGE_BYTES as u64 || ring_bytes(bytes) > there {
            return Err(io::Error::other(format!(
                "message of {bytes} bytes in a ring with {there} bytes"
            )));
        }
        message.clear();
        self.read(read + LENGTH_BYTES, bytes, message)?;
        Ok(Some(read + ring_bytes(bytes)))
    }
}

/// Bytes between these positions, one of which is from the other process.
///
/// # Errors
/// If the positions are invalid.
fn bytes_between(read: u64, written: u64) -> io::Result<u64> {
    let bytes = written.checked_sub(read);
    bytes.filter(|bytes| *bytes <= CAPACITY).ok_or_else(|| {
        io::Error::other(format!(
            "invalid positions of a ring: {written} bytes written, {read} read"
        ))
    })
}

/// Bytes of a message in the ring.
fn ring_bytes(bytes: u64) -> u64 {
    LENGTH_BYTES + bytes.next_multiple_of(LENGTH_BYTES)
}

/// The sending end.
pub(super) struct Sender {
    ring: Ring,
    /// The write position.
    written: Mutex<u64>,
}

impl Sender {
    fn new(ring: Ring) -> Self {
        Self {
            ring,
            written: Mutex::new(0),
        }
    }

    /// Sends a message of these parts if there is room.
    ///
    /// # Errors
    /// If it is longer than [`MAX_MESSAGE_BYTES`], or the other process has written an invalid position.
    pub fn try_send(&self, parts: &[&[u8]]) -> io::Result<Sent> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > MAX_MESSAGE_BYTES {
            return Err(io::Error::other(format!(
                "message is {bytes} bytes; the limit is {MAX_MESSAGE_BYTES}"
            )));
        }
        let (head, bytes) = (self.ring.head(), bytes as u64);
        let mut written = lock(&self.written);
        if !self.has_room(*written, bytes)? {
            head.wants_room.0.store(1, Ordering::Relaxed);
            // The receiver checks the flag after it has made room, and this checks for room after it has set the flag: one of them sees
            // the other.
            fence(Ordering::SeqCst);
            if !self.has_room(*written, bytes)? {
                return Ok(Sent::Full);
            }
        }
        self.ring.write(*written, &bytes.to_le_bytes())?;
        let mut at = *written + LENGTH_BYTES;
        for part in parts {
            self.ring.write(at, part)?;
            at += part.len() as u64;
        }
        *written += ring_bytes(bytes);
        head.written.0.store(*written, Ordering::Release);
        drop(written);
        // The receiver checks for messages after it has set the flag.
        fence(Ordering::SeqCst);
        let sleeps = &head.sleeps.0;
        Ok(match sleeps.load(Ordering::Relaxed) {
            0 => Sent::Awake,
            _ if sleeps.swap(0, Ordering::Relaxed) == 0 => Sent::Awake,
            _ => Sent::Asleep,
        })
    }

    fn has_room(&self, written: u64, bytes: u64) -> io::Result<bool> {
        let read = self.ring.head().read.0.load(Ordering::Acquire);
        let used = bytes_between(read, written)?;
        Ok(ring_bytes(bytes) <= CAPACITY - used)
    }

    /// Whether there are messages that were not received yet, according to the other process.
    pub fn has_unreceived(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Messages that the other process has not received when it ended. It may have changed them.
    pub fn unreceived(&self) -> Vec<Vec<u8>> {
        let written = lock(&self.written);
        let mut read = self.ring.head().read.0.load(Ordering::Acquire);
        let (mut messages, mut message) = (Vec::new(), Vec::new());
        while let Ok(Some(next)) = self.ring.message(read, *written, &mut message) {
            messages.push(message.clone());
            read = next;
        }
        messages
    }

    /// Wakes one thread that sleeps in [`Receiver::sleep`].
    pub fn wake_one(&self) {
        self.ring.wake(1);
    }

    /// Waits for room for a short time.
    pub fn wait_for_room(&self) {
        futex::wait(
            &self.ring.head().wants_room.0,
            1,
            Some(futex::SHORT_TIMEOUT),
        );
    }
}

/// The receiving end.
pub(super) struct Receiver {
    ring: Ring,
    /// The read position.
    read: Mutex<u64>,
}

/// The state before a sleep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleep {
    wakes: u32,
}

/// The receiving end, locked for one thread.
pub(super) struct LockedReceiver<'a> {
    ring: &'a Ring,
    read: MutexGuard<'a, u64>,
}

impl Receiver {
    fn new(ring: Ring) -> Self {
        Self {
            ring,
            read: Mutex::new(0),
        }
    }

    /// Locks the end to receive messages.
    pub fn lock(&self) -> LockedReceiver<'_> {
        LockedReceiver {
            ring: &self.ring,
            read: lock(&self.read),
        }
    }

    /// Locks the end unless another thread has locked it.
    pub fn try_lock(&self) -> Option<LockedReceiver<'_>> {
        let read = match self.read.try_lock() {
            Ok(read) => read,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        let ring = &self.ring;
        Some(LockedReceiver { ring, read })
    }

    /// Whether there are no messages. May be outdated while another thread receives one.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Reverts [`Self::about_to_sleep`], because a thread polls for messages.
    pub fn stay_awake(&self) {
        self.ring.head().sleeps.0.store(0, Ordering::Relaxed);
    }

    /// Requests a wake with the next message. Returns `None` if there is a message already.
    pub fn about_to_sleep(&self) -> Option<Sleep> {
        let sleep = self.next_sleep();
        self.ring.head().sleeps.0.store(1, Ordering::Relaxed);
        // The sender checks the flag after it has written.
        fence(Ordering::SeqCst);
        self.is_empty().then_some(sleep)
    }

    /// A sleep that ends with the next wake, for a thread that another one will wake.
    pub fn next_sleep(&self) -> Sleep {
        let wakes = self.ring.head().wakes.0.load(Ordering::SeqCst);
        Sleep { wakes }
    }

    /// Sleeps until a wake after the [`Sleep`] was created. May wake spuriously.
    pub fn sleep(&self, sleep: Sleep) {
        futex::wait(&self.ring.head().wakes.0, sleep.wakes, None);
    }

    /// Wakes this number of sleeping threads.
    pub fn wake(&self, threads: i32) {
        self.ring.wake(threads);
    }

    /// Whether a sender waits for room and must be woken, now that there is some.
    pub fn must_wake_sender(&self) -> bool {
        fence(Ordering::SeqCst);
        let wants_room = &self.ring.head().wants_room.0;
        wants_room.load(Ordering::Relaxed) != 0 && wants_room.swap(0, Ordering::Relaxed) != 0
    }

    /// Wakes senders that wait for room.
    pub fn wake_senders(&self) {
        futex::wake(&self.ring.head().wants_room.0, i32::MAX);
    }
}

impl LockedReceiver<'_> {
    /// Copies the next message to `message`, replacing its content. Returns `false` if there is none.
    ///
    /// # Errors
    /// If the other process has written an invalid position or length.
    pub fn next(&mut self, message: &mut Vec<u8>) -> io::Result<bool> {
        let head = self.ring.head();
        let written = head.written.0.load(Ordering::Acquire);
        let Some(next) = self.ring.message(*self.read, written, message)? else {
            return Ok(false);
        };
        *self.read = next;
        head.read.0.store(next, Ordering::Release);
        Ok(true)
    }
}

fn lock(mutex: &Mutex<u64>) -> MutexGuard<'_, u64> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleep and wake between processes. rustix has a futex API only with another feature, which would recompile many crates.
mod futex {
    use std::ptr;
    use std::sync::atomic::AtomicU32;

    /// Limits the cost of a wrong value of the other process.
    pub const SHORT_TIMEOUT: libc::timespec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };

    /// Sleeps while the number is `expected`, until a wake or the timeout. May wake spuriously.
    pub fn wait(number: &AtomicU32, expected: u32, timeout: Option<libc::timespec>) {
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the number is valid during the call, and the timeout is valid or null.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                number.as_ptr(),
                libc::FUTEX_WAIT,
                expected,
                timeout,
            )
        };
    }

    /// Wakes this number of threads that sleep on the number.
    pub fn wake(number: &AtomicU32, threads: i32) {
        // SAFETY: the number is valid during the call.
        unsafe { libc::syscall(libc::SYS_futex, number.as_ptr(), libc::FUTEX_WAKE, threads) };
    }
}

#[cfg(test)]
mod tests;
