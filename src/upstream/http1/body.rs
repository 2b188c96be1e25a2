//! The body of an answer as it comes, and the rest of the request while that is still going out.

use crate::base::tick::Deadline;
use crate::upstream::BodyError;
use crate::upstream::http1::chunk::{Chunk, ChunkDecoder};
use crate::upstream::http1::{Exchange, Framing};
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How much is read at once from a stream that trickles.
const SMALL_READ: usize = 16 * 1024;
/// How much is read at once from a stream that has filled a small read.
const LARGE_READ: usize = 64 * 1024;

/// A body on an HTTP/1.1 connection. At its end the connection goes back to its pool, if both messages are whole and
/// nothing came behind; dropped before, it is closed.
#[derive(Debug)]
pub struct Http1Body {
    /// `None` once the body has ended or failed.
    exchange: Option<Exchange>,
    coding: Coding,
    keep_alive: bool,
    /// Read, but not yet handed out.
    unread: Bytes,
    read_size: usize,
    idle: Duration,
    waiting: Option<(u64, Deadline)>,
}

#[derive(Debug)]
enum Coding {
    Length(u64),
    Chunked(ChunkDecoder),
    UntilClose,
}

impl Http1Body {
    pub(super) fn new(exchange: Exchange, framing: Framing, keep_alive: bool, unread: Bytes) -> Self {
        let coding = match framing {
            Framing::Length(length) => Coding::Length(length),
            Framing::Chunked => Coding::Chunked(ChunkDecoder::default()),
            Framing::Empty | Framing::UntilClose | Framing::Tunnel => Coding::UntilClose,
        };
        let idle = exchange.pool.idle_timeout;
        Self { exchange: Some(exchange), coding, keep_alive, unread, read_size: SMALL_READ, idle, waiting: None }
    }

    /// Whether all has been handed out.
    pub(in crate::upstream) fn has_ended(&self) -> bool {
        self.exchange.is_none()
    }

    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        match &self.coding {
            Coding::Length(left) => SizeHint::with_exact(*left),
            Coding::Chunked(_) | Coding::UntilClose => SizeHint::default(),
        }
    }

    pub(in crate::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let outcome = ready!(self.poll_next(cx));
        self.waiting = None;
        if outcome.is_err() {
            self.exchange = None;
        }
        Poll::Ready(outcome.transpose())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(Ok(None)) };
        if let Some(Err(error)) = exchange.poll_upload(cx) {
            return Poll::Ready(Err(BodyError::RequestBody(error)));
        }
        loop {
            match self.decode()? {
                Decoded::Frame(frame) => return Poll::Ready(Ok(Some(frame))),
                Decoded::End => return Poll::Ready(Ok(None)),
                Decoded::Nothing => {}
            }
            let is_open = match self.poll_read(cx)? {
                Poll::Ready(is_open) => is_open,
                Poll::Pending => return self.poll_idle(cx).map(Err),
            };
            if !is_open {
                let whole = matches!(self.coding, Coding::UntilClose);
                self.exchange = None;
                return Poll::Ready(if whole { Ok(None) } else { Err(BodyError::Incomplete) });
            }
        }
    }

    /// Takes the next frame off what has been read.
    fn decode(&mut self) -> Result<Decoded, BodyError> {
        match &mut self.coding {
            Coding::Length(0) => {
                self.release();
                Ok(Decoded::End)
            }
            _ if self.unread.is_empty() => Ok(Decoded::Nothing),
            Coding::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.unread.len());
                *left -= length as u64;
                let is_last = *left == 0;
                let data = self.unread.split_to(length);
                if is_last {
                    self.release();
                }
                Ok(Decoded::Frame(Frame::data(data)))
            }
            Coding::UntilClose => Ok(Decoded::Frame(Frame::data(std::mem::take(&mut self.unread)))),
            Coding::Chunked(decoder) => Ok(match decoder.decode(&mut self.unread)? {
                None => Decoded::Nothing,
                Some(Chunk::Data(data)) => Decoded::Frame(Frame::data(data)),
                Some(Chunk::End(trailers)) => {
                    self.release();
                    if trailers.is_empty() { Decoded::End } else { Decoded::Frame(Frame::trailers(trailers)) }
                }
            }),
        }
    }

    /// Reads more behind what is left. Ready with whether there is more to come. While nothing comes, no buffer is held.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<Poll<bool>, BodyError> {
        let Some(exchange) = &mut self.exchange else { return Ok(Poll::Ready(false)) };
        let mut buffer = BytesMut::with_capacity(self.unread.len() + self.read_size);
        buffer.extend_from_slice(&self.unread);
        let Poll::Ready(read) = pin!(exchange.io.read_buf(&mut buffer)).poll(cx) else { return Ok(Poll::Pending) };
        let read = read.map_err(BodyError::Io)?;
        self.read_size = if read >= self.read_size { LARGE_READ } else { self.read_size };
        self.unread = buffer.freeze();
        Ok(Poll::Ready(read > 0))
    }

    /// Time runs while nothing moves in either direction, not while the client takes its time to read.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let sent = self.exchange.as_ref().and_then(|exchange| exchange.upload.as_ref()).map_or(0, |up| up.sent());
        if self.waiting.as_ref().is_none_or(|(before, _)| *before != sent) {
            self.waiting = Some((sent, Deadline::after(self.idle)));
        }
        let Some((_, deadline)) = &mut self.waiting else { return Poll::Pending };
        deadline.poll(cx).map(|()| BodyError::Idle(self.idle))
    }

    fn release(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.release(self.keep_alive && self.unread.is_empty());
        }
    }
}

enum Decoded {
    Frame(Frame<Bytes>),
    End,
    Nothing,
}
