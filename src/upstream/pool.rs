//! The connections of one worker, and how a request gets one.

use crate::config::Protocol;
use crate::upstream::connect::{Spoken, Stream, connect};
use crate::upstream::http1;
use crate::upstream::http2::{self, Http2};
use crate::upstream::of_namespace::OfNamespaces;
use crate::upstream::patience::Patience;
use crate::upstream::request::{OutgoingRequest, Payload, RequestBody};
use crate::upstream::{Answer, SendError, Upstream, UpstreamError};
use http::{HeaderMap, Method};
use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a connection without a request is kept, to within the time between two sweeps.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// Larger than most answers, so that one read empties the socket.
const SCRATCH_SIZE: usize = 16 * 1024;
/// How many buffers for heads are kept, and how large one may have grown.
const MAX_SPARE_BUFFERS: usize = 32;
const MAX_SPARE_CAPACITY: usize = 16 * 1024;

/// The connections of one worker thread to all upstreams. Cloning gives a second handle to the same.
#[derive(Debug, Clone)]
pub struct Pools {
    worker: Rc<Worker>,
    pools: Rc<RefCell<BTreeMap<u64, Rc<Pool>>>>,
    of_namespaces: Rc<RefCell<OfNamespaces>>,
}

/// What the requests of a worker share; each part is borrowed for the length of one system call at most.
#[derive(Debug)]
pub(super) struct Worker {
    /// The time of the last sweep: how long a connection has been idle need not be known more exactly.
    now: Cell<Instant>,
    scratch: RefCell<Box<[u8]>>,
    spare: RefCell<Vec<Vec<u8>>>,
}

/// The connections of one worker to one upstream.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) worker: Rc<Worker>,
    /// `idle_timeout` of the upstream.
    pub(super) idle_timeout: Duration,
    max_idle: usize,
    /// The last one used is the first to be used again; the others then grow old and are closed.
    idle: RefCell<Vec<Idle>>,
    http2: http2::Shared,
}

#[derive(Debug)]
struct Idle {
    io: Stream,
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
    Http1 { io: Stream, is_reused: bool },
    Http2 { connection: Http2, is_reused: bool },
}

impl Default for Pools {
    fn default() -> Self {
        Self::new()
    }
}

impl Pools {
    /// Without a connection yet.
    pub fn new() -> Self {
        let worker = Worker {
            now: Cell::new(Instant::now()),
            scratch: RefCell::new(vec![0; SCRATCH_SIZE].into_boxed_slice()),
            spare: RefCell::default(),
        };
        Self { worker: Rc::new(worker), pools: Rc::default(), of_namespaces: Rc::default() }
    }

    /// Sends a request and waits for the head of its answer, `response_timeout` at most once it has been sent.
    ///
    /// If a connection that had been idle breaks before it gave a sign of an answer, an idempotent request whose body
    /// is at hand is sent once more, on a fresh connection; nothing else is sent twice. Dropping the future closes the
    /// connection. `answer_fields`, which must be empty, takes the fields of the answer, without those that concerned our
    /// connection to the upstream only, and without the length of a body, which says it itself.
    ///
    /// # Errors
    /// No connection, no acceptable answer, or a body of the request that cannot be passed on.
    pub async fn send(
        &self,
        upstream: &Arc<Upstream>,
        request: &OutgoingRequest<'_>,
        body: RequestBody,
        answer_fields: &mut HeaderMap,
        response_timeout: Duration,
    ) -> Result<Answer, SendError> {
        let mut payload = Payload::new(body).map_err(SendError::RequestBody)?;
        let pool = self.pool_of(upstream);
        let mut patience = Patience::new(response_timeout, upstream.config.idle_timeout);
        let mut may_repeat = is_idempotent(request.method) && payload.is_replayable();
        let mut idle = pool.take(request, may_repeat);
        loop {
            let connection = match idle.take() {
                Some(connection) => connection,
                // In a box, because it is large and rare: the caller's future holds room for it otherwise.
                None => Box::pin(pool.open(upstream, request.upgrade.is_some())).await?,
            };
            let payload = payload.take();
            let (outcome, is_reused) = match connection {
                Connection::Http1 { io, is_reused } => {
                    (http1::send(io, &pool, request, payload, answer_fields, &mut patience).await, is_reused)
                }
                Connection::Http2 { connection, is_reused } => {
                    let idle = pool.idle_timeout;
                    let sent = pool.http2.send(connection, request, payload, answer_fields, &mut patience, idle);
                    (Box::pin(sent).await, is_reused)
                }
            };
            match outcome {
                Err(failed) if failed.before_answer && is_reused && may_repeat => may_repeat = false,
                outcome => return outcome.map_err(|failed| failed.error),
            }
        }
    }

