//! Bodies of an HTTP/2 stream: that of the answer, and that of the request under watch.

use crate::base::tick::Deadline;
use crate::upstream::patience::Waiting;
use crate::upstream::pool::Lease;
use crate::upstream::request::Payload;
use crate::upstream::{BodyError, RequestBodyError, fields};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A body on an HTTP/2 stream. Dropped before its end, it resets the stream.
#[derive(Debug)]
pub struct Http2Body {
    incoming: Incoming,
    watch: Rc<Watch>,
    idle: Duration,
    waiting: Option<(u64, Deadline)>,
    /// It is under way as long as it lasts.
    _lease: Lease,
}

impl Http2Body {
    pub(super) fn new(incoming: Incoming, watch: Rc<Watch>, lease: Lease) -> Self {
        Self { incoming, watch, idle: lease.idle_timeout, waiting: None, _lease: lease }
    }

    pub(in crate::upstream) fn has_ended(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }

    pub(in crate::upstream) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            return self.poll_idle(cx).map(|error| Some(Err(error)));
        };
        self.waiting = None;
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => Some(Err(match self.watch.failure.take() {
                Some(failure) => BodyError::RequestBody(failure),
                None => BodyError::Http2(error),
            })),
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(trailers) => kept(trailers).map(|trailers| Ok(Frame::trailers(trailers))),
                Err(frame) => Some(Ok(frame)),
            },
        })
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        let sent = self.watch.sent.get();
        if self.waiting.as_ref().is_none_or(|(before, _)| *before != sent) {
            self.waiting = Some((sent, Deadline::after(self.idle)));
        }
        let Some((_, deadline)) = &mut self.waiting else { return Poll::Pending };
        deadline.poll(cx).map(|()| BodyError::Idle(self.idle))
    }
}

fn kept(trailers: HeaderMap) -> Option<HeaderMap> {
    Some(fields::kept_trailers(trailers, &|_| true)).filter(|kept| !kept.is_empty())
}

/// What is known here about a request's body that hyper's connection task is sending.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) waiting: Cell<Waiting>,
    pub(super) sent: Cell<u64>,
    /// Why it cannot be sent: the request's own error, which hyper would hide behind a reset stream.
    pub(super) failure: RefCell<Option<RequestBodyError>>,
}

impl Watch {
    pub(super) fn new(payload: &Payload) -> Self {
        let waiting = if matches!(payload, Payload::Empty) { Waiting::Answer } else { Waiting::Upstream };
        Self { waiting: Cell::new(waiting), sent: Cell::new(0), failure: RefCell::default() }
    }
}

/// A request's body that tells its [`Watch`] how far it has come.
#[derive(Debug)]
pub(super) struct WatchedBody {
    pub(super) payload: Payload,
    pub(super) watch: Rc<Watch>,
}

/// Stands in for the error that the [`Watch`] keeps.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request cannot be passed on")]
pub(super) struct Aborted;

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let this = &mut *self;
        let frame = match &mut this.payload {
            Payload::Empty => None,
            Payload::Full(data) => {
                let data = std::mem::take(data);
                this.payload = Payload::Empty;
                Some(Ok(Frame::data(data)))
            }
            Payload::Stream(stream) => {
                this.watch.waiting.set(Waiting::Client);
                ready!(Pin::new(&mut **stream).poll_frame(cx))
            }
        };
        let sent = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        this.watch.sent.set(this.watch.sent.get() + sent as u64);
        let is_over = frame.is_none() || this.is_end_stream();
        this.watch.waiting.set(if is_over { Waiting::Answer } else { Waiting::Upstream });
        Poll::Ready(frame.map(|frame| {
            frame.map_err(|error| {
                *this.watch.failure.borrow_mut() = Some(error);
                Aborted
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        match &self.payload {
            Payload::Empty => true,
            Payload::Full(_) => false,
            Payload::Stream(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Empty => SizeHint::with_exact(0),
            Payload::Full(data) => SizeHint::with_exact(data.len() as u64),
            Payload::Stream(stream) => stream.size_hint(),
        }
    }
}
