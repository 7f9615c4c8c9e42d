//! Messages from one process to another through a ring in shared memory, without a system call while both are awake.
//!
//! The sender alone writes how far it has written, the receiver alone how far it has taken, and each side keeps its own count
//! where the other cannot change it. What the other side wrote is checked before it is used, and messages are copied out
//! before they are read: a peer that lies has its messages refused, and harms nobody else. Each process has a lock of its own
//! around its end, so that its threads may share it.
//!
//! A receiver that is about to sleep sets a flag. A sender that finds it set takes it back, and has to wake the receiver. In
//! the other direction a sender that finds no room sets a flag for the receiver. Threads of an engine sleep on a number that
//! grows with each wake, so that none goes to sleep on a wake that came just before.

use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::shared::Shared;
use super::wire::{MAX_MESSAGE_BYTES, Span};

/// Bytes of messages that are on their way: a few of the longest, or hundreds of the usual ones.
const CAPACITY: u64 = 256 << 10;
/// The numbers in front of them.
const HEAD_BYTES: u64 = 4096;
/// What one ring takes of the shared memory.
const RING_BYTES: u64 = HEAD_BYTES + CAPACITY;
/// The length in front of each message, and what messages begin at multiples of.
const LENGTH_BYTES: u64 = 8;

/// The numbers of a ring, each in a line of the cache of its own.
#[repr(C)]
struct Head {
    written: Line<AtomicU64>,
    taken: Line<AtomicU64>,
    sleeps: Line<AtomicU32>,
    wakes: Line<AtomicU32>,
    wants_room: Line<AtomicU32>,
}

#[repr(C, align(128))]
struct Line<T>(T);

const _: () = assert!(size_of::<Head>() as u64 <= HEAD_BYTES);
const _: () = assert!(CAPACITY >= 2 * (MAX_MESSAGE_BYTES as u64 + LENGTH_BYTES));

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is there, and the receiver is awake.
    Awake,
    /// It is there, and the receiver sleeps: the caller wakes it.
    Asleep,
    /// There is no room. The receiver will tell when there is.
    Full,
}

/// Both rings of an engine: requests go to it and replies come back.
pub(super) fn create() -> io::Result<(std::os::fd::OwnedFd, Shared)> {
    Shared::create("samovar-messages", 2 * RING_BYTES)
}

/// The node's ends.
///
/// # Errors
/// When the memory is too small.
pub(super) fn of_node(shared: &Shared) -> io::Result<(Sender, Receiver)> {
    Ok((
        Sender::new(Ring::at(shared, 0)?),
        Receiver::new(Ring::at(shared, RING_BYTES)?),
    ))
}

/// The engine's ends.
///
/// # Errors
/// When the memory is too small.
pub(super) fn of_engine(shared: &Shared) -> io::Result<(Receiver, Sender)> {
    Ok((
        Receiver::new(Ring::at(shared, 0)?),
        Sender::new(Ring::at(shared, RING_BYTES)?),
    ))
}

/// One ring in the memory.
struct Ring {
    shared: Shared,
    at: u64,
}

impl Ring {
    fn at(shared: &Shared, at: u64) -> io::Result<Self> {
        let span = Span {
            at,
            bytes: RING_BYTES,
        };
        shared.at(span).map_err(io::Error::other)?;
        let shared = shared.clone();
        Ok(Self { shared, at })
    }

    fn head(&self) -> &Head {
        let span = Span {
            at: self.at,
            bytes: HEAD_BYTES,
        };
        let head = self.shared.at(span);
        // It was compared when the ring was made.
        let head = head.unwrap_or_else(|error| unreachable!("{error}"));
        // SAFETY: within the map, which lives as long as `self` and begins at a page; all of it is atomics, for which any bytes
        // are right and which may change at any time.
        unsafe { &*head.cast::<Head>() }
    }

    /// The one or two parts of the memory that hold `bytes` from the position `from` on.
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

