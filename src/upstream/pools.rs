//! The connections of one worker to all upstreams.

use crate::upstream::group::Group;
use crate::upstream::of_namespace::OfNamespaces;
use crate::upstream::patience::Patience;
use crate::upstream::request::{OutgoingRequest, Payload, RequestBody};
use crate::upstream::{Answer, SendError, Upstream, UpstreamError, balance};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Larger than most answers, so that one read empties the socket.
const SCRATCH_SIZE: usize = 16 * 1024;
/// What small pieces of answers are cut from. Whoever holds one of them keeps all of it.
const PIECES_SIZE: usize = 4 * 1024;
/// How many buffers for heads are kept, and how large one may have grown.
const MAX_SPARE_BUFFERS: usize = 32;
const MAX_SPARE_CAPACITY: usize = 16 * 1024;

/// The connections of one worker thread to all upstreams. Cloning gives a second handle to the same.
#[derive(Debug, Clone)]
pub struct Pools {
    worker: Rc<Worker>,
    groups: Rc<RefCell<BTreeMap<u64, Rc<Group>>>>,
    of_namespaces: Rc<RefCell<OfNamespaces>>,
}

/// What the requests of a worker share; each part is borrowed for the length of one system call at most.
#[derive(Debug)]
pub(super) struct Worker {
    /// The time of the last sweep: how long a connection has been idle need not be known more exactly.
    now: Cell<Instant>,
    scratch: RefCell<Box<[u8]>>,
    spare: RefCell<Vec<Vec<u8>>>,
    pieces: RefCell<BytesMut>,
    random: Cell<u64>,
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
            pieces: RefCell::default(),
            random: Cell::new(std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0)),
        };
        Self { worker: Rc::new(worker), groups: Rc::default(), of_namespaces: Rc::default() }
    }

    /// Sends a request and waits for the head of its answer, `response_timeout` at most once it has been sent.
    ///
    /// If a connection that had been idle breaks before it gave a sign of an answer, an idempotent request whose body
    /// is at hand is sent once more, on a fresh connection; nothing else is sent twice. Dropping the future closes the
    /// connection. `answer_fields`, which must be empty, takes the fields of the answer, without those that concerned our
    /// connection to the upstream only, and without the length of a body, which says it itself.
    ///
    /// Where the upstream has several endpoints, or `retry`, what else is tried says `balance`.
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
        let Some(pool) = self.in_group(upstream, |group| group.pools.first().filter(|_| group.is_plain).cloned())
        else {
            let group = self.in_group(upstream, Rc::clone);
            let sent = balance::send(&self.worker, upstream, group, request, payload, answer_fields, response_timeout);
            // In a box, so that what is more than one try costs nobody else.
            return Box::pin(sent).await;
        };
        let mut patience = Patience::new(response_timeout, upstream.config.idle_timeout);
        match pool.send(upstream, request, &mut payload, answer_fields, &mut patience).await {
            Ok(answer) => Ok(answer),
            Err(failed) => Err(failed.error),
        }
    }

    /// Closes connections that have been idle for too long or that the upstream has closed. A worker calls it
    /// every few seconds.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.worker.now.set(now);
        self.groups.borrow_mut().retain(|_, group| {
            group.pools.iter().for_each(|pool| pool.sweep(now));
            // Those of a configuration that was replaced go when their last connection does.
            Rc::strong_count(group) > 1 || group.is_used()
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
            self.groups.borrow_mut().remove(&dropped.id);
        }
        Ok(Some(upstream))
    }

    /// How many HTTP/1.1 connections are idle.
    pub fn idle_connections(&self) -> usize {
        let groups = self.groups.borrow();
        groups.values().flat_map(|group| &group.pools).map(|pool| pool.idle()).sum()
    }

    /// Looks at the endpoints of an upstream as they are now.
    fn in_group<T>(&self, upstream: &Upstream, look: impl FnOnce(&Rc<Group>) -> T) -> T {
        let mut groups = self.groups.borrow_mut();
        let group = groups.entry(upstream.id).or_insert_with(|| Rc::new(Group::new(upstream, &self.worker, None)));
        if group.version != upstream.endpoints.version() {
            *group = Rc::new(Group::new(upstream, &self.worker, Some(group)));
        }
        look(group)
    }
}

impl Worker {
    /// The time, to within that between two sweeps.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Bits that spread load; nobody is kept from guessing them (splitmix64).
    pub(super) fn random(&self) -> u64 {
        self.random.set(self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut bits = self.random.get();
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// The buffer that answers are read into. Must not be held across an `await`.
    pub(super) fn scratch(&self) -> RefMut<'_, Box<[u8]>> {
        self.scratch.borrow_mut()
    }

    /// Keeps what was read: one allocation for many.
    pub(super) fn copy(&self, read: &[u8]) -> Bytes {
        if read.len() > PIECES_SIZE / 4 {
            return Bytes::copy_from_slice(read);
        }
        let mut pieces = self.pieces.borrow_mut();
        if pieces.capacity() < read.len() {
            // Begins anew in the same room, if nobody holds anything of it any more.
            pieces.reserve(PIECES_SIZE);
        }
        pieces.extend_from_slice(read);
        pieces.split().freeze()
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
