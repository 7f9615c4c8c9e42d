//! A connection's socket, which sends small answers in one piece.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Pieces that are shorter together are copied together.
const SMALL_BYTES: usize = 2048;

/// A TCP connection.
///
/// Hyper hands a chunked answer over in five pieces. Gathering them costs the kernel more than copying a few hundred bytes
/// costs us; longer ones go as they are.
pub struct Socket(pub TcpStream);

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let mut whole = [0; SMALL_BYTES];
        match gather(pieces, &mut whole) {
            Some(length) => Pin::new(&mut self.0).poll_write(cx, &whole[..length]),
            None => Pin::new(&mut self.0).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Copies the pieces one after the other and says how long they are together; `None` when they do not fit.
fn gather(pieces: &[IoSlice<'_>], whole: &mut [u8]) -> Option<usize> {
    let mut length = 0;
    for piece in pieces {
        let end = length + piece.len();
        whole.get_mut(length..end)?.copy_from_slice(piece);
        length = end;
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_gathered_if_they_fit() {
        let pieces = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"c")];
        let mut whole = [0; 3];
        assert_eq!(gather(&pieces, &mut whole), Some(3));
        assert_eq!(&whole, b"abc");
        assert_eq!(gather(&pieces, &mut whole[..2]), None);
        assert_eq!(gather(&[], &mut whole), Some(0));
    }
}
