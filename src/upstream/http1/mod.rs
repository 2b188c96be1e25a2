//! HTTP/1.1, spoken inside the caller's task.
//!
//! The request is written and the answer read by the task that wants the answer; while a body still flows, by
//! whoever polls the body of the answer. Reads go into a buffer larger than most messages: a read that does not
//! fill it tells the runtime that the socket is empty, which saves the next one from asking.

mod body;
mod chunk;
mod head;
mod upload;

pub use body::Http1Body;
pub use chunk::{Chunk, ChunkDecoder, ChunkError};
pub use head::{Framing, HeadError, LineError, ResponseHead, parse_response_head};

use crate::upstream::patience::{Patience, Waiting};
use crate::upstream::pool::{Failed, Lease};
use crate::upstream::pools::Worker;
use crate::upstream::request::{OutgoingRequest, Payload};
use crate::upstream::stream::Stream;
use crate::upstream::{Answer, Body, Failure, SendError, Upgraded};
use bytes::{Bytes, BytesMut};
use head::Asked;
use http::{HeaderMap, StatusCode};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use upload::{Upload, UploadError};

/// The most interim responses (1xx) before the real one.
const MAX_INTERIM: u32 = 16;

/// A connection in use. Dropped, it closes the connection; [`Exchange::release`] keeps it for the next request.
#[derive(Debug)]
pub(super) struct Exchange {
    io: Box<Stream>,
    pool: Lease,
    upload: Option<Upload>,
    write_error: Option<io::Error>,
}

impl Exchange {
    /// A request that goes out on `io`.
    pub(super) fn new(io: Box<Stream>, lease: Lease, request: &OutgoingRequest<'_>, payload: Payload) -> Self {
        let upload = Upload::new(request, payload, lease.worker.take_buffer());
        Self { io, pool: lease, upload: Some(upload), write_error: None }
    }

    /// Sends it and waits for the head of the answer; gives that and what came behind it, for [`Exchange::answer`].
    pub(super) async fn head(
        &mut self,
        request: &OutgoingRequest<'_>,
        answer_fields: &mut HeaderMap,
        patience: &mut Patience,
    ) -> Result<(ResponseHead, Bytes), Failed> {
        let asked = Asked { is_head: *request.method == http::Method::HEAD, upgrade: request.upgrade };
        let mut reader = HeadReader::new(answer_fields);
        let outcome = std::future::poll_fn(|cx| self.poll_head(cx, &mut reader, asked, patience)).await;
        outcome.map_err(|error| {
            let broke = matches!(&error, SendError::Failed(Failure::Io(_) | Failure::Closed));
            Failed { error, before_answer: broke && !reader.has_begun }
        })
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut HeadReader<'_>,
        asked: Asked<'_>,
        patience: &mut Patience,
    ) -> Poll<Result<(ResponseHead, Bytes), SendError>> {
        if let Some(Err(error)) = self.poll_upload(cx) {
            return Poll::Ready(Err(SendError::RequestBody(error)));
        }
        if let Poll::Ready(outcome) = reader.poll(cx, self, asked) {
            // The reason for which no more could be written says more than the end of the connection.
            let outcome = match (outcome, self.write_error.take()) {
                (Err(Failure::Closed), Some(error)) => Err(Failure::Io(error)),
                (outcome, _) => outcome,
            };
            return Poll::Ready(outcome.map_err(SendError::Failed));
        }
        let (waiting, sent) = self.upload.as_ref().map_or((Waiting::Answer, 0), |up| (up.waiting(), up.sent()));
        patience.poll(cx, waiting, sent).map(Err)
    }