    /// Closes connections that have been idle for too long or that the upstream has closed. A worker calls it
    /// every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.worker.now.set(now);
        self.pools.borrow_mut().retain(|_, pool| {
            pool.idle.borrow_mut().retain_mut(|idle| now - idle.since < MAX_IDLE && idle.io.is_quiet());
            pool.http2.sweep(now, MAX_IDLE);
            // Those of a configuration that was replaced go when their last connection does.
            Rc::strong_count(pool) > 1 || !pool.idle.borrow().is_empty() || pool.http2.is_open()
        });
    }

    /// The upstream of one namespace, where the host follows the user; `None` if that is no RFC 1123 label. A worker keeps
    /// connections to those of the last few hundred.
    ///
    /// # Errors
    /// [`UpstreamError`]: the name cannot be verified.
    pub fn of_namespace(&self, base: &Upstream, namespace: &str) -> Result<Option<Arc<Upstream>>, UpstreamError> {
        let mut known = self.of_namespaces.borrow_mut();
        if let Some(known) = known.find(base.id, namespace) {
            return Ok(Some(known));
        }
        let Some(upstream) = base.of_namespace(namespace)?.map(Arc::new) else { return Ok(None) };
        if let Some(dropped) = known.add(base.id, namespace, Arc::clone(&upstream)) {
            // Requests that are under way end first.
            self.pools.borrow_mut().remove(&dropped.id);
        }
        Ok(Some(upstream))
    }

    /// How many HTTP/1.1 connections are idle.
    pub fn idle_connections(&self) -> usize {
        self.pools.borrow().values().map(|pool| pool.idle.borrow().len()).sum()
    }

    fn pool_of(&self, upstream: &Upstream) -> Rc<Pool> {
        self.pools
            .borrow_mut()
            .entry(upstream.id)
            .or_insert_with(|| {
                Rc::new(Pool {
                    worker: self.worker.clone(),
                    idle_timeout: upstream.config.idle_timeout,
                    max_idle: upstream.config.max_idle_connections,
                    idle: RefCell::default(),
                    http2: http2::Shared::new(upstream.config.protocol == Protocol::Http2),
                })
            })
            .clone()
    }
}

impl Worker {
    /// The buffer that answers are read into. Must not be held across an `await`.
    pub(super) fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    /// An empty buffer for the head of a request.
    pub(super) fn take_buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a buffer back for the next head.
    pub(super) fn give_back(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < MAX_SPARE_BUFFERS && buffer.capacity() <= MAX_SPARE_CAPACITY {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

impl Pool {
    /// Keeps a connection whose last message is whole.
    pub(super) fn keep(&self, io: Stream) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.max_idle {
            idle.push(Idle { io, since: self.worker.now.get() });
        }
    }

    /// A connection that is already open. One that has anything to say before it was asked is closed: it is the end of
    /// the connection, or an answer to nothing. `may_repeat` says that a mistake in this can be made good.
    fn take(&self, request: &OutgoingRequest<'_>, may_repeat: bool) -> Option<Connection> {
        if request.upgrade.is_none()
            && let Some(connection) = self.http2.current(self.worker.now.get())
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

    /// A fresh connection; if HTTP/2 is expected, one that other requests are opening or have just opened will do.
    async fn open(&self, upstream: &Upstream, is_upgrade: bool) -> Result<Connection, SendError> {
        if self.http2.is_expected() && !is_upgrade {
            return match self.http2.open(upstream, self.worker.now.get()).await? {
                http2::Opened::Http2(connection) => Ok(Connection::Http2 { connection, is_reused: false }),
                http2::Opened::Http1(io) => Ok(Connection::Http1 { io, is_reused: false }),
            };
        }
        match connect(upstream, is_upgrade).await? {
            (io, Spoken::Http1) => Ok(Connection::Http1 { io, is_reused: false }),
            (io, Spoken::Http2) => {
                let connection = self.http2.adopt(io, self.worker.now.get()).await.map_err(SendError::Unreachable)?;
                Ok(Connection::Http2 { connection, is_reused: false })
            }
        }
    }
}

/// Whether a request may be sent twice: RFC 9110 §9.2.2, without `TRACE`, which is not forwarded.
pub fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE)
}
