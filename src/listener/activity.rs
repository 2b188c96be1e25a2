//! What each connection is doing, and how long it may: one sweep a tick instead of timers.
//!
//! A connection is reading a head (at most `header_timeout` from its first byte, or from the accept), serving a request (the
//! upstream's timers count), idle (`idle_timeout`), or stuck because its client does not read (`idle_timeout`). Over HTTP/2 it is stuck, too,
//! when every answer waits for the client to open a window.

use crate::base::tick;
use crate::config;
use slab::Slab;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// How long a connection keeps its buffers without a request, in ticks: half a second. Longer, and a crowd that comes at once would need them all
/// at once; shorter, and clients in the middle of a conversation would pay for new ones.
const REST: u64 = 5;

/// So many sweeps make a request a long one. Only then its client is watched: most are answered before it could go away.
const LONG: u8 = 2;
/// The client is not watched, however long it takes.
const NEVER: u8 = u8::MAX;

/// By so many may the requests that a connection reset before their answers exceed those it waited for. Each may have cost an upstream a
/// connection, and the client two frames (CVE-2023-44487).
const ABANDONED: u32 = 100;

/// Limits of a listener, in ticks where they are times.
#[derive(Debug)]
pub struct Limits {
    header: u64,
    idle: u64,
    /// Of all workers together.
    pub max_connections: usize,
    /// Of a request's head, in bytes.
    pub max_header_bytes: usize,
    /// Of one HTTP/2 connection.
    pub max_concurrent_streams: u32,
    /// For the TLS handshake and the first bytes.
    pub header_timeout: std::time::Duration,
}

impl Limits {
    pub(super) fn new(server: &config::Server) -> Self {
        Self {
            header: tick::ticks(server.header_timeout),
            idle: tick::ticks(server.idle_timeout),
            max_connections: server.max_connections,
            max_header_bytes: server.max_header_bytes,
            max_concurrent_streams: server.max_concurrent_streams,
            header_timeout: server.header_timeout,
        }
    }
}

