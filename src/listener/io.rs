//! A client's socket that notes what happens on it, and gives back the bytes that were read to learn its protocol.

use super::activity::Activity;
use super::linger::Remains;
use bytes::{Buf, Bytes, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Pieces that come to no more than this are sent as one: several in a call cost the kernel more than it costs to copy them.
const SMALL: usize = 1024;

/// A client's connection, TLS or not.
#[derive(Debug)]
pub(super) struct ClientIo<T> {
    /// There until it is dropped.
    inner: Option<T>,
    prefix: Bytes,
    activity: Arc<Activity>,
    /// The client has closed its side.
    has_ended: bool,
    /// Whoever reads waits for the client, and learns by that if it goes away.
    is_awaited: bool,
    remains: Remains<T>,
}

impl<T: AsyncRead + Unpin> ClientIo<T> {
    pub(super) fn new(inner: T, prefix: Bytes, activity: Arc<Activity>, remains: Remains<T>) -> Self {
        Self { inner: Some(inner), prefix, activity, has_ended: false, is_awaited: false, remains }
    }

    /// Gives back what was read and not used: it is read again.
    pub(super) fn put_back(&mut self, unused: Bytes) {
        self.prefix = unused;
    }

    /// Waits, without a buffer, for the client to send anything, which is then read as usual; false if it ended the connection.
    pub(super) fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        let Some(inner) = &mut self.inner else { return Poll::Ready(false) };
        if ready!(Pin::new(inner).poll_read(cx, &mut buffer)).is_err() {
            return Poll::Ready(false);
        }
        self.has_ended = buffer.filled().is_empty();
        if !self.has_ended {
            self.activity.read();
            self.prefix = [&*self.prefix, buffer.filled()].concat().into();
        }
        Poll::Ready(!self.has_ended)
    }

    /// Looks whether the client has gone away, while its answer is made and nobody reads. hyper does that for each request, at once
    /// and with a buffer; here it is done for those that take long. Whatever the client sends instead is read later.
    fn watch(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let is_awaited = std::mem::take(&mut self.is_awaited);
        if is_awaited || !self.activity.is_long_under_way() || self.prefix.has_remaining() {
            return Ok(());
        }
        match self.poll_wake(cx) {
            Poll::Ready(false) => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(true) | Poll::Pending => Ok(()),
        }
    }
}

impl<T> Drop for ClientIo<T> {
    fn drop(&mut self) {
        if let Some(socket) = self.inner.take()
            && !self.has_ended
        {
            self.remains.leave(socket);
        }
    }
}

/// What is said of a socket that is no longer there, which nobody can ask.
fn gone<O>() -> Poll<io::Result<O>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

/// Reads until it is certain whether the client speaks HTTP/2; gives that and what was read.
pub(super) async fn detect_http2<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<(bool, Bytes)> {
    let mut read = BytesMut::with_capacity(4096);
    loop {
        let compared = read.len().min(PREFACE.len());
        if read[..compared] != PREFACE[..compared] {
            return Ok((false, read.freeze()));
        }
        if compared == PREFACE.len() {
            return Ok((true, read.freeze()));
        }
        if io.read_buf(&mut read).await? == 0 {
            return Ok((false, read.freeze()));
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ClientIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.prefix.has_remaining() {
            let length = this.prefix.remaining().min(buffer.remaining());
            buffer.put_slice(&this.prefix.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let Some(inner) = &mut this.inner else { return gone() };
        let polled = Pin::new(inner).poll_read(cx, buffer);
        this.is_awaited = polled.is_pending();
        ready!(polled)?;
        if buffer.filled().len() > before {
            this.activity.read();
        } else if buffer.remaining() > 0 {
            this.has_ended = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let Some(inner) = &mut self.inner else { return gone() };
        let polled = Pin::new(inner).poll_write(cx, data);
        self.activity.wrote(polled.is_ready());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if data.iter().map(|piece| piece.len()).sum::<usize>() <= SMALL {
            let (mut joined, mut length) = ([0; SMALL], 0);
            for piece in data {
                joined[length..length + piece.len()].copy_from_slice(piece);
                length += piece.len();
            }
            return self.poll_write(cx, &joined[..length]);
        }
        let Some(inner) = &mut self.inner else { return gone() };
        let polled = Pin::new(inner).poll_write_vectored(cx, data);
        self.activity.wrote(polled.is_ready());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Called whenever the connection has done what there was to do.
        self.watch(cx)?;
        self.inner.as_mut().map_or_else(gone, |inner| Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().map_or_else(gone, |inner| Pin::new(inner).poll_shutdown(cx))
    }
}
