//! The socket for runs between a node and an engine, which keeps messages apart. Everything else goes through a stream of
//! frames (`process/frames.rs`).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};

use super::wire::MAX_MESSAGE_BYTES;

/// Both ends of a socket that keeps messages apart.
///
/// # Errors
/// When there can be no more files.
pub(super) fn messages() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// How a message was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Sent,
    /// The socket is full.
    Full,
}

/// Sends a message of these parts without waiting.
///
/// # Errors
/// When the other side is gone.
pub(super) fn try_send(socket: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<Sent> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), flags) {
        Ok(_) => Ok(Sent::Sent),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(Sent::Full),
        Err(error) => Err(error.into()),
    }
}

/// Sends a message of these parts when there is room for it.
///
/// # Errors
/// When the other side is gone.
pub(super) fn send(socket: impl AsFd, parts: &[IoSlice<'_>]) -> io::Result<()> {
    loop {
        match sendmsg(
            &socket,
            parts,
            &mut SendAncillaryBuffer::default(),
            SendFlags::NOSIGNAL,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The next message, when there is one; empty when the other side is gone.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when there is none now and the caller would not wait.
pub(super) fn receive(
    socket: impl AsFd,
    buffer: &mut [u8; MAX_MESSAGE_BYTES],
    flags: RecvFlags,
) -> io::Result<&[u8]> {
    loop {
        match rustix::net::recv(&socket, &mut buffer[..], flags) {
            Err(rustix::io::Errno::INTR) => {}
            Ok((_, bytes)) => return Ok(&buffer[..bytes.min(MAX_MESSAGE_BYTES)]),
            Err(error) => return Err(error.into()),
        }
    }
}
