//! Messages between the node and the processes that it starts: frames in a stream, and open files beside them.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest frame in bytes. The largest message describes a graph with many inputs and outputs.
pub(crate) const MAX_FRAME_BYTES: usize = 16 << 20;

/// Most files in one message.
const MAX_FILES: usize = 3;

/// Sends open files. The receiver calls [`receive_files`] before it reads the next frame.
///
/// # Errors
/// When the other side is gone.
pub(crate) fn send_files<const N: usize>(
    stream: impl AsFd,
    files: [BorrowedFd<'_>; N],
) -> io::Result<()> {
    const { assert!(N <= MAX_FILES) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !rights.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::other(format!("no room for {N} files")));
    }
    sendmsg(
        stream,
        &[IoSlice::new(&[0])],
        &mut rights,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives the files of [`send_files`].
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the other side is gone; another kind when it sent something else.
pub(crate) fn receive_files<const N: usize>(stream: &UnixStream) -> io::Result<[OwnedFd; N]> {
    const { assert!(N <= MAX_FILES) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut rights,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut files = Vec::new();
    for message in rights.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            files.extend(sent);
        }
    }
    let count = files.len();
    files
        .try_into()
        .map_err(|_| io::Error::other(format!("found {count} files, expected {N}")))
}

/// Writes a frame.
///
/// # Errors
/// When the other side is gone.
pub(crate) fn write_frame<M: Serialize>(mut stream: &UnixStream, message: &M) -> io::Result<()> {
    stream.write_all(&encode_frame(message)?)
}

/// Reads a frame; `None` when the other side is gone.
///
/// # Errors
/// When the bytes are not a frame.
pub(crate) fn read_frame<M: DeserializeOwned>(mut stream: &UnixStream) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut bytes = vec![0; frame_bytes(length)?];
    stream.read_exact(&mut bytes)?;
    decode_frame(&bytes).map(Some)
}

/// Writes a frame without blocking the thread.
///
/// # Errors
/// When the other side is gone.
pub(crate) async fn write_frame_async<M: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &M,
) -> io::Result<()> {
    stream.write_all(&encode_frame(message)?).await
}

/// Reads a frame without blocking the thread; `None` when the other side is gone.
///
/// # Errors
/// When the bytes are not a frame.
pub(crate) async fn read_frame_async<M: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut bytes = vec![0; frame_bytes(length)?];
    stream.read_exact(&mut bytes).await?;
    decode_frame(&bytes).map(Some)
}

/// Encodes a message with its length in front.
fn encode_frame<M: Serialize>(message: &M) -> io::Result<Vec<u8>> {
    let bytes = encode(message).map_err(io::Error::other)?;
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(io::Error::other(format!(
            "frame of {} bytes; the limit is {MAX_FRAME_BYTES}",
            bytes.len()
        )));
    }
    let mut frame = Vec::with_capacity(4 + bytes.len());
    frame.extend((bytes.len() as u32).to_le_bytes());
    frame.extend(bytes);
    Ok(frame)
}

fn frame_bytes(length: [u8; 4]) -> io::Result<usize> {
    let bytes = u32::from_le_bytes(length) as usize;
    if bytes > MAX_FRAME_BYTES {
        return Err(io::Error::other(format!(
            "frame of {bytes} bytes; the limit is {MAX_FRAME_BYTES}"
        )));
    }
    Ok(bytes)
}

fn decode_frame<M: DeserializeOwned>(bytes: &[u8]) -> io::Result<M> {
    let (message, _) = decode(bytes).map_err(io::Error::other)?;
    Ok(message)
}

/// Encodes a message.
///
/// # Errors
/// When the message cannot be expressed in the format.
pub(crate) fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, String> {
    postcard::to_extend(message, Vec::with_capacity(256)).map_err(|e| e.to_string())
}

/// Decodes a message. Returns it with the bytes behind it.
///
/// # Errors
/// When the bytes do not begin with such a message.
pub(crate) fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<(M, &[u8]), String> {
    postcard::take_from_bytes(bytes).map_err(|e| format!("message cannot be decoded: {e}"))
}
