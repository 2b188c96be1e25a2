//! What one worker thread holds, and how it answers one request.

use super::record::{Record, Recorded};
use super::{Connection, Context, Pipeline, Rejection, forward};
use crate::identity::LocalCache;
use crate::telemetry::access_log::AccessLog;
use crate::token_service::publish::Document;
use crate::upstream::{Body, Pools};
use arc_swap::{ArcSwap, Cache};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// The state of one worker thread. Nothing here is shared, so nothing is locked.
#[derive(Debug)]
pub struct Worker {
    pipeline: RefCell<Cache<Arc<ArcSwap<Pipeline>>, Arc<Pipeline>>>,
    /// The pipeline in force, counted without atomics.
    current: RefCell<Rc<Arc<Pipeline>>>,
    /// Verified tokens.
    pub tokens: LocalCache,
    /// Connections to upstreams.
    pub pools: Pools,
    /// Access lines.
    pub log: AccessLog,
    ids: Ids,
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Worker {
    /// A worker that answers with whatever pipeline is in force.
    pub fn new(pipeline: Arc<ArcSwap<Pipeline>>, log: AccessLog) -> Self {
        let current = Rc::new(pipeline.load_full());
        Self {
            pipeline: RefCell::new(Cache::new(pipeline)),
            current: RefCell::new(current),
            tokens: LocalCache::default(),
            pools: Pools::new(),
            log,
            ids: Ids::new(),
        }
    }

    /// Answers one request.
    pub async fn handle(self: Rc<Self>, connection: Rc<Connection>, request: Request<Incoming>) -> Response<Recorded> {
        let pipeline = self.pipeline();
        let mut context = self.context(&pipeline, connection);
        let (mut parts, body) = request.into_parts();
        let mut record = Record::new(&self, &pipeline, &parts);
        let outcome = match published(&pipeline, &parts.method, parts.uri.path()) {
            Some(document) => Ok(document),
            None => match pipeline.decide(&self.tokens, &mut parts, &mut context).await {
                Ok(stripped) => forward::forward(&self, &pipeline, parts, stripped, body, &context, &mut record).await,
                Err(rejection) => Err(rejection),
            },
        };
        let mut response = outcome.unwrap_or_else(|rejection| self.refuse(&pipeline, rejection, &context, &mut record));
        response.headers_mut().insert(X_REQUEST_ID, context.request_id.clone());
        record.decided(context, response.status());
        response.map(|body| Recorded::new(body, record))
    }

    /// The pipeline in force. One atomic load; the rest happens only after a reload.
    fn pipeline(&self) -> Rc<Arc<Pipeline>> {
        let mut cache = self.pipeline.borrow_mut();
        let latest = cache.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(latest, &current) {
            *current = Rc::new(Arc::clone(latest));
        }
        Rc::clone(&current)
    }

    fn context(&self, pipeline: &Pipeline, connection: Rc<Connection>) -> Context {
        Context {
            now: pipeline.clock.now(),
            started: Instant::now(),
            connection,
            request_id: self.ids.request_id(),
            traceparent: self.ids.traceparent(),
            route: None,
            token: None,
            caller: None,
            namespace: None,
        }
    }

    fn refuse(
        &self,
        pipeline: &Pipeline,
        rejection: Rejection,
        context: &Context,
        record: &mut Record,
    ) -> Response<Body> {
        record.reason = Some(rejection.reason);
        let request_id = context.request_id.to_str().unwrap_or_default();
        if let Some(cause) = &rejection.cause {
            let reason = rejection.reason.code();
            let error: &(dyn std::error::Error + 'static) = &**cause;
            tracing::debug!(request_id, reason, error, "request refused");
        }
        rejection.into_response(request_id, &pipeline.realm)
    }

    /// Lets go of what is no longer needed. Called twice a second.
    pub fn sweep(&self) {
        self.log.flush();
        self.pools.sweep();
        let pipeline = self.pipeline();
        self.tokens.sweep(pipeline.clock.now());
    }
}

/// The documents that Postern serves about itself; for everybody, like the keys of any issuer.
fn published(pipeline: &Pipeline, method: &Method, path: &str) -> Option<Response<Body>> {
    let document = Document::at(&pipeline.token_service.config().issuer, path)?;
    if method != Method::GET && method != Method::HEAD {
        return None;
    }
    let mut response = Response::new(Body::full(pipeline.token_service.document(document)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A new key is published an hour before it signs.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Some(response)
}

/// Ids that are unique, not secret: a counter's bits, mixed (splitmix64), from a random start.
#[derive(Debug)]
struct Ids(Cell<u64>);

impl Ids {
    fn new() -> Self {
        let mut seed = [0; 8];
        // Without random bytes ids are still unique within this worker.
        let _ = aws_lc_rs::rand::fill(&mut seed);
        Self(Cell::new(u64::from_ne_bytes(seed)))
    }

    fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut bits = self.0.get();
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn request_id(&self) -> HeaderValue {
        let mut text = [0; 32];
        write_hex(&mut text[..16], self.next());
        write_hex(&mut text[16..], self.next());
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
    }

    /// A new trace that is not sampled (W3C Trace Context §3.2).
    fn traceparent(&self) -> HeaderValue {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..19], self.next());
        // An id of zeros is invalid.
        write_hex(&mut text[19..35], self.next() | 1);
        write_hex(&mut text[36..52], self.next() | 1);
        HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("00"))
    }
}

fn write_hex(out: &mut [u8], bits: u64) {
    for (at, digit) in out.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[usize::try_from(bits >> (60 - 4 * at) & 0xf).unwrap_or(0)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_well_formed_and_differ() {
        let ids = Ids::new();
        let (one, other) = (ids.request_id(), ids.request_id());
        assert_ne!(one, other);
        assert!(one.as_bytes().iter().all(u8::is_ascii_hexdigit));
        let parent = ids.traceparent();
        let text = parent.to_str().unwrap();
        assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [2, 32, 16, 2]);
    }
}
