//! HTTP/2 towards an upstream: hyper's client, one connection a worker that all its requests share.

mod body;
mod websocket;

pub use body::Http2Body;

use crate::base::tick::Deadline;
use crate::upstream::connect::{Spoken, connect};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::patience::Patience;
use crate::upstream::pool::{Failed, Lease};
use crate::upstream::request::{OutgoingRequest, Payload};
use crate::upstream::stream::{Life, Stream, Term};
use crate::upstream::{Answer, Body, ConnectError, Failure, SendError, Upgraded, Upstream, fields};
use body::{Watch, WatchedBody};
use http::header::{CONTENT_LENGTH, TE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// The largest list of fields that an upstream may send, as of HTTP/1.1.
const MAX_FIELD_LIST: u32 = 64 * 1024;
/// How much of one answer may lie here unread: a slow client costs no more memory than this.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all answers of a connection together.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// How many requests may be under way on a connection before its upstream has said how many it takes. A number that none says, so
/// that it shows whether the upstream has said anything yet.
const FIRST_STREAMS: usize = 101;

/// What drives a connection.
type Driver = Connection<TokioIo<Stream>, WatchedBody, LocalExecutor>;

/// The HTTP/2 connection of a pool.
#[derive(Debug)]
pub(super) struct Shared {
    /// Whether the upstream speaks HTTP/2, as far as is known.
    is_expected: Cell<bool>,
    current: RefCell<Option<Current>>,
    /// Held by the request that opens a connection, so that the others wait for it instead of opening theirs.
    opening: tokio::sync::Mutex<()>,
    failures: Cell<u64>,
    next_id: Cell<u64>,
}

#[derive(Debug)]
struct Current {
    connection: Http2,
    last_used: Instant,
    term: Term,
}

/// A handle to a connection.
#[derive(Debug, Clone)]
pub(super) struct Http2 {
    sender: SendRequest<WatchedBody>,
    /// Belongs to the task that polls it, and knows what the upstream has said of itself.
    driver: Weak<RefCell<Driver>>,
    id: u64,
    is_tls: bool,
}

/// What opening a connection gave.
pub(super) enum Opened {
    Http1(Stream),
    Http2(Http2),
}

impl Current {
    /// Whether it takes no more requests.
    fn is_over(&self) -> bool {
        self.connection.sender.is_closed() || self.term.is_over()
    }
}

impl Shared {
    pub(super) fn new(is_expected: bool) -> Self {
        Self {
            is_expected: Cell::new(is_expected),
            current: RefCell::default(),
            opening: tokio::sync::Mutex::default(),
            failures: Cell::new(0),
            next_id: Cell::new(0),
        }
    }

    pub(super) fn is_expected(&self) -> bool {
        self.is_expected.get()
    }

    pub(super) fn is_open(&self) -> bool {
        self.current.borrow().is_some()
    }

    /// The connection, if it takes requests.
    pub(super) fn current(&self, now: Instant) -> Option<Http2> {
        let mut current = self.current.borrow_mut();
        if current.as_ref()?.is_over() {
            *current = None;
        }
        let found = current.as_mut()?;
        found.last_used = now;
        let connection = found.connection.clone();
        if !found.term.count() {
            *current = None;
        }
        Some(connection)
    }

    /// Whether the connection, if there is one, is known to take WebSockets.
    pub(super) fn takes_websockets(&self) -> bool {
        let current = self.current.borrow();
        current.as_ref().and_then(|current| current.connection.takes_websockets()).unwrap_or(false)
    }

    /// Lets go of a connection that is closed, or that had no new request for `max_idle`; it ends with its last stream.
    pub(super) fn sweep(&self, now: Instant, max_idle: Duration) {
        let mut current = self.current.borrow_mut();
        if current.as_ref().is_some_and(|c| c.is_over() || now - c.last_used >= max_idle) {
            *current = None;
        }
    }

    /// Opens a connection, or waits for one that another request is opening: fails with it too.
    pub(super) async fn open(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        life: Option<Box<Life>>,
        now: Instant,
    ) -> Result<Opened, SendError> {
        let failures = self.failures.get();
        let limit = upstream.config.connect_timeout;
        let Some(_turn) = Deadline::after(limit).bound(self.opening.lock()).await else {
            return Err(SendError::ConnectTimeout(limit));
        };
        if let Some(connection) = self.current(now) {
            return Ok(Opened::Http2(connection));
        }
        if self.failures.get() != failures {
            return Err(SendError::Unreachable(ConnectError::Shared));
        }
        let opened = match connect(upstream, endpoint, false).await {
            Ok((io, Spoken::Http2)) => {
                let adopted = self.adopt(io.with(life), now).await;
                adopted.map(Opened::Http2).map_err(SendError::Unreachable)
            }
            Ok((io, Spoken::Http1)) => {
                self.is_expected.set(false);
                Ok(Opened::Http1(io.with(life)))
            }
            Err(error) => Err(error),
        };
        if opened.is_err() {
            self.failures.set(failures + 1);
        }
        opened
    }

    /// Starts HTTP/2 on a fresh connection and shares it.
    pub(super) async fn adopt(&self, io: Stream, now: Instant) -> Result<Http2, ConnectError> {
        let (is_tls, mut term) = (io.is_tls(), io.term());
        let (sender, connection) = Builder::new(LocalExecutor)
            .max_header_list_size(MAX_FIELD_LIST)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(FIRST_STREAMS)
            .handshake(TokioIo::new(io))
            .await
            .map_err(ConnectError::Http2)?;
        let driver = Rc::new(RefCell::new(connection));
        let connection = Http2 { sender, driver: Rc::downgrade(&driver), id: self.next_id.get(), is_tls };
        // Its error reaches each request that it carries.
        tokio::task::spawn_local(async move {
            std::future::poll_fn(|cx| Pin::new(&mut *driver.borrow_mut()).poll(cx)).await.ok()
        });
        self.next_id.set(connection.id + 1);
        self.is_expected.set(true);
        let current = Current { connection: connection.clone(), last_used: now, term };
        *self.current.borrow_mut() = term.count().then_some(Current { term, ..current });
        Ok(connection)
    }

    /// Sends a request on `connection` and waits for the head of the answer.
    pub(super) async fn send(
        &self,
        mut connection: Http2,
        lease: Lease,
        request: &OutgoingRequest<'_>,
        payload: Payload,
        answer_fields: &mut HeaderMap,
        patience: &mut Patience,
    ) -> Result<Answer, Failed> {
        let final_error = |error| Failed { error, before_answer: false };
        let watch = Rc::new(Watch::new(&payload));
        let body = WatchedBody { payload, watch: watch.clone() };
        let mut outgoing = to_hyper(request, connection.is_tls, body).map_err(|f| final_error(SendError::Failed(f)))?;
        if let Some(protocol) = request.upgrade {
            connection.prepare(protocol, &mut outgoing, &lease).await.map_err(|f| final_error(SendError::Failed(f)))?;
        }
        let mut answer = pin!(connection.sender.try_send_request(outgoing));
        let outcome = std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            patience.poll(cx, watch.waiting.get(), watch.sent.get()).map(Err)
        })
        .await;
        match outcome {
            Ok(Ok(mut response)) => {
                if request.upgrade.is_some()
                    && let Some(agreed) = response.extensions_mut().remove::<OnUpgrade>()
                {
                    *answer_fields = of_response(std::mem::take(response.headers_mut()));
                    let io = agreed.await.map_err(|error| final_error(SendError::Failed(Failure::Http2(error))))?;
                    return Ok(Answer::Switched(Upgraded::stream(io, lease)));
                }
                let (parts, body) = from_hyper(response, watch, lease).into_parts();
                *answer_fields = parts.headers;
                Ok(Answer::Response { status: parts.status, body })
            }
            Ok(Err(mut error)) => {
                let never_sent = error.take_message().is_some();
                let is_closed = never_sent || error.error().is_canceled() || connection.sender.is_closed();
                if is_closed {
                    self.retire(connection.id);
                }
                Err(match watch.failure.take() {
                    Some(failure) => final_error(SendError::RequestBody(failure)),
                    None => Failed {
                        error: SendError::Failed(Failure::Http2(error.into_error())),
                        before_answer: is_closed,
                    },
                })
            }
            Err(error) => {
                // The connection may be dead without knowing it: the next request must not find out the same way.
                if matches!(error, SendError::Timeout(_)) {
                    self.retire(connection.id);
                }
                Err(final_error(error))
            }
        }
    }

    fn retire(&self, id: u64) {
        let mut current = self.current.borrow_mut();
        if current.as_ref().is_some_and(|current| current.connection.id == id) {
            *current = None;
        }
    }
}

