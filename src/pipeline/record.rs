//! What a request leaves behind: one access line and a few counters, when its answer ends.

use super::streams::Open;
use super::switch::Tunnel;
use super::worker::InForce;
use super::{Connection, Context, Stripped, Worker};
use crate::telemetry::access_log::Line;
use crate::telemetry::reason::Reason;
use crate::upstream::{Body, BodyError};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

/// The record of one request, written when it is dropped.
#[derive(Debug)]
pub struct Record {
    pub(super) worker: Rc<Worker>,
    pub(super) pipeline: InForce,
    /// The request's head. Once it was decided about its fields are gone, and those of the answer take their room.
    pub request: Parts,
    /// What is known about the request.
    pub context: Context,
    /// What is left of its fields, until it is forwarded.
    pub(super) stripped: Stripped,
    /// Of the answer; none if the client was gone before there was one.
    pub status: Option<StatusCode>,
    /// The rest of the answer, unless it is a stream.
    pub(super) body: Body,
    /// What it was switched to, to be joined.
    pub(super) tunnel: Option<Box<Tunnel>>,
    /// The stream that this is, from the moment that it turns out to be one.
    pub open: Option<Open>,
    /// Why it was refused.
    pub reason: Option<Reason>,
    /// When the head of the upstream's answer was there, by the monotonic clock.
    pub answered_us: Option<u64>,
    bytes_sent: u64,
    is_complete: bool,
    /// Whether the client sends anything behind the head.
    pub(super) has_body: bool,
    /// The upstream answered 401 to a credential that may be of no use any more.
    pub(super) is_doubted: bool,
}

impl Record {
    pub(super) fn new(worker: Rc<Worker>, pipeline: InForce, connection: Rc<Connection>, request: Parts) -> Box<Self> {
        let context = worker.context(&pipeline, connection);
        Box::new(Self {
            worker,
            pipeline,
            request,
            context,
            stripped: Stripped::default(),
            status: None,
            body: Body::Empty,
            tunnel: None,
            open: None,
            reason: None,
            answered_us: None,
            bytes_sent: 0,
            is_complete: false,
            has_body: false,
            is_doubted: false,
        })
    }

    /// Takes an answer of Postern's own, in place of any other.
    pub(super) fn put(&mut self, answer: Response<Body>) {
        let (head, body) = answer.into_parts();
        (self.status, self.request.headers, self.body) = (Some(head.status), head.headers, body);
    }

    /// Lists this as a stream of its user, who may be cut off from now on. Nothing to do for a route without users.
    pub(super) fn list(&mut self) -> Option<&Open> {
        if self.open.is_none() {
            self.open = self.worker.open(&self.pipeline, &self.context);
            if let Some(open) = &self.open {
                open.keep(std::mem::take(&mut self.body));
            }
        }
        self.open.as_ref()
    }

    fn poll_frame(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(open) = &self.open {
            return open.poll_frame(cx);
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let is_stream = match &polled {
            Poll::Pending => true,
            // The first may be all that there is.
            Poll::Ready(Some(Ok(_))) => self.bytes_sent > 0 && !self.body.is_end_stream(),
            Poll::Ready(None | Some(Err(_))) => false,
        };
        if is_stream && let Some(open) = self.list() {
            match open.ended() {
                // Has this task woken.
                _ if polled.is_pending() => return open.poll_frame(cx),
                Some(reason) => return Poll::Ready(Some(Err(BodyError::Cut(reason)))),
                None => {}
            }
        }
        polled
    }

    /// Why its answer was ended, if it was.
    fn ended(&self) -> Option<Reason> {
        self.open.as_ref().map_or_else(|| self.body.ended(), Open::ended)
    }

    /// Whether the whole answer was given.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete || self.request.method == Method::HEAD
    }

    fn has_ended(&self) -> bool {
        self.open.as_ref().map_or_else(|| self.body.is_end_stream(), Open::has_ended)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.context.trace.is_some() {
            self.end_trace();
        }
        // The connection died while the request was being decided about; nobody was answered.
        let Some(status) = self.status else { return };
        let context = &self.context;
        let since_start = |us: u64| us.saturating_sub(context.now.monotonic_us);
        let duration_us = since_start(self.pipeline.clock.monotonic_us());
        self.pipeline.metrics(context.route).count(status, self.reason, duration_us);
        if !self.worker.log.is_on() {
            return;
        }
        let route = context.route.and_then(|index| self.pipeline.routes.get(index));
        let identity = context.caller.as_ref().map(|caller| &caller.identity);
        let token = context.token.as_ref();
        self.worker.log.add(&Line {
            unix_ms: context.now.unix_ms,
            request_id: context.request_id.to_str().unwrap_or_default(),
            client: context.client,
            method: self.request.method.as_str(),
            host: context.host.to_str().unwrap_or_default(),
            path: self.request.uri.path(),
            status: status.as_u16(),
            reason: self.reason,
            route: route.map(|route| route.name.as_str()),
            upstream: self.answered_us.and(route.map(|route| route.upstream.name.as_str())),
            issuer: token.map(|token| token.issuer().config().name.as_str()),
            subject: identity.map(|known| known.subject.as_str()).or_else(|| token.and_then(|token| token.subject())),
            namespace: context.namespace(),
            duration_us,
            upstream_us: self.answered_us.map(since_start),
            bytes_sent: self.bytes_sent,
            complete: self.is_complete(),
            ended: if self.is_complete { None } else { self.ended() },
        });
    }
}

/// The body of an answer, whose end ends its record. All of it lies in one place: what is handed on is a pointer.
#[derive(Debug)]
pub struct Recorded<H> {
    record: Box<Record>,
    /// What the listener wants kept until then.
    _held: Option<H>,
}

impl<H> Recorded<H> {
    pub(super) fn new(mut record: Box<Record>, held: Option<H>) -> Self {
        record.is_complete = record.body.is_end_stream();
        if record.is_complete {
            // A request that was listed for its upload has its whole answer.
            record.open = None;
        } else if let Some(open) = &record.open {
            open.keep(std::mem::take(&mut record.body));
        }
        Self { record, _held: held }
    }
}

impl<H: Unpin> http_body::Body for Recorded<H> {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let record = &mut *self.record;
        let polled = record.poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let sent = frame.data_ref().map_or(0, Bytes::len);
                record.bytes_sent += u64::try_from(sent).unwrap_or(0);
                record.is_complete = record.has_ended();
            }
            Poll::Ready(None) => record.is_complete = record.ended().is_none(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.record.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.record.open.as_ref().map_or_else(|| self.record.body.size_hint(), Open::size_hint)
    }
}
