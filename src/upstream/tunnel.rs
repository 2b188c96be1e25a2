//! Upgraded connections: bytes both ways until both sides have ended.

use crate::base::tick::Deadline;
use crate::upstream::connect::Stream;
use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// How much is read at once.
const READ_SIZE: usize = 16 * 1024;

/// A connection to an upstream that has switched protocols.
#[derive(Debug)]
pub struct Upgraded {
    io: Stream,
    /// What came right behind the answer that switched.
    read: Bytes,
}

impl Upgraded {
    pub(super) fn new(io: Stream, read: Bytes) -> Self {
        Self { io, read }
    }
}

/// Copies both ways, passing on the end of either side, until both have ended, one broke, or nothing moved
/// for `idle`. Returns how many bytes went to the upstream and how many to the client. While nothing moves, no
/// buffer is held.
pub async fn tunnel(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut upstream: Upgraded,
    idle: Duration,
) -> (u64, u64) {
    let (mut up, mut down) = (Pipe::default(), Pipe::default());
    let mut waiting: Option<(u64, Deadline)> = None;
    std::future::poll_fn(|cx| {
        let ends = (up.poll(cx, &mut client, &mut upstream), down.poll(cx, &mut upstream, &mut client));
        match ends {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) | (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {
                return Poll::Ready(());
            }
            _ => {}
        }
        let moved = up.moved + down.moved;
        if waiting.as_ref().is_none_or(|(before, _)| *before != moved) {
            waiting = Some((moved, Deadline::after(idle)));
        }
        waiting.as_mut().map_or(Poll::Pending, |(_, deadline)| deadline.poll(cx))
    })
    .await;
    (up.moved, down.moved)
}

/// One direction.
#[derive(Debug, Default)]
struct Pipe {
    buffer: BytesMut,
    moved: u64,
    end: End,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// The reader has ended; the writer is to be told.
    Seen,
    Passed,
}

impl Pipe {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while !self.buffer.is_empty() {
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.buffer))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.buffer.advance(written);
                self.moved += written as u64;
            }
            match self.end {
                End::Open => {}
                End::Seen => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.end = End::Passed;
                }
                End::Passed => return Poll::Ready(Ok(())),
            }
            if self.end == End::Open {
                self.buffer.reserve(READ_SIZE);
                let Poll::Ready(read) = pin!(reader.read_buf(&mut self.buffer)).poll(cx) else {
                    self.buffer = BytesMut::new();
                    let _ = Pin::new(&mut *writer).poll_flush(cx)?;
                    return Poll::Pending;
                };
                if read? == 0 {
                    self.end = End::Seen;
                }
            }
        }
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let length = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