fn to_hyper(request: &OutgoingRequest<'_>, is_tls: bool, body: WatchedBody) -> Result<Request<WatchedBody>, Failure> {
    let bad_authority = || Failure::Authority(request.host.clone());
    let authority = Authority::try_from(request.host.as_bytes()).map_err(|_| bad_authority())?;
    let scheme = if is_tls { Scheme::HTTPS } else { Scheme::HTTP };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(request.target.clone());
    let mut outgoing = Request::new(body);
    *outgoing.method_mut() = request.method.clone();
    *outgoing.uri_mut() = uri.build().map_err(|_| bad_authority())?;
    let fields = outgoing.headers_mut();
    fields.reserve(request.fields.len());
    for (name, value) in request.fields {
        if !fields::is_of_connection(name.as_str()) {
            fields.append(name.clone(), value.clone());
        } else if name == TE && lists_trailers(value) {
            // The one coding of a connection that HTTP/2 keeps (RFC 9113 §8.2.2); gRPC demands it.
            fields.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    Ok(outgoing)
}

fn lists_trailers(value: &HeaderValue) -> bool {
    value.as_bytes().split(|byte| *byte == b',').any(|member| member.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn from_hyper(response: Response<Incoming>, watch: Rc<Watch>, lease: Lease) -> Response<Body> {
    let (mut parts, incoming) = response.into_parts();
    parts.headers = of_response(parts.headers);
    let body = if incoming.is_end_stream() {
        Body::Empty
    } else {
        Body::Http2(Box::new(Http2Body::new(incoming, watch, lease)))
    };
    Response::from_parts(parts, body)
}

/// Without what concerns the connection.
fn of_response(mut fields: HeaderMap) -> HeaderMap {
    let foreign = |name: &http::HeaderName| fields::is_of_connection(name.as_str()) && name != CONTENT_LENGTH;
    let dropped: Vec<_> = fields.keys().filter(|name| foreign(name)).cloned().collect();
    for name in dropped {
        fields.remove(name);
    }
    fields
}

/// Spawns hyper's tasks on the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor
where
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
