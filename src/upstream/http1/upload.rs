//! A request on its way to the upstream: the head as bytes, then the body as the client sends it.

use crate::upstream::fields;
use crate::upstream::patience::Waiting;
use crate::upstream::request::{OutgoingRequest, Payload, RequestBodyError, RequestStream};
use crate::upstream::stream::Stream;
use bytes::{Buf, Bytes};
use http::{HeaderMap, Method};
use http_body::Body as _;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// A request that has not been written whole. Dropped early, it leaves the message unfinished, so that no upstream
/// can take a part of a body for the whole.
#[derive(Debug)]
pub(super) struct Upload {
    out: Segments,
    source: Option<Box<RequestStream>>,
    is_chunked: bool,
    hold: Hold,
    sent: u64,
}

/// Whether the head waits for the first bytes of the body, so that both are one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The body has not been asked for anything.
    Untried,
    /// The client's side has been asked once and has had its turn of the scheduler to answer.
    Asked,
    /// Nothing is waited for.
    Over,
}

/// Why a request was not written whole.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The client's part is wrong or broken.
    Body(RequestBodyError),
    /// The upstream takes no more. It may have answered already.
    Write(io::Error),
}

impl Upload {
    /// Writes the head into `buffer`, which must be empty, and decides on the framing of the body.
    pub(super) fn new(request: &OutgoingRequest<'_>, payload: Payload, mut buffer: Vec<u8>) -> Self {
        let (length, data, source) = match payload {
            Payload::Empty => (expects_body(request.method).then_some(0), Bytes::new(), None),
            Payload::Full(data) => (Some(data.len() as u64), data, None),
            Payload::Stream(stream) => (stream.announced(), Bytes::new(), Some(stream)),
        };
        let is_chunked = source.is_some() && length.is_none();
        write_head(&mut buffer, request);
        if is_chunked {
            buffer.extend_from_slice(b"transfer-encoding: chunked\r\n");
        } else if let Some(length) = length {
            let _ = write!(buffer, "content-length: {length}\r\n"); // Writing to memory cannot fail.
        }
        buffer.extend_from_slice(b"\r\n");
        let hold = if source.is_some() { Hold::Untried } else { Hold::Over };
        Self { out: Segments { prefix: buffer, data, ..Segments::default() }, source, is_chunked, hold, sent: 0 }
    }

