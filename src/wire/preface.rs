//! The first octets of an HTTP/2 connection, read before HTTP/2 gets it.
//!
//! Owns the time that a stranger has to say something sensible. HTTP/2 itself would wait for its preface for ever.

use bytes::{Buf, Bytes};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose preface has been seen, and will be read once more by HTTP/2.
#[derive(Debug)]
pub(super) struct Greeted<S> {
    preface: Bytes,
    stream: S,
}

/// What came instead of a preface.
#[derive(Debug)]
pub(super) enum BadPreface {
    /// Other octets.
    Garbage,
    /// Nothing more.
    Ended(io::Error),
}

/// Reads the preface. The first octet that differs ends it, so garbage needn't be long to be seen.
pub(super) async fn greet<S: AsyncRead + Unpin>(mut stream: S) -> Result<Greeted<S>, BadPreface> {
    let mut seen = 0;
    let mut buffer = [0; PREFACE.len()];
    while seen < PREFACE.len() {
        let read = stream
            .read(&mut buffer[seen..])
            .await
            .map_err(BadPreface::Ended)?;
        if read == 0 {
            return Err(BadPreface::Ended(io::ErrorKind::UnexpectedEof.into()));
        }
        seen += read;
        if buffer[..seen] != PREFACE[..seen] {
            return Err(BadPreface::Garbage);
        }
    }
    Ok(Greeted {
        preface: Bytes::from_static(PREFACE),
        stream,
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.preface.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.preface.len().min(buf.remaining());
        buf.put_slice(&self.preface[..length]);
        self.preface.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_preface_is_read_twice_and_what_follows_once() {
        let bytes = [PREFACE.as_slice(), b"more"].concat();
        let mut greeted = greet(bytes.as_slice()).await.unwrap();
        let mut all = Vec::new();
        greeted.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, bytes);
    }

    #[tokio::test]
    async fn the_first_wrong_octet_is_enough() {
        assert!(matches!(
            greet(b"GET".as_slice()).await,
            Err(BadPreface::Garbage)
        ));
        assert!(matches!(
            greet(b"PRI".as_slice()).await,
            Err(BadPreface::Ended(_))
        ));
    }
}
