//! What a request leaves behind: one access line and a few counters, when its answer ends.

use super::worker::InForce;
use super::{Connection, Context, Worker};
use crate::telemetry::access_log::Line;
use crate::telemetry::reason::Reason;
use crate::upstream::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode, Uri};
use http_body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

/// The record of one request, written when it is dropped.
#[derive(Debug)]
pub struct Record {
    worker: Rc<Worker>,
    pipeline: InForce,
    method: Method,
    uri: Uri,
    /// What is known about the request.
    pub context: Context,
    /// Of the answer; none if the client was gone before there was one.
    status: Option<StatusCode>,
    /// Why it was refused.
    pub reason: Option<Reason>,
    /// When the head of the upstream's answer was there, by the monotonic clock.
    pub answered_us: Option<u64>,
    bytes_sent: u64,
    is_complete: bool,
}

impl Record {
    pub(super) fn new(worker: &Rc<Worker>, pipeline: &InForce, connection: Rc<Connection>) -> Box<Self> {
        Box::new(Self {
            worker: Rc::clone(worker),
            pipeline: Rc::clone(pipeline),
            method: Method::GET,
            uri: Uri::default(),
            context: worker.context(pipeline, connection),
            status: None,
            reason: None,
            answered_us: None,
            bytes_sent: 0,
            is_complete: false,
        })
    }

    pub(super) fn answer(&mut self, request: Parts, status: StatusCode) {
        self.method = request.method;
        self.uri = request.uri;
        self.status = Some(status);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
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
            method: self.method.as_str(),
            host: context.host.to_str().unwrap_or_default(),
            path: self.uri.path(),
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
            complete: self.is_complete || self.method == Method::HEAD,
        });
    }
}

/// The body of an answer, which ends its record.
#[derive(Debug)]
pub struct Recorded {
    body: Body,
    record: Box<Record>,
}

impl Recorded {
    pub(super) fn new(body: Body, mut record: Box<Record>) -> Self {
        record.is_complete = body.is_end_stream();
        Self { body, record }
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let sent = frame.data_ref().map_or(0, Bytes::len);
                this.record.bytes_sent += u64::try_from(sent).unwrap_or(0);
                this.record.is_complete = this.body.is_end_stream();
            }
            Poll::Ready(None) => this.record.is_complete = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