/// What one connection is doing. Atomic only because hyper wants its I/O to be `Send`; one thread uses it.
#[derive(Debug)]
pub struct Activity {
    /// Requests whose answers have not ended.
    in_flight: AtomicU32,
    /// How many sweeps the request over HTTP/1.1 that is under way has met, up to [`LONG`]; or [`NEVER`].
    met: AtomicU8,
    /// Whether the first bytes of a head have come.
    is_reading_head: AtomicBool,
    /// The tick at which it became idle or began to read a head.
    since: AtomicU64,
    /// The tick at which a write first found no room; 0 if there is room.
    stuck_since: AtomicU64,
    /// Answers over HTTP/2 of which a piece waits for a window.
    unread: AtomicU32,
    /// While there are any: the tick at which one was last begun, or anything was written.
    moved_at: AtomicU64,
    is_http2: AtomicBool,
    /// By how many the requests reset before their answers exceed those answered; 0 if they do not.
    abandoned: AtomicU32,
    is_draining: AtomicBool,
    is_overdue: AtomicBool,
    /// It has been idle for long enough to give its buffers back.
    may_rest: AtomicBool,
    is_resting: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Activity {
    fn new() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            met: AtomicU8::new(0),
            // A fresh connection owes us a head.
            is_reading_head: AtomicBool::new(true),
            since: AtomicU64::new(tick::count()),
            stuck_since: AtomicU64::new(0),
            unread: AtomicU32::new(0),
            moved_at: AtomicU64::new(0),
            is_http2: AtomicBool::new(false),
            abandoned: AtomicU32::new(0),
            is_draining: AtomicBool::new(false),
            is_overdue: AtomicBool::new(false),
            may_rest: AtomicBool::new(false),
            is_resting: AtomicBool::new(false),
            task: Mutex::new(None),
        }
    }

    /// Bytes came in.
    pub(super) fn read(&self) {
        if self.in_flight.load(Relaxed) == 0 && !self.is_reading_head.load(Relaxed) && !self.is_http2.load(Relaxed) {
            self.is_reading_head.store(true, Relaxed);
            self.since.store(tick::count(), Relaxed);
        }
    }

    /// A write found room, or none.
    pub(super) fn wrote(&self, has_room: bool) {
        let stuck_since = self.stuck_since.load(Relaxed);
        if has_room != (stuck_since == 0) {
            self.stuck_since.store(if has_room { 0 } else { tick::count().max(1) }, Relaxed);
        }
        // A window may be opened a little at a time.
        if has_room && self.unread.load(Relaxed) > 0 {
            self.moved_at.store(tick::count(), Relaxed);
        }
    }

    /// A piece of an answer waits for the client to open a window, or does no longer.
    pub(super) fn wait_for_client(&self, is_waiting: bool) {
        if is_waiting {
            self.unread.fetch_add(1, Relaxed);
        } else {
            self.unread.fetch_sub(1, Relaxed);
        }
        self.moved_at.store(tick::count(), Relaxed);
    }

    pub(super) fn set_http2(&self) {
        self.is_http2.store(true, Relaxed);
        self.is_reading_head.store(false, Relaxed);
    }

    /// A head is complete; the request counts until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        self.met.store(0, Relaxed);
        self.is_reading_head.store(false, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// A request over HTTP/2 found its answer, or was reset before. Who resets nearly all of them is let go.
    fn count_answered(&self, is_answered: bool) {
        let abandoned = self.abandoned.load(Relaxed);
        if !is_answered {
            self.abandoned.store(abandoned + 1, Relaxed);
            if abandoned == ABANDONED {
                self.is_overdue.store(true, Relaxed);
                self.wake();
            }
        } else if abandoned > 0 {
            self.abandoned.store(abandoned - 1, Relaxed);
        }
    }

    /// What comes from now on is of another protocol, in which a client may close its side and go on reading.
    pub(super) fn leave_http(&self) {
        self.met.store(NEVER, Relaxed);
    }

    /// Whether a request over HTTP/1.1 is under way for so long that its client may have gone away.
    pub(super) fn is_long_under_way(&self) -> bool {
        self.met.load(Relaxed) == LONG && self.in_flight.load(Relaxed) > 0
    }

    /// Counts a sweep; true for the one that makes the request a long one.
    fn becomes_long(&self) -> bool {
        let met = self.met.load(Relaxed);
        if met >= LONG || self.in_flight.load(Relaxed) == 0 || self.is_http2.load(Relaxed) {
            return false;
        }
        self.met.store(met + 1, Relaxed);
        met + 1 == LONG
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.is_overdue.load(Relaxed)
    }

    /// Whether it is time to rest, once: nothing is under way, no head has begun to come, and all that was written has gone.
    pub(super) fn takes_rest(&self) -> bool {
        self.may_rest.load(Relaxed) && self.may_rest.swap(false, Relaxed) && self.is_idle()
    }

    fn is_idle(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
            && !self.is_reading_head.load(Relaxed)
            && self.stuck_since.load(Relaxed) == 0
            && !self.is_http2.load(Relaxed)
    }

    fn becomes_restful(&self) -> bool {
        self.is_idle() && !self.is_resting() && tick::count() - self.since.load(Relaxed) >= REST
    }

    pub(super) fn is_resting(&self) -> bool {
        self.is_resting.load(Relaxed)
    }

    /// Waits until `wake`, which says whether the client has sent anything; false if the connection is to end instead.
    pub(super) async fn rest(&self, mut wake: impl FnMut(&mut Context<'_>) -> Poll<bool>) -> bool {
        self.is_resting.store(true, Relaxed);
        let is_wanted = std::future::poll_fn(|cx| {
            self.register(cx);
            if self.is_overdue() || self.is_draining() { Poll::Ready(false) } else { wake(cx) }
        });
        let is_wanted = is_wanted.await;
        self.is_resting.store(false, Relaxed);
        is_wanted
    }

    /// Has the connection's task woken when something changes here.
    pub(super) fn register(&self, cx: &Context<'_>) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
    }

    fn wake(&self) {
        if let Some(task) = &*self.task.lock().unwrap_or_else(PoisonError::into_inner) {
            task.wake_by_ref();
        }
    }

    fn exceeds(&self, limits: &Limits) -> bool {
        let now = tick::count();
        let stuck_since = self.stuck_since.load(Relaxed);
        if stuck_since > 0 && now - stuck_since > limits.idle {
            return true;
        }
        let in_flight = self.in_flight.load(Relaxed);
        if in_flight > 0 {
            return self.unread.load(Relaxed) == in_flight && now - self.moved_at.load(Relaxed) > limits.idle;
        }
        let limit = if self.is_reading_head.load(Relaxed) { limits.header } else { limits.idle };
        now - self.since.load(Relaxed) > limit
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Relaxed) == 1 {
            self.0.since.store(tick::count(), Relaxed);
        }
    }
}

/// An answer over HTTP/2 that has not begun. Dropped before, it was reset.
#[derive(Debug)]
pub(super) struct Wanted {
    activity: Arc<Activity>,
    is_answered: bool,
}

impl Wanted {
    pub(super) fn new(activity: Arc<Activity>) -> Self {
        Self { activity, is_answered: false }
    }

    /// It begins now.
    pub(super) fn answered(mut self) -> Arc<Activity> {
        self.is_answered = true;
        Arc::clone(&self.activity)
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.activity.count_answered(self.is_answered);
    }
}

/// The connections of one worker.
#[derive(Debug, Default)]
pub struct Activities(RefCell<Slab<Arc<Activity>>>);

impl Activities {
    /// Adds a connection, which is listed until the guard is dropped.
    pub(super) fn add(self: &Rc<Self>) -> Listed {
        let activity = Arc::new(Activity::new());
        let key = self.0.borrow_mut().insert(Arc::clone(&activity));
        Listed { activity, key, list: Rc::clone(self) }
    }

    pub(super) fn sweep(&self, limits: &Limits) {
        for (_, activity) in &*self.0.borrow() {
            if activity.exceeds(limits) {
                activity.is_overdue.store(true, Relaxed);
                activity.wake();
            } else if activity.becomes_restful() {
                activity.may_rest.store(true, Relaxed);
                activity.wake();
            } else if activity.becomes_long() {
                activity.wake();
            }
        }
    }

    pub(super) fn drain(&self) {
        for (_, activity) in &*self.0.borrow() {
            activity.is_draining.store(true, Relaxed);
            activity.wake();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

/// A connection in the list of its worker.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) activity: Arc<Activity>,
    key: usize,
    list: Rc<Activities>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.list.0.borrow_mut().try_remove(self.key);
    }
}