    /// Writes what can be written now. Ready: all of it is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, io: &mut Stream) -> Poll<Result<(), UploadError>> {
        if self.hold != Hold::Over && self.poll_hold(cx)?.is_pending() {
            return Poll::Pending;
        }
        loop {
            ready!(self.poll_out(cx, io)).map_err(UploadError::Write)?;
            if self.source.is_none() {
                return Pin::new(io).poll_flush(cx).map_err(UploadError::Write);
            }
            if self.poll_source(cx).map_err(UploadError::Body)?.is_pending() {
                // TLS may hold back what it was given.
                let _ = Pin::new(io).poll_flush(cx).map_err(UploadError::Write)?;
                return Poll::Pending;
            }
        }
    }

    /// Who holds it up, when [`Upload::poll`] is pending.
    pub(super) fn waiting(&self) -> Waiting {
        if self.source.is_some() && self.out.is_empty() { Waiting::Client } else { Waiting::Upstream }
    }

    /// How many bytes have been written: a change is progress.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// The buffer, for the next request.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.out.prefix
    }

    /// Asks for the first bytes of the body, twice at most: the client's connection is read by this same task, after
    /// this returned. Asking also is what makes it send `100 Continue` to a client that waits for that.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        if self.poll_source(cx).map_err(UploadError::Body)?.is_pending() && self.hold == Hold::Untried {
            self.hold = Hold::Asked;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.hold = Hold::Over;
        Poll::Ready(Ok(()))
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestBodyError>> {
        let Some(source) = &mut self.source else { return Poll::Ready(Ok(())) };
        let frame = ready!(Pin::new(&mut **source).poll_frame(cx)).transpose()?;
        match frame.map(http_body::Frame::into_data) {
            Some(Ok(data)) => self.out.push_data(data, self.is_chunked),
            Some(Err(frame)) => {
                self.source = None;
                self.push_end(frame.trailers_ref());
            }
            None => {
                self.source = None;
                self.push_end(None);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn push_end(&mut self, trailers: Option<&HeaderMap>) {
        if !self.is_chunked {
            return;
        }
        let out = self.out.restart();
        out.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            write_field(out, name.as_str(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    fn poll_out(&mut self, cx: &mut Context<'_>, io: &mut Stream) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = match self.out.slices() {
                (prefix, b"", b"") => ready!(Pin::new(&mut *io).poll_write(cx, prefix))?,
                (prefix, data, suffix) => {
                    let slices = [IoSlice::new(prefix), IoSlice::new(data), IoSlice::new(suffix)];
                    ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
            self.sent += written as u64;
        }
        Poll::Ready(Ok(()))
    }
}

/// Bytes that go out together: a head or the size line of a chunk, data, and the end of the chunk.
#[derive(Debug, Default)]
struct Segments {
    prefix: Vec<u8>,
    written: usize,
    data: Bytes,
    suffix: &'static [u8],
}

impl Segments {
    fn slices(&self) -> (&[u8], &[u8], &'static [u8]) {
        (&self.prefix[self.written..], &self.data, self.suffix)
    }

    fn is_empty(&self) -> bool {
        self.written == self.prefix.len() && self.data.is_empty() && self.suffix.is_empty()
    }

    fn advance(&mut self, written: usize) {
        let of_prefix = written.min(self.prefix.len() - self.written);
        self.written += of_prefix;
        let of_data = (written - of_prefix).min(self.data.len());
        self.data.advance(of_data);
        self.suffix = &self.suffix[written - of_prefix - of_data..];
    }

    /// The prefix, to be added to; what of it has been written is forgotten.
    fn restart(&mut self) -> &mut Vec<u8> {
        if self.written == self.prefix.len() {
            self.prefix.clear();
            self.written = 0;
        }
        &mut self.prefix
    }

    /// Adds data behind an unwritten head or nothing.
    fn push_data(&mut self, data: Bytes, is_chunked: bool) {
        if data.is_empty() {
            return; // As a chunk it would be the last one.
        }
        if is_chunked {
            let _ = write!(self.restart(), "{:x}\r\n", data.len()); // Writing to memory cannot fail.
            self.suffix = b"\r\n";
        }
        self.data = data;
    }
}

/// Methods for which a missing body is said to be empty (RFC 9110 §8.6).
fn expects_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Request line and fields, without framing and without the empty line. Fields that frame a message or concern a
/// connection are left out, whoever put them there: a second framing would be request smuggling.
fn write_head(out: &mut Vec<u8>, request: &OutgoingRequest<'_>) {
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.target.as_str().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_field(out, "host", request.host.as_bytes());
    for (name, value) in request.fields {
        let name = name.as_str();
        if !fields::is_of_connection(name) {
            write_field(out, name, value.as_bytes());
        }
    }
    if let Some(protocol) = request.upgrade {
        write_field(out, "connection", b"upgrade");
        write_field(out, "upgrade", protocol.as_bytes());
    }
}

#[inline]
fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_piece_of_a_body_does_not_end_it() {
        let mut out = Segments::default();
        out.push_data(Bytes::new(), true);
        assert!(out.is_empty());
        out.push_data(Bytes::from_static(b"0123456789"), true);
        assert_eq!(out.slices(), (&b"a\r\n"[..], &b"0123456789"[..], &b"\r\n"[..]));
    }

    #[test]
    fn what_has_been_written_is_gone_wherever_the_write_stopped() {
        for cut in 0..=15 {
            let mut out = Segments::default();
            out.push_data(Bytes::from_static(b"0123456789"), true);
            out.advance(cut);
            let (prefix, data, suffix) = out.slices();
            assert_eq!([prefix, data, suffix].concat(), b"a\r\n0123456789\r\n"[cut..]);
            assert_eq!(out.is_empty(), cut == 15);
        }
    }
}