    /// Whether it holds no messages, by the word of both sides.
    fn is_empty(&self) -> bool {
        let head = self.head();
        let taken = head.taken.0.load(Ordering::Relaxed);
        head.written.0.load(Ordering::Relaxed) == taken
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

    /// Copies the message between these positions to `message`, in place of what is in it; where the next one begins, or nothing
    /// when there is none.
    ///
    /// # Errors
    /// When the numbers cannot be.
    fn message(&self, taken: u64, written: u64, message: &mut Vec<u8>) -> io::Result<Option<u64>> {
        message.clear();
        let there = bytes_between(taken, written)?;
        if there == 0 {
            return Ok(None);
        }
        self.read(taken, LENGTH_BYTES, message)?;
        let length = message.as_slice().try_into().map(u64::from_le_bytes);
        let bytes = length.map_err(io::Error::other)?;
        if bytes > MAX_MESSAGE_BYTES as u64 || taken_by(bytes) > there {
            return Err(io::Error::other(format!(
                "a message of {bytes} bytes in a ring with {there} bytes"
            )));
        }
        message.clear();
        self.read(taken + LENGTH_BYTES, bytes, message)?;
        Ok(Some(taken + taken_by(bytes)))
    }
}

/// What a ring holds between these positions, one of which the other side wrote.
///
/// # Errors
/// When the positions cannot be.
fn bytes_between(taken: u64, written: u64) -> io::Result<u64> {
    let bytes = written.checked_sub(taken);
    bytes.filter(|bytes| *bytes <= CAPACITY).ok_or_else(|| {
        io::Error::other(format!(
            "{written} bytes were written to a ring, of which {taken} were taken"
        ))
    })
}

/// What a message takes of a ring.
fn taken_by(bytes: u64) -> u64 {
    LENGTH_BYTES + bytes.next_multiple_of(LENGTH_BYTES)
}

/// The end that messages go into.
pub(super) struct Sender {
    ring: Ring,
    /// How far it has written.
    written: Mutex<u64>,
}

impl Sender {
    fn new(ring: Ring) -> Self {
        Self {
            ring,
            written: Mutex::new(0),
        }
    }

    /// Sends a message of these parts, if there is room.
    ///
    /// # Errors
    /// When it is longer than [`MAX_MESSAGE_BYTES`], or the other side has written numbers that cannot be.
    pub fn try_send(&self, parts: &[&[u8]]) -> io::Result<Sent> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if bytes > MAX_MESSAGE_BYTES {
            return Err(io::Error::other(format!(
                "a message of {bytes} bytes, at most {MAX_MESSAGE_BYTES} are sent"
            )));
        }
        let (head, bytes) = (self.ring.head(), bytes as u64);
        let mut written = lock(&self.written);
        if !self.has_room(*written, bytes)? {
            head.wants_room.0.store(1, Ordering::Relaxed);
            // The receiver looks at the flag after it has made room, and this looks for room after it has set the flag: one
            // of them sees the other.
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
        *written += taken_by(bytes);
        head.written.0.store(*written, Ordering::Release);
        drop(written);
        // The receiver looks for messages after it has set the flag.
        fence(Ordering::SeqCst);
        let sleeps = &head.sleeps.0;
        Ok(match sleeps.load(Ordering::Relaxed) {
            0 => Sent::Awake,
            _ if sleeps.swap(0, Ordering::Relaxed) == 0 => Sent::Awake,
            _ => Sent::Asleep,
        })
    }

    fn has_room(&self, written: u64, bytes: u64) -> io::Result<bool> {
        let taken = self.ring.head().taken.0.load(Ordering::Acquire);
        let used = bytes_between(taken, written)?;
        Ok(taken_by(bytes) <= CAPACITY - used)
    }

    /// Whether there are messages that were not taken yet, by the word of the other side.
    pub fn has_waiting(&self) -> bool {
        !self.ring.is_empty()
    }

    /// Messages that the other side has not taken, for when it is gone. They are as it left them.
    pub fn untaken(&self) -> Vec<Vec<u8>> {
        let written = lock(&self.written);
        let mut taken = self.ring.head().taken.0.load(Ordering::Acquire);
        let (mut messages, mut message) = (Vec::new(), Vec::new());
        while let Ok(Some(next)) = self.ring.message(taken, *written, &mut message) {
            messages.push(message.clone());
            taken = next;
        }
        messages
    }

    /// Wakes one thread of the receiver that sleeps with [`Receiver::sleep`].
    pub fn wake_one(&self) {
        self.ring.wake(1);
    }

    /// Waits for room, but not for long.
    pub fn wait_for_room(&self) {
        futex::wait(&self.ring.head().wants_room.0, 1, Some(futex::A_MOMENT));
    }
}

/// The end that messages come out of.
pub(super) struct Receiver {
    ring: Ring,
    /// How far it has taken.
    taken: Mutex<u64>,
}

/// A sleep that is about to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sleep {
    wakes: u32,
}

