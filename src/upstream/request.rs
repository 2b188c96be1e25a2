//! What is sent: the request as the pipeline hands it over, and its body under watch.

use crate::telemetry::reason::Reason;
use crate::upstream::{Cut, fields};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The head of a request to an upstream.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingRequest<'a> {
    /// The method.
    pub method: &'a Method,
    /// Path and query, sent byte for byte.
    pub target: &'a PathAndQuery,
    /// The value of `Host` (`:authority`).
    pub host: &'a HeaderValue,
    /// All other fields. Those that frame a message or concern one connection are left out if present.
    pub fields: &'a [(HeaderName, HeaderValue)],
    /// The protocol to upgrade to, as the client asked for it. HTTP/1.1 only.
    pub upgrade: Option<&'a HeaderValue>,
}

/// The body of a request. Its framing is chosen where it is sent.
#[derive(Debug)]
pub enum RequestBody {
    /// None.
    Empty,
    /// Bytes at hand, which can be sent again.
    Full(Bytes),
    /// What a client is sending; passed on as it comes.
    Incoming {
        /// The client's body.
        body: Incoming,
        /// More than this many bytes are refused.
        max_bytes: Option<u64>,
        /// Which trailer fields are passed on; `None` refuses a body that has a trailer section.
        keep_trailer: Option<KeepTrailer>,
        /// Ends it when set.
        cut: Rc<Cut>,
    },
}

/// Says of a trailer field whether it is passed on. Shared, for it may know names from the configuration.
#[derive(Clone)]
pub struct KeepTrailer(Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>);

impl KeepTrailer {
    /// Passes on what `keep` says.
    pub fn new(keep: impl Fn(&HeaderName) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(keep))
    }
}

impl fmt::Debug for KeepTrailer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeepTrailer")
    }
}

/// Why the body of a request cannot be passed on. None of these is the upstream's fault.
#[derive(Debug, thiserror::Error)]
pub enum RequestBodyError {
    /// The client's connection or stream broke, or its framing is wrong.
    #[error("the client did not send the whole body")]
    Client(#[source] hyper::Error),
    /// It is larger than the route allows.
    #[error("the body is larger than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// It is shorter or longer than it was said to be.
    #[error("the body is not as long as announced")]
    Length,
    /// It ends in trailers, where none can be judged.
    #[error("the body ends in trailers, which are not accepted here")]
    Trailers,
    /// The client sent nothing for too long.
    #[error("the client sent nothing for {0:?}")]
    Idle(Duration),
    /// It was cut: whoever sends it may send no more of it.
    #[error("the upload was ended: {}", .0.title())]
    Cut(Reason),
}

/// A body on its way: an [`RequestBody`] that has been looked at.
#[derive(Debug)]
pub(super) enum Payload {
    Empty,
    Full(Bytes),
    Stream(Box<RequestStream>),
}

impl Payload {
    pub(super) fn new(body: RequestBody) -> Result<Self, RequestBodyError> {
        match body {
            RequestBody::Full(bytes) if !bytes.is_empty() => Ok(Self::Full(bytes)),
            RequestBody::Empty | RequestBody::Full(_) => Ok(Self::Empty),
            RequestBody::Incoming { body, .. } if body.is_end_stream() => Ok(Self::Empty),
            RequestBody::Incoming { body, max_bytes, keep_trailer, cut } => {
                Ok(Self::Stream(Box::new(RequestStream::new(body, max_bytes, keep_trailer, cut)?)))
            }
        }
    }

    /// Whether it can be sent a second time.
    pub(super) fn is_replayable(&self) -> bool {
        !matches!(self, Self::Stream(_))
    }

    /// The payload for one attempt; a stream is gone afterwards.
    pub(super) fn take(&mut self) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Full(bytes) => Self::Full(bytes.clone()),
            Self::Stream(_) => std::mem::replace(self, Self::Empty),
        }
    }
}

/// A client's body that is held to its announced length, to the limit of the route and to the trailers it may have.
#[derive(Debug)]
pub(super) struct RequestStream {
    body: Incoming,
    announced: Option<u64>,
    passed: u64,
    max_bytes: u64,
    keep_trailer: Option<KeepTrailer>,
    cut: Rc<Cut>,
    has_ended: bool,
}

impl RequestStream {
    fn new(
        body: Incoming,
        max_bytes: Option<u64>,
        keep_trailer: Option<KeepTrailer>,
        cut: Rc<Cut>,
    ) -> Result<Self, RequestBodyError> {
        let max_bytes = max_bytes.unwrap_or(u64::MAX);
        let announced = body.size_hint().exact();
        if announced.is_some_and(|length| length > max_bytes) {
            return Err(RequestBodyError::TooLarge { max_bytes });
        }
        Ok(Self { body, announced, passed: 0, max_bytes, keep_trailer, cut, has_ended: false })
    }

    /// The length that the client announced.
    pub(super) fn announced(&self) -> Option<u64> {
        self.announced
    }

    fn check_end(&mut self) -> Result<(), RequestBodyError> {
        self.has_ended = true;
        match self.announced {
            Some(length) if length != self.passed => Err(RequestBodyError::Length),
            _ => Ok(()),
        }
    }

    fn check_data(&mut self, data: &Bytes) -> Result<(), RequestBodyError> {
        self.passed = self.passed.saturating_add(data.len() as u64);
        if self.passed > self.max_bytes {
            return Err(RequestBodyError::TooLarge { max_bytes: self.max_bytes });
        }
        if self.announced.is_some_and(|length| self.passed > length) {
            return Err(RequestBodyError::Length);
        }
        Ok(())
    }
}

impl http_body::Body for RequestStream {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let this = &mut *self;
        if this.has_ended {
            return Poll::Ready(None);
        }
        // What has come of it stays here: a part of a body must not look like a whole one.
        if this.cut.reason().is_some() {
            return this.cut.poll_sender(cx).map(|reason| Some(Err(RequestBodyError::Cut(reason))));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            // Nobody else may be left to wake whoever sends it.
            return this.cut.poll_sender(cx).map(|reason| Some(Err(RequestBodyError::Cut(reason))));
        };
        let frame = match frame {
            None => return Poll::Ready(this.check_end().err().map(Err)),
            Some(Err(error)) => return Poll::Ready(Some(Err(RequestBodyError::Client(error)))),
            Some(Ok(frame)) => frame,
        };
        let outcome = match frame.into_data() {
            Ok(data) => this.check_data(&data).map(|()| Some(Frame::data(data))),
            Err(frame) => this.check_end().and_then(|()| {
                let keep = this.keep_trailer.as_ref().ok_or(RequestBodyError::Trailers)?;
                let kept = fields::kept_trailers(frame.into_trailers().unwrap_or_default(), &*keep.0);
                Ok((!kept.is_empty()).then(|| Frame::trailers(kept)))
            }),
        };
        Poll::Ready(outcome.transpose())
    }

    fn is_end_stream(&self) -> bool {
        // A body that ended too early must still say so: its end is reported by `poll_frame`.
        self.has_ended || (self.body.is_end_stream() && self.announced.is_none_or(|length| length == self.passed))
    }

    fn size_hint(&self) -> SizeHint {
        self.announced.map_or_else(SizeHint::default, |length| SizeHint::with_exact(length.saturating_sub(self.passed)))
    }
}
