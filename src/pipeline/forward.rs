//! Stage 7, the only one that sees the body: the request goes to its upstream, the answer comes back as it streams.

use super::record::Record;
use super::strip::Stripped;
use super::{Pipeline, Rejection, Worker};
use crate::telemetry::reason::Reason;
use crate::upstream::{self, Answer, Body, OutgoingRequest, RequestBody, Upstream};
use http::header::{CONNECTION, TE, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Sends a request that was decided about, and gives the upstream's answer.
///
/// # Errors
/// [`Rejection`] where the upstream cannot be reached, breaks HTTP or is late, or the body is too large.
pub async fn forward(
    worker: &Worker,
    pipeline: &Pipeline,
    stripped: Box<Stripped>,
    body: Incoming,
    record: &mut Record,
) -> Result<Response<Body>, Rejection> {
    let index = record.context.route.ok_or(Reason::NoRoute)?;
    let body = request_body(body, record, pipeline, pipeline.routes[index].max_body_bytes)?;
    let parts = &mut record.request;
    let (route, upstream) = (&pipeline.routes[index], &pipeline.upstreams[index]);
    let on_upgrade = stripped.upgrade.as_ref().and_then(|_| parts.extensions.remove::<OnUpgrade>());
    let mut fields = stripped.fields;
    if stripped.takes_trailers {
        // The HTTP/1.1 client leaves it out: it concerns one hop.
        fields.push((TE, HeaderValue::from_static("trailers")));
    }
    let mut request = OutgoingRequest {
        method: parts.method.clone(),
        target: parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")),
        host: upstream.host.clone(),
        fields,
        answer_fields: std::mem::take(&mut parts.headers),
        upgrade: stripped.upgrade.filter(|_| on_upgrade.is_some()),
        body,
    };
    let timeout = route.response_timeout.unwrap_or(upstream.config.response_timeout);
    let answer = send(worker, pipeline, upstream, &mut request, timeout, record).await?;
    // Only a line in the log says it.
    record.answered_us = worker.log.is_on().then(|| pipeline.clock.monotonic_us());
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = request.answer_fields;
    match answer {
        Answer::Response { status, body } => {
            *response.status_mut() = status;
            *response.body_mut() = body;
        }
        Answer::Switched(io) => {
            let client = on_upgrade.ok_or(Reason::UpstreamFailed)?;
            let (idle, open) = (upstream.config.idle_timeout, worker.open(pipeline, &record.context));
            tokio::task::spawn_local(async move {
                // Where nobody had to say who they are, nobody is cut off.
                let cut = open.as_ref().map(|open| Rc::clone(open.cut())).unwrap_or_default();
                // A client that is gone by now needs no tunnel.
                if let Ok(client) = client.await {
                    upstream::tunnel(TokioIo::new(client), io, idle, &cut).await;
                }
            });
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
    }
    Ok(response)
}

/// Sends the request, for as long as its user may. What comes back after that is not for them any more.
async fn send(
    worker: &Worker,
    pipeline: &Pipeline,
    upstream: &Arc<Upstream>,
    request: &mut OutgoingRequest,
    timeout: Duration,
    record: &Record,
) -> Result<Answer, Rejection> {
    let generation = pipeline.verifier.generation();
    let mut sent = pin!(worker.pools.send(upstream, request, timeout));
    let answer = poll_fn(|cx| {
        if let Some(open) = &record.open
            && let Poll::Ready(reason) = open.cut().poll(cx)
        {
            return Poll::Ready(Err(reason.into()));
        }
        sent.as_mut().poll(cx).map_err(Rejection::from)
    })
    .await?;
    if let Some(token) = &record.context.token
        && pipeline.verifier.generation() != generation
    {
        pipeline.verifier.may_go_on(token, pipeline.clock.now())?;
    }
    Ok(answer)
}

/// The body of the request. One that is still coming is listed among what its user has going on.
fn request_body(
    body: Incoming,
    record: &mut Record,
    pipeline: &Pipeline,
    max_bytes: Option<u64>,
) -> Result<RequestBody, Rejection> {
    if body.is_end_stream() {
        return Ok(RequestBody::Empty);
    }
    // A length that is announced is refused before anything is sent; any other when it is passed.
    if let (Some(max_bytes), Some(length)) = (max_bytes, body.size_hint().exact())
        && length > max_bytes
    {
        return Err(Reason::BodyTooLarge.into());
    }
    // h2 silently drops pseudo-header fields from trailers, which make a request malformed (RFC 9113 §8.1). Since they cannot be
    // seen, trailers of an HTTP/2 request are refused.
    let keep_trailer = (record.request.version != Version::HTTP_2).then(|| pipeline.keep_trailer.clone());
    let cut = record.list().map(|open| Rc::clone(open.cut())).unwrap_or_default();
    Ok(RequestBody::Incoming { body, max_bytes, keep_trailer, cut })
}
