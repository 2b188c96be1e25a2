//! Upgraded connections: bytes both ways until both sides have ended, or until they are cut.

use crate::base::tick::Deadline;
use crate::config;
use crate::telemetry::reason::Reason;
use crate::upstream::Cut;
use crate::upstream::farewell::{Leaving, farewell};
use crate::upstream::pool::Lease;
use crate::upstream::stream::Stream;
use crate::upstream::websocket::{Frames, Sender};
use bytes::{Buf, Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// How much is read at once.
pub(super) const READ_SIZE: usize = 16 * 1024;

/// A connection to an upstream that has switched protocols.
#[derive(Debug)]
pub struct Upgraded {
    io: Io,
    /// What came right behind the answer that switched.
    read: Bytes,
    /// It is under way as long as it lasts.
    _lease: Lease,
}

/// What it goes over.
#[derive(Debug)]
enum Io {
    Connection(Stream),
    /// One stream of an HTTP/2 connection.
    Stream(TokioIo<hyper::upgrade::Upgraded>),
}

impl Upgraded {
    pub(super) fn new(io: Stream, read: Bytes, lease: Lease) -> Self {
        Self { io: Io::Connection(io), read, _lease: lease }
    }

    pub(super) fn stream(io: hyper::upgrade::Upgraded, lease: Lease) -> Self {
        Self { io: Io::Stream(TokioIo::new(io)), read: Bytes::new(), _lease: lease }
    }

    /// Whether it goes over HTTP/2, where there is no handshake beyond the request's own.
    pub fn is_http2(&self) -> bool {
        matches!(self.io, Io::Stream(_))
    }
}

/// Copies both ways, passing on the end of either side, until both have ended, one broke, or nothing moved
/// for `idle`. Returns how many bytes went to the upstream and how many to the client. While nothing moves, no
/// buffer is held.
///
/// When `cut` is set, both sides of a WebSocket are sent a Close frame with code 1008 and have five seconds to answer; what is
/// not framed as one is closed at once.
pub async fn tunnel(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut upstream: Upgraded,
    protocol: config::Upgrade,
    idle: Duration,
    cut: &Cut,
) -> (u64, u64) {
    let (mut up, mut down) = (Pipe::new(Sender::Client, protocol), Pipe::new(Sender::Server, protocol));
    let mut waiting: Option<(u64, Deadline)> = None;
    let reason = std::future::poll_fn(|cx| {
        if let Poll::Ready(reason) = cut.poll(cx) {
            return Poll::Ready(Some(reason));
        }
        let ends = (up.poll(cx, &mut client, &mut upstream), down.poll(cx, &mut upstream, &mut client));
        match ends {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) | (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => {
                return Poll::Ready(None);
            }
            _ => {}
        }
        let moved = up.moved + down.moved;
        if waiting.as_ref().is_none_or(|(before, _)| *before != moved) {
            waiting = Some((moved, Deadline::after(idle)));
        }
        waiting.as_mut().map_or(Poll::Pending, |(_, deadline)| deadline.poll(cx).map(|()| None))
    })
    .await;
    drop(waiting);
    let (mut sent, mut received) = (up.moved, down.moved);
    if let Some(reason) = reason
        && let (Some(mut up), Some(mut down)) = (up.leave(reason, Some(mask())), down.leave(reason, None))
    {
        // In a box, because it is rare: each tunnel holds room for it otherwise.
        Box::pin(farewell(&mut client, &mut upstream, &mut up, &mut down)).await;
        sent += up.passed;
        received += down.passed;
    }
    (sent, received)
}

/// What nobody can foresee (RFC 6455 §10.3).
fn mask() -> [u8; 4] {
    let mut mask = [0; 4];
    // Without random bytes the frame is still one, of ours and not of the client's making.
    let _ = aws_lc_rs::rand::fill(&mut mask);
    mask
}

/// One direction.
#[derive(Debug)]
struct Pipe {
    buffer: BytesMut,
    moved: u64,
    end: End,
    /// Those that were passed on; none where the bytes are no frames.
    frames: Option<Frames>,
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
    fn new(sender: Sender, protocol: config::Upgrade) -> Self {
        let frames = (protocol == config::Upgrade::WebSocket).then(|| Frames::new(sender));
        Self { buffer: BytesMut::new(), moved: 0, end: End::Open, frames }
    }

    /// What there is left to do if this ends now; none if it cannot end but at once.
    fn leave(self, reason: Reason, mask: Option<[u8; 4]>) -> Option<Leaving> {
        let leaving = Leaving::new(self.buffer, self.frames?, reason, mask);
        Some(if self.end == End::Open { leaving } else { leaving.has_ended(self.end == End::Passed) })
    }

    /// Notes that the first bytes of the buffer were passed on.
    fn pass(&mut self, length: usize) {
        let mut passed = 0;
        while let Some(frames) = &mut self.frames
            && passed < length
        {
            match frames.advance(&self.buffer[passed..length]) {
                Ok(taken) => passed += taken,
                Err(_) => self.frames = None,
            }
        }
        self.buffer.advance(length);
        self.moved += length as u64;
    }

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
                self.pass(written);
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
            return match &mut self.io {
                Io::Connection(io) => Pin::new(io).poll_read(cx, buf),
                Io::Stream(io) => Pin::new(io).poll_read(cx, buf),
            };
        }
        let length = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Connection(io) => Pin::new(io).poll_write(cx, buf),
            Io::Stream(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Connection(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Stream(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.io, Io::Connection(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Connection(io) => Pin::new(io).poll_flush(cx),
            Io::Stream(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Connection(io) => Pin::new(io).poll_shutdown(cx),
            Io::Stream(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
