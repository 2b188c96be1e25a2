//! Stage 7, the only one that sees the body: the request goes to its upstream, the answer comes back as it streams.

use super::record::Record;
use super::{Context, Pipeline, Rejection, Worker};
use crate::config::Upgrade;
use crate::telemetry::reason::Reason;
use crate::upstream::{self, Answer, OutgoingRequest, RequestBody, Upstream};
use http::header::{CONNECTION, TE, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

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
    let body = request_body(body, record, route.max_body_bytes, pipeline)?;
    if pipeline.upstreams[index].follows_user {
        follow(worker, &pipeline.upstreams[index], &mut record.context)?;
    }
    let upstream = record.context.upstream.as_ref().unwrap_or(&pipeline.upstreams[index]);
    let (parts, stripped) = (&mut record.request, &mut record.stripped);
    let protocol = stripped.upgrade.as_ref().and_then(|value| Upgrade::asked(value.as_bytes()));
    let protocol = protocol.filter(|protocol| upstream.config.upgrades.contains(protocol));
    let mut on_upgrade = protocol.and_then(|_| parts.extensions.remove::<OnUpgrade>());
    if stripped.takes_trailers {
        // The HTTP/1.1 client leaves it out: it concerns one hop.
        stripped.fields.push((TE, HeaderValue::from_static("trailers")));
    }
    let request = OutgoingRequest {
        method: &parts.method,
        target: parts.uri.path_and_query().unwrap_or(&ROOT),
        host: &upstream.host,
        fields: &stripped.fields,
        upgrade: stripped.upgrade.as_ref().filter(|_| on_upgrade.is_some()),
    };
    let timeout = route.response_timeout.unwrap_or(upstream.config.response_timeout);
    let generation = pipeline.verifier.generation();
    let answer = {
        let mut sent = pin!(worker.pools.send(upstream, &request, body, &mut parts.headers, timeout));
        poll_fn(|cx| match record.open.as_ref().map(|open| open.cut().poll(cx)) {
            Some(Poll::Ready(reason)) => Poll::Ready(Err(reason.into())),
            Some(Poll::Pending) | None => sent.as_mut().poll(cx).map_err(Rejection::from),
        })
        .await?
    };
    may_have(pipeline, &record.context, generation)?;
    if is_unauthorized(&answer) && record.context.has_old_credential() {
        // It may be sent again.
        record.is_doubted = true;
        if let Some(on_upgrade) = on_upgrade.take() {
            parts.extensions.insert(on_upgrade);
        }
    } else {
        // An answer may take long.
        stripped.fields = Vec::new();
    }
    // Only a line in the log says it.
    record.answered_us = worker.log.is_on().then(|| pipeline.clock.monotonic_us());
    match answer {
        Answer::Response { status, body } => (record.status, record.body) = (Some(status), body),
        Answer::Switched(io) => {
            let (client, protocol) = on_upgrade.zip(protocol).ok_or(Reason::UpstreamFailed)?;
            let (idle, open) = (upstream.config.idle_timeout, worker.open(pipeline, &record.context));
            tokio::task::spawn_local(async move {
                // Where nobody had to say who they are, nobody is cut off.
                let cut = open.as_ref().map(|open| Rc::clone(open.cut())).unwrap_or_default();
                // A client that is gone by now needs no tunnel.
                if let Ok(client) = client.await {
                    upstream::tunnel(TokioIo::new(client), io, protocol, idle, &cut).await;
                }
            });
            record.status = Some(StatusCode::SWITCHING_PROTOCOLS);
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, HeaderValue::from_static(protocol.name()));
        }
    }
    Ok(())
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
    let cut = record.list().map(|open| Rc::clone(open.cut())).unwrap_or_default();
    Ok(RequestBody::Incoming { body, max_bytes, keep_trailer, cut })
}
