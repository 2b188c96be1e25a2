//! A streaming answer that is ended between two of its parts: a call of gRPC by its status, an event stream by its end.
//!
//! Of what is on its way only the part that the client has begun to get is still passed on, for as long as the grace lasts. The end
//! that is made then is a proper one: a client of gRPC reads why, one of events connects anew. What has no parts only breaks off.

use crate::base::tick::{self, Deadline};
use crate::telemetry::reason::Reason;
use crate::upstream::farewell::GRACE;
use crate::upstream::parts::Parts;
use crate::upstream::{Body, BodyError, Cut};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body as _, Frame};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// `grpc-status`.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// `grpc-message`.
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Until when a call may take, and what ends its request then.
#[derive(Debug)]
pub struct CallDeadline {
    /// When it is over.
    pub at: Deadline,
    /// Watched by whoever sends the request.
    pub cut: Rc<Cut>,
}

/// An answer that is known by its parts.
#[derive(Debug)]
pub struct Parted {
    rest: Body,
    parts: Parts,
    stage: Stage,
    deadline: Option<CallDeadline>,
}

#[derive(Debug)]
enum Stage {
    Open,
    /// It was cut in the middle of a part; by a tick of this thread at the latest it breaks off.
    Finishing(Reason, u64, Deadline),
    /// It is to be ended now.
    Ending(Reason),
    Ended(Reason),
    Broken(Reason),
}

impl Body {
    /// The same answer, to be ended between two of its parts; as it is, if it has none that are known and no `deadline`.
    #[must_use]
    pub fn in_parts(self, content_type: Option<&HeaderValue>, is_http2: bool, deadline: Option<CallDeadline>) -> Self {
        let parts = Parts::of(content_type, is_http2);
        if matches!(parts, Parts::Unknown) && deadline.is_none() {
            return self;
        }
        Self::Parted(Box::new(Parted { rest: self, parts, stage: Stage::Open, deadline }))
    }
}

impl Parted {
    pub(super) fn cut(&mut self, reason: Reason) -> Body {
        if !matches!(self.stage, Stage::Open) {
            return Body::Empty;
        }
        self.stage = match &self.parts {
            Parts::Unknown => Stage::Broken(reason),
            parts if parts.is_between() => Stage::Ending(reason),
            _ => Stage::Finishing(reason, tick::count() + tick::ticks(GRACE), Deadline::after(GRACE)),
        };
        if self.is_finishing() { Body::Empty } else { std::mem::take(&mut self.rest) }
    }

    pub(super) fn is_finishing(&self) -> bool {
        matches!(self.stage, Stage::Finishing(..))
    }

    pub(super) fn give_up(&mut self) -> Body {
        match self.stage {
            Stage::Finishing(reason, until, _) if tick::count() > until => {
                self.stage = Stage::Broken(reason);
                std::mem::take(&mut self.rest)
            }
            _ => Body::Empty,
        }
    }

    pub(super) fn ended(&self) -> Option<Reason> {
        match self.stage {
            Stage::Open => None,
            Stage::Finishing(reason, ..) | Stage::Ending(reason) | Stage::Ended(reason) | Stage::Broken(reason) => {
                Some(reason)
            }
        }
    }

    /// Whether the answer came to its own end.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Open) && self.rest.is_end_stream()
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if matches!(self.stage, Stage::Open)
            && let Some(deadline) = &mut self.deadline
            && deadline.at.poll(cx).is_ready()
        {
            deadline.cut.set(Reason::UpstreamTimeout);
            drop(self.cut(Reason::UpstreamTimeout));
        }
        match &mut self.stage {
            Stage::Open => {}
            Stage::Finishing(reason, _, grace) => {
                // Asked once at least, so that the deadline wakes this.
                if grace.poll(cx).is_ready() {
                    self.stage = Stage::Broken(*reason);
                    self.rest = Body::Empty;
                    return self.poll_frame(cx);
                }
            }
            Stage::Ending(reason) => {
                let reason = *reason;
                self.stage = Stage::Ended(reason);
                return Poll::Ready(self.end(reason).map(Ok));
            }
            Stage::Ended(_) => return Poll::Ready(None),
            Stage::Broken(reason) => return Poll::Ready(Some(Err(BodyError::Cut(*reason)))),
        }
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map(|frame| self.pass(frame))))
    }

    /// What of a frame is passed on: nothing behind the end of the part that is the last one.
    fn pass(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => return trailers,
        };
        let mut passed = 0;
        while passed < data.len() {
            passed += self.parts.advance(&data[passed..]);
            if let Stage::Finishing(reason, ..) = self.stage
                && self.parts.is_between()
            {
                self.stage = Stage::Ending(reason);
                self.rest = Body::Empty;
                data.truncate(passed);
            }
        }
        Frame::data(data)
    }

    /// The proper end.
    fn end(&self, reason: Reason) -> Option<Frame<Bytes>> {
        matches!(self.parts, Parts::Messages(_)).then(|| {
            let mut trailers = HeaderMap::new();
            tell_grpc(&mut trailers, reason);
            Frame::trailers(trailers)
        })
    }
}

/// Tells a client of gRPC why its call ends.
pub fn tell_grpc(fields: &mut HeaderMap, reason: Reason) {
    fields.insert(GRPC_STATUS, HeaderValue::from(u16::from(reason.grpc_status())));
    // Every reason's is one.
    if let Ok(message) = HeaderValue::try_from(reason.grpc_message()) {
        fields.insert(GRPC_MESSAGE, message);
    }
}
