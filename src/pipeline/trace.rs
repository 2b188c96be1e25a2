//! The spans of a request, where traces are on: one of Postern's own side, and one for each time that an upstream was called.
//!
//! What a span says follows the semantic conventions of OpenTelemetry for HTTP. It never holds a token, a query, a name that a caller
//! chose, or who the caller is, but for the namespace in the host of an upstream that follows it; `postern.request_id` leads to the
//! access line.

use super::Pipeline;
use super::inject::TRACEPARENT;
use super::record::Record;
use crate::telemetry::traces::{Parent, Share, Side, Span, Spans, TraceParent, new_span_id};
use crate::upstream::Upstream;
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};

/// Longer paths are cut.
const LONGEST_PATH: usize = 1024;

/// What is to become of a request's trace.
#[derive(Debug)]
pub struct Trace {
    share: Share,
    decision: Decision,
}

#[derive(Debug)]
enum Decision {
    /// Its head was not looked at.
    Open,
    Unsampled,
    Sampled(Box<Sampled>),
}

#[derive(Debug)]
struct Sampled {
    /// The trace, and the caller's span in it where it is the caller's trace.
    parent: TraceParent,
    is_remote: bool,
    /// The span of Postern's own side.
    span_id: [u8; 8],
    /// What the upstream takes for its caller's span.
    next_call: [u8; 8],
    calls: Vec<Call>,
}

/// An upstream that was called.
#[derive(Debug)]
struct Call {
    span_id: [u8; 8],
    start_us: u64,
    /// When the head of its answer was there, and what it said.
    answer: Option<(u64, StatusCode)>,
}

impl Trace {
    /// That of a request that nothing is known about.
    pub(super) fn new(spans: &Spans) -> Box<Self> {
        Box::new(Self { share: spans.share(), decision: Decision::Open })
    }

    /// Decides whether the request is sampled: as its caller decided, else by the id of its new trace. If so the upstream is told
    /// another parent.
    pub(super) fn decide(&mut self, traceparent: &mut HeaderValue, is_remote: bool) {
        self.decision = Decision::Unsampled;
        let Some(parent) = TraceParent::parse(traceparent) else { return };
        let is_sampled = if is_remote { parent.is_sampled() } else { self.share.takes(&parent.trace_id) };
        if is_sampled {
            let (span_id, next_call) = (new_span_id(), new_span_id());
            *traceparent = parent.of_child(next_call);
            let sampled = Sampled { parent, is_remote, span_id, next_call, calls: Vec::new() };
            self.decision = Decision::Sampled(Box::new(sampled));
        }
    }
}

/// An upstream is called with these fields.
pub(super) fn called(trace: Option<&mut Box<Trace>>, pipeline: &Pipeline, fields: &mut [(HeaderName, HeaderValue)]) {
    if let Some(Decision::Sampled(sampled)) = trace.map(|trace| &mut trace.decision) {
        if !sampled.calls.is_empty() {
            sampled.next_call = new_span_id();
            let parent = sampled.parent.of_child(sampled.next_call);
            fields.iter_mut().filter(|(name, _)| *name == TRACEPARENT).for_each(|(_, value)| *value = parent.clone());
        }
        let call = Call { span_id: sampled.next_call, start_us: pipeline.clock.monotonic_us(), answer: None };
        sampled.calls.push(call);
    }
}

/// It has answered.
pub(super) fn answered(trace: Option<&mut Box<Trace>>, pipeline: &Pipeline, status: Option<StatusCode>) {
    if let Some(Decision::Sampled(sampled)) = trace.map(|trace| &mut trace.decision)
        && let Some(call) = sampled.calls.last_mut()
    {
        call.answer = status.map(|status| (pipeline.clock.monotonic_us(), status));
    }
}

impl Record {
    /// Hands over the spans of a request that has ended, if it is sampled.
    #[cold]
    pub(super) fn end_trace(&mut self) {
        let (Some(mut trace), Some(spans)) = (self.context.trace.take(), &self.worker.spans) else { return };
        if matches!(trace.decision, Decision::Open) {
            trace.decide(&mut self.context.traceparent, false);
        }
        let Decision::Sampled(sampled) = &trace.decision else { return };
        let end_us = self.pipeline.clock.monotonic_us();
        for (resends, call) in sampled.calls.iter().enumerate() {
            self.call_span(spans, sampled, call, (resends, end_us));
        }
        self.own_span(spans, sampled, end_us);
    }

