//! A connection's socket: sends small answers in one piece, and notices when the client sends no more.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::state::ConnectionState;

/// Pieces that are shorter together are copied together.
const SMALL_BYTES: usize = 2048;

/// A TCP connection.
///
/// Hyper hands a chunked answer over in five pieces. Gathering them costs the kernel more than copying a few hundred bytes
/// costs us; longer ones go as they are.
pub struct Socket {
    stream: TcpStream,
    state: Arc<ConnectionState>,
    /// Hyper waits for input, so it will see its end.
    reading: bool,
}

impl Socket {
    /// The socket of the connection with this state.
    pub fn new(stream: TcpStream, state: Arc<ConnectionState>) -> Self {
        Self {
            stream,
            state,
            reading: false,
        }
    }

    fn wrote(&self, polled: Poll<Result<usize>>) -> Poll<Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.state.wrote(*bytes);
        }
        polled
    }

    /// Hyper reads nothing while a request of HTTP/1 runs, so that a client which shut down its sending half gets its
    /// answer. The end of its input is noticed here instead. No system call is made unless something arrived.
    fn watch_input(&mut self, cx: &mut Context<'_>) {
        if self.reading || self.state.input_ended() || !self.state.is_working() {
            return;
        }
        let mut byte = [0];
        match self.stream.poll_peek(cx, &mut ReadBuf::new(&mut byte)) {
            Poll::Ready(Ok(0)) => self.state.end_input(),
            Poll::Ready(Err(_)) => self.state.lose(),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.reading = polled.is_pending();
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let mut whole = [0; SMALL_BYTES];
        let stream = Pin::new(&mut self.stream);
        let polled = match gather(pieces, &mut whole) {
            Some(length) => stream.poll_write(cx, &whole[..length]),
            None => stream.poll_write_vectored(cx, pieces),
        };
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.watch_input(cx);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
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
