//! An issuer as the verifier asks it: how often, for what, and how that goes.

use super::calls::Calls;
use super::ceiling::{Ceiling, Usage};
use super::link::{Link, Links};
use crate::base::clock::Now;
use crate::config::{UserStatus, WhenUnknown};
use crate::issuer::Issuer;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// An issuer, and how asking it about users goes.
pub struct Source {
    /// The issuer.
    pub issuer: Arc<Issuer>,
    /// `None` if it is not asked about users.
    pub(super) status: Option<Asking>,
    /// When a question last failed, in milliseconds of the monotonic clock; 0 once one was answered.
    failed_ms: AtomicU64,
}

/// What belongs to asking an issuer about users.
pub(super) struct Asking {
    pub(super) bound_ms: u64,
    pub(super) timeout: Duration,
    pub(super) allow_for: Option<Duration>,
    /// Whether its users are watched: then `active:false` is a reason to read the user.
    pub(super) is_watched: bool,
    pub(super) link: Link,
    calls: Mutex<Calls>,
    /// Another verifier has taken its place; only tokens of open streams are in use here.
    pub(super) is_retired: AtomicBool,
    /// Something waits sooner than the loop of the calls looks next.
    pub(super) wake: Arc<Notify>,
}

/// How asking an issuer goes at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Calls so far, and the head-room.
    pub usage: Usage,
    /// Tokens that are asked about before their answers are too old.
    pub in_use: u64,
    /// First sights that wait for a call.
    pub first_sights: u64,
    /// Tokens in use whose turn has come, and that wait for a call.
    pub revalidations: u64,
    /// The age of the oldest answer about a token in use, in milliseconds.
    pub age_ms: u64,
}

/// The ceiling for an issuer whose configuration names none: more than one is likely to bear.
const MOST_CALLS: u32 = 1000;

/// After a failed call the issuer is left alone for this long.
pub(super) const RETRY_AFTER_MS: u64 = 500;

impl Source {
    pub(super) fn new(issuer: Arc<Issuer>, links: &Links) -> Self {
        let status = Asking::new(&issuer.config().name, &issuer.config().user_status, links);
        Self { issuer, status, failed_ms: AtomicU64::new(0) }
    }

    /// Until when it is left alone, if its last call failed.
    pub(super) fn left_alone_until_ms(&self) -> Option<u64> {
        let failed_ms = self.failed_ms.load(Ordering::Relaxed);
        (failed_ms > 0).then(|| failed_ms.saturating_add(RETRY_AFTER_MS))
    }

    /// Notes a failed call; whether it is the first.
    pub(super) fn note_failure(&self, now: Now) -> bool {
        self.failed_ms.swap(now.monotonic_ms, Ordering::Relaxed) == 0
    }

    pub(super) fn note_success(&self) {
        self.failed_ms.store(0, Ordering::Relaxed);
    }

    /// How asking goes; `None` if it is not asked.
    pub(super) fn numbers(&self, now: Now) -> Option<Numbers> {
        let asking = self.status.as_ref()?;
        let numbers = asking.calls().numbers(now);
        Some(Numbers { usage: asking.ceiling().usage(), ..numbers })
    }
}

impl Asking {
    fn new(name: &str, status: &UserStatus, links: &Links) -> Option<Self> {
        let introspection = status.introspection()?;
        let most_calls = status.keycloak().map_or(MOST_CALLS, |keycloak| keycloak.max_calls_per_second);
        Some(Self {
            bound_ms: millis(introspection.bound),
            timeout: introspection.timeout,
            allow_for: match introspection.when_unknown {
                WhenUnknown::Deny => None,
                WhenUnknown::AllowFor(most) => Some(most),
            },
            is_watched: status.keycloak().is_some(),
            link: links.of(name, most_calls),
            calls: Mutex::new(Calls::new(most_calls)),
            is_retired: AtomicBool::new(false),
            wake: Arc::default(),
        })
    }

    /// The calls that wait. Held for short, and on the control plane but for the metrics.
    pub(super) fn calls(&self) -> MutexGuard<'_, Calls> {
        // A token that a panic left out of the queues is asked about when its answer is too old.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ceiling(&self) -> &Arc<Ceiling> {
        self.link.ceiling()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("issuer", &self.issuer.config().name).finish_non_exhaustive()
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