    /// The moment in nanoseconds since 1970.
    fn at_ns(&self, us: u64) -> u64 {
        let now = &self.context.now;
        now.unix_ms * 1_000_000 + us.saturating_sub(now.monotonic_us) * 1000
    }

    fn own_span(&self, spans: &Spans, sampled: &Sampled, end_us: u64) {
        let context = &self.context;
        let route = context.route.and_then(|index| self.pipeline.routes.get(index)).map(|route| route.name.as_str());
        let method = method(&self.request.method);
        let shown = if method == OTHER { "HTTP" } else { method };
        let is_server_error = self.status.is_some_and(|status| status.is_server_error());
        let ended = self.open.as_ref().filter(|_| !self.is_complete()).and_then(super::streams::Open::ended);
        let error = match (self.reason.or(ended), &self.status) {
            (Some(reason), _) => Some(reason.code()),
            (None, Some(status)) if is_server_error => Some(code(status)),
            (None, Some(_)) if self.is_complete() => None,
            // The client went, or the upstream's answer broke off.
            (None, _) => Some("incomplete"),
        };
        let path = self.request.uri.path();
        spans.add(&Span {
            trace_id: sampled.parent.trace_id,
            span_id: sampled.span_id,
            parent: sampled.is_remote.then_some(Parent { span_id: sampled.parent.span_id, is_remote: true }),
            side: Side::Server,
            name: &route.map_or_else(|| shown.to_owned(), |route| format!("{shown} {route}")),
            start_ns: self.at_ns(context.now.monotonic_us),
            end_ns: self.at_ns(end_us),
            texts: &[
                ("http.request.method", Some(method)),
                ("url.path", Some(&path[..path.floor_char_boundary(LONGEST_PATH)])),
                ("url.scheme", Some(if context.connection.is_tls { "https" } else { "http" })),
                ("http.route", route),
                ("network.protocol.version", version(self.request.version)),
                ("error.type", error),
                ("postern.request_id", context.request_id.to_str().ok()),
            ],
            numbers: &[("http.response.status_code", self.status.map(|status| status.as_u16().into()))],
            is_error: is_server_error,
        });
    }

    fn call_span(&self, spans: &Spans, sampled: &Sampled, call: &Call, (resends, end_us): (usize, u64)) {
        let of_route = || self.context.route.and_then(|index| self.pipeline.upstreams.get(index));
        let upstream = self.context.upstream.as_ref().or_else(of_route);
        let (address, port) = upstream.map(|upstream| server(upstream)).unwrap_or_default();
        let answer = call.answer;
        let is_error = answer.is_none_or(|(_, status)| status.as_u16() >= 400);
        let error = match &answer {
            Some((_, status)) => is_error.then(|| code(status)),
            None => Some(self.reason.map_or("incomplete", |reason| reason.code())),
        };
        let method = method(&self.request.method);
        spans.add(&Span {
            trace_id: sampled.parent.trace_id,
            span_id: call.span_id,
            parent: Some(Parent { span_id: sampled.span_id, is_remote: false }),
            side: Side::Client,
            name: if method == OTHER { "HTTP" } else { method },
            start_ns: self.at_ns(call.start_us),
            end_ns: self.at_ns(answer.map_or(end_us, |(us, _)| us)),
            texts: &[
                ("http.request.method", Some(method)),
                ("server.address", Some(address)),
                ("error.type", error),
                ("postern.upstream", upstream.map(|upstream| upstream.config.name.as_str())),
            ],
            numbers: &[
                ("server.port", port),
                ("http.response.status_code", answer.map(|(_, status)| status.as_u16().into())),
                ("http.request.resend_count", Some(resends as u64).filter(|count| *count > 0)),
            ],
            is_error,
        });
    }
}

/// Stands for methods that are not of RFC 9110 or 5789.
const OTHER: &str = "_OTHER";

fn method(method: &Method) -> &str {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT"];
    if known.contains(&method.as_str()) { method.as_str() } else { OTHER }
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

/// A status without its phrase.
fn code(status: &StatusCode) -> &str {
    status.as_str()
}

/// The host and port of an upstream; of one with several endpoints its name, since which of them answered is not known here.
fn server(upstream: &Upstream) -> (&str, Option<u64>) {
    let config = &upstream.config;
    match config.targets.as_slice() {
        [crate::config::Target::Host { host, port }] => (host, Some(u64::from(*port))),
        [crate::config::Target::Unix(path)] => (path.to_str().unwrap_or_default(), None),
        _ => (&config.name, None),
    }
}
