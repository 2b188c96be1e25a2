//! What users still have going on: uploads, answers that did not end at once, upgraded connections. Each ends soon after its user's
//! block or its session's end.
//!
//! A worker lists them, and has each judged again on the tick after something became known against anybody. Answers that are
//! complete at once never come here.

use super::reject::of_status;
use crate::base::clock::Now;
use crate::identity::status::StatusError;
use crate::identity::{TokenError, VerifiedToken, Verifier};
use crate::telemetry::metrics::{CauseLabel, Metrics};
use crate::telemetry::reason::Reason;
use crate::upstream::{Body, BodyError, Cut};
use crate::users::Cause;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

/// The streams of one worker.
#[derive(Debug)]
pub struct Streams {
    open: RefCell<Slab<Entry>>,
    /// How much was known when all were judged last.
    judged: Cell<u64>,
    /// When that was, in milliseconds of the monotonic clock.
    timed_ms: Cell<u64>,
    opened: Counter,
    ended: Family<CauseLabel, Counter>,
}

#[derive(Debug)]
struct Entry {
    token: Arc<VerifiedToken>,
    /// It ends when the token expires.
    ends_with_token: bool,
    cut: Rc<Cut>,
    /// The rest of the answer. It lies here so that its upstream is let go even if its client reads nothing.
    body: Body,
}

/// A stream, listed until this is dropped.
#[derive(Debug)]
pub struct Open {
    streams: Rc<Streams>,
    key: usize,
    cut: Rc<Cut>,
}

/// How often all are judged, though nothing became known: time alone may end them, and their tokens stay in use.
const TIMED_EVERY_MS: u64 = 1000;

/// Why a stream is ended.
#[derive(Debug, Clone, Copy)]
struct Ended {
    /// What a request would be refused with.
    reason: Reason,
    /// The word for metrics.
    cause: &'static str,
}

/// What may be known against a user or a session.
const CAUSES: [Cause; 10] = [
    Cause::Disabled,
    Cause::LockedOut,
    Cause::Deleted,
    Cause::NotBefore,
    Cause::Operator,
    Cause::LoggedOut,
    Cause::SessionGone,
    Cause::SignInTooOld,
    Cause::ClusterClosed,
    Cause::ClusterExpired,
];

const INACTIVE: &str = "inactive";
const MISMATCH: &str = "mismatch";
const EXPIRED: &str = "expired";

impl Streams {
    /// None yet. Workers share the metrics.
    pub fn new(metrics: &Metrics) -> Rc<Self> {
        // There from the start, so that the first is an increase.
        for cause in CAUSES.map(Cause::code).into_iter().chain([INACTIVE, MISMATCH, EXPIRED]) {
            drop(metrics.streams_ended.get_or_create(&CauseLabel { cause }));
        }
        Rc::new(Self {
            open: RefCell::default(),
            judged: Cell::new(0),
            timed_ms: Cell::new(0),
            opened: metrics.streams.clone(),
            ended: metrics.streams_ended.clone(),
        })
    }

    /// Lists a stream of the token's user; one that may not go on is cut already.
    pub fn open(
        self: &Rc<Self>,
        verifier: &Verifier,
        token: &Arc<VerifiedToken>,
        ends_with_token: bool,
        now: Now,
    ) -> Open {
        let cut = Rc::new(Cut::default());
        let entry = Entry { token: Arc::clone(token), ends_with_token, cut: Rc::clone(&cut), body: Body::Empty };
        // What became known before is judged here, whatever comes later by a tick.
        self.judge(&entry, verifier, now);
        self.opened.inc();
        Open { key: self.open.borrow_mut().insert(entry), streams: Rc::clone(self), cut }
    }

    /// Ends those whose user or session is out. Called on every tick; on most it reads two numbers.
    pub fn sweep(&self, verifier: &Verifier, now: Now) {
        let generation = verifier.generation();
        let has_moved = self.judged.replace(generation) != generation;
        let is_time = now.monotonic_ms.saturating_sub(self.timed_ms.get()) >= TIMED_EVERY_MS;
        if !has_moved && !is_time {
            return;
        }
        self.timed_ms.set(now.monotonic_ms);
        let mut bodies = Vec::new();
        for (_, entry) in self.open.borrow_mut().iter_mut() {
            bodies.push(match entry.cut.reason() {
                Some(_) => entry.give_up(),
                None if self.judge(entry, verifier, now) => entry.end(),
                None => continue,
            });
        }
        // Dropped, they close connections; nothing is borrowed meanwhile.
        drop(bodies);
    }

    /// Whether a stream had to be ended.
    fn judge(&self, entry: &Entry, verifier: &Verifier, now: Now) -> bool {
        let Some(Ended { reason, cause }) = entry.ended(verifier, now) else { return false };
        entry.cut.set(reason);
        self.ended.get_or_create(&CauseLabel { cause }).inc();
        true
    }
}

impl Entry {
    /// Ends the answer, now or at the end of the part that it is in. Gives what is not needed any more.
    fn end(&mut self) -> Body {
        let Some(reason) = self.cut.reason() else { return Body::Empty };
        let rest = self.body.cut(reason);
        if self.body.is_finishing() {
            self.cut.hold_sender();
        }
        rest
    }

    /// Has a part end that takes too long.
    fn give_up(&mut self) -> Body {
        let rest = self.body.give_up();
        if !self.body.is_finishing() {
            self.cut.release_sender();
        }
        rest
    }

    fn ended(&self, verifier: &Verifier, now: Now) -> Option<Ended> {
        if let Err(error) = verifier.may_go_on(&self.token, now) {
            let cause = match &error {
                StatusError::Refused(cause) => cause.code(),
                StatusError::Inactive => INACTIVE,
                StatusError::Mismatch(_) => MISMATCH,
                // What is not known ends nothing.
                StatusError::Unknown => return None,
            };
            return Some(Ended { reason: of_status(&error), cause });
        }
        let is_over = || matches!(self.token.check(now), Err(TokenError::Expired | TokenError::TooOld));
        (self.ends_with_token && is_over()).then_some(Ended { reason: Reason::TokenExpired, cause: EXPIRED })
    }
}

impl Open {
    /// Why it was ended, if it was.
    pub fn ended(&self) -> Option<Reason> {
        self.cut.reason().or_else(|| self.with(|body| body.ended()))
    }

    /// What tells its tasks that it is.
    pub fn cut(&self) -> &Rc<Cut> {
        &self.cut
    }

    /// Takes the rest of the answer.
    pub(super) fn keep(&self, body: Body) {
        self.with(|kept| *kept = body);
    }

    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // Nothing is borrowed while it is polled.
        let mut body = self.with(std::mem::take);
        if let Some(reason) = self.cut.reason() {
            // Of one that came too late.
            drop(body.cut(reason));
            if body.is_finishing() {
                self.cut.hold_sender();
            }
        }
        let polled = Pin::new(&mut body).poll_frame(cx);
        self.keep(body);
        if polled.is_pending() {
            // Has this task woken.
            let _ = self.cut.poll(cx);
        }
        polled
    }

    /// Whether the answer has come to its own end.
    pub(super) fn has_ended(&self) -> bool {
        self.ended().is_none() && self.with(|body| body.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        if self.ended().is_some() { SizeHint::default() } else { self.with(|body| body.size_hint()) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Body) -> T) -> T {
        act(&mut self.streams.open.borrow_mut()[self.key].body)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.cut.release_sender();
        let entry = self.streams.open.borrow_mut().try_remove(self.key);
        // Not before the list is free again.
        drop(entry);
    }
}
