//! What one worker thread holds, and how it answers one request.

use super::inject::X_REQUEST_ID;
use super::record::{Record, Recorded};
use super::{Connection, Context, Pipeline, Rejection, forward, serve};
use crate::identity::LocalCache;
use crate::telemetry::access_log::AccessLog;
use crate::upstream::{Body, Pools};
use arc_swap::{ArcSwap, Cache};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

/// A pipeline that requests of one worker hold: counted without atomics, so that workers do not contend for one counter.
#[allow(clippy::redundant_allocation)]
pub(super) type InForce = Rc<Arc<Pipeline>>;

/// The state of one worker thread. Nothing here is shared, so nothing is locked.
#[derive(Debug)]
pub struct Worker {
    pipeline: RefCell<Cache<Arc<ArcSwap<Pipeline>>, Arc<Pipeline>>>,
    /// The pipeline in force, counted without atomics.
    current: RefCell<InForce>,
    /// Verified tokens.
    pub tokens: LocalCache,
    /// Connections to upstreams.
    pub pools: Pools,
    /// Access lines.
    pub log: AccessLog,
    ids: Ids,
}

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

    /// Answers one request; `held` is kept until the answer has ended. It does not fail: the result is what a service gives.
    pub async fn handle<H>(
        self: Rc<Self>,
        connection: Rc<Connection>,
        request: Request<Incoming>,
        held: H,
    ) -> Result<Response<Recorded<H>>, Infallible> {
        let pipeline = self.pipeline();
        let (parts, body) = request.into_parts();
        let mut record = Record::new(&self, &pipeline, connection, parts);
        let outcome = match serve::served(&pipeline, &record.request.method, record.request.uri.path()) {
            // Boxed, so that the usual request does not carry the room for this.
            Some(served) => Box::pin(serve::serve(&pipeline, served, body, &mut record)).await,
            None => match pipeline.decide(&self.tokens, &mut record.request, &mut record.context).await {
                Ok(stripped) => forward::forward(&self, &pipeline, stripped, body, &mut record).await,
                Err(rejection) => Err(rejection),
            },
        };
        let mut response = outcome.unwrap_or_else(|rejection| refuse(&pipeline, rejection, &mut record));
        response.headers_mut().insert(X_REQUEST_ID, record.context.request_id.clone());
        record.status = Some(response.status());
        Ok(response.map(|body| Recorded::new(body, record, held)))
    }

    /// The pipeline in force. One atomic load; the rest happens only after a reload.
    fn pipeline(&self) -> InForce {
        let mut cache = self.pipeline.borrow_mut();
        let latest = cache.load();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(latest, &current) {
            *current = Rc::new(Arc::clone(latest));
        }
        Rc::clone(&current)
    }

    pub(super) fn context(&self, pipeline: &Pipeline, connection: Rc<Connection>) -> Context {
        let (request_id, traceparent) = self.ids.next();
        Context::new(pipeline.clock.now(), connection, request_id, traceparent)
    }

    /// Lets go of what is no longer needed. Called twice a second.
    pub fn sweep(&self) {
        self.log.flush();
        self.pools.sweep();
        let pipeline = self.pipeline();
        self.tokens.sweep(pipeline.clock.now());
    }
}

fn refuse(pipeline: &Pipeline, rejection: Rejection, record: &mut Record) -> Response<Body> {
    record.reason = Some(rejection.reason);
    let request_id = record.context.request_id.to_str().unwrap_or_default();
    if let Some(cause) = &rejection.cause {
        let reason = rejection.reason.code();
        let error: &(dyn std::error::Error + 'static) = &**cause;
        tracing::debug!(request_id, reason, error, "request refused");
    }
    rejection.into_response(request_id, &pipeline.realm)
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

    /// A request id, and the head of a new trace of that id that is not sampled (W3C Trace Context §3.2). Both lie in one allocation.
    fn next(&self) -> (HeaderValue, HeaderValue) {
        const TRACE: usize = 32;
        let mut text = *b"0000000000000000000000000000000000-00000000000000000000000000000000-0000000000000000-00";
        // An id of zeros is invalid.
        let id = [hex(self.bits() | 1), hex(self.bits())];
        for (at, digits) in [(0, id[0]), (16, id[1]), (TRACE + 3, id[0]), (TRACE + 19, id[1])] {
            text[at..][..16].copy_from_slice(&digits);
        }
        text[TRACE + 36..][..16].copy_from_slice(&hex(self.bits() | 1));
        let mut text = Bytes::copy_from_slice(&text);
        let trace = text.split_off(TRACE);
        let value = |text| HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("0"));
        (value(text), value(trace))
    }

    fn bits(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut bits = self.0.get();
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

/// Sixteen lower-case hexadecimal digits, eight at a time in one word.
fn hex(bits: u64) -> [u8; 16] {
    let half = |bits: u64| {
        // One digit's value in each byte.
        let mut digits = bits & 0xffff_ffff;
        digits = (digits | (digits << 16)) & 0x0000_ffff_0000_ffff;
        digits = (digits | (digits << 8)) & 0x00ff_00ff_00ff_00ff;
        digits = (digits | (digits << 4)) & 0x0f0f_0f0f_0f0f_0f0f;
        // A value over 9 carries into the bit that tells it is a letter.
        let letters = ((digits + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
        (digits + 0x3030_3030_3030_3030 + letters * 0x27).to_be_bytes()
    };
    let mut text = [0; 16];
    text[..8].copy_from_slice(&half(bits >> 32));
    text[8..].copy_from_slice(&half(bits));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_well_formed_and_differ() {
        let ids = Ids::new();
        let ((one, parent), (other, _)) = (ids.next(), ids.next());
        assert_ne!(one, other);
        assert!(one.len() == 32 && one.as_bytes().iter().all(u8::is_ascii_hexdigit));
        let text = parent.to_str().unwrap();
        assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [2, 32, 16, 2]);
        assert!(text.starts_with("00-") && text.ends_with("-00"));
    }

    #[test]
    fn hexadecimal_is_as_the_standard_library_writes_it() {
        for bits in [0, 1, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX] {
            assert_eq!(std::str::from_utf8(&hex(bits)).unwrap(), format!("{bits:016x}"));
        }
    }
}
