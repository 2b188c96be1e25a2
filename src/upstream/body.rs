//! The body of an answer, whatever it comes from.

use crate::telemetry::reason::Reason;
use crate::upstream::http1::{ChunkError, Http1Body};
use crate::upstream::http2::Http2Body;
use crate::upstream::parted::Parted;
use crate::upstream::request::RequestBodyError;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// The body of a response: an upstream's, or one of Postern's own. Dropped before its end, it closes the
/// connection that it was coming from.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// All of it at once.
    Full(Bytes),
    /// Coming from an HTTP/1.1 connection.
    Http1(Box<Http1Body>),
    /// Coming from an HTTP/2 stream.
    Http2(Box<Http2Body>),
    /// One that can be ended between two of its parts.
    Parted(Box<Parted>),
    /// It was cut.
    Cut(Reason),
}

/// Why a body ended before its end. The client must not take it for whole.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Reading failed.
    #[error("the connection to the upstream broke")]
    Io(#[source] io::Error),
    /// The upstream closed the connection in the middle.
    #[error("the upstream ended the body too early")]
    Incomplete,
    /// The chunked coding is wrong.
    #[error("the upstream sent a chunk that is refused")]
    Chunk(#[from] ChunkError),
    /// Nothing moved for too long.
    #[error("the upstream sent nothing for {0:?}")]
    Idle(Duration),
    /// The HTTP/2 stream or connection failed.
    #[error("the HTTP/2 stream of the upstream failed")]
    Http2(#[source] hyper::Error),
    /// The request's body, still being sent, could not be passed on.
    #[error("the body of the request cannot be passed on")]
    RequestBody(#[source] RequestBodyError),
    /// It was cut: whoever asked for it may have no more of it.
    #[error("the stream was ended: {}", .0.title())]
    Cut(Reason),
}

impl Body {
    /// A body that is at hand.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::Empty } else { Self::Full(bytes) }
    }

    /// Whether it comes from an upstream still, of a length that nobody said.
    pub fn is_open_ended(&self) -> bool {
        matches!(self, Self::Http1(_) | Self::Http2(_)) && http_body::Body::size_hint(self).exact().is_none()
    }

    /// Ends it: at the end of the part that it is in, if it has parts, else at once, and then nobody can take it for whole. Gives
    /// what is not needed any more, to be dropped where nothing is borrowed. What was said first stays.
    #[must_use = "dropped, it closes a connection"]
    pub fn cut(&mut self, reason: Reason) -> Self {
        match self {
            Self::Parted(parted) => parted.cut(reason),
            Self::Cut(_) => Self::Empty,
            Self::Empty | Self::Full(_) | Self::Http1(_) | Self::Http2(_) => std::mem::replace(self, Self::Cut(reason)),
        }
    }

    /// Whether it was cut and is to come to the end of a part.
    pub fn is_finishing(&self) -> bool {
        matches!(self, Self::Parted(parted) if parted.is_finishing())
    }

    /// Gives up a part that takes too long to end. Gives what is not needed any more, as [`Body::cut`] does.
    #[must_use = "dropped, it closes a connection"]
    pub fn give_up(&mut self) -> Self {
        if let Self::Parted(parted) = self { parted.give_up() } else { Self::Empty }
    }

    /// Why it was cut, if it was.
    pub fn ended(&self) -> Option<Reason> {
        match self {
            Self::Cut(reason) => Some(*reason),
            Self::Parted(parted) => parted.ended(),
            Self::Empty | Self::Full(_) | Self::Http1(_) | Self::Http2(_) => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
            Self::Parted(body) => body.poll_frame(cx),
            Self::Cut(reason) => Poll::Ready(Some(Err(BodyError::Cut(*reason)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Http1(body) => body.has_ended(),
            Self::Http2(body) => body.has_ended(),
            Self::Parted(body) => body.has_ended(),
            Self::Cut(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
            Self::Parted(_) | Self::Cut(_) => SizeHint::default(),
        }
    }
}