/// The receiving end, for a thread that takes messages.
pub(super) struct Taking<'a> {
    ring: &'a Ring,
    taken: MutexGuard<'a, u64>,
}

impl Receiver {
    fn new(ring: Ring) -> Self {
        Self {
            ring,
            taken: Mutex::new(0),
        }
    }

    /// Takes messages, when no other thread does.
    pub fn take(&self) -> Taking<'_> {
        Taking {
            ring: &self.ring,
            taken: lock(&self.taken),
        }
    }

    /// Takes messages, if no other thread does just now.
    pub fn try_take(&self) -> Option<Taking<'_>> {
        let taken = match self.taken.try_lock() {
            Ok(taken) => taken,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        let ring = &self.ring;
        Some(Taking { ring, taken })
    }

    /// Whether there are no messages. May be wrong for a moment while another thread takes one.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Takes back [`Self::about_to_sleep`]: somebody looks for messages.
    pub fn stay_awake(&self) {
        self.ring.head().sleeps.0.store(0, Ordering::Relaxed);
    }

    /// Says that the next message has to wake somebody. Nothing when there is a message already.
    pub fn about_to_sleep(&self) -> Option<Sleep> {
        let sleep = self.next_sleep();
        self.ring.head().sleeps.0.store(1, Ordering::Relaxed);
        // The sender looks at the flag after it has written.
        fence(Ordering::SeqCst);
        self.is_empty().then_some(sleep)
    }

    /// A sleep that ends with the next wake, for a thread that knows that another will wake it.
    pub fn next_sleep(&self) -> Sleep {
        let wakes = self.ring.head().wakes.0.load(Ordering::SeqCst);
        Sleep { wakes }
    }

    /// Sleeps until a wake that came after the [`Sleep`] was made, or for no reason.
    pub fn sleep(&self, sleep: Sleep) {
        futex::wait(&self.ring.head().wakes.0, sleep.wakes, None);
    }

    /// Wakes this many threads that sleep.
    pub fn wake(&self, threads: i32) {
        self.ring.wake(threads);
    }

    /// Whether the sender waited for room, and has to be told that there is some.
    pub fn made_room(&self) -> bool {
        fence(Ordering::SeqCst);
        let wants_room = &self.ring.head().wants_room.0;
        wants_room.load(Ordering::Relaxed) != 0 && wants_room.swap(0, Ordering::Relaxed) != 0
    }

    /// Wakes senders that wait for room.
    pub fn wake_senders(&self) {
        futex::wake(&self.ring.head().wants_room.0, i32::MAX);
    }
}

impl Taking<'_> {
    /// Copies the next message to `message`, in place of what is in it; false when there is none.
    ///
    /// # Errors
    /// When the other side has written numbers that cannot be.
    pub fn next(&mut self, message: &mut Vec<u8>) -> io::Result<bool> {
        let head = self.ring.head();
        let written = head.written.0.load(Ordering::Acquire);
        let Some(next) = self.ring.message(*self.taken, written, message)? else {
            return Ok(false);
        };
        *self.taken = next;
        head.taken.0.store(next, Ordering::Release);
        Ok(true)
    }
}

fn lock(mutex: &Mutex<u64>) -> MutexGuard<'_, u64> {
    // A number is whole at every instant.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sleep and wake between processes. rustix has the same, for another feature of a crate that much is built on.
mod futex {
    use std::ptr;
    use std::sync::atomic::AtomicU32;

    /// So that a lie of the other side costs no more than this.
    pub const A_MOMENT: libc::timespec = libc::timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };

    /// Sleeps while the number is `expected`, until somebody wakes it or the time is over, or for no reason.
    pub fn wait(number: &AtomicU32, expected: u32, timeout: Option<libc::timespec>) {
        let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: the number is there during the call, and the timeout is one or null.
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

    /// Wakes so many threads that sleep on the number.
    pub fn wake(number: &AtomicU32, threads: i32) {
        // SAFETY: the number is there during the call, which reads nothing of it.
        unsafe { libc::syscall(libc::SYS_futex, number.as_ptr(), libc::FUTEX_WAKE, threads) };
    }
}

#[cfg(test)]
mod tests;
