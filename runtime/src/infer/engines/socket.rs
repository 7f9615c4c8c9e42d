//! The two ways between a node and an engine: a stream of frames, and a socket that keeps messages apart.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::wire::{self, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};

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

/// Hands files over, ahead of the first frame.
///
/// # Errors
/// When the other side is gone.
pub(super) fn send_files(stream: &UnixStream, files: [BorrowedFd<'_>; 2]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other("no room for two files"));
    }
    sendmsg(
        stream,
        &[IoSlice::new(&[0])],
        &mut rights,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Takes the files that [`send_files`] sent.
///
/// # Errors
/// When something else came.
pub(super) fn receive_files(stream: &UnixStream) -> io::Result<[OwnedFd; 2]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut rights,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut files = Vec::new();
    for message in rights.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            files.extend(sent);
        }
    }
    let count = files.len();
    files
        .try_into()
        .map_err(|_| io::Error::other(format!("found {count} files, expected 2")))
}

/// Writes a frame.
///
/// # Errors
/// When the other side is gone.
pub(super) fn write_frame<M: Serialize>(mut stream: &UnixStream, message: &M) -> io::Result<()> {
    let bytes = wire::encode(message).map_err(io::Error::other)?;
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(io::Error::other(format!(
            "a frame of {} bytes, at most {MAX_FRAME_BYTES} are sent",
            bytes.len()
        )));
    }
    let mut frame = Vec::with_capacity(4 + bytes.len());
    frame.extend((bytes.len() as u32).to_le_bytes());
    frame.extend(bytes);
    stream.write_all(&frame)
}

/// Reads a frame; nothing when the other side is gone.
///
/// # Errors
/// When what comes is no frame.
pub(super) fn read_frame<M: DeserializeOwned>(mut stream: &UnixStream) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::other(format!(
            "a frame of {length} bytes, at most {MAX_FRAME_BYTES} are read"
        )));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    let (message, _) = wire::decode(&bytes).map_err(io::Error::other)?;
    Ok(Some(message))
}
