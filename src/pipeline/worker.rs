//! What one worker thread holds, and how it answers one request.

use super::inject::X_REQUEST_ID;
use super::record::{Record, Recorded};
use super::streams::{Open, Streams};
use super::trace::Trace;
use super::{Connection, Context, Pipeline, Rejection, Verdict, again, cors, forward, grpc, serve, transform};
use crate::config::StreamEnds;
use crate::identity::LocalCache;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::Spans;
use crate::upstream::{Body, Pools};
use arc_swap::{ArcSwap, Cache};
use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// What users have going on.
    streams: Rc<Streams>,
    /// Access lines.
    pub log: AccessLog,
    /// Spans, where traces are on.
    pub(super) spans: Option<Spans>,
    ids: Ids,
    /// Whether the gateway is about to end.
    is_draining: Arc<AtomicBool>,
}

impl Worker {
    /// A worker that answers with whatever pipeline is in force, and once `is_draining` sends HTTP/1.1 clients away.
    pub fn new(
        pipeline: Arc<ArcSwap<Pipeline>>,
        log: AccessLog,
        spans: Option<Spans>,
        metrics: &Metrics,
        is_draining: Arc<AtomicBool>,
    ) -> Self {
        let current = Rc::new(pipeline.load_full());
        Self {
            pipeline: RefCell::new(Cache::new(pipeline)),
            current: RefCell::new(current),
            tokens: LocalCache::default(),
            pools: Pools::new(),
            streams: Streams::new(metrics),
            log,
            spans,
            ids: Ids::new(),
            is_draining,
        }
    }

    /// Answers one request; `held` is kept until the answer has ended. It does not fail: the result is what a service gives.
    pub fn handle<H: 'static>(
        self: Rc<Self>,
        connection: Rc<Connection>,
        request: Request<Incoming>,
        held: H,
    ) -> impl Future<Output = Result<Response<Recorded<H>>, Infallible>> {
        // Here and not in the future, which would hold the whole head as well.
        let (parts, body) = request.into_parts();
        let pipeline = self.pipeline();
        let mut record = Record::new(Rc::clone(&self), Rc::clone(&pipeline), connection, parts);
        async move {
            let passed = match serve::served(&pipeline, &record.request.method, record.request.uri.path()) {
                // Boxed, so that the usual request does not carry the room for this.
                Some(served) => Box::pin(serve::serve(&pipeline, served, body, &mut record)).await,
                None => self.pass(&pipeline, body, &mut record).await,
            };
            let passed = if record.is_doubted {
                drop(passed);
                // Boxed, as above.
                Box::pin(again::again(&self, &pipeline, &mut record)).await
            } else {
                passed
            };
            if let Err(rejection) = passed {
                let refusal = refuse(&pipeline, rejection, &mut record);
                record.put(refusal);
                transform::refusal(&pipeline, &mut record);
            }
            let mut fields = std::mem::take(&mut record.request.headers);
            fields.insert(X_REQUEST_ID, record.context.request_id.clone());
            if self.is_draining.load(Ordering::Relaxed) {
                send_away(&record, &mut fields);
            }
            let status = record.status.unwrap_or_default();
            let mut held = Some(held);
            if let Some(tunnel) = record.tunnel.take() {
                // A stream of HTTP/2 is under way as long as its tunnel.
                tokio::task::spawn_local(tunnel.run(held.take()));
            }
            let mut response = Response::new(Recorded::new(record, held));
            (*response.status_mut(), *response.headers_mut()) = (status, fields);
            Ok(response)
        }
    }

    /// All stages; the answer is in `record` then.
    async fn pass(&self, pipeline: &Pipeline, body: Incoming, record: &mut Record) -> Result<(), Rejection> {
        let Record { request, context, stripped, .. } = &mut *record;
        if pipeline.decide(&self.tokens, request, context, stripped).await? == Verdict::Preflight {
            cors::answer_preflight(pipeline, record);
            return Ok(());
        }
        forward::forward(self, pipeline, Some(body), record).await
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
        let mut context = Context::new(pipeline.clock.now(), connection, request_id, traceparent);
        if let Some(spans) = &self.spans {
            context.trace = Some(Trace::new(spans));
        }
        context
    }

    /// Lists a stream of the caller; none where nobody had to say who they are.
    pub(super) fn open(&self, pipeline: &Pipeline, context: &Context) -> Option<Open> {
        let (token, route) = (context.token.as_ref()?, &pipeline.routes[context.route?]);
        let ends_with_token = route.stream_ends == StreamEnds::Token;
        Some(self.streams.open(&pipeline.verifier, token, ends_with_token, pipeline.clock.now()))
    }

    /// Whether clients of HTTP/2 may ask for WebSockets, by the configuration in force.
    pub fn takes_websockets(&self) -> bool {
        self.pipeline().takes_websockets()
    }

    /// Ends what users have going on who are out, and looks through a part of the tokens. Called on every tick.
    pub fn tick(&self) {
        let pipeline = self.pipeline();
        let now = pipeline.clock.now();
        self.streams.sweep(&pipeline.verifier, now);
        self.tokens.sweep(&pipeline.verifier, now);
    }

    /// Hands over access lines and spans.
    pub fn flush(&self) {
        self.log.flush();
        if let Some(spans) = &self.spans {
            spans.flush();
        }
    }

    /// Lets go of what is no longer needed. Called twice a second.
    pub fn sweep(&self) {
        self.flush();
        self.pools.sweep();
    }
}

