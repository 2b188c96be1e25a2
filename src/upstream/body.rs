//! The body of an answer, whatever it comes from.

use crate::telemetry::reason::Reason;
use crate::upstream::http1::{ChunkError, Http1Body};
use crate::upstream::http2::Http2Body;
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Http1(body) => body.has_ended(),
            Self::Http2(body) => body.has_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
