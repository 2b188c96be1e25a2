//! Stage 7, the only one that sees the body: the request goes to its upstream, the answer comes back as it streams.

use super::grpc::Call;
use super::record::Record;
use super::streams::Open;
use super::switch::Switch;
use super::{Context, Pipeline, Rejection, Worker, trace, transform};
use crate::telemetry::reason::Reason;
use crate::upstream::{Answer, Body, OutgoingRequest, RequestBody, Upstream};
use http::header::CONTENT_TYPE;
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

/// What a target without a path asks for.
static ROOT: PathAndQuery = PathAndQuery::from_static("/");

/// Sends a request that was decided about, and puts the upstream's answer into `record`. Without a `body` it has none.
///
/// # Errors
/// [`Rejection`] where the upstream cannot be reached, breaks HTTP or is late, or the body is too large.
pub async fn forward(
    worker: &Worker,
    pipeline: &Pipeline,
    body: Option<Incoming>,
    record: &mut Record,
) -> Result<(), Rejection> {
    let index = record.context.route.ok_or(Reason::NoRoute)?;
    let route = &pipeline.routes[index];
    let mut call = begin_call(pipeline, record)?;
    let body = request_body(body, record, call.as_deref(), route.max_body_bytes, pipeline)?;
    if pipeline.upstreams[index].follows_user {
        follow(worker, &pipeline.upstreams[index], &mut record.context)?;
    }
    let upstream = record.context.upstream.as_ref().unwrap_or(&pipeline.upstreams[index]);
    let (parts, stripped) = (&mut record.request, &mut record.stripped);
    let mut switch = if stripped.upgrade.is_some() { Switch::of(parts, stripped, upstream)? } else { None };
    trace::called(record.context.trace.as_mut(), pipeline, &mut stripped.fields);
    let request = OutgoingRequest {
        method: &parts.method,
        target: target(&parts.uri, &record.context),
        host: &upstream.host,
        fields: &stripped.fields,
        upgrade: stripped.upgrade.as_ref().filter(|_| switch.is_some()),
    };
    let timeout = route.response_timeout.unwrap_or(upstream.config.response_timeout);
    let generation = pipeline.verifier.generation();
    let answer = {
        let mut sent = pin!(worker.pools.send(upstream, &request, body, &mut parts.headers, timeout));
        poll_fn(|cx| match poll_end(record.open.as_ref(), call.as_deref_mut(), cx) {
            Poll::Ready(reason) => Poll::Ready(Err(reason.into())),
            Poll::Pending => sent.as_mut().poll(cx).map_err(Rejection::from),
        })
        .await?
    };
    may_have(pipeline, &record.context, generation)?;
    if is_unauthorized(&answer) && record.context.has_old_credential() {
        // It may be sent again.
        record.is_doubted = true;
        if let Some(switch) = switch.take() {
            switch.undo(parts);
        }
    } else {
        // An answer may take long.
        stripped.fields = Vec::new();
    }
    // Only a line in the log says it.
    record.answered_us = worker.log.is_on().then(|| pipeline.clock.monotonic_us());
    if let Some(transform) = &route.transform {
        transform::answer(transform, &record.context, &mut parts.headers);
    }
    match answer {
        Answer::Response { status, body } => {
            if switch.is_some_and(|switch| switch.is_connect) && status.is_success() {
                // Over HTTP/2 that would be an agreement.
                return Err(Rejection::because(Reason::UpstreamFailed, "the upstream did not switch to a WebSocket"));
            }
            let may_be_cut = body.is_open_ended() && (call.is_some() || record.context.token.is_some());
            (record.status, record.body) = (Some(status), if may_be_cut { in_parts(body, call, record) } else { body });
        }
        Answer::Switched(io) => {
            let (switch, idle) = (switch.ok_or(Reason::UpstreamFailed)?, upstream.config.idle_timeout);
            switch.agree(worker, pipeline, io, idle, record)?;
        }
    }
    trace::answered(record.context.trace.as_mut(), pipeline, record.status);
    Ok(())
}

