//! What Postern answers itself: documents for everybody, and its endpoints. Nothing of it is forwarded.

use super::record::Record;
use super::reject::Rejection;
use super::strip::{Presented, strip};
use super::{Pipeline, Stripped};
use crate::base::tick::Deadline;
use crate::endpoints::{Authorization, BODY_TIMEOUT, Endpoint, Endpoints, Head, MAX_BODY, Reply, Served};
use crate::telemetry::reason::Reason;
use crate::token_service::publish::Document;
use crate::upstream::Body;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use std::error::Error;
use std::net::IpAddr;
use std::sync::Arc;

/// What Postern answers itself; nothing for nearly every request.
#[inline]
pub(super) fn served(pipeline: &Pipeline, method: &Method, path: &str) -> Option<Served> {
    let served = pipeline.site.at(path)?;
    let is_here = match &served {
        Served::Document(_) => method == Method::GET || method == Method::HEAD,
        Served::Endpoint(endpoint) => pipeline.endpoints.as_ref().is_some_and(|endpoints| endpoints.has(endpoint)),
    };
    is_here.then_some(served)
}

/// Answers; the answer is in `record` then.
///
/// # Errors
/// The request breaks HTTP, or its address has asked too often.
pub(super) async fn serve(
    pipeline: &Pipeline,
    served: Served,
    body: Incoming,
    record: &mut Record,
) -> Result<(), Rejection> {
    let answer = match (served, &pipeline.endpoints) {
        (Served::Document(document), _) => published(pipeline, document)?,
        (Served::Endpoint(endpoint), Some(endpoints)) => {
            let Record { request, context, stripped, .. } = &mut *record;
            strip(request, &pipeline.identity_headers, stripped)?;
            if stripped.is_connect {
                return Err(Reason::MethodNotAllowed.into());
            }
            context.keep(stripped);
            let (client, now) = (context.client, context.now);
            pipeline.limits.admit(client, now)?;
            // Also before right credentials: else they could be guessed at any rate.
            if !endpoint.has_own_limits() && pipeline.limits.is_over_failures(client, now) {
                return Err(pipeline.limits.over_failures(client, now));
            }
            let reply = call(endpoints, &endpoint, request, client, std::mem::take(stripped), body).await;
            if reply.is_failed_authentication {
                pipeline.limits.refused(client, Reason::InvalidToken, now);
            }
            (*reply.response).map(Body::full)
        }
        (Served::Endpoint(_), None) => return Err(Reason::NoRoute.into()),
    };
    record.put(answer);
    Ok(())
}

/// A document, for everybody, like the keys of any issuer.
fn published(pipeline: &Pipeline, document: Document) -> Result<Response<Body>, Rejection> {
    // Whoever read an empty set would keep it for a while.
    if pipeline.token_service.ring().published().is_empty() {
        return Err(Reason::KeysUnavailable.into());
    }
    let mut response = Response::new(Body::full(pipeline.token_service.document(document)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A new key is published an hour before it signs.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}

async fn call(
    endpoints: &Arc<Endpoints>,
    endpoint: &Endpoint,
    request: &Parts,
    client: IpAddr,
    stripped: Stripped,
    body: Incoming,
) -> Reply {
    let mut types = stripped.fields.iter().filter(|(name, _)| *name == CONTENT_TYPE).map(|(_, value)| value);
    let content_type = types.next().filter(|_| types.next().is_none());
    let authorization = match stripped.authorization {
        Presented::Nothing => Authorization::Nothing,
        Presented::One(header) => Authorization::One(header),
        Presented::Several => Authorization::Several,
    };
    let head = Head {
        method: &request.method,
        has_query: request.uri.query().is_some(),
        has_origin: stripped.fields.iter().any(|(name, _)| *name == ORIGIN),
        authorization: &authorization,
        content_type,
        client,
    };
    let admitted = match endpoints.admit(endpoint, &head) {
        Ok(admitted) => admitted,
        Err(reply) => return reply,
    };
    match read(body).await {
        Ok(body) => endpoints.answer(admitted, body).await,
        Err(reply) => reply,
    }
}

/// All of a small body, within some seconds.
async fn read<B: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>>(
    body: B,
) -> Result<Bytes, Reply> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(Endpoints::too_large());
    }
    match Deadline::after(BODY_TIMEOUT).bound(Limited::new(body, MAX_BODY).collect()).await {
        Some(Ok(collected)) => Ok(collected.to_bytes()),
        Some(Err(error)) if error.is::<LengthLimitError>() => Err(Endpoints::too_large()),
        Some(Err(_)) | None => Err(Endpoints::too_slow()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::tick;
    use http_body::Frame;
    use http_body_util::Full;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    /// A body of which nothing ever comes.
    struct Nothing;

    impl http_body::Body for Nothing {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_small_and_comes_soon() {
        let ticking = tokio::spawn(tick::run());
        let status = |read: Result<Bytes, Reply>| read.map_err(|reply| reply.response.status().as_u16());
        let sized = async |size: usize| status(read(Full::from(vec![b'a'; size])).await).map(|body| body.len());
        assert_eq!((sized(MAX_BODY).await, sized(MAX_BODY + 1).await), (Ok(MAX_BODY), Err(413)));
        let start = tokio::time::Instant::now();
        assert_eq!(status(read(Nothing).await), Err(408));
        assert!(start.elapsed() < BODY_TIMEOUT * 2);
        ticking.abort();
    }
}
