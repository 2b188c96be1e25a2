//! The connections of one worker to one endpoint, and how a request gets one.

use crate::base::tick::Deadline;
use crate::config::{Protocol, Upgrade};
use crate::upstream::connect::{Spoken, connect};
use crate::upstream::endpoint::Endpoint;
use crate::upstream::http1::Exchange;
use crate::upstream::http2::{self, Http2};
use crate::upstream::limits::Breaker;
use crate::upstream::patience::Patience;
use crate::upstream::pools::Worker;
use crate::upstream::request::{OutgoingRequest, Payload};
use crate::upstream::stream::{Life, Stream};
use crate::upstream::{Answer, SendError, Upstream};
use http::{HeaderMap, HeaderValue, Method};
use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Instant;

/// How long a connection without a request is kept, to within the time between two sweeps.
const MAX_IDLE: Duration = Duration::from_secs(60);

/// The connections of one worker to one endpoint.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) worker: Rc<Worker>,
    pub(super) endpoint: Arc<Endpoint>,
    /// `idle_timeout` of the upstream.
    pub(super) idle_timeout: Duration,
    /// `connect_timeout` of the upstream.
    pub(super) connect_timeout: Duration,
    /// It is spoken to in HTTP/2 and nothing else.
    is_only_http2: bool,
    max_idle: usize,
    /// The last one used is the first to be used again; the others then grow old and are closed.
    idle: RefCell<Vec<Idle>>,
    http2: http2::Shared,
    /// Requests that are under way.
    active: Cell<u32>,
    /// Of the upstream; none where nothing is limited.
    breaker: Option<Arc<Breaker>>,
    /// Requests that wait for a connection here, and what wakes them.
    waiting: Cell<u32>,
    freed: Notify,
}

/// A request that is under way, as long as it is.
#[derive(Debug)]
pub(super) struct Lease(Rc<Pool>);

#[derive(Debug)]
struct Idle {
    io: Box<Stream>,
    since: Instant,
}

/// An attempt that failed.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: SendError,
    /// The connection broke before it gave any sign of an answer: a server that closed it while it was idle did not
    /// see the request.
    pub(super) before_answer: bool,
}

/// A connection for one request, and whether it has carried one before.
enum Connection {
    /// In a box, since it is handed on several times a request.
    Http1 {
        io: Box<Stream>,
        is_reused: bool,
    },
    Http2 {
        connection: Http2,
        is_reused: bool,
    },
}

impl Pool {
    pub(super) fn new(upstream: &Upstream, endpoint: Arc<Endpoint>, worker: &Rc<Worker>) -> Self {
        let config = &*upstream.config;
        Self {
            worker: Rc::clone(worker),
            endpoint,
            idle_timeout: config.idle_timeout,
            connect_timeout: config.connect_timeout,
            is_only_http2: config.protocol == Protocol::Http2,
            max_idle: config.max_idle_connections,
            idle: RefCell::default(),
            http2: http2::Shared::new(config.protocol == Protocol::Http2),
            active: Cell::new(0),
            breaker: upstream.shared.breaker.clone(),
            waiting: Cell::new(0),
            freed: Notify::new(),
        }
    }

    /// One try, and one more where a connection broke that had been idle.
    pub(super) async fn send(
        self: &Rc<Self>,
        upstream: &Upstream,
        request: &OutgoingRequest<'_>,
        payload: &mut Payload,
        answer_fields: &mut HeaderMap,
        patience: &mut Patience,
    ) -> Result<Answer, Failed> {
        let mut may_repeat = is_idempotent(request.method) && payload.is_replayable();
        let mut lease = self.lease()?;
        let mut idle = self.take(request, may_repeat);
        loop {
            let connection = match idle.take() {
                Some(connection) => connection,
                // In a box, because it is large and rare: the caller's future holds room for it otherwise.
                None => Box::pin(self.open(upstream, request, may_repeat)).await?,
            };
            let payload = payload.take();
            // An answer goes straight to the caller: it is large, and each stop on its way is a copy.
            let (failed, is_reused) = match connection {
                Connection::Http1 { io, is_reused } => {
                    // Built here, where it stays: the future that works on it only points to it.
                    let mut exchange = Exchange::new(io, lease, request, payload);
                    match exchange.head(request, answer_fields, patience).await {
                        Ok((head, rest)) => return Ok(exchange.answer(head, rest)),
                        Err(failed) => (failed, is_reused),
                    }
                }
                Connection::Http2 { connection, is_reused } => {
                    let sent = self.http2.send(connection, lease, request, payload, answer_fields, patience);
                    match Box::pin(sent).await {
                        Ok(answer) => return Ok(answer),
                        Err(failed) => (failed, is_reused),
                    }
                }
            };
            if !(failed.before_answer && is_reused && may_repeat) {
                return Err(failed);
            }
            may_repeat = false;
            lease = self.lease()?;
        }
    }

    /// Counts a request, if there may be one more.
    fn lease(self: &Rc<Self>) -> Result<Lease, SendError> {
        if let Some(breaker) = &self.breaker {
            breaker.enter().map_err(SendError::Overloaded)?;
        }
        self.active.set(self.active.get() + 1);
        Ok(Lease(Rc::clone(self)))
    }

    /// How many requests are under way.
    pub(super) fn active(&self) -> u32 {
        self.active.get()
    }

    /// How many HTTP/1.1 connections wait for requests.
    pub(super) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Whether there is any connection that waits for requests.
    pub(super) fn is_open(&self) -> bool {
        !self.idle.borrow().is_empty() || self.http2.is_open()
    }

