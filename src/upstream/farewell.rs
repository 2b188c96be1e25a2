//! The end of a WebSocket that is cut: both sides are told by a Close frame with code 1008 (RFC 6455 §7.4.1), between two frames.
//!
//! Of what is on its way only the frame that the receiver has begun to get is still passed on. Then each side has until the end of the
//! grace to answer with a Close frame of its own.

use crate::base::tick::Deadline;
use crate::telemetry::reason::Reason;
use crate::upstream::tunnel::READ_SIZE;
use crate::upstream::websocket::{Frames, Malformed, close_frame};
use bytes::{Buf, Bytes, BytesMut};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// How long a frame that is half way may take, and the answers of both sides.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// The code of a connection that is ended because of who uses it.
const POLICY_VIOLATION: u16 = 1008;

/// One direction of a tunnel that is cut, and what there is left to do in it.
#[derive(Debug)]
pub(super) struct Leaving {
    /// Read, but neither passed on nor looked at.
    buffer: BytesMut,
    /// Up to the end of the frame that is passed on last: of what was passed on. Then of what came.
    frames: Frames,
    stage: Stage,
    /// The Close frame for the receiver.
    close: Bytes,
    /// The sender has said Close, or can say no more.
    is_over: bool,
    pub(super) passed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The receiver has a part of a frame.
    Finish,
    /// It is told.
    Tell,
    /// It was told, or can be told no more.
    Told,
}

impl Leaving {
    /// `buffer` was read but not passed on; `frames` are those that were passed on. `mask` is for a receiver that is a server.
    pub(super) fn new(buffer: BytesMut, frames: Frames, reason: Reason, mask: Option<[u8; 4]>) -> Self {
        let close = close_frame(POLICY_VIOLATION, reason.code(), mask).into();
        Self { buffer, frames, stage: Stage::Finish, close, is_over: false, passed: 0 }
    }

    /// The sender has ended; if the receiver knows that already, it can be told nothing else.
    pub(super) fn has_ended(mut self, is_passed: bool) -> Self {
        self.is_over = true;
        if is_passed {
            self.stage = Stage::Told;
        }
        self
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, sender: &mut R, receiver: &mut W) -> Result<(), Malformed>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.stage == Stage::Finish && self.poll_finish(cx, sender, receiver)?.is_ready() {
            // Whoever said Close before needs none.
            self.is_over |= self.frames.has_closed();
            if self.frames.has_closed() {
                self.close.clear();
            }
        }
        if self.stage == Stage::Tell && self.poll_tell(cx, receiver).is_ready() {
            self.stage = Stage::Told;
        }
        if self.stage != Stage::Finish {
            let _ = self.poll_answer(cx, sender)?;
        }
        Ok(())
    }

    /// Passes on the rest of the frame that the receiver has begun to get.
    fn poll_finish<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut R,
        receiver: &mut W,
    ) -> Poll<Result<(), Malformed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.frames.is_between() {
            if self.buffer.is_empty() && !ready!(self.poll_fill(cx, sender)) {
                // The receiver waits for a rest that nobody has.
                self.stage = Stage::Told;
                return Poll::Ready(Ok(()));
            }
            let end = self.frames.clone().advance(&self.buffer)?;
            match ready!(Pin::new(&mut *receiver).poll_write(cx, &self.buffer[..end])) {
                Ok(written @ 1..) => {
                    self.frames.advance(&self.buffer[..written])?;
                    self.buffer.advance(written);
                    self.passed += written as u64;
                }
                Ok(0) | Err(_) => {
                    self.stage = Stage::Told;
                    return Poll::Ready(Ok(()));
                }
            }
        }
        self.stage = Stage::Tell;
        Poll::Ready(Ok(()))
    }

    fn poll_tell(&mut self, cx: &mut Context<'_>, receiver: &mut (impl AsyncWrite + Unpin)) -> Poll<()> {
        while !self.close.is_empty() {
            match ready!(Pin::new(&mut *receiver).poll_write(cx, &self.close)) {
                Ok(written @ 1..) => self.close.advance(written),
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Pin::new(receiver).poll_flush(cx).map(|_| ())
    }

    /// What comes now goes nowhere; only a Close frame is looked for.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut (impl AsyncRead + Unpin),
    ) -> Result<Poll<()>, Malformed> {
        while !self.is_over {
            if self.buffer.is_empty() && self.poll_fill(cx, sender).is_pending() {
                return Ok(Poll::Pending);
            }
            while !self.buffer.is_empty() && !self.is_over {
                let taken = self.frames.advance(&self.buffer)?;
                self.buffer.advance(taken);
                self.is_over = self.frames.has_closed();
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Reads more; ready with whether there was any.
    fn poll_fill(&mut self, cx: &mut Context<'_>, sender: &mut (impl AsyncRead + Unpin)) -> Poll<bool> {
        if self.is_over {
            return Poll::Ready(false);
        }
        self.buffer.reserve(READ_SIZE);
        let read = ready!(pin!(sender.read_buf(&mut self.buffer)).poll(cx));
        self.is_over = !matches!(read, Ok(1..));
        Poll::Ready(!self.is_over)
    }
}

/// Tells both sides, and gives each until the end of the grace. A side that was told and has answered is closed at once.
pub(super) async fn farewell<C, U>(client: &mut C, upstream: &mut U, up: &mut Leaving, down: &mut Leaving)
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let (mut is_client_closed, mut is_upstream_closed) = (false, false);
    let both = std::future::poll_fn(|cx| {
        if up.poll(cx, client, upstream).is_err() || down.poll(cx, upstream, client).is_err() {
            return Poll::Ready(());
        }
        if down.stage == Stage::Told && up.is_over && !is_client_closed {
            is_client_closed = Pin::new(&mut *client).poll_shutdown(cx).is_ready();
        }
        if up.stage == Stage::Told && down.is_over && !is_upstream_closed {
            is_upstream_closed = Pin::new(&mut *upstream).poll_shutdown(cx).is_ready();
        }
        if is_client_closed && is_upstream_closed { Poll::Ready(()) } else { Poll::Pending }
    });
    // Whoever has not answered by now is cut.
    let _ = Deadline::after(GRACE).bound(both).await;
}