/// Why an answer is waited for no longer.
#[inline]
fn poll_end(open: Option<&Open>, call: Option<&mut Call>, cx: &mut TaskContext<'_>) -> Poll<Reason> {
    if let Some(Poll::Ready(reason)) = open.map(|open| open.cut().poll(cx)) {
        return Poll::Ready(reason);
    }
    call.map_or(Poll::Pending, |call| call.poll(cx).map(|()| Reason::UpstreamTimeout))
}

/// The call of gRPC that a request is, if it says how long it may take.
fn begin_call(pipeline: &Pipeline, record: &mut Record) -> Result<Option<Box<Call>>, Rejection> {
    if record.request.version != Version::HTTP_2 || record.request.method != Method::POST {
        return Ok(None);
    }
    let began_us = record.context.now.monotonic_us;
    let elapsed_us = || pipeline.clock.monotonic_us().saturating_sub(began_us);
    Ok(Call::begin(&mut record.stripped, elapsed_us)?)
}

/// An answer that has not come whole, as one that can be ended between two of its parts.
fn in_parts(body: Body, call: Option<Box<Call>>, record: &Record) -> Body {
    let cut = record.open.as_ref().map(|open| Rc::clone(open.cut()));
    let deadline = call.map(|call| {
        let cut = cut.unwrap_or_else(|| Rc::clone(&call.cut));
        call.rest(cut)
    });
    let content_type = record.request.headers.get(CONTENT_TYPE);
    body.in_parts(content_type, record.request.version == Version::HTTP_2, deadline)
}

/// What the upstream is asked for.
fn target<'a>(uri: &'a Uri, context: &'a Context) -> &'a PathAndQuery {
    let rewritten = context.transformed.as_ref().and_then(|transformed| transformed.target.as_ref());
    rewritten.or(uri.path_and_query()).unwrap_or(&ROOT)
}

fn is_unauthorized(answer: &Answer) -> bool {
    matches!(answer, Answer::Response { status: StatusCode::UNAUTHORIZED, .. })
}

/// Finds the upstream of the caller's own namespace.
fn follow(worker: &Worker, upstream: &Arc<Upstream>, context: &mut Context) -> Result<(), Rejection> {
    let namespace = context.own_namespace().ok_or(Reason::NamespaceMissing)?;
    let own = worker.pools.of_namespace(upstream, namespace);
    let own = own.map_err(|error| Rejection::because(Reason::UpstreamFailed, error))?;
    // Whoever said what the namespace is, a part of a host's name it is only if it is one label.
    context.upstream = Some(own.ok_or(Reason::NamespaceMissing)?);
    Ok(())
}

/// Whether an answer is for the caller still, if something became known while it was waited for.
pub(super) fn may_have(pipeline: &Pipeline, context: &Context, generation: u64) -> Result<(), Rejection> {
    match &context.token {
        Some(token) if pipeline.verifier.generation() != generation => {
            Ok(pipeline.verifier.may_go_on(token, pipeline.clock.now())?)
        }
        _ => Ok(()),
    }
}

/// The body of the request. One that is still coming is listed among what its user has going on.
fn request_body(
    body: Option<Incoming>,
    record: &mut Record,
    call: Option<&Call>,
    max_bytes: Option<u64>,
    pipeline: &Pipeline,
) -> Result<RequestBody, Rejection> {
    let Some(body) = body.filter(|body| !body.is_end_stream()) else { return Ok(RequestBody::Empty) };
    record.has_body = true;
    // A length that is announced is refused before anything is sent; any other when it is passed.
    if let (Some(max_bytes), Some(length)) = (max_bytes, body.size_hint().exact())
        && length > max_bytes
    {
        return Err(Reason::BodyTooLarge.into());
    }
    // h2 silently drops pseudo-header fields from trailers, which make a request malformed (RFC 9113 §8.1). Since they cannot be
    // seen, trailers of an HTTP/2 request are refused.
    let keep_trailer = (record.request.version != Version::HTTP_2).then(|| pipeline.keep_trailer.clone());
    let cut = record.list().map(|open| Rc::clone(open.cut()));
    let cut = cut.or_else(|| call.map(|call| Rc::clone(&call.cut))).unwrap_or_default();
    Ok(RequestBody::Incoming { body, max_bytes, keep_trailer, cut })
}