/// Has the connection end with this answer: whoever keeps one makes another, and finds another gateway. HTTP/2 needs none of it, since
/// its end says which requests were not seen.
#[cold]
fn send_away(record: &Record, fields: &mut HeaderMap) {
    if record.request.version != Version::HTTP_2 && record.status != Some(StatusCode::SWITCHING_PROTOCOLS) {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn refuse(pipeline: &Pipeline, rejection: Rejection, record: &mut Record) -> Response<Body> {
    record.reason = Some(rejection.reason);
    // What is said now is for whoever was cut off.
    record.open = None;
    let request_id = record.context.request_id.to_str().unwrap_or_default();
    if let Some(cause) = &rejection.cause {
        let reason = rejection.reason.code();
        let error: &(dyn std::error::Error + 'static) = &**cause;
        tracing::debug!(request_id, reason, error, "request refused");
    }
    let reason = rejection.reason;
    let refusal = rejection.into_response(request_id, &pipeline.realm);
    if grpc::is_call(record) { grpc::refused(reason, refusal) } else { refusal }
}

/// Ids that are unique, not secret: a counter's bits, mixed (splitmix64), from a random start.
#[derive(Debug)]
struct Ids {
    counter: Cell<u64>,
    /// The texts of those that come next, in one allocation for several requests.
    ready: RefCell<Bytes>,
}

/// The length of a request id.
const ID: usize = 32;
/// The length of a `traceparent`.
const TRACE: usize = 55;
/// How many requests share an allocation. It is there as long as one of them, so it is small.
const READY: usize = 16;

impl Ids {
    fn new() -> Self {
        let mut seed = [0; 8];
        // Without random bytes ids are still unique within this worker.
        let _ = aws_lc_rs::rand::fill(&mut seed);
        Self { counter: Cell::new(u64::from_ne_bytes(seed)), ready: RefCell::default() }
    }

    /// A request id, and the head of a new trace of that id that is not sampled (W3C Trace Context §3.2).
    fn next(&self) -> (HeaderValue, HeaderValue) {
        let mut ready = self.ready.borrow_mut();
        if ready.is_empty() {
            *ready = (0..READY).flat_map(|_| self.texts()).collect::<Vec<_>>().into();
        }
        let value = |text| HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static("0"));
        (value(ready.split_to(ID)), value(ready.split_to(TRACE)))
    }

    /// The texts of both, one behind the other.
    fn texts(&self) -> [u8; ID + TRACE] {
        let mut text = *b"0000000000000000000000000000000000-00000000000000000000000000000000-0000000000000000-00";
        // An id of zeros is invalid.
        let id = [hex(self.bits() | 1), hex(self.bits())];
        for (at, digits) in [(0, id[0]), (16, id[1]), (ID + 3, id[0]), (ID + 19, id[1])] {
            text[at..][..16].copy_from_slice(&digits);
        }
        text[ID + 36..][..16].copy_from_slice(&hex(self.bits() | 1));
        text
    }

    fn bits(&self) -> u64 {
        self.counter.set(self.counter.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut bits = self.counter.get();
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

    /// How much room a request takes in its connection's task. What is rare is boxed, so that it takes none of it.
    #[test]
    fn the_future_of_a_request_has_no_room_for_what_is_rare() {
        fn size<A, F>(_: impl FnOnce(A) -> F) -> usize {
            size_of::<F>()
        }
        let handle = size(|(worker, connection, request)| Worker::handle(worker, connection, request, ()));
        assert!(handle <= 1450, "{handle} bytes");
    }

    #[test]
    fn hexadecimal_is_as_the_standard_library_writes_it() {
        for bits in [0, 1, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210, u64::MAX] {
            assert_eq!(std::str::from_utf8(&hex(bits)).unwrap(), format!("{bits:016x}"));
        }
    }
}