    /// Moves the request on. `None`: it is not all written. An upstream that takes no more may still answer, as one does
    /// that refuses a large body by its head; that its answer is the last on this connection is noted.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Option<Result<(), super::RequestBodyError>> {
        let upload = self.upload.as_mut()?;
        let outcome = match upload.poll(cx, &mut self.io) {
            Poll::Pending => return None,
            Poll::Ready(outcome) => outcome,
        };
        let done = self.upload.take()?;
        match outcome {
            Ok(()) => self.pool.worker.give_back(done.into_buffer()),
            Err(UploadError::Write(error)) => self.write_error = Some(error),
            Err(UploadError::Body(error)) => return Some(Err(error)),
        }
        Some(Ok(()))
    }

    /// The answer of which this is the head.
    pub(super) fn answer(self, head: ResponseHead, rest: Bytes) -> Answer {
        let ResponseHead { status, framing, keep_alive } = head;
        let body = match framing {
            Framing::Tunnel => return Answer::Switched(Upgraded::new(*self.io, rest, self.pool)),
            Framing::Empty => {
                self.release(keep_alive && rest.is_empty());
                Body::Empty
            }
            Framing::Length(length) if rest.len() as u64 >= length => {
                // The comparison makes the conversion exact.
                let whole = rest.slice(..usize::try_from(length).unwrap_or(rest.len()));
                self.release(keep_alive && rest.len() == whole.len());
                Body::full(whole)
            }
            Framing::Length(_) | Framing::Chunked | Framing::UntilClose => {
                Body::Http1(Box::new(Http1Body::new(self, framing, keep_alive, rest)))
            }
        };
        Answer::Response { status, body }
    }

    /// Ends the exchange. The connection is kept if `is_reusable`, and if the whole request went out: else the
    /// upstream would take the next one for the rest of this.
    fn release(self, is_reusable: bool) {
        if is_reusable && self.upload.is_none() && self.write_error.is_none() {
            self.pool.keep(self.io);
        }
    }
}

/// Collects the head of the answer, however it is cut into pieces.
#[derive(Debug)]
struct HeadReader<'a> {
    /// What has come, where it is not a whole head.
    partial: BytesMut,
    /// Where its first line begins that has not been seen whole, once it has been looked at.
    line: Option<usize>,
    /// Its fields, once it is found.
    fields: &'a mut HeaderMap,
    interim: u32,
    has_begun: bool,
}

impl<'a> HeadReader<'a> {
    fn new(fields: &'a mut HeaderMap) -> Self {
        Self { partial: BytesMut::new(), line: None, fields, interim: 0, has_begun: false }
    }

    /// Ready with the head and what came behind it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
        asked: Asked<'_>,
    ) -> Poll<Result<(ResponseHead, Bytes), Failure>> {
        loop {
            let bytes = {
                let mut scratch = exchange.pool.worker.scratch();
                let mut buf = ReadBuf::new(&mut scratch);
                ready!(Pin::new(&mut *exchange.io).poll_read(cx, &mut buf))?;
                if buf.filled().is_empty() {
                    return Poll::Ready(Err(Failure::Closed));
                }
                self.has_begun = true;
                self.append(buf.filled(), &exchange.pool.worker)
            };
            if let Some(found) = self.take_head(bytes, asked)? {
                return Poll::Ready(Ok(found));
            }
        }
    }

    fn append(&mut self, read: &[u8], worker: &Worker) -> Bytes {
        if self.partial.is_empty() {
            return worker.copy(read);
        }
        self.partial.extend_from_slice(read);
        std::mem::take(&mut self.partial).freeze()
    }

    /// The head at the start of `bytes`, interim ones left out.
    fn take_head(&mut self, mut bytes: Bytes, asked: Asked<'_>) -> Result<Option<(ResponseHead, Bytes)>, HeadError> {
        while let Some((head, length)) = head::read_head(&bytes, &mut self.line, asked, self.fields)? {
            self.line = None;
            let rest = bytes.split_off(length);
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(Some((head, rest)));
            }
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(HeadError::TooManyInterim(MAX_INTERIM));
            }
            bytes = rest;
        }
        // Alone, the bytes are taken over without a copy.
        self.partial = BytesMut::from(bytes);
        Ok(None)
    }
}