    /// Keeps a connection whose last message is whole, unless it is worn out.
    pub(super) fn keep(&self, mut io: Box<Stream>) {
        if !io.count() {
            return;
        }
        if let Some(breaker) = &self.breaker
            && breaker.is_waited_for()
        {
            if self.waiting.get() == 0 {
                // Closed, so that somebody else may open one.
                return;
            }
            self.freed.notify_one();
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle {
            idle.push(Idle { io, since: self.worker.now() });
        }
    }

    /// Closes what has been idle for too long, is too old, or is wanted by somebody else.
    pub(super) fn sweep(&self, now: Instant) {
        let is_needed_elsewhere =
            self.waiting.get() == 0 && self.breaker.as_ref().is_some_and(|breaker| breaker.is_waited_for());
        self.idle.borrow_mut().retain_mut(|idle| {
            !is_needed_elsewhere && now - idle.since < MAX_IDLE && !idle.io.is_over() && idle.io.is_quiet()
        });
        self.http2.sweep(now, MAX_IDLE);
    }

    /// A connection that is already open. One that has anything to say before it was asked is closed: it is the end of
    /// the connection, or an answer to nothing. `may_repeat` says that a mistake in this can be made good.
    fn take(&self, request: &OutgoingRequest<'_>, may_repeat: bool) -> Option<Connection> {
        if request.upgrade.is_none_or(|protocol| self.upgrades_over_http2(protocol))
            && let Some(connection) = self.http2.current(self.worker.now())
        {
            return Some(Connection::Http2 { connection, is_reused: true });
        }
        loop {
            let mut io = self.idle.borrow_mut().pop()?.io;
            if if may_repeat { io.is_quiet() } else { io.is_quiet_for_sure() } {
                return Some(Connection::Http1 { io, is_reused: true });
            }
        }
    }

    /// Whether a protocol is asked for on the HTTP/2 connection.
    fn upgrades_over_http2(&self, protocol: &HeaderValue) -> bool {
        let is_websocket = || Upgrade::asked(protocol.as_bytes()) == Some(Upgrade::WebSocket);
        self.is_only_http2 || (is_websocket() && self.http2.takes_websockets())
    }

    /// A fresh connection; if HTTP/2 is expected, one that other requests are opening or have just opened will do, and at the
    /// limit of connections one that another request is done with.
    async fn open(
        &self,
        upstream: &Upstream,
        request: &OutgoingRequest<'_>,
        may_repeat: bool,
    ) -> Result<Connection, SendError> {
        // Over HTTP/1.1, where that can be had.
        let (config, is_upgrade) = (&*upstream.config, request.upgrade.is_some() && !self.is_only_http2);
        let life = |permit| Life::new(config, self.worker.random(), permit);
        if self.http2.is_expected() && !is_upgrade {
            let opened = self.http2.open(upstream, &self.endpoint, life(None), self.worker.now());
            return match opened.await? {
                http2::Opened::Http2(connection) => Ok(Connection::Http2 { connection, is_reused: false }),
                http2::Opened::Http1(io) => Ok(Connection::Http1 { io: Box::new(io), is_reused: false }),
            };
        }
        let permit = match self.permit(config.connect_timeout, request, may_repeat).await? {
            Permit::Idle(connection) => return Ok(connection),
            Permit::Fresh(permit) => permit,
        };
        let (io, spoken) = connect(upstream, &self.endpoint, is_upgrade).await?;
        let io = io.with(life(permit));
        if spoken == Spoken::Http1 {
            return Ok(Connection::Http1 { io: Box::new(io), is_reused: false });
        }
        let connection = self.http2.adopt(io, self.worker.now()).await.map_err(SendError::Unreachable)?;
        Ok(Connection::Http2 { connection, is_reused: false })
    }

    /// Waits until a connection may be opened or one is free, where their number is limited.
    async fn permit(
        &self,
        limit: Duration,
        request: &OutgoingRequest<'_>,
        may_repeat: bool,
    ) -> Result<Permit, SendError> {
        let Some((breaker, connections)) = self.breaker.as_ref().and_then(|b| Some((b, b.connections.as_ref()?)))
        else {
            return Ok(Permit::Fresh(None));
        };
        if let Ok(permit) = Arc::clone(connections).try_acquire_owned() {
            return Ok(Permit::Fresh(Some(permit)));
        }
        let _pending = breaker.wait().map_err(SendError::Overloaded)?;
        let _here = Waiting::new(&self.waiting);
        let waited = async {
            let mut permit = std::pin::pin!(Arc::clone(connections).acquire_owned());
            loop {
                tokio::select! {
                    // Fails only when the semaphore is closed, which nobody does.
                    permit = &mut permit => return Permit::Fresh(permit.ok()),
                    () = self.freed.notified() => {
                        if let Some(connection) = self.take(request, may_repeat) {
                            return Permit::Idle(connection);
                        }
                    }
                }
            }
        };
        Deadline::after(limit).bound(waited).await.ok_or_else(|| SendError::Overloaded(breaker.gave_up()))
    }
}

/// What a request may go on with.
enum Permit {
    Idle(Connection),
    Fresh(Option<OwnedSemaphorePermit>),
}

/// Counts those who wait in one place.
struct Waiting<'a>(&'a Cell<u32>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<u32>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Deref for Lease {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.active.set(self.active.get() - 1);
        if let Some(breaker) = &self.breaker {
            breaker.leave();
        }
    }
}

impl From<SendError> for Failed {
    fn from(error: SendError) -> Self {
        Self { error, before_answer: false }
    }
}

/// Whether a request may be sent twice: RFC 9110 §9.2.2, without `TRACE`, which is not forwarded.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}
